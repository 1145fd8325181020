//! What replaces a token at once, and what becomes of its Secret.

use cloud_identity_operator::api::AccessToken;
use identity_simulator::KeySeed;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use stage::{IAM, PROVIDER, Stage, eventually, token_condition, token_message};

use super::{of_iam, values, with_iam};
use crate::{
    fixtures::claims,
    ledger::{Ledger, WINDOW},
};

/// What matters replaces the token at once; what does not, does not.
///
/// Traps: T24.
#[tokio::test]
async fn a_changed_credential_a_changed_spec_and_a_request_replace_the_token_at_once() {
    let (stage, _operator) = with_iam("changed", 3600).await;
    let (one, other) = ("cafec0de-key-one", "cafec0de-key-other");
    for (id, key) in [("one", one), ("other", other)] {
        let seed = KeySeed { id: id.into(), value: key.into(), ..KeySeed::default() };
        stage.control.add_key(&seed).await.expect("added");
    }
    stage.secret("own-key", &[("apikey", one)]).await;
    let spec = json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "own-key" } } });
    stage.token("own", spec.clone()).await;
    stage.token_ready("own").await;
    let current = || async { values(&stage, "own").await["token"].clone() };
    let first = current().await;
    let replaced = async |before: &str, why: &str| {
        eventually(why, async || current().await != before).await;
        // The status follows the Secret.
        let version = stage.stored_secret("own").await.metadata.resource_version;
        let is_said = |token: &AccessToken| {
            let known = token.status.as_ref().and_then(|status| status.secret_version.as_ref());
            known.map(|known| &known.resource_version) == version.as_ref()
        };
        stage.token_where("own", "has a status that knows its Secret", is_said).await;
        current().await
    };
    stage.secret("own-key", &[("apikey", other)]).await;
    let second = replaced(&first, "another key, another token").await;
    assert_ne!(claims(&first)["iam_id"], claims(&second)["iam_id"]);
    // Touched, and the same: no call, and no write of the Secret.
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("own-key", json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    eventually("its version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.operations().await), (vec!["patch accesstokens/status".to_owned()], Vec::new()));
    let mut with_scope = spec.clone();
    with_scope["grant"] = json!({ "scopes": ["kms"] });
    stage.token("own", with_scope).await;
    let third = replaced(&second, "another scope, another token").await;
    stage.ask_for_token("own", "please").await;
    let fourth = replaced(&third, "asked for").await;
    let ledger = Ledger::open(&stage).await;
    stage.ask_for_token("own", "please").await;
    ledger.stays_empty("the same request again").await;
    assert_eq!(current().await, fourth);
}

/// Promises 2, 4 and 6: a Secret that was deleted or edited comes back with a token; one that is somebody else's stays as it is.
#[tokio::test]
async fn the_secret_of_a_token_is_put_back_and_nobody_elses_is_touched() {
    let (stage, _operator) = with_iam("repair", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let first = values(&stage, "key-protect").await;
    stage.secrets().delete("key-protect", &DeleteParams::default()).await.expect("deleted");
    eventually("it is back", async || stage.secret_values("key-protect").await.is_some_and(|now| now["token"] != first["token"])).await;
    stage.patch_secret("key-protect", json!({ "stringData": { "token": "cafec0de-forged", "theirs": "kept" } })).await;
    eventually("it is right again", async || {
        stage.secret_values("key-protect").await.is_some_and(|now| now["token"].starts_with("ey") && now["theirs"] == "kept")
    })
    .await;
    assert!(stage.event("key-protect", "SecretRepaired").await.contains("key-protect"));
    stage.secret("taken", &[("mine", "cafec0de-mine")]).await;
    let before = stage.stored_secret("taken").await;
    let calls = stage.all_calls().await;
    stage.token("taken", of_iam()).await;
    let refused = stage.token_reason("taken", "SecretConflict").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("nobody this operator knows")));
    assert_eq!((stage.stored_secret("taken").await, stage.all_calls().await), (before, calls));
    stage.secrets().delete("taken", &DeleteParams::default()).await.expect("deleted");
    stage.token_ready("taken").await;
    // Nothing holds the object: its Secret is collected.
    stage.tokens().delete("key-protect", &DeleteParams::default()).await.expect("deleted");
    eventually("the Secret is collected", async || stage.secret_values("key-protect").await.is_none()).await;
}

