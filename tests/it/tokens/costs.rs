//! What a token costs, and what costs nothing.

use std::{collections::BTreeMap, time::Duration};

use cloud_identity_operator::api::AccessToken;
use futures::{StreamExt, stream};
use identity_simulator::{Action, KeySeed, Rule, When};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use stage::{IAM, eventually, token_condition};

use super::{WRITES_OF_A_TOKEN, of_iam, values, with_iam, with_own_key};
use crate::ledger::{Ledger, WINDOW, restart_costs_nothing};

/// A credential that nobody named before costs one read, and no word about anything being in the way.
#[tokio::test]
async fn a_first_token_with_a_credential_of_its_own_costs_one_call_and_two_writes_and_says_nothing_else() {
    let (stage, _operator) = with_iam("own-credential", 3600).await;
    let spec = with_own_key(&stage).await;
    let chronicle = stage.token_chronicle().await;
    let ledger = Ledger::open(&stage).await;
    stage.token("own", spec).await;
    stage.token_ready("own").await;
    eventually("the first token is in the audit log", async || ledger.writes().len() >= 2).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.operations().await), (WRITES_OF_A_TOKEN.map(str::to_owned).to_vec(), vec!["iam.token".to_owned()]));
    assert_eq!(ledger.reads(), ["get secrets"; 2], "the credential, and whether the name is free");
    let said: Vec<_> =
        chronicle.of("own").iter().filter_map(|token| token_condition(token, "Ready").map(|(_, reason)| reason.to_owned())).collect();
    assert!(said.iter().all(|reason| reason == "Ready"), "{said:?}");
}

/// Promise 6. Somebody labels the Secret of a token: it is looked at, and nobody is asked.
///
/// Traps: T24.
#[tokio::test]
async fn an_edit_of_the_metadata_of_a_tokens_secret_costs_one_read_and_no_call() {
    let (stage, _operator) = with_iam("labelled", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let token = values(&stage, "key-protect").await;
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("key-protect", json!({ "metadata": { "labels": { "team": "shop" }, "annotations": { "note": "touched" } } })).await;
    eventually("the Secret's new version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes().len(), ledger.reads(), ledger.operations().await), (1, vec!["get secrets".to_owned()], Vec::new()));
    let secret = stage.stored_secret("key-protect").await;
    assert_eq!(secret.metadata.labels.as_ref().and_then(|labels| labels.get("team")).map(String::as_str), Some("shop"), "it stays");
    assert_eq!(values(&stage, "key-protect").await, token);
}

/// Promises 6 and 7: a token that is deleted, in the foreground or in the background, is not put back while its Secret is collected, and
/// nobody is asked for another one.
#[tokio::test]
async fn the_deletion_of_tokens_asks_nobody_and_is_not_fought() {
    let (stage, _operator) = with_iam("deleted", 3600).await;
    let names: Vec<String> = (0..40).map(|number| format!("token-{number}")).collect();
    stream::iter(&names).for_each_concurrent(16, |name| stage.token(name, of_iam())).await;
    for name in &names {
        stage.token_ready(name).await;
    }
    let ledger = Ledger::open(&stage).await;
    let delete = |(number, name): (usize, String)| {
        let tokens = stage.tokens();
        async move {
            let parameters = if number % 2 == 0 { DeleteParams::foreground() } else { DeleteParams::background() };
            tokens.delete(&name, &parameters).await.expect("the deletion is accepted");
        }
    };
    stream::iter(names.into_iter().enumerate()).for_each_concurrent(16, delete).await;
    eventually("tokens and Secrets are gone", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let secrets = stage.secrets().list(&Default::default()).await.expect("listed").items;
        tokens.is_empty() && secrets.iter().all(|secret| !secret.metadata.name.as_ref().is_some_and(|name| name.starts_with("token-")))
    })
    .await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.operations().await, Vec::<String>::new());
    let secrets = ledger.events().writes().of_resource("secrets");
    assert!(secrets.is_empty(), "nothing is written: {secrets}");
}

