//! What the API server refuses of an `AppIdApplication`.

use serde_json::{Value, json};

use super::{Row, many, map, row, scope, uri};

pub(super) fn applications() -> Vec<Row> {
    let app = |change, refusal, counterpart| row("AppIdApplication", change, refusal, counterpart);
    let spec = |spec: Value| json!({ "spec": spec });
    let secret = |secret: Value| json!({ "spec": { "secret": secret } });
    let redirect = |uri: &str| json!({ "spec": { "redirectUris": [uri] } });
    let long_name = "a".repeat(51);
    vec![
        app(
            json!({ "metadata": { "name": long_name } }),
            "spec.displayName is required when the name is longer than 50 characters (App ID's limit)",
            json!({ "metadata": { "name": long_name }, "spec": { "displayName": "short" } }),
        ),
        app(spec(json!({ "displayName": "d".repeat(51) })), "may not be more than 50", spec(json!({ "displayName": "d".repeat(50) }))),
        app(spec(json!({ "displayName": "" })), "spec.displayName", spec(json!({ "displayName": "d" }))),
        app(
            spec(json!({ "type": "SinglePageApp", "secret": { "layout": "OAuth2Proxy" } })),
            "a SinglePageApp has no client secret: use layout AppId, OAuth or IbmBinding",
            spec(json!({ "type": "SinglePageApp", "secret": { "layout": "OAuth" } })),
        ),
        app(
            spec(json!({ "type": "SinglePageApp", "secret": { "layout": "ServiceBinding" } })),
            "a SinglePageApp has no client secret",
            spec(json!({ "secret": { "layout": "ServiceBinding" } })),
        ),
        app(
            spec(json!({ "type": "SinglePageApp", "secret": { "layout": "Spring", "registrationId": "shop" } })),
            "a SinglePageApp has no client secret",
            spec(json!({ "type": "SinglePageApp", "secret": { "layout": "IbmBinding" } })),
        ),
        app(
            spec(json!({ "redirectUris": ["https://a.example.com/"], "secret": { "redirectUri": "https://b.example.com/" } })),
            "secret.redirectUri must be one of redirectUris",
            spec(
                json!({ "redirectUris": ["https://a.example.com/", "https://b.example.com/"], "secret": { "redirectUri": "https://b.example.com/" } }),
            ),
        ),
        app(
            spec(json!({ "type": "MobileApp" })),
            r#"Unsupported value: "MobileApp": supported values: "RegularWebApp", "SinglePageApp""#,
            spec(json!({ "type": "SinglePageApp" })),
        ),
        app(
            spec(json!({ "deletionPolicy": "Orphan" })),
            r#"supported values: "Delete", "Retain""#,
            spec(json!({ "deletionPolicy": "Retain" })),
        ),
        app(
            secret(json!({ "layout": "Env" })),
            r#"supported values: "AppId", "OAuth", "IbmBinding", "ServiceBinding", "OAuth2Proxy", "Spring""#,
            secret(json!({ "layout": "OAuth" })),
        ),
        app(
            spec(json!({ "providerRef": { "kind": "Vault" } })),
            r#"supported values: "IdentityProvider", "ClusterIdentityProvider""#,
            spec(json!({ "providerRef": { "kind": "ClusterIdentityProvider" } })),
        ),
        app(spec(json!({ "providerRef": { "name": null } })), "spec.providerRef.name: Required value", spec(json!({}))),
        app(spec(json!({ "providerRef": { "name": "" } })), "spec.providerRef.name", spec(json!({}))),
        app(spec(json!({ "providerRef": { "namespace": "other" } })), r#"unknown field "spec.providerRef.namespace""#, spec(json!({}))),
        app(spec(json!({ "scope": ["orders.read"] })), r#"unknown field "spec.scope""#, spec(json!({ "scopes": ["orders.read"] }))),
        app(spec(json!({ "scopes": many(51, scope) })), "must have at most 50 items", spec(json!({ "scopes": many(50, scope) }))),
        app(
            spec(json!({ "scopes": ["Orders.Read"] })),
            "the name of a scope consists of lower-case letters, digits, . and _",
            spec(json!({ "scopes": ["orders.read"] })),
        ),
        app(
            spec(json!({ "scopes": ["orders.read", "orders.read"] })),
            "no scope may stand there twice",
            spec(json!({ "scopes": ["orders.read", "orders.write"] })),
        ),
        app(
            spec(json!({ "roles": ["shopper", "shopper"] })),
            "no role may stand there twice",
            spec(json!({ "roles": ["shopper", "Shopper"] })),
        ),
        app(
            spec(json!({ "redirectUris": ["https://a.example.com/", "https://a.example.com/"] })),
            "no redirect URI may stand there twice",
            spec(json!({ "redirectUris": ["https://a.example.com/", "https://a.example.com/A"] })),
        ),
        app(
            spec(
                json!({ "redirectUris": ["https://a.example.com/"], "secret": { "layout": "OAuth", "redirectUri": "https://a.example.com/" } }),
            ),
            "this layout names no redirect URI: secret.redirectUri goes with layout AppId or ServiceBinding",
            spec(
                json!({ "redirectUris": ["https://a.example.com/"], "secret": { "layout": "ServiceBinding", "redirectUri": "https://a.example.com/" } }),
            ),
        ),
        app(spec(json!({ "scopes": ["s".repeat(50)] })), "may not be more than 49", spec(json!({ "scopes": ["s".repeat(49)] }))),
        app(
            spec(json!({ "scopes": ["appid_default"] })),
            "scopes that start with appid or openid belong to App ID",
            spec(json!({ "scopes": ["my.appid"] })),
        ),
        app(
            spec(json!({ "scopes": ["openid"] })),
            "scopes that start with appid or openid belong to App ID",
            spec(json!({ "scopes": [] })),
        ),
        app(spec(json!({ "roles": many(51, scope) })), "must have at most 50 items", spec(json!({ "roles": many(50, scope) }))),
        app(spec(json!({ "roles": ["r".repeat(129)] })), "may not be more than 128", spec(json!({ "roles": ["r".repeat(128)] }))),
        app(
            spec(json!({ "redirectUris": many(101, uri) })),
            "must have at most 100 items",
            spec(json!({ "redirectUris": many(100, uri) })),
        ),
        app(
            redirect("https://*.example.com/callback"),
            "a redirect URI may not contain a wildcard (*)",
            redirect("https://shop.example.com/callback"),
        ),
        app(
            redirect("https://shop.example.com/#top"),
            "a redirect URI may not contain a fragment, a space, a backslash, or anything but visible ASCII characters",
            redirect("https://shop.example.com/?page=top"),
        ),
        app(
            redirect("http://shop.example.com/callback"),
            "a redirect URI begins with https://, or with http:// on localhost",
            redirect("http://localhost:3000/callback"),
        ),
        app(
            redirect("myapp://callback"),
            "a redirect URI begins with https://, or with http:// on localhost",
            redirect("http://127.0.0.1/callback"),
        ),
        app(
            redirect("http://localhost.example.com/"),
            "a redirect URI begins with https://, or with http:// on localhost",
            redirect("http://[::1]:8080/"),
        ),
        app(
            redirect("https://user@shop.example.com/"),
            "after https:// a redirect URI has a host in lower case, without user info, and at most a port",
            redirect("https://shop.example.com/@user"),
        ),
        app(
            redirect("https://Shop.example.com/Callback"),
            "after https:// a redirect URI has a host in lower case, without user info, and at most a port",
            redirect("https://shop.example.com/Callback"),
        ),
        app(
            redirect("https:///callback"),
            "after https:// a redirect URI has a host in lower case, without user info, and at most a port",
            redirect("https://shop/callback"),
        ),
        app(
            redirect(r"https://shop.example.com\@evil.example.com/"),
            "a redirect URI may not contain a fragment, a space, a backslash, or anything but visible ASCII characters",
            redirect("https://shop.example.com/%5C"),
        ),
        app(
            redirect("HTTPS://shop.example.com/"),
            "a redirect URI begins with https://, or with http:// on localhost",
            redirect("https://shop.example.com/"),
        ),
        app(
            redirect(&format!("https://shop.example.com/{}", "a".repeat(2048))),
            "may not be more than 2048",
            redirect("https://shop.example.com"),
        ),
        app(
            spec(json!({ "adopt": { "clientId": "a b" } })),
            "'^[A-Za-z0-9][A-Za-z0-9._-]*$'",
            spec(json!({ "adopt": { "clientId": "0d4c6a7e-4c5f" } })),
        ),
        app(spec(json!({ "suspend": "yes" })), "spec.suspend", spec(json!({ "suspend": true }))),
        app(secret(json!({ "name": "Not_A_Name" })), "spec.secret.name", secret(json!({ "name": "a-name.of-mine" }))),
        app(
            secret(json!({ "layout": "Spring" })),
            "layout Spring needs secret.registrationId",
            secret(json!({ "layout": "Spring", "registrationId": "shop" })),
        ),
        app(secret(json!({ "registrationId": "my-shop" })), "'^[a-z0-9]+$'", secret(json!({ "registrationId": "myshop" }))),
        app(
            secret(json!({ "keys": { "clientId": "id", "tenantId": "id" } })),
            "two keys may not be renamed to the same name",
            secret(json!({ "keys": { "clientId": "id", "tenantId": "tenant" } })),
        ),
        app(
            secret(json!({ "keys": { "clientId": "not a key" } })),
            "'^[-._a-zA-Z0-9]+$'",
            secret(json!({ "keys": { "clientId": "CLIENT_ID" } })),
        ),
        app(
            secret(json!({ "keys": { "clientId": ".." } })),
            "a key of a Secret is not . and does not begin with ..",
            secret(json!({ "keys": { "clientId": "a..b" } })),
        ),
        app(secret(json!({ "name": "a..b" })), "spec.secret.name", secret(json!({ "name": "a.b" }))),
        app(
            secret(json!({ "template": { "not a key": "x" } })),
            "a key of template is a key of a Secret: at most 253 letters, digits, -, _ and ., neither . nor beginning with ..",
            secret(json!({ "template": { "A_KEY.conf": "x" } })),
        ),
        app(
            secret(json!({ "template": { "..": "x" } })),
            "a key of template is a key of a Secret",
            secret(json!({ "template": { "a..b": "x" } })),
        ),
        app(
            secret(json!({ "keys": { "clientId": "ID" }, "template": { "ID": "x" } })),
            "a key of template may not be a key of the layout, neither under its old name nor under its new one",
            secret(json!({ "keys": { "clientId": "ID" }, "template": { "IDS": "x" } })),
        ),
        app(
            secret(json!({ "keys": { "clientId": "ID" }, "template": { "clientId": "x" } })),
            "a key of template may not be a key of the layout",
            secret(json!({ "keys": { "clientId": "ID" }, "template": { "clientid": "x" } })),
        ),
        app(secret(json!({ "template": map(17) })), "must have at most 16 items", secret(json!({ "template": map(16) }))),
        app(
            secret(json!({ "template": { "file": "x".repeat(8193) } })),
            "may not be more than 8192",
            secret(json!({ "template": { "file": "x".repeat(8192) } })),
        ),
        app(
            secret(json!({ "labels": { "a key": "x" } })),
            "a key of labels is a name of at most 63 letters, digits, -, _ and ., with an optional prefix like example.com/",
            secret(json!({ "labels": { "example.com/a-key": "x" } })),
        ),
        app(
            secret(json!({ "annotations": { "a key": "x" } })),
            "a key of annotations is a name of at most 63 letters, digits, -, _ and ., with an optional prefix like example.com/",
            secret(json!({ "annotations": { "a_key": "x y" } })),
        ),
        app(
            spec(json!({ "providerRef": { "name": "A Provider" } })),
            "spec.providerRef.name",
            spec(json!({ "providerRef": { "name": "a.provider" } })),
        ),
        app(secret(json!({ "keys": map(33) })), "must have at most 32 items", secret(json!({ "keys": {} }))),
        app(
            secret(json!({ "labels": { "cloudidentity.dev/kind": "Mine" } })),
            "labels under cloudidentity.dev/ belong to the operator",
            secret(json!({ "labels": { "example.com/kind": "Mine" } })),
        ),
        app(
            secret(json!({ "labels": { "team": "a team" } })),
            "spec.secret.labels.team",
            secret(json!({ "labels": { "team": "a-team" } })),
        ),
        app(secret(json!({ "labels": map(65) })), "must have at most 64 items", secret(json!({ "labels": map(64) }))),
        app(
            secret(json!({ "annotations": { "cloudidentity.dev/client-id": "mine" } })),
            "annotations under cloudidentity.dev/ belong to the operator",
            secret(json!({ "annotations": { "example.com/client-id": "mine" } })),
        ),
        app(secret(json!({ "annotations": map(65) })), "must have at most 64 items", secret(json!({ "annotations": map(64) }))),
    ]
}
