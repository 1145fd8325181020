//! A Secret that somebody else has, wants, or keeps changing.

use std::time::{Duration, Instant};

use identity_simulator::{Action, Rule, When};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use stage::{Stage, condition, eventually, message};

use super::{WINDOW, with_operator};

/// Promises 4 and 10: a Secret of somebody else stays as it is, nothing is asked of the service, and the condition says whose it is.
///
/// Traps: T13.
#[tokio::test]
async fn a_foreign_secret_stays_bit_identical_until_the_name_is_free() {
    let (stage, _operator) = with_operator("foreign").await;
    stage.secret("storefront", &[("token", "cafec0de-theirs"), ("clientId", "theirs, too")]).await;
    let map: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let owner = map.get("simulator-ca").await.expect("it is there");
    let owned = json!({ "metadata": { "name": "backend", "ownerReferences": [
        { "apiVersion": "v1", "kind": "ConfigMap", "name": "simulator-ca", "uid": owner.uid(), "controller": true }] } });
    let owned: Secret = serde_json::from_value(owned).expect("valid");
    stage.secrets().create(&PostParams::default(), &owned).await.expect("it is accepted");
    let before = (stage.stored_secret("storefront").await, stage.stored_secret("backend").await);
    let calls = stage.all_calls().await;
    stage.application("storefront", json!({})).await;
    stage.application("backend", json!({})).await;
    let first = stage.reason("storefront", "SecretConflict").await;
    assert!(message(&first).contains("nobody this operator knows"), "{}", message(&first));
    let second = stage.reason("backend", "SecretConflict").await;
    assert!(message(&second).contains("ConfigMap simulator-ca"), "{}", message(&second));
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.all_calls().await, calls, "no call was made");
    assert_eq!((stage.stored_secret("storefront").await, stage.stored_secret("backend").await), before);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user removes it");
    let ready = stage.ready("storefront").await;
    let values = stage.secret_values("storefront").await.expect("published");
    assert_eq!(values.get("clientId"), ready.status.and_then(|status| status.client_id).as_ref());
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 1 and 4: a Secret that appears between registration and publication stays, and so does the registration.
///
/// Traps: T05, T13.
#[tokio::test]
async fn a_secret_that_appears_during_the_registration_delays_publication_only() {
    let (stage, _operator) = with_operator("between").await;
    let fault =
        stage.control.inject(&Rule::next("app_id.applications.create", Action::Hold { when: When::AfterCommit })).await.expect("injected");
    stage.application("storefront", json!({})).await;
    stage.control.wait_for_fault(fault.id).await.expect("the registration is under way");
    stage.secret("storefront", &[("token", "cafec0de-theirs")]).await;
    let before = stage.stored_secret("storefront").await;
    stage.control.release(fault.id).await.expect("released");
    stage.reason("storefront", "SecretConflict").await;
    tokio::time::sleep(WINDOW).await;
    let kept = stage.registered().await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(stage.stored_secret("storefront").await, before);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user removes it");
    let ready = stage.ready("storefront").await;
    assert_eq!(ready.status.and_then(|status| status.client_id).as_deref(), Some(kept[0].client_id.as_str()));
    let now = stage.registered().await;
    assert_eq!((now.len(), now[0].name.as_str()), (1, "storefront"));
    assert_eq!(stage.calls("app_id.applications.create").await, 1);
}

