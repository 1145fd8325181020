//! What may not change.

use serde_json::{Value, json};

/// What may not change: the object as it is, the change, and the refusal.
pub(super) fn immutable() -> Vec<(&'static str, Value, Value, &'static str)> {
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
