//! Limits of the service: whatever status they come with, they are called what they are, and cost nothing that works.

use std::time::Duration;

use identity_simulator::{
    Action, ApplicationSeed, Rule, Settings, Switches, When,
    switches::{ErrorBodies, LimitStatus},
};
use serde_json::json;
use stage::{Stage, TENANT, condition, status_written_at};

/// What the condition says in this position. Without a word of the service nobody can know of its limit: then the status speaks.
fn expected(status: LimitStatus, bodies: ErrorBodies) -> &'static str {
    match (bodies, status) {
        (ErrorBodies::Empty, LimitStatus::Forbidden) => "WriterRoleRequired",
        (ErrorBodies::Empty, _) => "Rejected",
        _ => "LimitReached",
    }
}

/// Promises 1 and 10: a full tenant says so, waits for half an hour instead of hammering, and nothing is removed to make room.
/// Traps: T28, T41.
#[tokio::test]
async fn a_full_tenant_is_called_full_whatever_status_and_body_it_answers_with() {
    let stage = Stage::new("limits").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    let theirs = ApplicationSeed { name: "legacy".into(), ..ApplicationSeed::default() };
    let theirs = stage.control.add_application(TENANT, &theirs).await.expect("added");
    stage.control.set_settings(&Settings { applications_per_tenant: 1, ..Settings::default() }).await.expect("set");
    let mut names = Vec::new();
    for status in [LimitStatus::BadRequest, LimitStatus::Forbidden, LimitStatus::Conflict, LimitStatus::UnprocessableContent] {
        for bodies in [ErrorBodies::Message, ErrorBodies::ErrorCode, ErrorBodies::Errors, ErrorBodies::Text, ErrorBodies::Empty] {
            let switches = Switches { limit_status: status, error_bodies: bodies, ..Switches::default() };
            stage.control.set_switches(&switches).await.expect("set");
            let name = format!("full-{}", names.len());
            stage.application(&name, json!({})).await;
            let reason = expected(status, bodies);
            let object = stage.reason(&name, reason).await;
            let what = format!("{status:?} with {bodies:?}");
            assert_eq!(condition(&object, "Registered"), Some(("False", reason)), "{what}");
            assert_eq!(stage.registered().await, std::slice::from_ref(&theirs), "{what}");
            if reason == "LimitReached" {
                assert_eq!(condition(&object, "Stalled"), Some(("True", reason)), "{what}: somebody has to act");
                let ahead = status_written_at(&object).zip(object.status.and_then(|status| status.next_action_at));
                let ahead = ahead.map(|(written, next)| next.0.duration_since(written).as_secs()).expect("the next attempt is named");
                assert!((24 * 60 - 2..=36 * 60 + 2).contains(&ahead), "{what}: the next attempt is {ahead} s ahead");
            }
            names.push(name);
        }
    }
    let provider = stage.providers().get(stage::PROVIDER).await.expect("it is there");
    assert_eq!(stage::provider_condition(&provider, "Ready"), Some(("True", "Ready")), "a full tenant is no fault of the provider");
    stage.control.set_settings(&Settings::default()).await.expect("set");
    for name in &names {
        stage.patch_application(name, json!({ "displayName": "room" })).await.expect("accepted");
        stage.ready(name).await;
    }
    assert_eq!(stage.registered().await.len(), names.len() + 1);
    let counts = stage.control.calls().await.expect("the simulator answers");
    assert_eq!(counts.of("app_id.applications.create").committed, names.len() as u64, "one registration for each");
    assert_eq!(counts.of("app_id.applications.delete").received, 0, "nothing is removed to make room");
}

/// Promises 2 and 10: too many scopes or redirect URIs cost the object its readiness, and nothing that works.
/// Traps: T04.
#[tokio::test]
async fn a_limit_of_scopes_or_redirect_uris_leaves_a_working_credential() {
    let stage = Stage::new("limits-of-parts").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    let few = Settings { scopes_per_application: 1, redirect_uris_per_tenant: 1, ..Settings::default() };
    stage.control.set_settings(&few).await.expect("set");
    let wishes = [
        ("scopes", json!({ "scopes": ["orders.read", "orders.write"] })),
        ("uris", json!({ "redirectUris": ["https://a.example.com/", "https://b.example.com/"] })),
    ];
    for (name, wish) in &wishes {
        stage.application(name, wish.clone()).await;
        let object = stage.reason(name, "LimitReached").await;
        assert_eq!(condition(&object, "Registered"), Some(("True", "Registered")), "{name}");
        assert_eq!(condition(&object, "Verified"), Some(("True", "Verified")), "{name}");
        let values = stage.secret_values(name).await.expect("it is published");
        assert!(values.contains_key("clientId") && values.contains_key("secret"), "{name}");
    }
    stage.control.set_settings(&Settings::default()).await.expect("set");
    for (name, _) in &wishes {
        stage.patch_application(name, json!({ "displayName": "room" })).await.expect("accepted");
        stage.ready(name).await;
    }
    assert_eq!(stage.calls("app_id.applications.create").await, 2);
}

/// A service that asks for fewer requests with 403, as an edge might, is obeyed like one that says 429.
/// Traps: T28.
#[tokio::test]
async fn a_block_that_is_told_by_403_pauses_the_tenant_and_accuses_no_key() {
    const TOLD: Duration = Duration::from_secs(5);
    let stage = Stage::new("limits-by-403").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    let headers = [("Content-Type", "application/json".to_owned()), ("Retry-After", TOLD.as_secs().to_string())];
    let body = r#"{"error_code":"too many requests","error_description":"too many requests"}"#;
    let blocked = Action::Answer {
        when: When::BeforeCommit,
        status: 403,
        headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
        body: body.into(),
    };
    let fault = stage.control.inject(&Rule::next("app_id.applications.create", blocked)).await.expect("accepted");
    let chronicle = stage.chronicle().await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let said: Vec<String> = chronicle
        .of("storefront")
        .iter()
        .filter_map(|object| condition(object, "Ready").map(|(_, reason)| reason.to_owned()))
        .filter(|reason| reason != "InProgress" && reason != "Ready")
        .collect();
    assert!(!said.is_empty() && said.iter().all(|reason| reason == "RateLimited"), "{said:?}");
    let calls = stage.control.journal().await.expect("the simulator answers");
    let hit = calls.iter().position(|call| call.fault == Some(fault.id)).expect("it was hit");
    let apart = calls[hit + 1].time.duration_since(calls[hit].time).as_secs_f64();
    assert!(apart >= TOLD.as_secs_f64(), "the next call came after {apart} s");
    assert_eq!(stage.registered().await.len(), 1);
}
