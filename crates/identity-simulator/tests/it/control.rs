//! The control API.

use crate::world::{READER, TENANT, WRITER, World, send};
use identity_simulator::{
    ApplicationEdit, ApplicationSeed, CallStage, CallWait, ControlError, KeySeed, SecretKind, Settings, User, is_marked, spellings,
};
use reqwest::Method;
use std::collections::BTreeSet;

#[tokio::test]
async fn a_wait_for_calls_ends_with_the_call_and_not_before() {
    let world = World::new().await;
    let wait = CallWait { tenant: Some(TENANT.to_owned()), ..CallWait::answered("app_id.applications.list", 2) };
    let early = CallWait { timeout_milliseconds: 1, ..wait.clone() };
    world.get("/applications").await;
    assert!(matches!(world.control.wait_for_calls(&early).await, Err(ControlError::TimedOut(_))));
    let control = world.control.clone();
    let waiting = tokio::spawn(async move { control.wait_for_calls(&wait).await });
    world.get("/applications").await;
    let counts = waiting.await.expect("no panic").expect("counted");
    assert_eq!(counts.of_tenant(TENANT, "app_id.applications").answered, 2);
    let committed = CallWait { stage: CallStage::Committed, timeout_milliseconds: 1, ..CallWait::answered("app_id", 1) };
    assert!(matches!(world.control.wait_for_calls(&committed).await, Err(ControlError::TimedOut(_))));
}

#[tokio::test]
async fn the_journal_tells_who_called_what_and_whether_it_changed_something() {
    let world = World::new().await;
    world.control.clear_journal().await.expect("cleared");
    world.register("one").await;
    send(world.call(Method::GET, "/applications").header("user-agent", "me/1")).await;
    let journal = world.control.journal().await.expect("a journal");
    let seen: Vec<_> = journal.iter().map(|call| (call.operation.as_str(), call.status, call.committed)).collect();
    assert_eq!(seen, [("app_id.applications.create", Some(200), true), ("app_id.applications.list", Some(200), false)]);
    assert_eq!(journal[1].user_agent.as_deref(), Some("me/1"));
    assert_eq!((journal[1].tenant.as_deref(), journal[1].listener.as_str()), (Some(TENANT), "us-south"));
    assert_eq!(world.control.journal_since(journal[1].sequence).await.expect("a journal"), journal[1..]);
}

#[tokio::test]
async fn things_change_behind_everybodys_back() {
    let world = World::new().await;
    let seed = ApplicationSeed { name: "foreign".to_owned(), ..ApplicationSeed::default() };
    let made = world.control.add_application(TENANT, &seed).await.expect("added");
    let edit = ApplicationEdit {
        name: Some("renamed".to_owned()),
        scopes: Some(BTreeSet::from(["read".to_owned()])),
        ..ApplicationEdit::default()
    };
    world.control.edit_application(TENANT, &made.client_id, &edit).await.expect("edited");
    assert_eq!(world.get(&format!("/applications/{}", made.client_id)).await.json()["name"], "renamed");
    world.control.remove_application(TENANT, &made.client_id).await.expect("removed");
    assert_eq!(world.get(&format!("/applications/{}", made.client_id)).await.status, 404);
    assert!(matches!(
        world.control.remove_application(TENANT, &made.client_id).await,
        Err(ControlError::Refused { status: reqwest::StatusCode::NOT_FOUND, .. })
    ));
}

#[tokio::test]
async fn every_secret_is_listed_and_marked() {
    let world = World::new().await;
    let application = world.register("one").await;
    let user = User { username: "ann".to_owned(), password: "cafec0de-password".to_owned(), ..User::default() };
    world.control.add_user(TENANT, &user).await.expect("added");
    let secrets = world.control.secrets().await.expect("secrets");
    assert!(secrets.iter().all(|secret| is_marked(&secret.value)), "{secrets:?}");
    let values: BTreeSet<&str> = secrets.iter().map(|secret| secret.value.as_str()).collect();
    for value in [WRITER, READER, &world.writer, application["secret"].as_str().expect("a secret"), "cafec0de-password"] {
        assert!(values.contains(value), "{value}");
        assert!(spellings(value).iter().any(|spelling| spelling == value));
    }
    assert!(secrets.iter().any(|secret| secret.kind == SecretKind::Token));
}

#[tokio::test]
async fn an_unmarked_secret_is_refused() {
    let world = World::new().await;
    let seed = KeySeed { value: "plain".to_owned(), ..KeySeed::default() };
    assert!(matches!(world.control.add_key(&seed).await, Err(ControlError::Refused { .. })));
}

#[tokio::test]
async fn a_reset_empties_the_world_but_not_the_list_of_secrets() {
    let world = World::new().await;
    world.register("one").await;
    world.control.reset().await.expect("reset");
    let state = world.control.state().await.expect("a state");
    assert!(state.tenants.is_empty() && state.keys.is_empty());
    assert_eq!(state.settings, Settings::default());
    assert!(!world.control.secrets().await.expect("secrets").is_empty());
    assert_eq!(send(world.iam_request(WRITER)).await.status, 400);
}

#[tokio::test]
async fn a_dropped_simulator_closes_its_listeners() {
    let world = World::new().await;
    let (control, simulator) = (world.control.clone(), world.simulator);
    assert!(control.urls().await.is_ok());
    drop(simulator);
    // Cancelled tasks end when the runtime gets to them.
    while control.urls().await.is_ok() {
        tokio::task::yield_now().await;
    }
}
