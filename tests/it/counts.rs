//! What things cost, as numbers: requests at the API server from its audit log, calls at the services from the simulator's journal.

mod memory;

use std::{collections::BTreeMap, time::Duration};

use identity_simulator::{Action, ApplicationKind, ApplicationSeed, CallWait, RoleSeed, Rule, Settings, When};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stage::{Operator, OperatorOptions, PROVIDER, Stage, TENANT, eventually};

use crate::ledger::{Ledger, WINDOW, tally};

/// Whatever is created costs these, and nothing else.
const WRITES_OF_A_CREATION: [&str; 5] =
    ["patch appidapplications", "patch secrets", "patch appidapplications/status", "patch appidapplications/status", "create events"];

/// A stage with a provider that has been found working.
async fn stage_with_provider(prefix: &str, options: OperatorOptions) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    // Numbers are counted here; how the service slows people down is the business of other tests.
    let unlimited = Settings {
        management_calls_per_second: 0,
        authorization_calls_per_second: 0,
        ..stage.control.settings().await.expect("the simulator answers")
    };
    stage.control.set_settings(&unlimited).await.expect("the simulator answers");
    let ledger = Ledger::open(&stage).await;
    stage.provider().await;
    let operator = stage.operator_with(options).await;
    stage.provider_ready().await;
    // A write is seen before the audit log has it.
    eventually("the provider's status is in the audit log", async || ledger.writes() == ["patch identityproviders/status"]).await;
    (stage, operator)
}

/// Waits for the event, which is the last thing a creation writes.
async fn is_announced(ledger: &Ledger<'_>, objects: usize) {
    eventually("every creation is announced", async || ledger.writes().iter().filter(|write| *write == "create events").count() >= objects)
        .await;
}

fn everything() -> Value {
    json!({ "scopes": ["orders.read", "orders.write"], "roles": ["shopper"], "redirectUris": ["https://shop.example.com/callback"] })
}

async fn add_role(stage: &Stage) {
    stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("the role is made");
}

/// Promise 6.
#[tokio::test]
async fn creating_an_application_costs_five_writes_one_read_and_three_calls() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    is_announced(&ledger, 1).await;
    // Proves that nothing follows: a pass that our own status write asks for would come at once.
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.writes(), WRITES_OF_A_CREATION);
    assert_eq!(ledger.reads(), ["get secrets"]);
    assert_eq!(ledger.operations().await, ["app_id.applications.create", "app_id.applications.update", "app_id.token"]);
    assert!(ledger.events().iter().all(|event| event.response_code < 300 || event.verb == "get"), "{}", ledger.events());
}

/// Promise 6.
#[tokio::test]
async fn scopes_roles_and_redirect_uris_add_six_calls_and_no_write() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    add_role(&stage).await;
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", everything()).await;
    stage.ready("storefront").await;
    is_announced(&ledger, 1).await;
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.writes(), WRITES_OF_A_CREATION);
    assert_eq!(ledger.reads(), ["get secrets"]);
    assert_eq!(
        ledger.operations().await,
        [
            "app_id.roles.list",
            "app_id.applications.create",
            "app_id.redirect_uris.get",
            "app_id.scopes.set",
            "app_id.application_roles.set",
            "app_id.redirect_uris.set",
            "app_id.redirect_uris.get",
            "app_id.applications.update",
            "app_id.token",
        ]
    );
}