/// The variables and the file of IBM's SDKs, and a suspended object.
#[tokio::test]
async fn the_layout_of_ibms_sdks_and_a_change_of_layout() {
    let (stage, _operator) = with_iam("layout", 3600).await;
    let sdk = json!({ "layout": "IbmSdk", "service": "kms", "serviceUrl": "https://kms.example.com", "labels": { "team": "shop" } });
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": sdk })).await;
    stage.token_ready("kms").await;
    let secret = values(&stage, "kms").await;
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["KMS_AUTH_TYPE", "KMS_BEARER_TOKEN", "KMS_URL", "ibm-credentials.env", "token"]);
    assert_eq!(secret["KMS_BEARER_TOKEN"], secret["token"]);
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } } })).await;
    eventually("the keys of the former layout are gone", async || {
        values(&stage, "kms").await.keys().map(String::as_str).eq(["authorization", "bearer", "expires_at", "scope", "token_type"])
    })
    .await;
    stage.token_ready("kms").await;
    let ledger = Ledger::open(&stage).await;
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } }, "suspend": true })).await;
    let suspended = stage.token_reason("kms", "Suspended").await;
    assert_eq!(token_condition(&suspended, "Ready"), Some(("True", "Suspended")));
    assert_eq!(ledger.operations().await, Vec::<String>::new());
}

/// Promises 6 and 10: a writer that keeps changing the Secret of a token is not fought without end, and costs few tokens.
///
/// Traps: T45.
#[tokio::test]
async fn a_hostile_writer_of_a_token_meets_few_repairs_and_the_condition_contested() {
    let (stage, _operator) = with_iam("hostile-token", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let ledger = Ledger::open(&stage).await;
    let mut rounds = 0;
    eventually("the object says that the Secret is contested", async || {
        let is_right = values(&stage, "key-protect").await["token"].starts_with("ey");
        if is_right && rounds < 20 {
            rounds += 1;
            stage.patch_secret("key-protect", json!({ "stringData": { "token": format!("cafec0de-hostile-{rounds}") } })).await;
        }
        let token = stage.tokens().get("key-protect").await.expect("there");
        token_condition(&token, "Ready").is_some_and(|(_, reason)| reason == "Contested")
    })
    .await;
    for round in 0..10 {
        stage.patch_secret("key-protect", json!({ "stringData": { "token": format!("cafec0de-more-{round}") } })).await;
    }
    tokio::time::sleep(WINDOW).await;
    assert!((5..=6).contains(&rounds), "{rounds} rounds");
    assert!(ledger.operations().await.len() <= 6, "{:?}", ledger.operations().await);
    // What its owner asks for is done all the same.
    stage.token("key-protect", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } } })).await;
    stage.token_ready("key-protect").await;
    assert!(values(&stage, "key-protect").await.contains_key("bearer"));
}

/// A Secret that the operator publishes for one object and another names as its credential: whatever becomes of it is noticed there.
#[tokio::test]
async fn a_credential_that_another_object_publishes_is_followed() {
    let stage = Stage::new("published").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    stage.application("storefront", json!({ "secret": { "name": "pair" } })).await;
    stage.ready("storefront").await;
    let spec = json!({ "providerRef": { "name": PROVIDER }, "credentials": { "secretRef": { "name": "pair" } } });
    for name in ["one", "two"] {
        stage.token(name, spec.clone()).await;
        stage.token_ready(name).await;
    }
    let keys = |keys: Value| Patch::Merge(json!({ "spec": { "secret": { "keys": keys } } }));
    for _ in 0..2 {
        let renamed = keys(json!({ "clientId": "ID" }));
        stage.applications().patch("storefront", &PatchParams::default(), &renamed).await.expect("accepted");
        for name in ["one", "two"] {
            stage.token_reason(name, "CredentialsNotFound").await;
        }
        stage.applications().patch("storefront", &PatchParams::default(), &keys(Value::Null)).await.expect("accepted");
        for name in ["one", "two"] {
            stage.token_ready(name).await;
        }
    }
}
