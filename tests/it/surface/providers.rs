//! What the API server refuses of a provider.

use serde_json::{Value, json};

use super::{Row, many, map, namespace, row, scope};

pub(super) fn providers() -> Vec<Row> {
    let idp = |change: Value, refusal, counterpart: Value| {
        row("IdentityProvider", json!({ "spec": change }), refusal, json!({ "spec": counterpart }))
    };
    let url = |url: &str| json!({ "appId": { "url": url } });
    let iam = json!({ "apiKey": { "secretRef": { "name": "ibm-api-key" } } });
    let binding = json!({ "secretRef": { "name": "binding-appid" } });
    let pair = json!({ "secretRef": { "name": "pair" } });
    // Without the service of the valid document.
    let of = |change: Value, refusal, counterpart: Value| {
        let alone = |mut spec: Value| {
            spec["appId"] = Value::Null;
            spec
        };
        idp(alone(change), refusal, alone(counterpart))
    };
    let oidc_with =
        |authentication: Value| json!({ "oidc": { "issuer": "https://id.example.com", "clientAuthentication": authentication } });
    vec![
        idp(json!({ "iam": iam }), "set exactly one of appId, iam, verify, secureAuth and oidc", json!({ "iam": iam, "appId": null })),
        idp(json!({ "appId": null }), "set exactly one of appId, iam, verify, secureAuth and oidc", json!({})),
        idp(
            json!({ "appId": { "tenantId": null } }),
            "set either binding, or url, tenantId and iam.apiKey",
            json!({ "appId": { "url": null, "tenantId": null, "iam": null, "binding": binding } }),
        ),
        idp(
            json!({ "appId": { "binding": binding } }),
            "binding brings url, tenantId and API key: leave those out",
            json!({ "appId": { "url": null, "tenantId": null, "iam": { "url": "https://iam.test.cloud.ibm.com", "apiKey": null }, "binding": binding } }),
        ),
        idp(url("http://appid.example.com"), "the address must start with https://", url("https://appid.example.com")),
        idp(
            url("https://user:pass@appid.example.com"),
            "the address may not contain user info, a query, a fragment, a space, or anything but visible ASCII characters",
            url("https://appid.example.com:8443"),
        ),
        idp(url("https://appid.example.com?a=b"), "the address may not contain user info", url("https://appid.example.com/")),
        idp(
            url("https://appid.example.com:port"),
            "after https:// the address has the name of a host, and at most a port and a path",
            url("https://AppId.example.com"),
        ),
        idp(
            url("https://appid.example.com\t"),
            "the address may not contain user info, a query, a fragment, a space, or anything but visible ASCII characters",
            url("https://appid.example.com/"),
        ),
        idp(
            url("https://appid.example.com/management/v4"),
            "appId.url is the address of a region without a path, like https://us-south.appid.cloud.ibm.com",
            url("https://appid.example.com:8443/"),
        ),
        idp(
            json!({ "appId": { "tenantId": "39A37F57-A227-4BFE-A044-93B6E6060B61" } }),
            "appId.tenantId is the GUID of the App ID instance, in lower case",
            json!({ "appId": { "tenantId": "11111111-a227-4bfe-a044-93b6e6060b61" } }),
        ),
        idp(
            json!({ "appId": { "tenantId": "crn:v1:bluemix:public:appid" } }),
            "appId.tenantId is the GUID of the App ID instance",
            json!({ "appId": { "tenantId": "22222222-a227-4bfe-a044-93b6e6060b61" } }),
        ),
        idp(json!({ "appId": null, "iam": {} }), "set exactly one of apiKey and trustedProfile", json!({ "appId": null, "iam": iam })),
        idp(
            json!({ "appId": null, "iam": { "trustedProfile": { "id": "Profile-1" } } }),
            "a trusted profile is assumed by the operator's own identity: only a ClusterIdentityProvider may name one",
            json!({ "appId": null, "iam": iam }),
        ),
        idp(
            json!({ "tls": { "caBundle": {} } }),
            "set exactly one of configMapRef and secretRef",
            json!({ "tls": { "caBundle": { "secretRef": { "name": "ca" } } } }),
        ),
        idp(
            json!({ "tls": { "caBundle": { "secretRef": { "name": "ca" }, "configMapRef": { "name": "ca" } } } }),
            "set exactly one of configMapRef and secretRef",
            json!({ "tls": { "caBundle": { "configMapRef": { "name": "ca" } } } }),
        ),
        idp(
            json!({ "budget": { "requestsPerSecond": 0 } }),
            "should be greater than or equal to 1",
            json!({ "budget": { "requestsPerSecond": 1 } }),
        ),
        idp(
            json!({ "budget": { "requestsPerSecond": 1001 } }),
            "should be less than or equal to 1000",
            json!({ "budget": { "requestsPerSecond": 1000 } }),
        ),
        idp(json!({ "budget": { "concurrency": 65 } }), "should be less than or equal to 64", json!({ "budget": { "concurrency": 64 } })),
        idp(json!({ "okta": {} }), r#"unknown field "spec.okta""#, json!({})),
        of(
            json!({ "verify": { "url": "https://t.verify.ibm.com/oauth2", "credentials": pair } }),
            "verify.url is the address of a tenant without a path, like https://example.verify.ibm.com",
            json!({ "verify": { "url": "https://t.verify.ibm.com", "credentials": pair } }),
        ),
        of(
            json!({ "secureAuth": { "url": "https://t.ids.secureauth.com/api", "credentials": pair } }),
            "secureAuth.url is the address of a tenant without a path, like https://example.ids.secureauth.com",
            json!({ "secureAuth": { "url": "https://t.ids.secureauth.com", "credentials": pair, "lifetime": "5m" } }),
        ),
        of(
            json!({ "secureAuth": { "url": "https://t.ids.secureauth.com", "credentials": pair, "lifetime": "0s" } }),
            "a token is taken to live for 10s at least",
            json!({ "secureAuth": { "url": "https://t.ids.secureauth.com", "credentials": pair, "lifetime": "10s" } }),
        ),
        of(
            json!({ "oidc": { "issuer": "https://id.example.com", "lifetime": "9s" } }),
            "a token is taken to live for 10s at least",
            json!({ "oidc": { "issuer": "https://id.example.com", "lifetime": "0m10s" } }),
        ),
        of(
            json!({ "oidc": { "credentials": pair } }),
            "set issuer, or tokenEndpoint",
            json!({ "oidc": { "issuer": "https://id.example.com/realms/a" } }),
        ),
        of(
            json!({ "oidc": { "tokenEndpoint": "https://id.example.com/token", "expectedIssuer": "x" } }),
            "expectedIssuer goes with issuer",
            json!({ "oidc": { "tokenEndpoint": "https://id.example.com/token" } }),
        ),
        of(
            oidc_with(json!({ "method": "PrivateKeyJwt" })),
            "method: PrivateKeyJwt needs privateKey, and no other method has it",
            oidc_with(json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": "key" } }, "algorithm": "ES256" })),
        ),
        of(
            oidc_with(json!({ "method": "ClientSecretPost", "basicEncoding": "Raw" })),
            "basicEncoding goes with method: ClientSecretBasic",
            oidc_with(json!({ "method": "ClientSecretBasic", "basicEncoding": "Raw" })),
        ),
        of(
            oidc_with(json!({ "method": "tls_client_auth" })),
            r#"Unsupported value: "tls_client_auth""#,
            oidc_with(json!({ "method": "ClientSecretPost" })),
        ),
    ]
}

pub(super) fn cluster_providers() -> Vec<Row> {
    let cidp = |change: Value, refusal, counterpart: Value| {
        row("ClusterIdentityProvider", json!({ "spec": change }), refusal, json!({ "spec": counterpart }))
    };
    let allowed = |allowed: Value| json!({ "allowedNamespaces": allowed });
    let permits = |permits: Value| json!({ "permits": permits });
    let selector = json!({ "matchLabels": { "team": "shop" } });
    let labels = |count| allowed(json!({ "from": "Selected", "selector": { "matchLabels": map(count) } }));
    vec![
        cidp(
            json!({ "appId": null, "iam": { "trustedProfile": { "id": "Profile-1", "name": "operator" } } }),
            "set exactly one of id, name and crn",
            json!({ "appId": null, "iam": { "trustedProfile": { "name": "operator" } } }),
        ),
        cidp(json!({ "appId": null }), "set exactly one of appId, iam, verify, secureAuth and oidc", json!({})),
        cidp(allowed(json!({ "from": "Listed" })), "names goes with from: Listed", allowed(json!({ "from": "Listed", "names": ["shop"] }))),
        cidp(allowed(json!({ "names": ["shop"] })), "names goes with from: Listed", allowed(json!({ "from": "All" }))),
        cidp(
            allowed(json!({ "from": "Selected" })),
            "selector goes with from: Selected",
            allowed(json!({ "from": "Selected", "selector": selector })),
        ),
        cidp(
            allowed(json!({ "from": "All", "selector": selector })),
            "selector goes with from: Selected",
            allowed(json!({ "from": "None" })),
        ),
        cidp(allowed(json!({ "from": "Some" })), r#"supported values: "None", "All", "Listed", "Selected""#, allowed(json!({}))),
        cidp(labels(0), "at least 1", labels(1)),
        cidp(labels(17), "must have at most 16 items", labels(16)),
        cidp(
            allowed(json!({ "from": "Listed", "names": many(501, namespace) })),
            "must have at most 500 items",
            allowed(json!({ "from": "Listed", "names": many(500, namespace) })),
        ),
        cidp(
            permits(json!({ "redirectUriPrefixes": ["http://shop.example.com/"] })),
            "the address must start with https://",
            permits(json!({ "redirectUriPrefixes": ["https://shop.example.com/"] })),
        ),
        cidp(
            permits(json!({ "redirectUriPrefixes": ["https://*.example.com/"] })),
            "after https:// the address has the name of a host, and at most a port and a path",
            permits(json!({ "redirectUriPrefixes": ["https://shop.example.com:8443/app/"] })),
        ),
        cidp(
            allowed(json!({ "from": "Listed", "names": ["A_Team"] })),
            "spec.allowedNamespaces.names[0]",
            allowed(json!({ "from": "Listed", "names": ["a-team"] })),
        ),
        cidp(permits(json!({ "roles": many(51, scope) })), "must have at most 50 items", permits(json!({ "roles": many(50, scope) }))),
    ]
}