/// Promise 6.
///
/// Traps: T29, T31.
#[tokio::test]
async fn fifty_applications_at_once_cost_fifty_times_as_much_and_share_the_rest() {
    const OBJECTS: usize = 50;
    let stage = Stage::new("counts").await;
    let unlimited = Settings {
        management_calls_per_second: 0,
        authorization_calls_per_second: 0,
        ..stage.control.settings().await.expect("the simulator answers")
    };
    stage.control.set_settings(&unlimited).await.expect("the simulator answers");
    stage.provider().await;
    let ledger = Ledger::open(&stage).await;
    // Who writes the list takes longer than the others need to come and wait for their turn, also on a busy machine: they share the next one.
    let slow = Action::Delay { when: When::BeforeCommit, milliseconds: 250 };
    stage.control.inject(&Rule::every("app_id.redirect_uris.set", slow)).await.expect("the fault is taken");
    // They are all there before the operator is: nothing is spread by the speed of this test.
    for index in 0..OBJECTS {
        let uri = format!("https://shop{index}.example.com/callback");
        stage.application(&format!("shop{index}"), json!({ "redirectUris": [uri], "scopes": ["orders.read"] })).await;
    }
    let operator = stage.operator().await;
    for index in 0..OBJECTS {
        stage.ready(&format!("shop{index}")).await;
    }
    is_announced(&ledger, OBJECTS).await;
    // All passes over an object together, start of the process included, in a build without optimisation.
    let busy = operator.processor_time() / u32::try_from(OBJECTS).expect("few");
    assert!(busy < Duration::from_millis(50), "an object keeps a processor busy for {busy:?}");
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    let mut writes = tally(&ledger.writes());
    // The provider's own status.
    assert_eq!(writes.remove("patch identityproviders/status"), Some(1));
    let expected: BTreeMap<String, usize> =
        tally(&WRITES_OF_A_CREATION).into_iter().map(|(name, count)| (name.to_owned(), count * OBJECTS)).collect();
    assert_eq!(writes, expected, "{}\n{}", ledger.events().writes(), operator.log());
    let reads = tally(&ledger.reads());
    // One for each object, and one for the provider's credential.
    assert_eq!(reads.get("get secrets"), Some(&(OBJECTS + 1)), "{reads:?}");
    let calls = tally(&ledger.operations().await);
    let count = |operation: &str| calls.get(operation).copied().unwrap_or_default();
    assert_eq!(count("iam.token"), 1);
    for operation in ["app_id.applications.create", "app_id.scopes.set", "app_id.applications.update", "app_id.token"] {
        assert_eq!(count(operation), OBJECTS, "{operation}");
    }
    let (batches, lists) = (count("app_id.redirect_uris.set"), count("app_id.redirect_uris.get"));
    // A turn is shared by whoever waits for it, and at most eight passes of a tenant run at once.
    assert!(batches <= OBJECTS * 4 / 5, "{batches} batches of redirect URIs");
    // Each object asks for the list once at most, and each batch is read back. How many share a reading depends on when they ask.
    assert!(lists <= OBJECTS + batches, "{lists} readings of the redirect URIs for {batches} batches");
    // The probe of the provider: a list, and a look whether we may write. The objects were there before that: one of them asked first
    // whether anybody answers, for all.
    assert!((1..=2).contains(&count("app_id.applications.list")), "{calls:?}");
    assert_eq!(count("app_id.scopes.get"), 1);
}

/// Promise 6. Whoever asks for the tenant's redirect URIs while somebody writes them shares the reading that follows.
///
/// Traps: T31.
#[tokio::test]
async fn seven_applications_that_come_while_the_redirect_uris_are_written_share_one_reading() {
    // With the one that writes, as many as a tenant's turns.
    const OTHERS: usize = 7;
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let held = stage.control.inject(&Rule::next("app_id.redirect_uris.set", Action::Hold { when: When::AfterCommit })).await;
    let held = held.expect("the fault is taken").id;
    let with_uri = |name: &str| json!({ "redirectUris": [format!("https://{name}.example.com/callback")] });
    let ledger = Ledger::open(&stage).await;
    stage.application("first", with_uri("first")).await;
    stage.control.wait_for_fault(held).await.expect("the first one writes");
    let names: Vec<String> = (0..OTHERS).map(|index| format!("other{index}")).collect();
    for name in &names {
        stage.application(name, with_uri(name)).await;
    }
    let registered = CallWait {
        operation: "app_id.applications.create".into(),
        tenant: None,
        count: 1 + OTHERS as u64,
        stage: Default::default(),
        timeout_milliseconds: 60_000,
    };
    stage.control.wait_for_calls(&registered).await.expect("the others are registered");
    // What each does next is to ask for the list.
    tokio::time::sleep(WINDOW).await;
    stage.control.release(held).await.expect("the write is answered");
    for name in &names {
        stage.ready(name).await;
    }
    stage.ready("first").await;
    let calls = tally(&ledger.operations().await);
    let (batches, lists) = (calls["app_id.redirect_uris.set"], calls["app_id.redirect_uris.get"]);
    assert_eq!(lists, 1 + batches, "the first one's, and one after each write: {calls:?}");
}

