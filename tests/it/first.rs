//! From `kubectl apply` to a working Secret.

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use serde_json::json;
use stage::Stage;

#[tokio::test]
async fn an_application_becomes_a_secret_whose_credential_gets_a_token() {
    let stage = Stage::new("first").await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.application("storefront", json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })).await;
    let object = stage.ready("storefront").await;
    let secret = stage.secret_values("storefront").await.expect("the Secret is published");
    assert_eq!(secret.get("clientId"), object.status.as_ref().and_then(|status| status.client_id.as_ref()));
    let events: Api<Event> = Api::namespaced(stage.client.clone(), &stage.namespace);
    stage::eventually("the registration is announced", async || {
        let events = events.list(&Default::default()).await.expect("the API server answers");
        events.iter().any(|event| {
            event.reason.as_deref() == Some("Registered")
                && event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref()) == Some("storefront")
        })
    })
    .await;
    drop(operator);
}