/// Promise 9: what the first minute of a broken token costs, by the kind of failure: each attempt is one call and one status, and the waits
/// grow, or are as long as they were told to be.
///
/// Traps: T28, T30.
#[tokio::test]
async fn the_first_minute_of_a_broken_token_costs_so_many_calls_and_as_many_statuses() {
    const MINUTE: Duration = Duration::from_secs(40);
    let (stage, _operator) = with_iam("broken-minute", 60).await;
    let told = |status: u16, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Action::Answer { when: When::BeforeCommit, status, headers, body: "{}".into() }
    };
    // After 0, 2, 6, 14 and 30 s, each wait 20 per cent longer or shorter, and up to a second longer for the whole seconds of a status.
    let rows = [
        ("dropped", Some(Action::Drop { when: When::BeforeCommit }), false, 4..=5),
        ("refused", Some(told(400, &[])), false, 1..=1),
        ("paused", Some(told(429, &[("Retry-After", "11")])), false, 3..=4),
        // A quarter of what is left of a minute each time, and not sooner than after 10 s.
        ("held", Some(told(400, &[])), true, 3..=4),
        ("obstacle", None, false, 0..=0),
    ];
    let own = |name: &str| json!({ "providerRef": { "name": format!("ibm-{name}") }, "credentials": { "secretRef": { "name": format!("key-{name}") } } });
    let mut faults = BTreeMap::new();
    for (name, action, is_held, _) in &rows {
        let value = format!("cafec0de-key-{name}");
        // A tenant that pauses concerns nobody else.
        let provider = format!("cafec0de-provider-{name}");
        for (id, value) in [(format!("key-{name}"), &value), (format!("provider-{name}"), &provider)] {
            let seed = KeySeed { id: id.clone(), value: value.clone(), ..KeySeed::default() };
            stage.control.add_key(&seed).await.expect("added");
            if id != "key-obstacle" {
                stage.secret(&id, &[("apikey", value)]).await;
            }
        }
        let mut document = stage.iam_document(&format!("ibm-{name}"));
        document["spec"]["iam"]["apiKey"]["secretRef"]["name"] = json!(format!("provider-{name}"));
        stage.apply(&document).await.expect("accepted");
        stage.ready_provider(&format!("ibm-{name}")).await;
        if *is_held {
            stage.token(name, own(name)).await;
            stage.token_ready(name).await;
        }
        if let Some(action) = action {
            let rule = Rule::every("iam.token", action.clone()).body_contains(&value);
            faults.insert(*name, stage.control.inject(&rule).await.expect("accepted").id);
        }
    }
    let ledger = Ledger::open(&stage).await;
    for (name, _, is_held, _) in &rows {
        if *is_held {
            stage.ask_for_token(name, "another").await;
        } else {
            stage.token(name, own(name)).await;
        }
    }
    // The minute itself is what is looked at.
    tokio::time::sleep(MINUTE).await;
    let mut flaws = Vec::new();
    for (name, _, is_held, expected) in rows {
        let calls = ledger.calls().await.iter().filter(|call| call.fault.is_some() && call.fault == faults.get(name).copied()).count();
        if !expected.contains(&calls) {
            flaws.push(format!("{name}: {calls} calls, not {expected:?}"));
        }
        let writes = ledger.events().writes().only(|event| event.name == name);
        let statuses = writes.of_resource("accesstokens").iter().count();
        if statuses != calls.max(1) {
            flaws.push(format!("{name}: {statuses} statuses for {calls} calls"));
        }
        if writes.of_resource("secrets").iter().count() > 0 {
            flaws.push(format!("{name}: a Secret was written"));
        }
        let token = stage.tokens().get(name).await.expect("there");
        let is_ready = token_condition(&token, "Ready").is_some_and(|(status, _)| status == "True");
        if is_ready != is_held {
            flaws.push(format!("{name}: {:?}", token_condition(&token, "Ready")));
        }
    }
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
}

/// Promise 6. Nothing of what an operator of this version left behind is news.
///
/// Traps: T24, T25, T26.
#[tokio::test]
async fn a_restart_with_fresh_tokens_and_an_edit_of_metadata_cost_nothing() {
    let (stage, operator) = with_iam("fresh", 3600).await;
    for name in 0..20 {
        stage.token(&format!("token-{name}"), of_iam()).await;
    }
    for name in 0..20 {
        stage.token_ready(&format!("token-{name}")).await;
    }
    let (_operator, ledger) = restart_costs_nothing(&stage, operator).await;
    // The provider's credential, and nothing else, is read at the start.
    let read: Vec<_> = ledger.reads().into_iter().filter(|read| read.starts_with("get ")).collect();
    assert_eq!(read, ["get secrets", "get configmaps"]);
    let ledger = Ledger::open(&stage).await;
    let touch = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" }, "annotations": { "note": "touched" } } }));
    stage.tokens().patch("token-0", &PatchParams::default(), &touch).await.expect("accepted");
    stage.token("token-0", of_iam()).await;
    ledger.stays_empty("metadata of the token was edited").await;
}

/// A wait after a refusal goes on in the next process, also where the object names a credential of its own.
///
/// Traps: T25, T28.
#[tokio::test]
async fn a_restart_does_not_try_again_what_was_refused() {
    let (stage, operator) = with_iam("waits", 3600).await;
    let locked = KeySeed { id: "locked".into(), value: "cafec0de-locked-key".into(), ..KeySeed::default() };
    stage.control.add_key(&locked).await.expect("added");
    // What the service says of a new key that it does not know passes soon; this does not.
    let headers = BTreeMap::from([("Content-Type".to_owned(), "application/json".to_owned())]);
    let answer = Action::Answer { when: When::BeforeCommit, status: 403, headers, body: r#"{"errorCode":"BXNIM0000E"}"#.into() };
    stage.control.inject(&Rule::every("iam.token", answer).body_contains(&locked.value)).await.expect("accepted");
    stage.secret("wrong", &[("apikey", "cafec0de-locked-key")]).await;
    for number in 0..5 {
        let spec = json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "wrong" } } });
        stage.token(&format!("token-{number}"), spec).await;
    }
    let waits = |token: &AccessToken| {
        let next = token.status.as_ref().and_then(|status| status.next_action_at.clone());
        next.is_some_and(|at| at.0.duration_since(jiff::Timestamp::now()).as_secs() > 60)
    };
    for number in 0..5 {
        stage.token_where(&format!("token-{number}"), "waits for minutes", waits).await;
    }
    let (operator, _) = restart_costs_nothing(&stage, operator).await;
    // What is mended while nobody runs is used at once by the next.
    drop(operator.kill().await);
    let key = KeySeed { id: "right".into(), value: "cafec0de-right-key".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("wrong", &[("apikey", "cafec0de-right-key")]).await;
    let _operator = stage.operator().await;
    stage.token_ready("token-0").await;
}