/// Promise 6. A label, an annotation, the same document again: nothing of it is news.
///
/// Traps: T24.
#[tokio::test]
async fn an_edit_of_metadata_costs_nothing() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", everything_but_roles()).await;
    stage.ready("storefront").await;
    is_announced(&ledger, 1).await;
    let ledger = Ledger::open(&stage).await;
    let touch = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" }, "annotations": { "note": "touched" } } }));
    stage.applications().patch("storefront", &PatchParams::default(), &touch).await.expect("the label is accepted");
    stage.providers().patch(PROVIDER, &PatchParams::default(), &touch).await.expect("the label is accepted");
    stage.application("storefront", everything_but_roles()).await;
    ledger.stays_empty("metadata of object and provider were edited").await;
}

fn everything_but_roles() -> Value {
    json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })
}

/// Promise 6. Somebody labels our Secret, and the provider's: both are looked at, and nobody is asked.
///
/// Traps: T24.
#[tokio::test]
async fn an_edit_of_a_secrets_metadata_costs_one_read_and_no_call() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    is_announced(&ledger, 1).await;
    let touch = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" } } }));
    let ledger = Ledger::open(&stage).await;
    stage.secrets().patch("storefront", &PatchParams::default(), &touch).await.expect("the label is accepted");
    eventually("the Secret's new version is noted", async || ledger.writes() == ["patch appidapplications/status"]).await;
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes().len(), ledger.reads(), ledger.operations().await), (1, vec!["get secrets".to_owned()], Vec::new()));
    let ledger = Ledger::open(&stage).await;
    stage.secrets().patch("ibm-api-key", &PatchParams::default(), &touch).await.expect("the label is accepted");
    eventually("the credential is read", async || !ledger.reads().is_empty()).await;
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.reads(), ledger.operations().await), (Vec::new(), vec!["get secrets".to_owned()], Vec::new()));
}

