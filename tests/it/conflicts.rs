//! What others write at the same time: their labels and annotations cost nothing, and what cannot be done yet is said.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use identity_simulator::{Action, Rule, Settings, When};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stage::{Effect, IAM, Interceptor, OperatorOptions, Seen, Stage, eventually, token_condition, token_message};

use crate::{
    ledger::{Ledger, WINDOW, tally},
    refresh_tokens::operator_behind,
};

fn of_iam() -> Value {
    json!({ "providerRef": { "name": IAM } })
}

async fn with_iam(prefix: &str, expires_in: i64) -> Stage {
    let stage = Stage::new(prefix).await;
    stage.control.set_settings(&Settings { iam_expires_in: expires_in, ..Settings::default() }).await.expect("set");
    stage.iam().await;
    stage
}

/// Promise 6: whoever counts in an annotation of the object, or in a label of its Secret, while a token is fetched, causes no second fetch.
///
/// Traps: T24, T29.
#[tokio::test]
async fn what_others_write_while_a_token_is_fetched_costs_no_second_one() {
    let stage = with_iam("meanwhile", 3600).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let late = Action::Delay { when: When::BeforeCommit, milliseconds: 500 };
    stage.control.inject(&Rule::every("iam.token", late)).await.expect("accepted");
    let ledger = Ledger::open(&stage).await;
    stage.token("busy", of_iam()).await;
    let count = |number: u32| json!({ "metadata": { "annotations": { "example.com/counter": number.to_string() } } });
    let annotate = async |number| {
        stage.tokens().patch("busy", &PatchParams::default(), &Patch::Merge(count(number))).await.expect("accepted");
    };
    let is_ready = async || {
        let token = stage.tokens().get("busy").await.expect("there");
        token_condition(&token, "Ready").is_some_and(|(status, _)| status == "True")
    };
    let (begun, mut number) = (Instant::now(), 0);
    while !is_ready().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never gets there");
        number += 1;
        annotate(number).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(number >= 3, "nobody wrote meanwhile");
    // The same when it is replaced, with the Secret changed as well.
    let before = stage.secret_values("busy").await;
    stage.ask_for_token("busy", "another").await;
    while stage.secret_values("busy").await == before {
        number += 1;
        annotate(number).await;
        stage.patch_secret("busy", json!({ "metadata": { "labels": { "example.com/counter": number.to_string() } } })).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.token_ready("busy").await;
    let operations = ledger.operations().await;
    assert_eq!(operations, ["iam.token", "iam.token"], "one for each");
}

/// Promise 6. A request stands in an annotation; who takes that away asks for nothing.
///
/// Traps: T24.
#[tokio::test]
async fn a_request_that_is_taken_back_is_none() {
    let stage = with_iam("taken-back", 3600).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    stage.token("asked", of_iam()).await;
    stage.token_ready("asked").await;
    let before = stage.secret_values("asked").await;
    stage.ask_for_token("asked", "now").await;
    eventually("it is replaced", async || stage.secret_values("asked").await != before).await;
    stage
        .token_where("asked", "says so", |token| {
            token.status.as_ref().and_then(|status| status.issued_for.as_ref()).is_some_and(|issued_for| issued_for.request.is_some())
        })
        .await;
    let ledger = Ledger::open(&stage).await;
    let nothing = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": null } } }));
    stage.tokens().patch("asked", &PatchParams::default(), &nothing).await.expect("accepted");
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.operations().await, tally(&ledger.writes())), (vec![], BTreeMap::new()));
}

/// Promise 10: a token that ended while nobody was there says so, also while hundreds are replaced before it.
#[tokio::test]
async fn a_token_that_has_ended_says_so_while_it_waits_for_its_turn() {
    const TOKENS: usize = 40;
    let stage = with_iam("line", 8).await;
    let operator = stage.operator().await;
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    stream::iter(&names).for_each_concurrent(8, |name| stage.token(name, of_iam())).await;
    for name in &names {
        stage.token_ready(name).await;
    }
    drop(operator.kill().await);
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 1, "concurrency": 1 });
    stage.apply(&document).await.expect("accepted");
    stage.control.set_settings(&Settings { iam_expires_in: 3600, ..Settings::default() }).await.expect("set");
    let ends = async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.into_iter().filter_map(|token| token.status.and_then(|status| status.expires_at)).map(|end| end.0).max()
    };
    eventually("every token has ended", async || ends().await.is_some_and(|end| end < jiff::Timestamp::now())).await;
    let operator = stage.operator().await;
    operator.working().await;
    let begun = Instant::now();
    let mut said = 0;
    loop {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let now = jiff::Timestamp::now();
        let lies = tokens.iter().filter(|token| {
            let has_ended = token.status.as_ref().and_then(|status| status.expires_at.as_ref()).is_some_and(|end| end.0 <= now);
            has_ended && token_condition(token, "Ready").is_some_and(|(status, _)| status == "True")
        });
        let waits = |token: &&_| token_message(token, "Ready").is_some_and(|said| said.contains("when its turn comes"));
        said = said.max(tokens.iter().filter(waits).count());
        // Those that have a turn say so when they are replaced.
        if lies.count() <= 8 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "they say Ready although they have ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(said >= TOKENS - 16, "{said} say what they wait for");
    // And each is replaced when its turn comes.
    document["spec"]["budget"] = json!({ "requestsPerSecond": 100, "concurrency": 8 });
    stage.apply(&document).await.expect("accepted");
    for name in &names {
        stage.token_ready(name).await;
    }
}

/// Promise 9: hundreds of objects that somebody's mistake stops do not take the connections of all others: so many are worked on at once, and
/// the others wait for their turn.
#[tokio::test]
async fn objects_that_an_obstacle_stops_have_a_few_passes_at_once() {
    const AT_ONCE: usize = 32;
    let stage = with_iam("stopped", 3600).await;
    let names: Vec<String> = (0..150).map(|number| format!("token-{number}")).collect();
    stream::iter(&names).for_each_concurrent(16, |name| stage.token(name, json!({ "providerRef": { "name": "nobody" } }))).await;
    let interceptor = Interceptor::start(stage.control_plane).await.expect("it starts");
    let is_status = |seen: &Seen| seen.is_write() && seen.resource == "accesstokens";
    let held = interceptor.intercept(is_status, 0, usize::MAX, Effect::HoldBefore);
    let _operator = operator_behind(&stage, &interceptor, OperatorOptions::default().watching(&stage.namespace)).await;
    eventually("as many as may say what stops them", async || interceptor.hits(held).len() >= AT_ONCE).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(interceptor.hits(held).len(), AT_ONCE, "the others wait");
    interceptor.release(held);
    for name in &names {
        stage.token_reason(name, "ProviderNotFound").await;
    }
}
