//! The list of redirect URIs that a tenant has for everybody.

use identity_simulator::{Action, Rule as Fault, When};
use kube::ResourceExt;
use serde_json::json;
use stage::{Effect, OperatorOptions, PROVIDER, Stage, TENANT, eventually};
use tokio::time::sleep;

use super::{LIST_IS_OLD, URI, behind_an_interceptor, delete_object, held, hold_next, intercepted, status_of};

/// Promise 1. One object is deleted while another that lists the same entry is created, as when a release is renamed.
#[tokio::test]
async fn a_redirect_uri_that_is_listed_anew_during_a_deletion_has_an_owner_afterwards() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("old", json!({ "redirectUris": [URI] })).await;
    stage.ready("old").await;
    sleep(LIST_IS_OLD).await;
    let reading = hold_next(&stage, held("app_id.redirect_uris.get")).await;
    delete_object(&stage, "old").await;
    stage.control.wait_for_fault(reading).await.expect("the list is read");
    stage.application("new", json!({ "redirectUris": [URI] })).await;
    stage.application_where("new", "is claimed", |object| !object.finalizers().is_empty()).await;
    stage.control.release(reading).await.expect("the simulator answers");
    stage.gone("old").await;
    stage.ready("new").await;
    stage
        .application_where("new", "owns the entry", |object| {
            object.status.as_ref().is_some_and(|status| status.added.redirect_uris.contains(URI))
        })
        .await;
    stage.delete("new").await;
    assert_eq!(stage.redirect_uris().await, Vec::<String>::new());
}

/// Promise 4. An annotation can be written by anybody.
#[tokio::test]
async fn an_object_that_never_got_to_the_tenant_inherits_no_redirect_uri() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("owner", json!({ "redirectUris": [URI] })).await;
    stage.ready("owner").await;
    let mut document = stage.application_document("forged", json!({ "providerRef": { "name": "nowhere" }, "redirectUris": [URI] }));
    document["metadata"]["annotations"] = json!({ "cloudidentity.dev/tenant": TENANT });
    stage.apply(&document).await.expect("the object is accepted");
    stage.reason("forged", "ProviderNotFound").await;
    stage.delete("owner").await;
    assert_eq!(stage.redirect_uris().await, Vec::<String>::new());
}

/// Promise 7. "At least one attempt per deletion", also when the list of redirect URIs cannot be written.
#[tokio::test]
async fn a_list_of_redirect_uris_that_cannot_be_written_does_not_keep_the_registration() {
    let stage = Stage::new("promises").await;
    stage.provider().await;
    let _operator = stage.operator_with(OperatorOptions { deletion_budget: "3s".into(), ..OperatorOptions::default() }).await;
    stage.application("storefront", json!({ "redirectUris": [URI] })).await;
    stage.ready("storefront").await;
    let body = r#"{"message":"no"}"#.into();
    let refused = Action::Answer { when: When::BeforeCommit, status: 400, headers: Default::default(), body };
    stage.control.inject(&Fault::every("app_id.redirect_uris.set", refused)).await.expect("the fault is taken");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await.len(), 0);
    let note = stage.event("storefront", "Orphaned").await;
    assert!(note.contains(URI) && !note.contains("the application"), "{note}");
}

/// Promise 4. The turn to write is long in coming: somebody else is served first, slowly, and a person edits the list meanwhile.
#[tokio::test]
async fn the_list_of_redirect_uris_is_fresh_when_it_is_written_however_long_the_turn_took() {
    let stage = Stage::new("promises").await;
    let mut document = stage.provider_document(PROVIDER);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 1000, "concurrency": 1 });
    stage.apply(&document).await.expect("the provider is accepted");
    let (interceptor, _operator) = behind_an_interceptor(&stage).await;
    stage.application("a", json!({})).await;
    stage.application("b", json!({})).await;
    stage.ready("a").await;
    let b = stage.ready("b").await.status.and_then(|status| status.client_id).expect("it is registered");
    let record = interceptor.intercept(status_of("a"), 0, 1, Effect::HoldBefore);
    let slow = hold_next(&stage, held("app_id.applications.get").path_contains(&b)).await;
    stage.patch_application("a", json!({ "redirectUris": ["https://a.example.com/callback"] })).await.expect("accepted");
    interceptor.fired(record).await;
    stage.patch_application("b", json!({ "displayName": "other" })).await.expect("accepted");
    stage.control.wait_for_fault(slow).await.expect("the slow call is under way");
    interceptor.release(record);
    sleep(LIST_IS_OLD).await;
    let mut list = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    list.insert("redirectUris".into(), json!(["https://person.example.com/callback"]));
    stage.control.set_redirect_uris(TENANT, &list).await.expect("the list is edited");
    stage.control.release(slow).await.expect("the simulator answers");
    stage.ready("a").await;
    let both = ["https://person.example.com/callback", "https://a.example.com/callback"];
    eventually("both entries are in the list", async || stage.redirect_uris().await == both).await;
}