/// Promise 6. Each check reads each thing that the spec speaks of once, and writes nothing.
#[tokio::test]
async fn a_drift_check_reads_what_is_managed_once_and_writes_nothing() {
    let (stage, operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    add_role(&stage).await;
    stage.application("storefront", everything()).await;
    stage.ready("storefront").await;
    assert!(operator.stop().await.success());
    let ledger = Ledger::open(&stage).await;
    let operator = stage.operator_with(OperatorOptions { drift_interval: "1s".into(), ..OperatorOptions::default() }).await;
    operator.working().await;
    let check = ["app_id.applications.get", "app_id.scopes.get", "app_id.application_roles.get", "app_id.redirect_uris.get"];
    let thrice = CallWait {
        operation: "app_id.redirect_uris.get".into(),
        tenant: None,
        count: 3,
        stage: Default::default(),
        timeout_milliseconds: 30_000,
    };
    stage.control.wait_for_calls(&thrice).await.expect("three drift checks are made");
    let operations: Vec<String> = ledger.operations().await.into_iter().filter(|operation| operation != "iam.token").collect();
    assert_eq!(operations[..12], check.repeat(3));
    assert_eq!(ledger.writes(), Vec::<String>::new());
    let asked = ledger.reads().into_iter().filter(|read| read.starts_with("get")).collect::<Vec<_>>();
    assert_eq!(tally(&asked), tally(&["get secrets".to_owned(), "get configmaps".to_owned()]), "the provider's, at the start");
}

/// Promise 6. What an operator of this version left behind is taken up without a word, also by one whose drift checks are frequent.
///
/// Traps: T25, T26, T46.
#[tokio::test]
async fn a_restart_with_a_hundred_fresh_objects_writes_and_asks_nothing() {
    const OBJECTS: usize = 100;
    let (stage, operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let ledger = Ledger::open(&stage).await;
    for index in 0..OBJECTS {
        stage.application(&format!("shop{index}"), json!({})).await;
    }
    for index in 0..OBJECTS {
        stage.ready(&format!("shop{index}")).await;
    }
    is_announced(&ledger, OBJECTS).await;
    assert!(operator.stop().await.success());

    let ledger = Ledger::open(&stage).await;
    let operator = stage.operator().await;
    operator.working().await;
    // Proves that nothing follows: all hundred are looked at within milliseconds.
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.writes(), Vec::<String>::new());
    assert_eq!(ledger.operations().await, Vec::<String>::new());
    let expected: BTreeMap<String, usize> = ["get secrets", "get configmaps"]
        .into_iter()
        .map(|read| (read.to_owned(), 1))
        .chain(
            ["secrets", "configmaps", "accesstokens", "appidapplications", "identityproviders"]
                .into_iter()
                .flat_map(|resource| [(format!("list {resource}"), 1), (format!("watch {resource}"), 1)]),
        )
        .collect();
    assert_eq!(tally(&ledger.reads()), expected);
    assert!(operator.stop().await.success());

    let ledger = Ledger::open(&stage).await;
    let _operator = stage.operator_with(OperatorOptions { drift_interval: "2s".into(), ..OperatorOptions::default() }).await;
    let rounds = CallWait {
        operation: "app_id.applications.get".into(),
        tenant: None,
        count: 2 * OBJECTS as u64,
        stage: Default::default(),
        timeout_milliseconds: 60_000,
    };
    stage.control.wait_for_calls(&rounds).await.expect("every object is checked twice");
    assert_eq!(ledger.writes(), Vec::<String>::new());
    assert_eq!(ledger.events().reads().only(|event| event.verb == "get").len(), 2, "{}", ledger.events());
}

/// Promises 6 and 10. One write says what happened and when it goes on; one event says it once.
#[tokio::test]
async fn an_attempt_that_fails_costs_one_status_write() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let refused = Action::Answer { when: When::BeforeCommit, status: 500, headers: BTreeMap::new(), body: "{}".into() };
    stage.control.inject(&Rule::every("app_id.applications.create", refused)).await.expect("the fault is taken");
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", json!({})).await;
    stage
        .application_where("storefront", "has failed thrice", |object| {
            object.status.as_ref().is_some_and(|status| status.failures == Some(3))
        })
        .await;
    // Proves that nothing follows before the next attempt, which is at least 6 s away.
    tokio::time::sleep(WINDOW).await;
    let attempts = ledger.operations().await.iter().filter(|operation| *operation == "app_id.applications.create").count();
    assert_eq!(attempts, 3);
    let expected = [("create events", 1), ("patch appidapplications", 1), ("patch appidapplications/status", 3)];
    assert_eq!(tally(&ledger.writes()), expected.map(|(name, count)| (name.to_owned(), count)).into());
}