/// Promises 4 and 10: of two objects that want one Secret, the older gets it; the other says so, asks nothing of the service, and follows.
///
/// Traps: T45.
#[tokio::test]
async fn of_two_objects_with_one_secret_name_the_older_wins_and_the_other_follows_when_it_is_gone() {
    let stage = Stage::new("rivals").await;
    stage.provider().await;
    stage.application("z-older", json!({ "secret": { "name": "shared" } })).await;
    let created = stage.applications().get("z-older").await.expect("it is there").creation_timestamp();
    // Creation times are whole seconds: the younger one is made until it is visibly younger.
    eventually("the other object is younger", async || {
        drop(stage.applications().delete("a-younger", &DeleteParams::default()).await);
        stage.application("a-younger", json!({ "secret": { "name": "shared" } })).await;
        stage.applications().get("a-younger").await.expect("it is there").creation_timestamp() > created
    })
    .await;
    let _operator = stage.operator().await;
    let older = stage.ready("z-older").await;
    let younger = stage.reason("a-younger", "SecretConflict").await;
    assert!(message(&younger).contains(&format!("{}/z-older", stage.namespace)), "{}", message(&younger));
    assert!(younger.metadata.finalizers.is_none(), "nothing was begun for it");
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.registered().await.len(), 1);
    let secret = stage.stored_secret("shared").await;
    assert_eq!(secret.owner_references()[0].uid, older.uid().unwrap_or_default());
    stage.delete("z-older").await;
    let ready = stage.ready("a-younger").await;
    let secret = stage.stored_secret("shared").await;
    assert_eq!(secret.owner_references()[0].uid, ready.uid().unwrap_or_default());
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 2 and 10: a Secret that a person made immutable is never re-created; the object says what is wrong, and goes on when it can.
///
/// Traps: T06.
#[tokio::test]
async fn an_immutable_secret_is_left_alone_and_said_so() {
    let (stage, _operator) = with_operator("immutable").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.patch_secret("storefront", json!({ "immutable": true })).await;
    let watch = stage.watch_secret("storefront").await;
    stage.application("storefront", json!({ "secret": { "layout": "OAuth" } })).await;
    stage.reason("storefront", "SecretImmutable").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.stored_secret("storefront").await, right);
    assert_eq!(watch.count("DELETED"), 0);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    stage.ready("storefront").await;
    assert!(stage.secret_keys("storefront").await.contains("client_id"));
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 6 and 10: a writer that keeps changing our Secret is not fought without end.
///
/// Traps: T45.
#[tokio::test]
async fn a_hostile_writer_meets_few_repairs_and_the_condition_contested() {
    let (stage, _operator) = with_operator("hostile").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let mark = stage.mark();
    let right = stage.secret_values("storefront").await;
    let mut rounds = 0;
    eventually("the object says that the Secret is contested", async || {
        if stage.secret_values("storefront").await == right {
            rounds += 1;
            stage.patch_secret("storefront", json!({ "stringData": { "secret": format!("cafec0de-hostile-{rounds}") } })).await;
        }
        condition(&stage.applications().get("storefront").await.expect("there"), "Ready").is_some_and(|(_, reason)| reason == "Contested")
    })
    .await;
    // The writer goes on for a while.
    for round in 0..20 {
        stage.patch_secret("storefront", json!({ "stringData": { "secret": format!("cafec0de-more-{round}") } })).await;
        tokio::time::sleep(WINDOW / 20).await;
    }
    assert!((5..=6).contains(&rounds), "{rounds} rounds");
    assert!(stage.writes_since(mark, "secrets") <= 6, "{} writes", stage.writes_since(mark, "secrets"));
    assert!(stage.writes_since(mark, "appidapplications") <= 14, "{} writes", stage.writes_since(mark, "appidapplications"));
    let contested = stage.applications().get("storefront").await.expect("there");
    assert_eq!(condition(&contested, "Ready"), Some(("False", "Contested")));
    // What its owner asks for is done all the same, and the Secret with it.
    stage.application("storefront", json!({ "scopes": ["orders.read"] })).await;
    eventually("the scopes are set", async || stage.registered().await[0].scopes.contains("orders.read")).await;
    stage.ready("storefront").await;
    assert_eq!(stage.secret_values("storefront").await, right);
    // Without the Secret no Pod starts: one that is gone comes back after seconds, not after half a minute.
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the writer deletes it");
    let gone = Instant::now();
    eventually("it is put back when the short pause is over", async || stage.secret_values("storefront").await == right).await;
    assert!(gone.elapsed() < Duration::from_secs(20), "{:?}", gone.elapsed());
    stage.ready("storefront").await;
}
