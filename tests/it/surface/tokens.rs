//! What the API server refuses of an `AccessToken`.

use serde_json::{Value, json};
use stage::merge;

use super::{Row, many, map, row, scope};

pub(super) fn tokens() -> Vec<Row> {
    let token =
        |change: Value, refusal, counterpart: Value| row("AccessToken", json!({ "spec": change }), refusal, json!({ "spec": counterpart }));
    let grant = |grant: Value| json!({ "grant": grant });
    let secret = |secret: Value| json!({ "secret": secret });
    let user = json!({ "type": "Password", "password": { "secretRef": { "name": "user" } } });
    let bearer = |assertion: Value| json!({ "grant": { "type": "JwtBearer", "assertion": assertion } });
    let key = json!({ "secretRef": { "name": "key" } });
    let signed = |more: Value| {
        let mut signed = json!({ "privateKey": { "secretRef": { "name": "key" } } });
        merge(&mut signed, more);
        json!({ "grant": { "type": "JwtBearer", "assertion": { "signed": signed } } })
    };
    let parameter = |name: &str| json!({ "grant": { "parameters": [{ "name": name, "value": "x" }] } });
    vec![
        token(
            json!({ "providerRef": null }),
            "set exactly one of providerRef and clientRef",
            json!({ "providerRef": null, "clientRef": { "name": "shop" } }),
        ),
        token(json!({ "clientRef": { "name": "shop" } }), "set exactly one of providerRef and clientRef", json!({})),
        token(
            json!({ "providerRef": null, "clientRef": { "name": "shop" }, "credentials": { "secretRef": { "name": "pair" } } }),
            "credentials goes with providerRef: clientRef brings its own",
            json!({ "credentials": { "secretRef": { "name": "pair", "keys": { "clientId": "id", "clientSecret": "pw" } } } }),
        ),
        token(grant(json!({ "type": "Password" })), "type: Password needs password, and no other type has it", grant(user.clone())),
        token(
            grant(json!({ "password": { "secretRef": { "name": "user" } } })),
            "type: Password needs password, and no other type has it",
            grant(json!({ "type": "ClientCredentials" })),
        ),
        token(
            grant(json!({ "type": "JwtBearer" })),
            "type: JwtBearer needs assertion, and no other type has it",
            grant(json!({ "type": "JwtBearer", "assertion": { "secretRef": { "name": "assertion" } } })),
        ),
        token(bearer(json!({})), "set exactly one of secretRef and signed", bearer(json!({ "signed": { "privateKey": key } }))),
        token(
            bearer(json!({ "secretRef": { "name": "assertion" }, "signed": { "privateKey": key } })),
            "set exactly one of secretRef and signed",
            bearer(json!({ "secretRef": { "name": "assertion" } })),
        ),
        token(bearer(json!({ "signed": { "issuer": "me" } })), "spec.grant.assertion.signed.privateKey: Required value", signed(json!({}))),
        token(
            signed(json!({ "claims": { "exp": "1" } })),
            "the claims iss, sub and aud have a place of their own beside claims; exp, nbf, iat and jti are the operator's",
            signed(json!({ "claims": { "tenant": "shop" } })),
        ),
        token(
            signed(json!({ "claims": { "": "1" } })),
            "the name of a claim has 1 to 128 characters",
            signed(json!({ "claims": { "https://example.com/tenant": "shop" } })),
        ),
        token(signed(json!({ "claims": map(17) })), "must have at most 16 items", signed(json!({ "claims": map(16) }))),
        token(signed(json!({ "lifetime": "61m" })), "an assertion is valid for 10s to 1h", signed(json!({ "lifetime": "60m" }))),
        token(signed(json!({ "lifetime": "9s" })), "an assertion is valid for 10s to 1h", signed(json!({ "lifetime": "10s" }))),
        token(signed(json!({ "algorithm": "HS256" })), r#"Unsupported value: "HS256""#, signed(json!({ "algorithm": "ES256" }))),
        token(
            grant(json!({ "type": "RefreshToken" })),
            "type: RefreshToken needs refreshToken, and no other type has it",
            grant(json!({ "type": "RefreshToken", "refreshToken": { "secretRef": { "name": "seed" } } })),
        ),
        token(
            json!({ "grant": { "type": "RefreshToken", "refreshToken": { "secretRef": { "name": "seed" } } }, "secret": { "name": "s".repeat(248) } }),
            "with a refresh token secret.name has at most 247 characters",
            json!({ "grant": { "type": "RefreshToken", "refreshToken": { "secretRef": { "name": "seed" } } }, "secret": { "name": "s".repeat(247) } }),
        ),
        token(
            grant(json!({ "audiences": ["a"], "audienceRef": { "name": "shop" } })),
            "set audiences or audienceRef, not both",
            grant(json!({ "audienceRef": { "name": "shop" } })),
        ),
        token(
            grant(json!({ "type": "AuthorizationCode" })),
            r#"Unsupported value: "AuthorizationCode""#,
            grant(json!({ "type": "ApiKey" })),
        ),
        token(grant(json!({ "scopes": ["a b"] })), "spec.grant.scopes[0]", grant(json!({ "scopes": ["a", "b"] }))),
        token(grant(json!({ "scopes": many(51, scope) })), "must have at most 50 items", grant(json!({ "scopes": many(50, scope) }))),
        token(parameter("client_secret"), "this field has a place of its own in the spec, or is the operator's", parameter("tenant")),
        token(
            json!({ "refresh": { "maxInterval": "1d" } }),
            "a span of time is hours, minutes and seconds, like 1h30m or 90s",
            json!({ "refresh": { "maxInterval": "1h30m", "minRemaining": "90s" } }),
        ),
        token(
            json!({ "refresh": { "maxInterval": "0s" } }),
            "maxInterval is 10s at least: leave it out for the default, 30m",
            json!({ "refresh": { "maxInterval": "10s" } }),
        ),
        token(json!({ "refresh": { "atPercent": 100 } }), "should be less than or equal to 99", json!({ "refresh": { "atPercent": 99 } })),
        token(
            secret(json!({ "layout": "IbmSdk" })),
            "layout IbmSdk needs secret.service, and no other layout has it",
            secret(json!({ "layout": "IbmSdk", "service": "kms" })),
        ),
        token(
            secret(json!({ "service": "kms" })),
            "layout IbmSdk needs secret.service, and no other layout has it",
            secret(json!({ "layout": "BearerToken" })),
        ),
        token(
            secret(json!({ "serviceUrl": "https://kms.example.com" })),
            "secret.serviceUrl goes with layout IbmSdk",
            secret(json!({ "layout": "IbmSdk", "service": "kms", "serviceUrl": "https://kms.example.com" })),
        ),
        token(
            secret(json!({ "identityToken": true })),
            "secret.identityToken goes with the grants Password and JwtBearer: a machine has no ID token",
            json!({ "secret": { "identityToken": true }, "grant": user }),
        ),
        token(
            secret(json!({ "template": { "not a key": "x" } })),
            "a key of template is a key of a Secret",
            secret(json!({ "template": { "curlrc": "{{ token }}" } })),
        ),
        token(
            secret(json!({ "keys": { "token": "bearer" }, "template": { "bearer": "x" } })),
            "a key of template may not be a key of the layout",
            secret(json!({ "keys": { "token": "bearer" }, "template": { "header": "x" } })),
        ),
        token(json!({ "interval": "5m" }), r#"unknown field "spec.interval""#, json!({})),
    ]
}
