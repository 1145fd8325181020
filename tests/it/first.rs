//! From `kubectl apply` to a working Secret.

use serde_json::json;
use stage::Stage;

#[tokio::test]
async fn an_application_becomes_a_secret_whose_credential_gets_a_token() {
    let stage = Stage::new("first").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.application("storefront", json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })).await;
    let object = stage.ready("storefront").await;
    let secret = stage.secret_values("storefront").await.expect("the Secret is published");
    assert_eq!(secret.get("clientId"), object.status.as_ref().and_then(|status| status.client_id.as_ref()));
    println!("{:#?}", object.status);
    println!("{:#?}", stage.control.calls().await);
}
