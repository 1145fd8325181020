//! Unknown is not absent: a wrong region, a late list, a conflict, and an application that really is gone.

use std::time::Duration;

use identity_simulator::{Action, ApplicationSeed, Framing, Rule, Switches, When, switches::DuplicateApplicationNames};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use serde_json::{Value, json};
use stage::{PROVIDER, Stage, TENANT, condition, eventually, merge, provider_condition};

const CREATE: &str = "app_id.applications.create";
const GET: &str = "app_id.applications.get";
const LIST: &str = "app_id.applications.list";

fn not_found() -> Action {
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    Action::Answer { when: When::BeforeCommit, status: 404, headers, body: r#"{"message":"not found"}"#.into() }
}

fn at(stage: &Stage, url: &str) -> Value {
    let mut document = stage.provider_document(PROVIDER);
    merge(&mut document, json!({ "spec": { "appId": { "url": url } } }));
    document
}

async fn registrations(stage: &Stage) -> (u64, u64) {
    let counts = stage.control.calls().await.expect("the simulator answers");
    (counts.of(CREATE).committed, counts.of("app_id.applications.delete").received)
}

/// Promises 5 and 10: the plain "Not Found" of a wrong region is a provider's mistake, not an absent application.
/// Traps: T02, T03.
#[tokio::test]
async fn a_wrong_region_registers_nothing_and_says_so() {
    let stage = Stage::new("region").await;
    let _operator = stage.operator().await;
    let elsewhere = stage.simulator.urls().regions["eu-de"].clone();
    stage.apply(&at(&stage, &elsewhere)).await.expect("the provider is accepted");
    stage.application("storefront", json!({})).await;
    stage.provider_where(PROVIDER, "is lost", |object| provider_condition(object, "Ready") == Some(("False", "TenantNotFound"))).await;
    stage.reason("storefront", "TenantNotFound").await;
    assert_eq!(registrations(&stage).await, (0, 0));
    stage.provider().await;
    stage.ready("storefront").await;
    assert_eq!(registrations(&stage).await, (1, 0));
}

/// Promises 2 and 5: a provider that is edited to a wrong region costs no registration and no Secret.
/// Traps: T02, T03, T07.
#[tokio::test]
async fn an_application_survives_its_provider_being_led_astray() {
    let stage = Stage::new("astray").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.application("storefront", json!({ "redirectUris": ["https://shop.example.com/"] })).await;
    let before = stage.ready("storefront").await;
    let secret = stage.secrets().get("storefront").await.expect("it is published");
    let elsewhere = stage.simulator.urls().regions["eu-de"].clone();
    stage.apply(&at(&stage, &elsewhere)).await.expect("the provider is accepted");
    stage.reason("storefront", "TenantNotFound").await;
    // Again and again: no number of looks makes it absent.
    for name in ["two", "three"] {
        stage.patch_application("storefront", json!({ "displayName": name })).await.expect("accepted");
        let lost = stage.reason("storefront", "TenantNotFound").await;
        assert_eq!(lost.status.and_then(|status| status.missing_since), None, "nothing is missing: nobody knows");
    }
    assert_eq!(stage.secrets().get("storefront").await.expect("it is there"), secret);
    stage.provider().await;
    let after = stage.ready("storefront").await;
    assert_eq!(before.status.and_then(|status| status.client_id), after.status.and_then(|status| status.client_id));
    assert_eq!(stage.registered().await[0].name, "three");
    assert_eq!(registrations(&stage).await, (1, 0));
}

/// Promise 1: what a person deleted at the service is registered again, after two looks that are apart, and everybody is told.
/// Traps: T02, T03, T06.
#[tokio::test]
async fn an_application_deleted_by_hand_is_registered_again_after_a_second_look() {
    let stage = Stage::new("by-hand").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_where(PROVIDER, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
    stage.application("storefront", json!({ "scopes": ["orders.read"] })).await;
    let before = stage.ready("storefront").await.status.unwrap_or_default();
    let secret = stage.secrets().get("storefront").await.expect("it is published");
    let former = before.client_id.clone().expect("it is registered");
    stage.control.remove_application(TENANT, &former).await.expect("it goes");
    stage.control.clear_journal().await.expect("cleared");
    stage.patch_application("storefront", json!({ "displayName": "again" })).await.expect("accepted");
    let doubtful = stage.reason("storefront", "ConfirmingAbsence").await;
    assert_eq!(condition(&doubtful, "Registered").map(|(status, _)| status), Some("Unknown"));
    assert_eq!(stage.secrets().get("storefront").await.expect("it is there"), secret, "until it is sure the Secret stays");
    let next = doubtful.status.and_then(|status| status.next_action_at).expect("it is looked at again");
    let ahead = next.0.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((5..=16).contains(&ahead), "{ahead} s");

    let after = stage.ready("storefront").await.status.unwrap_or_default();
    let calls = stage.control.journal().await.expect("the simulator answers");
    let time = |operation: &str| calls.iter().find(|call| call.operation == operation).map(|call| call.time).expect("it was called");
    let apart = time(CREATE).duration_since(time(GET)).as_secs_f64();
    assert!(apart >= 13.9, "only {apart} s between the first look and the new registration");
    let lists = calls.iter().filter(|call| call.operation == LIST).count();
    assert!(lists >= 2, "each look is confirmed by a list, and a list comes before the registration: {lists}");
    assert_ne!(after.client_id, Some(former.clone()));
    assert_eq!(registrations(&stage).await, (1, 0));
    let published = stage.secrets().get("storefront").await.expect("it is there");
    assert_eq!(published.metadata.uid, secret.metadata.uid, "the same Secret, with the new credential");
    let values = stage.secret_values("storefront").await.expect("it is there");
    let [application] = stage.registered().await.try_into().unwrap_or_else(|all| panic!("more than one: {all:?}"));
    assert_eq!((values.get("clientId"), values.get("secret")), (Some(&application.client_id), application.secret.as_ref()));
    assert_eq!(after.client_id.as_ref(), Some(&application.client_id));
    assert!(application.scopes.contains("orders.read"));
    eventually("an event says that it was registered again", async || {
        let events: Api<Event> = Api::namespaced(stage.client.clone(), &stage.namespace);
        let events = events.list(&Default::default()).await.expect("the API server answers");
        events.iter().any(|event| {
            event.reason.as_deref() == Some("RegisteredAgain") && event.note.as_deref().is_some_and(|note| note.contains(&former))
        })
    })
    .await;
}

/// A service that does not show yet what it just registered is given time.
/// Traps: T02, T03.
#[tokio::test]
async fn an_application_that_is_not_shown_for_a_moment_is_not_registered_twice() {
    let stage = Stage::new("lagging").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    // A provider that becomes ready wakes its applications: that is over first.
    stage.provider_where(PROVIDER, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
    stage.application("storefront", json!({})).await;
    let before = stage.ready("storefront").await;
    stage.control.inject(&Rule::next(GET, not_found())).await.expect("accepted");
    stage.control.inject(&Rule::every(LIST, Action::WithoutNewest)).await.expect("accepted");
    stage.patch_application("storefront", json!({ "displayName": "two" })).await.expect("accepted");
    stage.reason("storefront", "ConfirmingAbsence").await;
    let after = stage.ready("storefront").await;
    let status = after.status.unwrap_or_default();
    assert_eq!(before.status.and_then(|status| status.client_id), status.client_id);
    assert_eq!((status.missing_since, status.failures), (None, None));
    assert_eq!(registrations(&stage).await, (1, 0));
}

/// Promise 1: a registration whose answer broke off, and whose repetition is a conflict, is found and not made twice.
/// Traps: T05, T32.
#[tokio::test]
async fn a_conflict_with_our_own_registration_is_settled_by_looking() {
    let stage = Stage::new("conflict").await;
    stage
        .control
        .set_switches(&Switches { duplicate_application_names: DuplicateApplicationNames::Conflict, ..Switches::default() })
        .await
        .expect("set");
    let _operator = stage.operator().await;
    stage.provider().await;
    // The first registration is made, its answer lost, and the list that follows does not show it yet.
    stage.control.inject(&Rule::next(CREATE, Action::Truncate { keep: 3, framing: Framing::ContentLength })).await.expect("accepted");
    stage.provider_where(PROVIDER, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
    let late = stage.control.inject(&Rule::next(LIST, Action::WithoutNewest)).await.expect("accepted");
    stage.application("storefront", json!({})).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(stage.control.fault(late.id).await.expect("it is known").fired, 1, "the list was late");
    let calls = stage.control.journal().await.expect("the simulator answers");
    assert!(calls.iter().any(|call| call.operation == CREATE && call.status == Some(409)), "the repetition was a conflict");
    let [application] = stage.registered().await.try_into().unwrap_or_else(|all| panic!("more than one: {all:?}"));
    assert_eq!(ready.status.and_then(|status| status.client_id), Some(application.client_id));
    assert_eq!(registrations(&stage).await, (1, 0));
}

/// Promises 4 and 10: a display name that somebody else has costs the name, and nothing else.
/// Traps: T14, T32.
#[tokio::test]
async fn a_display_name_that_is_taken_leaves_a_working_credential() {
    let stage = Stage::new("taken").await;
    stage
        .control
        .set_switches(&Switches { duplicate_application_names: DuplicateApplicationNames::Conflict, ..Switches::default() })
        .await
        .expect("set");
    let theirs = ApplicationSeed { name: "storefront".into(), ..ApplicationSeed::default() };
    let theirs = stage.control.add_application(TENANT, &theirs).await.expect("made");
    let _operator = stage.operator().await;
    stage.provider().await;
    // A provider that becomes ready has everything that failed tried again; here it is ready before.
    stage
        .provider_where(stage::PROVIDER, "is ready", |provider| stage::provider_condition(provider, "Ready") == Some(("True", "Ready")))
        .await;
    stage.application("storefront", json!({ "scopes": ["read"] })).await;
    let object = stage.reason("storefront", "RenameFailed").await;
    assert_eq!(condition(&object, "Ready").map(|(status, _)| status), Some("False"));
    assert_eq!(condition(&object, "Verified"), Some(("True", "Verified")), "the credential works all the same");
    let registered = stage.registered().await;
    assert!(registered.contains(&theirs), "theirs is as it was");
    let ours = registered.iter().find(|application| application.client_id != theirs.client_id).expect("ours is there");
    assert!(ours.scopes.contains("read"), "the rest went on");
    assert_eq!(stage.secret_values("storefront").await.expect("published").get("clientId"), Some(&ours.client_id));
    // A window: a refused name is not tried again and again.
    let before = stage.calls("app_id.applications.update").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.calls("app_id.applications.update").await, before);
    stage.control.remove_application(TENANT, &theirs.client_id).await.expect("it goes");
    stage.patch_application("storefront", json!({ "redirectUris": ["https://shop.example.com/"] })).await.expect("accepted");
    stage.ready("storefront").await;
    assert_eq!(stage.registered().await[0].name, "storefront");
}
