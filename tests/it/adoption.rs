//! An existing application is taken over when asked for, as it is, and never otherwise.

use std::time::Duration;

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{Application, ApplicationKind, ApplicationSeed};
use kube::ResourceExt;
use serde_json::json;
use stage::{OperatorOptions, Stage, TENANT, condition, eventually};

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

async fn with_operator(prefix: &str) -> (Stage, stage::Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator_with(OperatorOptions { drift_interval: "2s".into(), ..OperatorOptions::default() }).await;
    stage.provider_ready().await;
    (stage, operator)
}

async fn existing(stage: &Stage, name: &str, kind: ApplicationKind) -> Application {
    let seed = ApplicationSeed { name: name.into(), kind, scopes: ["theirs".to_owned()].into(), ..ApplicationSeed::default() };
    stage.control.add_application(TENANT, &seed).await.expect("added")
}

fn adopted(object: &AppIdApplication) -> Option<bool> {
    object.status.as_ref().and_then(|status| status.adopted)
}

/// Promises 2 and 4: an adopted application keeps its secret, its name, and what it has; deleting the object keeps it.
///
/// Traps: T15.
#[tokio::test]
async fn adoption_changes_nothing_and_deletion_keeps_what_was_adopted() {
    let (stage, _operator) = with_operator("adopt").await;
    let theirs = existing(&stage, "legacy", ApplicationKind::RegularWebApp).await;
    stage.application("storefront", json!({ "adopt": { "clientId": theirs.client_id } })).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(adopted(&ready), Some(true));
    assert!(stage.event("storefront", "Adopted").await.contains(&theirs.client_id));
    let values = stage.secret_values("storefront").await.expect("published");
    assert_eq!((Some(&values["secret"]), &values["clientId"]), (theirs.secret.as_ref(), &theirs.client_id));
    assert_eq!(stage.stored_secret("storefront").await.annotations()["cloudidentity.dev/adopted"], "true");
    // A few drift checks.
    tokio::time::sleep(WINDOW * 2).await;
    assert_eq!(stage.registered().await, std::slice::from_ref(&theirs));
    assert_eq!(stage.remote_changes().await, 0);
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await, [theirs]);
    assert_eq!(stage.stored_secret("storefront").await.owner_references(), []);
}

/// Promise 4: an adopted application is renamed only when the spec says a name, and deleted only when it says so.
#[tokio::test]
async fn an_adopted_application_is_renamed_and_deleted_only_when_the_spec_says_so() {
    let (stage, _operator) = with_operator("explicit").await;
    let theirs = existing(&stage, "legacy", ApplicationKind::RegularWebApp).await;
    let spec = json!({ "adopt": { "clientId": theirs.client_id }, "displayName": "Storefront", "scopes": ["orders.read"], "deletionPolicy": "Delete" });
    stage.application("storefront", spec).await;
    stage.ready("storefront").await;
    let now = stage.registered().await;
    assert_eq!((now.len(), now[0].name.as_str(), &now[0].secret), (1, "Storefront", &theirs.secret));
    assert_eq!(now[0].scopes, ["orders.read".to_owned(), "theirs".to_owned()].into(), "theirs stay");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await, []);
}

/// Promises 4, 5 and 10: an id that is held, of another type, or unknown changes nothing at the service, and nothing is registered instead.
///
/// Traps: T14.
#[tokio::test]
async fn an_application_that_cannot_be_adopted_is_left_alone_and_nothing_is_registered() {
    let (stage, _operator) = with_operator("cannot").await;
    stage.application("holder", json!({})).await;
    let held = stage.ready("holder").await.status.and_then(|status| status.client_id).expect("an id");
    let public = existing(&stage, "public", ApplicationKind::SinglePageApp).await;
    let before = (stage.registered().await, stage.remote_changes().await);
    for (name, id, reason) in [
        ("second", held.as_str(), "AlreadyManaged"),
        ("confused", public.client_id.as_str(), "TypeMismatch"),
        ("dreaming", "00000000-0000-4000-8000-00000000dead", "RemoteMissing"),
    ] {
        stage.application(name, json!({ "adopt": { "clientId": id } })).await;
        let refused = stage.reason(name, reason).await;
        assert_eq!(condition(&refused, "Ready").map(|(status, _)| status), Some("False"), "{name}");
        assert_eq!(stage.secret_values(name).await, None, "{name}");
    }
    tokio::time::sleep(WINDOW).await;
    assert_eq!((stage.registered().await, stage.remote_changes().await), before);
    for name in ["second", "confused", "dreaming"] {
        stage.delete(name).await;
    }
    assert_eq!((stage.registered().await, stage.remote_changes().await), before);
    stage.ready("holder").await;
}

/// Promise 4: when two objects ask for one application at the same moment, one gets it.
///
/// Traps: T14.
#[tokio::test]
async fn of_two_objects_that_adopt_one_application_at_once_one_gets_it() {
    let stage = Stage::new("both").await;
    stage.provider().await;
    let theirs = existing(&stage, "legacy", ApplicationKind::RegularWebApp).await;
    for name in ["first", "second"] {
        stage.application(name, json!({ "adopt": { "clientId": theirs.client_id }, "displayName": name })).await;
    }
    let _operator = stage.operator().await;
    eventually("one holds it and the other says so", async || {
        let mut reasons = Vec::new();
        for name in ["first", "second"] {
            let object = stage.applications().get(name).await.expect("there");
            reasons.push(condition(&object, "Ready").map(|(_, reason)| reason.to_owned()).unwrap_or_default());
        }
        reasons.sort();
        reasons == ["AlreadyManaged", "Ready"]
    })
    .await;
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 1: once something is registered, `adopt` is not read any more.
#[tokio::test]
async fn adopt_is_ignored_once_something_is_registered() {
    let (stage, _operator) = with_operator("later").await;
    let theirs = existing(&stage, "legacy", ApplicationKind::RegularWebApp).await;
    stage.application("storefront", json!({})).await;
    let id = stage.ready("storefront").await.status.and_then(|status| status.client_id);
    stage.application("storefront", json!({ "adopt": { "clientId": theirs.client_id } })).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(ready.status.as_ref().and_then(|status| status.client_id.clone()), id);
    assert_eq!(adopted(&ready), None);
    assert!(stage.registered().await.contains(&theirs));
}

/// Promises 1 and 5: an adopted application that somebody deletes is missed, and nothing is registered in its place.
#[tokio::test]
async fn an_adopted_application_that_is_deleted_at_the_service_is_not_replaced() {
    let (stage, _operator) = with_operator("missed").await;
    let theirs = existing(&stage, "legacy", ApplicationKind::RegularWebApp).await;
    stage.application("storefront", json!({ "adopt": { "clientId": theirs.client_id } })).await;
    stage.ready("storefront").await;
    let values = stage.secret_values("storefront").await;
    stage.control.remove_application(TENANT, &theirs.client_id).await.expect("removed");
    stage.reason("storefront", "RemoteMissing").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.registered().await, []);
    assert_eq!(stage.secret_values("storefront").await, values, "the Secret is left as it is");
    stage.delete("storefront").await;
}
