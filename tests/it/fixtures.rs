//! What tests of several sources of tokens have in common.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::OAuthClientSeed;
use serde_json::{Value, json};
use stage::Stage;

/// A key of the tests, by the name of its file.
pub fn key_file(name: &str) -> String {
    std::fs::read_to_string(stage::repository().join("tests/keys").join(name)).expect("the key is there")
}

/// What a JWT says; nobody looks at its signature.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

/// An `IdentityProvider` with this spec, and trust in the simulator.
pub async fn provide(stage: &Stage, name: &str, mut spec: Value) {
    spec["tls"] = json!({ "caBundle": { "configMapRef": { "name": "simulator-ca" } } });
    let document = json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
        "metadata": { "name": name, "namespace": stage.namespace }, "spec": spec,
    });
    stage.apply(&document).await.expect("the provider is accepted");
}

/// Waits until an application was tried so often in vain.
pub async fn tried(stage: &Stage, name: &str, times: i32) {
    let tried = |object: &AppIdApplication| object.status.as_ref().is_some_and(|status| status.failures >= Some(times));
    stage.application_where(name, &format!("was tried {times} times"), tried).await;
}

/// The token endpoint of a simulated OAuth server, as its document tells it.
pub async fn token_endpoint(stage: &Stage, server: &str) -> String {
    let document = format!("{}/tenants/{server}/.well-known/openid-configuration", stage.simulator.urls().oidc);
    let document: Value = stage.http().get(document).send().await.expect("an answer").json().await.expect("a document");
    document["token_endpoint"].as_str().expect("it names one").to_owned()
}

/// An API client of Verify that may list applications.
pub fn client_of_verify(client_id: &str, secret: &str) -> OAuthClientSeed {
    OAuthClientSeed {
        client_id: client_id.into(),
        secret: Some(secret.into()),
        entitlements: ["readAppConfig".to_owned()].into(),
        ..OAuthClientSeed::default()
    }
}
