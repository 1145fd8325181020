//! What a user meets: the API server's refusals, `kubectl explain`, `get`, `wait`, and no warnings.

mod applications;
mod immutable;
mod providers;
mod tokens;

use serde_json::{Value, json};
use stage::{Stage, condition, documents, merge};

use self::{
    applications::applications,
    immutable::immutable,
    providers::{cluster_providers, providers},
    tokens::tokens,
};
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
