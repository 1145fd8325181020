//! What tests of several sources of tokens have in common.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
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

/// An API client of Verify that may list applications.
pub fn client_of_verify(client_id: &str, secret: &str) -> OAuthClientSeed {
    OAuthClientSeed {
        client_id: client_id.into(),
        secret: Some(secret.into()),
        entitlements: ["readAppConfig".to_owned()].into(),
        ..OAuthClientSeed::default()
    }
}