/// Promise 6. Nothing is listed for an object that goes its way.
///
/// Traps: T09, T31.
#[tokio::test]
async fn calls_for_an_object_do_not_grow_with_the_number_of_applications_in_the_tenant() {
    let mut costs = Vec::new();
    for foreign in [0, 150] {
        let (stage, operator) = stage_with_provider("counts", OperatorOptions::default()).await;
        add_role(&stage).await;
        for index in 0..foreign {
            let seed = ApplicationSeed { name: format!("foreign {index}"), ..ApplicationSeed::default() };
            stage.control.add_application(TENANT, &seed).await.expect("the application is made");
        }
        let ledger = Ledger::open(&stage).await;
        stage.application("storefront", everything()).await;
        stage.ready("storefront").await;
        is_announced(&ledger, 1).await;
        stage.delete("storefront").await;
        // The finalizer is gone before the audit log says so.
        let is_complete = async || ledger.writes().iter().filter(|write| *write == "patch appidapplications").count() == 2;
        eventually("the last write is in the audit log", is_complete).await;
        let calls = tally(&ledger.operations().await);
        assert_eq!(calls.get("app_id.applications.list"), None, "{calls:?}");
        costs.push((calls, tally(&ledger.writes())));
        assert_eq!(stage.registered().await.len(), foreign, "the foreign applications are all there, and no other");
        drop(operator);
    }
    assert_eq!(costs[0], costs[1]);
}

/// Promise 1. Ours is found among a thousand, wherever in the list it stands: App ID's list has no pages.
///
/// Traps: T09.
#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_found_among_a_thousand() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    let settings = stage.control.settings().await.expect("the simulator answers");
    let large = Settings { applications_per_tenant: 2000, ..settings };
    stage.control.set_settings(&large).await.expect("the simulator answers");
    let foreign = |index: usize| ApplicationSeed { name: format!("storefront {index}"), ..ApplicationSeed::default() };
    for index in 0..500 {
        stage.control.add_application(TENANT, &foreign(index)).await.expect("the application is made");
    }
    let lost = stage
        .control
        .inject(&Rule::next("app_id.applications.create", Action::Drop { when: When::AfterCommit }))
        .await
        .expect("the fault is taken");
    stage.application("storefront", json!({})).await;
    stage.control.wait_for_fault(lost.id).await.expect("the answer is lost");
    for index in 500..1000 {
        stage.control.add_application(TENANT, &foreign(index)).await.expect("the application is made");
    }
    let object = stage.ready("storefront").await;
    let registered = stage.registered().await;
    let ours: Vec<_> = registered.iter().filter(|application| application.name == "storefront").collect();
    assert_eq!((registered.len(), ours.len()), (1001, 1));
    assert_eq!(object.status.and_then(|status| status.client_id).as_deref(), Some(ours[0].client_id.as_str()));
    assert_eq!(stage.calls("app_id.applications.create").await, 1);
}

/// Nothing is asked for that the spec does not name.
///
/// Traps: T53.
#[tokio::test]
async fn a_created_application_has_exactly_what_the_spec_says() {
    let (stage, _operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    add_role(&stage).await;
    stage.application("bare", json!({})).await;
    stage.application("page", json!({ "type": "SinglePageApp" })).await;
    stage.application("full", everything()).await;
    for name in ["bare", "page", "full"] {
        stage.ready(name).await;
    }
    let registered = stage.registered().await;
    let found = |name: &str| registered.iter().find(|application| application.name == name).expect("it is registered");
    let (bare, page, full) = (found("bare"), found("page"), found("full"));
    assert_eq!((bare.kind, bare.scopes.len(), bare.roles.len()), (ApplicationKind::RegularWebApp, 0, 0));
    assert_eq!((page.kind, page.scopes.len(), page.roles.len()), (ApplicationKind::SinglePageApp, 0, 0));
    assert_eq!(full.scopes.iter().map(String::as_str).collect::<Vec<_>>(), ["orders.read", "orders.write"]);
    let roles = stage.control.roles(TENANT).await.expect("the simulator answers");
    assert_eq!(full.roles.iter().collect::<Vec<_>>(), [&roles[0].id]);
    let document = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    assert_eq!(document["redirectUris"], json!(["https://shop.example.com/callback"]));
}
