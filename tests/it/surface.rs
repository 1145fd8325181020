//! What a user meets: the API server's refusals, `kubectl explain`, `get`, `wait`, and no warnings.

use serde_json::{Value, json};
use stage::{Stage, condition, documents, merge};

use crate::generated::rules;

/// One change of a valid document, and what the API server says to it.
struct Row {
    kind: &'static str,
    /// Merged over a valid document of the kind; `null` takes a member away.
    change: Value,
    /// What the refusal contains.
    refusal: &'static str,
    /// Merged over the same document: close by, and fine.
    counterpart: Value,
}

fn row(kind: &'static str, change: Value, refusal: &'static str, counterpart: Value) -> Row {
    Row { kind, change, refusal, counterpart }
}

fn many(count: usize, item: impl Fn(usize) -> String) -> Value {
    (0..count).map(item).collect()
}

fn map(count: usize) -> Value {
    Value::Object((0..count).map(|index| (format!("k{index}"), json!(format!("v{index}")))).collect())
}

fn scope(index: usize) -> String {
    format!("scope.{index}")
}

fn namespace(index: usize) -> String {
    format!("team-{index}")
}

fn uri(index: usize) -> String {
    format!("https://shop{index}.example.com/callback")
}

fn applications() -> Vec<Row> {
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

fn providers() -> Vec<Row> {
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

fn cluster_providers() -> Vec<Row> {
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

fn tokens() -> Vec<Row> {
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

/// What may not change: the object as it is, the change, and the refusal.
fn immutable() -> Vec<(&'static str, Value, Value, &'static str)> {
    let iam = json!({ "apiKey": { "secretRef": { "name": "ibm-api-key" } } });
    let account = |account: Value| {
        let mut iam = iam.clone();
        iam["accountId"] = account;
        json!({ "spec": { "appId": null, "iam": iam } })
    };
    let mut rows = vec![
        (
            "AppIdApplication",
            json!({}),
            json!({ "spec": { "providerRef": { "name": "other" } } }),
            "providerRef is immutable: create a new object for another tenant",
        ),
        ("AppIdApplication", json!({}), json!({ "spec": { "type": "SinglePageApp" } }), "type is immutable: App ID cannot change it"),
        (
            "AppIdApplication",
            json!({}),
            json!({ "spec": { "secret": { "name": "other" } } }),
            "secret.name is immutable: delete and create the object to publish elsewhere",
        ),
        (
            "AppIdApplication",
            json!({ "spec": { "secret": { "name": "one" } } }),
            json!({ "spec": { "secret": { "name": "other" } } }),
            "secret.name is immutable",
        ),
        (
            "AppIdApplication",
            json!({ "spec": { "secret": { "name": "one" } } }),
            json!({ "spec": { "secret": null } }),
            "secret.name is immutable",
        ),
    ];
    rows.push((
        "AccessToken",
        json!({}),
        json!({ "spec": { "secret": { "name": "other" } } }),
        "secret.name is immutable: delete and create the object to publish elsewhere",
    ));
    for kind in ["IdentityProvider", "ClusterIdentityProvider"] {
        rows.push((
            kind,
            json!({}),
            json!({ "spec": { "appId": null, "iam": iam } }),
            "the service of a provider is immutable: create a new provider",
        ));
        rows.push((
            kind,
            json!({}),
            json!({ "spec": { "appId": { "tenantId": "33333333-a227-4bfe-a044-93b6e6060b61" } } }),
            "appId.tenantId is immutable: create a new provider for another tenant",
        ));
        rows.push((
            kind,
            account(json!("a1")),
            account(json!("a2")),
            "iam.accountId is immutable: create a new provider for another account",
        ));
        rows.push((kind, account(json!("a1")), account(Value::Null), "iam.accountId is immutable"));
        let other = |service: &str, member: &str, value: &str| {
            let mut spec = json!({ "appId": null });
            let pair = json!({ "secretRef": { "name": "pair" } });
            spec[service] = match service {
                "secureAuth" => json!({ "url": "https://t.ids.secureauth.com", "credentials": pair }),
                _ => json!({ "credentials": pair }),
            };
            spec[service][member] = json!(value);
            json!({ "spec": spec })
        };
        rows.push((
            kind,
            other("oidc", "issuer", "https://a.example.com"),
            other("oidc", "issuer", "https://b.example.com"),
            "oidc.issuer is immutable: create a new provider for another server",
        ));
        rows.push((
            kind,
            other("secureAuth", "idsId", "default"),
            other("secureAuth", "idsId", "another"),
            "secureAuth.idsId is immutable: create a new provider for another store",
        ));
    }
    rows
}

fn merged(mut base: Value, change: Value) -> Value {
    merge(&mut base, change);
    without_null(&mut base);
    base
}

fn without_null(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(without_null);
    }
}

/// A valid document of a kind, with a change.
fn document(stage: &Stage, kind: &str, name: &str, change: &Value) -> Value {
    let app_id = json!({ "appId": { "url": "https://us-south.appid.cloud.ibm.com", "tenantId": "39a37f57-a227-4bfe-a044-93b6e6060b61", "iam": { "apiKey": { "secretRef": { "name": "ibm-api-key" } } } } });
    let spec = if ["AppIdApplication", "AccessToken"].contains(&kind) { json!({ "providerRef": { "name": "appid" } }) } else { app_id };
    let mut metadata = json!({ "name": name });
    if kind != "ClusterIdentityProvider" {
        metadata["namespace"] = json!(stage.namespace);
    }
    merged(json!({ "apiVersion": "cloudidentity.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec }), change.clone())
}

const DRY_RUN: [&str; 4] = ["apply", "--dry-run=server", "--filename", "-"];

/// Promise 10. kubectl shows what is wrong and what to do, and takes what stands right beside it.
#[tokio::test]
async fn bad_input_is_refused_with_a_sentence_that_helps() {
    let stage = Stage::new("surface").await;
    let rows: Vec<Row> = [applications(), providers(), cluster_providers(), tokens()].into_iter().flatten().collect();
    // One kubectl for all: it goes on after a refusal.
    let bad: Vec<Value> =
        rows.iter().enumerate().map(|(index, row)| document(&stage, row.kind, &format!("row-{index}"), &row.change)).collect();
    let mut problems = Vec::new();
    for (row, document) in rows.iter().zip(&bad) {
        // A name, where the row does not bring its own, tells the refusals apart.
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        assert!(name.starts_with("row-") || row.change["metadata"]["name"].is_string());
    }
    let refused = stage.kubectl_with(&DRY_RUN, &documents(&bad)).await;
    if !refused.output.is_empty() {
        problems.push(format!("accepted, and should not be: {}", refused.output));
    }
    for (row, document) in rows.iter().zip(&bad) {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        // A field that does not exist is refused without the name of the object.
        let is_about = |part: &&str| part.contains(&format!("\"{name}\"")) || part.contains("strict decoding error");
        let said: Vec<&str> = refused.errors.split("\nThe ").flat_map(|part| part.split("\nError ")).filter(is_about).collect();
        if !said.iter().any(|said| said.contains(row.refusal)) {
            problems.push(format!("{} {}: it should say {:?}, and says {said:?}", row.kind, row.change, row.refusal));
        }
    }
    let good: Vec<Value> =
        rows.iter().enumerate().map(|(index, row)| document(&stage, row.kind, &format!("good-{index}"), &row.counterpart)).collect();
    let accepted = stage.kubectl_with(&DRY_RUN, &documents(&good)).await;
    if !accepted.success || !accepted.errors.is_empty() {
        problems.push(format!("refused, and should not be: {}", accepted.errors));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// Promise 10. Where another value would mean another registration, the old one stays.
///
/// Traps: T06.
#[tokio::test]
async fn what_may_not_change_is_refused_and_stays() {
    let stage = Stage::new("surface").await;
    let rows = immutable();
    let name = |index: usize| format!("{}-{index}", stage.namespace);
    let before: Vec<Value> = rows.iter().enumerate().map(|(index, (kind, base, ..))| document(&stage, kind, &name(index), base)).collect();
    stage.kubectl_with(&["apply", "--filename", "-"], &documents(&before)).await.quietly();
    let after: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(index, (kind, base, change, _))| {
            let mut changed = document(&stage, kind, &name(index), base);
            merge(&mut changed, change.clone());
            without_null(&mut changed);
            changed
        })
        .collect();
    let refused = stage.kubectl_with(&DRY_RUN, &documents(&after)).await;
    let again = stage.kubectl_with(&["apply", "--filename", "-"], &documents(&before)).await.quietly();
    // It warns that some of them lie in no namespace.
    assert!(stage.kubectl_with(&["delete", "--filename", "-"], &documents(&before)).await.success);
    let mut problems = Vec::new();
    for (index, (kind, _, change, refusal)) in rows.iter().enumerate() {
        let said = refused.errors.split("The ").find(|part| part.contains(&format!("\"{}\"", name(index))));
        if !said.is_some_and(|said| said.contains(refusal)) {
            problems.push(format!("{kind} {change}: it should say {refusal:?}, and says {said:?}"));
        }
    }
    assert!(problems.is_empty() && refused.output.is_empty(), "{}\naccepted: {}", problems.join("\n\n"), refused.output);
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
}

/// Every rule of the schemas has a row above.
#[test]
fn every_rule_of_the_schemas_is_tried() {
    let tried: Vec<&str> = [applications(), providers(), cluster_providers(), tokens()]
        .into_iter()
        .flatten()
        .map(|row| row.refusal)
        .chain(immutable().into_iter().map(|(.., refusal)| refusal))
        .collect();
    for (path, message) in rules() {
        assert!(tried.contains(&message.as_str()), "no row tries the rule {message:?} of {path}");
    }
}

/// A user sees the objects in columns, waits for them, and finds them together.
#[tokio::test]
async fn kubectl_shows_waits_and_explains() {
    let stage = Stage::new("surface").await;
    let new = document(&stage, "AppIdApplication", "storefront", &json!({ "spec": { "secret": { "name": "storefront-oidc" } } }));
    let applied = stage.kubectl_with(&["apply", "--filename", "-"], &new.to_string()).await.quietly();
    assert_eq!(applied.trim(), "appidapplication.cloudidentity.dev/storefront created");
    let generation = stage.kubectl(&["get", "appidapp", "storefront", "--output", "jsonpath={.status.observedGeneration}"]).await.quietly();
    assert_eq!(generation, "-1", "a new object reads as in progress before anybody wrote a status");

    stage.kubectl_with(&["apply", "--filename", "-"], &stage.provider_document("appid").to_string()).await.quietly();
    let _operator = stage.operator().await;
    let waited = stage.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "idp/appid", "appidapp/storefront"]).await.quietly();
    assert_eq!(waited.lines().count(), 2, "{waited}");
    stage.kubectl(&["wait", "--for=create", "--timeout=60s", "secret/storefront-oidc"]).await.quietly();

    let client_id = stage.ready("storefront").await.status.and_then(|status| status.client_id).expect("a client id");
    let columns = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()).collect()
    };
    let shown = columns(&stage.kubectl(&["get", "appidapp"]).await.quietly());
    assert_eq!(shown[0], ["NAME", "PROVIDER", "CLIENT ID", "READY", "AGE"]);
    assert_eq!(shown[1][..4], ["storefront", "appid", &client_id, "True"]);
    let wide = columns(&stage.kubectl(&["get", "appidapplications", "--output", "wide"]).await.quietly());
    assert_eq!(wide[0], ["NAME", "PROVIDER", "CLIENT ID", "READY", "REASON", "AGE"]);
    assert_eq!(wide[1][4], "Ready");
    let shown = columns(&stage.kubectl(&["get", "idp"]).await.quietly());
    assert_eq!(shown[0], ["NAME", "TENANT", "READY", "AGE"]);
    assert_eq!(shown[1][..3], ["appid", stage::TENANT, "True"]);
    let cluster = document(&stage, "ClusterIdentityProvider", &stage.namespace, &json!({}));
    stage.kubectl_with(&["apply", "--filename", "-"], &cluster.to_string()).await.quietly();
    let shown = stage.kubectl(&["get", "cidp", &stage.namespace]).await.quietly();
    // It warns that the object lies in no namespace.
    assert!(stage.kubectl(&["delete", "cidp", &stage.namespace]).await.success);
    assert!(shown.starts_with("NAME") && shown.contains("TENANT"), "{shown}");
    let together = stage.kubectl(&["get", "cloudidentity", "--output", "name"]).await.quietly();
    let mut together: Vec<&str> = together.lines().filter(|line| !line.starts_with("clusteridentityprovider")).collect();
    together.sort_unstable();
    assert_eq!(together, ["appidapplication.cloudidentity.dev/storefront", "identityprovider.cloudidentity.dev/appid"]);

    for (field, words) in [
        ("appidapplication", "One application in an IBM Cloud App ID tenant"),
        ("appidapplication.spec.secret.layout", "Which keys the Secret has"),
        ("appidapplication.spec.scopes", "ScopeInUse"),
        ("appidapplication.spec.redirectUris", "merged into it"),
        ("appidapplication.status.unclearSince", "not answered may still be carried out"),
        ("identityprovider.spec.appId.binding", "Service credential"),
        ("clusteridentityprovider.spec.permits", "closed by default"),
    ] {
        let explained = stage.kubectl(&["explain", field]).await.quietly();
        let text = explained.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "kubectl explain {field}: {explained}");
    }
    let described = stage.kubectl(&["describe", "appidapp", "storefront"]).await.quietly();
    assert!(described.contains("Registered") && described.contains(&client_id), "events are shown with the object: {described}");

    let deleted = stage.kubectl(&["delete", "appidapp", "storefront", "--timeout=60s"]).await.quietly();
    assert!(deleted.contains("deleted"), "{deleted}");
    assert!(stage.registered().await.is_empty());
}

/// The keys of every layout are frozen for this API version.
///
/// Traps: T54.
#[tokio::test]
async fn the_keys_of_every_layout_are_those_of_the_documentation() {
    let stage = Stage::new("surface").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    let uri = "https://shop.example.com/callback";
    let golden: [(&str, &str, &[&str]); 9] = [
        (
            "AppId",
            "RegularWebApp",
            &[
                "appidServiceEndpoint",
                "clientId",
                "discoveryEndpoint",
                "managementUrl",
                "oauthServerUrl",
                "profilesUrl",
                "redirectUri",
                "secret",
                "tenantId",
                "version",
            ],
        ),
        (
            "AppId",
            "SinglePageApp",
            &[
                "appidServiceEndpoint",
                "clientId",
                "discoveryEndpoint",
                "managementUrl",
                "oauthServerUrl",
                "profilesUrl",
                "redirectUri",
                "tenantId",
                "version",
            ],
        ),
        (
            "OAuth",
            "RegularWebApp",
            &[
                "authorization_endpoint",
                "client_id",
                "client_secret",
                "discovery_endpoint",
                "issuer",
                "jwks_uri",
                "token_endpoint",
                "userinfo_endpoint",
            ],
        ),
        (
            "OAuth",
            "SinglePageApp",
            &["authorization_endpoint", "client_id", "discovery_endpoint", "issuer", "jwks_uri", "token_endpoint", "userinfo_endpoint"],
        ),
        ("IbmBinding", "RegularWebApp", &["binding"]),
        ("IbmBinding", "SinglePageApp", &["binding"]),
        (
            "ServiceBinding",
            "RegularWebApp",
            &["authorization-grant-type", "client-id", "client-secret", "issuer-uri", "provider", "redirect-uri", "scope", "type"],
        ),
        (
            "OAuth2Proxy",
            "RegularWebApp",
            &[
                "OAUTH2_PROXY_CLIENT_ID",
                "OAUTH2_PROXY_CLIENT_SECRET",
                "OAUTH2_PROXY_COOKIE_SECRET",
                "OAUTH2_PROXY_OIDC_ISSUER_URL",
                "OAUTH2_PROXY_PROVIDER",
                "client-id",
                "client-secret",
                "cookie-secret",
            ],
        ),
        (
            "Spring",
            "RegularWebApp",
            &[
                "SPRING_SECURITY_OAUTH2_CLIENT_PROVIDER_SHOP_ISSUERURI",
                "SPRING_SECURITY_OAUTH2_CLIENT_REGISTRATION_SHOP_CLIENTID",
                "SPRING_SECURITY_OAUTH2_CLIENT_REGISTRATION_SHOP_CLIENTSECRET",
                "SPRING_SECURITY_OAUTH2_CLIENT_REGISTRATION_SHOP_PROVIDER",
            ],
        ),
    ];
    let name = |layout: &str, kind: &str| format!("{layout}-{kind}").to_lowercase();
    for (layout, kind, _) in golden {
        let spec = json!({ "type": kind, "scopes": ["orders.read"], "redirectUris": [uri], "secret": { "layout": layout, "registrationId": "shop" } });
        stage.application(&name(layout, kind), spec).await;
    }
    for (layout, kind, keys) in golden {
        let object = stage.ready(&name(layout, kind)).await;
        let values = stage.secret_values(&name(layout, kind)).await.expect("the Secret is published");
        assert_eq!(values.keys().map(String::as_str).collect::<Vec<_>>(), keys, "{layout} for a {kind}: these keys are a promise");
        assert!(values.values().all(|value| !value.is_empty()), "{layout} for a {kind} has an empty value");
        let bound = object.status.as_ref().and_then(|status| status.binding.as_ref()).map(|binding| binding.name.clone());
        assert_eq!(bound, (layout == "ServiceBinding").then(|| name(layout, kind)));
        assert_eq!(condition(&object, "SecretPublished").map(|(status, _)| status), Some("True"));
    }
}
