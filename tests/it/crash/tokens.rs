//! A process that dies at any call of a token's first fetch, or of a refresh, costs nobody a token.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use identity_simulator::{Action, KeySeed, Rule, When};
use kube::ResourceExt;
use serde_json::json;
use stage::{
    Effect, IAM, Interceptor, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, Seen, Stage, eventually, eventually_within,
    interceptor::RuleId, token_condition,
};

use super::field::Field;
use crate::ledger::{Ledger, tally};

const LEADING: &str = " leading instance=";

/// Where the process dies: at which request to the API server, or at the call of the service.
#[derive(Clone, Copy, Debug)]
enum Point {
    ApiServer(&'static str, &'static str, Effect),
    Service(When),
}

/// Every call of a refresh; a first fetch has one more, which looks whether the name is free.
const POINTS: [Point; 7] = [
    Point::ApiServer("get", "secrets", Effect::HoldBefore),
    Point::Service(When::BeforeCommit),
    Point::Service(When::AfterCommit),
    Point::ApiServer("patch", "secrets", Effect::HoldBefore),
    Point::ApiServer("patch", "secrets", Effect::HoldAfter),
    Point::ApiServer("patch", "accesstokens", Effect::HoldBefore),
    Point::ApiServer("patch", "accesstokens", Effect::HoldAfter),
];

fn name(number: usize) -> String {
    format!("token-{number}")
}

fn key(number: usize) -> String {
    format!("cafec0de-key-of-token-{number}")
}

/// What is held.
#[derive(Default)]
struct Held {
    rules: Vec<RuleId>,
    faults: Vec<u64>,
}

/// Makes each token's own call stop, and waits until all have.
async fn stop_at(stage: &Stage, interceptor: &Interceptor, points: &[(usize, Point)], begin: impl AsyncFnOnce()) -> Held {
    let mut held = Held::default();
    for (number, point) in points {
        match *point {
            Point::ApiServer(verb, resource, effect) => {
                let name = name(*number);
                let matches = move |seen: &stage::Seen| seen.verb == verb && seen.resource == resource && seen.name == name;
                held.rules.push(interceptor.intercept(matches, 0, 1, effect));
            }
            Point::Service(when) => {
                let rule = Rule::next("iam.token", Action::Hold { when }).body_contains(&key(*number));
                held.faults.push(stage.control.inject(&rule).await.expect("accepted").id);
            }
        }
    }
    begin().await;
    for rule in &held.rules {
        interceptor.fired(*rule).await;
    }
    for fault in &held.faults {
        stage.control.wait_for_fault(*fault).await.expect("it is met");
    }
    held
}

/// A key, a Secret with it, and nothing else yet, for each token.
async fn seed(stage: &Stage) {
    for number in 0..POINTS.len() {
        let seed = KeySeed { value: key(number), ..KeySeed::default() };
        stage.control.add_key(&seed).await.expect("added");
        stage.secret(&format!("key-{number}"), &[("apikey", &key(number))]).await;
    }
}

async fn make_tokens(stage: &Stage) {
    for number in 0..POINTS.len() {
        let credentials = json!({ "secretRef": { "name": format!("key-{number}") } });
        stage.token(&name(number), json!({ "providerRef": { "name": IAM }, "credentials": credentials })).await;
    }
}

/// Asks for another one of each of these tokens.
async fn ask(stage: &Stage, points: &[(usize, Point)], word: &str) {
    for (number, _) in points {
        stage.ask_for_token(&name(*number), word).await;
    }
}

/// Promises 2, 3 and 6.
///
/// Traps: T25.
#[tokio::test]
async fn a_process_that_dies_at_any_call_costs_no_token_and_leaves_nothing_to_do() {
    let stage = Stage::new("crash-token").await;
    seed(&stage).await;
    let interceptor = Interceptor::start(stage.control_plane).await.expect("it starts");
    let lifetime = Duration::from_secs(3600);
    let kubeconfig = stage.control_plane.kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, lifetime).await.expect("written");
    let options = OperatorOptions::default().watching(&stage.namespace);
    let start = async |behind: bool| {
        let kubeconfig = if behind { interceptor.kubeconfig(&kubeconfig).expect("written") } else { kubeconfig.clone() };
        Operator::start(&stage::operator_binary().expect("built"), &kubeconfig, &options).await.expect("it starts")
    };
    let operator = start(true).await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    let all: Vec<(usize, Point)> = POINTS.into_iter().enumerate().collect();
    stop_at(&stage, &interceptor, &all, async || make_tokens(&stage).await).await;
    drop(operator.kill().await);
    let operator = start(true).await;
    all_are_right(&stage).await;
    let before: Vec<_> = tokens(&stage).await;
    // A refresh reads nothing.
    let refresh: Vec<(usize, Point)> = all.iter().copied().skip(1).collect();
    stop_at(&stage, &interceptor, &refresh, async || ask(&stage, &refresh, "now").await).await;
    drop(operator.kill().await);
    let operator = start(false).await;
    eventually("every refresh that was asked for is done", async || {
        let now = tokens(&stage).await;
        now.iter().zip(&before).skip(1).all(|(now, before)| now != before)
    })
    .await;
    all_are_right(&stage).await;
    let ledger = Ledger::open(&stage).await;
    ledger.stays_empty("everything is as it should be").await;
    assert_eq!(tokens(&stage).await[0], before[0], "nobody asked for another one here");
    drop(operator);
}

async fn tokens(stage: &Stage) -> Vec<String> {
    let mut all = Vec::new();
    for number in 0..POINTS.len() {
        all.push(stage.secret_values(&name(number)).await.expect("the Secret is there")["token"].clone());
    }
    all
}

/// Each status says of its Secret what is true.
async fn all_are_right(stage: &Stage) {
    for number in 0..POINTS.len() {
        let ready = stage.token_ready(&name(number)).await;
        eventually(&format!("status and Secret of {} are one", name(number)), async || {
            let status = stage.tokens().get(&name(number)).await.expect("there").status.unwrap_or_default();
            let secret = stage.stored_secret(&name(number)).await;
            let says = stage.secret_values(&name(number)).await.and_then(|values| values.get("expires_at").cloned());
            says == status.expires_at.as_ref().map(|at| at.0.to_string())
                && status.secret_version.is_some_and(|version| Some(version.resource_version) == secret.metadata.resource_version)
        })
        .await;
        assert!(ready.status.is_some_and(|status| status.issued_for.is_some()));
    }
}

/// Versions of the published Secrets: whoever writes one makes another.
async fn versions(stage: &Stage) -> BTreeMap<String, String> {
    let secrets = stage.secrets().list(&Default::default()).await.expect("listed").items;
    let published = secrets.into_iter().filter(|secret| secret.name_any().starts_with("token-"));
    published.map(|secret| (secret.name_any(), secret.resource_version().unwrap_or_default())).collect()
}

/// What was written, and taken; what a process tells of its own doings aside.
fn taken(seen: &[Seen]) -> Vec<String> {
    let is_taken = |seen: &&Seen| seen.is_write() && seen.resource != "events" && seen.status.is_some_and(|status| status < 300);
    seen.iter().filter(is_taken).map(ToString::to_string).collect()
}

/// The leader is frozen (SIGSTOP) with each token at another call of its refresh, and goes on when another one has refreshed them all; then
/// that one is killed at the same calls. No token is published that a later one had replaced, no two processes write in turns, and the
/// refreshes that were asked for are done once more at most.
///
/// Promises 2, 3 and 6.
///
/// Traps: T25, T33.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_frozen_or_killed_inside_any_call_of_a_refresh_quarrels_with_nobody_about_a_token() {
    let field = Field::elected("token-leaders").await;
    let stage = &field.stage;
    seed(stage).await;
    let start = async || Interceptor::start(stage.control_plane).await.expect("it starts");
    let (one, two, three) = (start().await, start().await, start().await);
    let mut first = field.operator_behind(&one).await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    make_tokens(stage).await;
    all_are_right(stage).await;
    let second = field.operator_behind(&two).await;
    second.metrics_address().await;
    let refresh: Vec<(usize, Point)> = POINTS.into_iter().enumerate().skip(1).collect();
    let are_replaced = async |before: &[String]| {
        eventually("every refresh that was asked for is done", async || {
            let now = tokens(stage).await;
            now.iter().zip(before).skip(1).all(|(now, before)| now != before)
        })
        .await;
        all_are_right(stage).await;
    };

    let before = tokens(stage).await;
    let held = stop_at(stage, &one, &refresh, async || ask(stage, &refresh, "frozen").await).await;
    first.freeze();
    second.logged(LEADING).await;
    are_replaced(&before).await;
    field.quiet().await;
    let (settled, position) = (versions(stage).await, one.position());
    for rule in held.rules {
        one.release(rule);
    }
    for fault in held.faults {
        stage.control.release(fault).await.expect("the simulator answers");
    }
    first.thaw();
    let status = first.ended().await;
    assert!(!status.success(), "it lost the lease: {status}");
    eventually("what was held is carried out, and answered", async || {
        one.seen().iter().all(|seen| !seen.is_write() || seen.status.is_some())
    })
    .await;
    assert_eq!(taken(&one.seen_since(position)), Vec::<String>::new(), "written by a process that no longer leads");
    field.quiet().await;
    assert_eq!(versions(stage).await, settled, "what the successor published stays");
    all_are_right(stage).await;

    let third = field.operator_behind(&three).await;
    third.metrics_address().await;
    let before = tokens(stage).await;
    stop_at(stage, &two, &refresh, async || ask(stage, &refresh, "killed").await).await;
    drop(second.kill().await);
    third.logged(LEADING).await;
    are_replaced(&before).await;
    field.quiet().await;
    let written = three.seen().into_iter().filter(|seen| seen.is_write() && seen.resource == "secrets").map(|seen| seen.name);
    let written = tally(&written.collect::<Vec<_>>());
    assert!(written.values().all(|writes| *writes == 1), "the successor writes each Secret once at most: {written:?}");
    assert!(!written.contains_key(&name(0)), "nobody asked for another one here: {written:?}");
    assert_eq!(tokens(stage).await[0], before[0]);
}

/// A key is replaced, a Secret deleted and a token asked for between two leaders: each is handled once by the next one, and nothing else is.
///
/// Promises 2 and 6.
///
/// Traps: T49.
#[tokio::test]
async fn what_happens_to_tokens_while_nobody_leads_is_handled_once_by_the_next_leader() {
    let field = Field::elected("token-gap").await;
    let stage = &field.stage;
    seed(stage).await;
    let first = field.operator().await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    make_tokens(stage).await;
    all_are_right(stage).await;
    field.quiet().await;
    assert!(first.stop().await.success());

    let before = tokens(stage).await;
    let next = KeySeed { value: "cafec0de-the-next-key".into(), ..KeySeed::default() };
    stage.control.add_key(&next).await.expect("added");
    stage.secret("key-1", &[("apikey", &next.value)]).await;
    stage.secrets().delete(&name(2), &Default::default()).await.expect("deleted");
    stage.ask_for_token(&name(3), "meanwhile").await;
    stage.control.clear_journal().await.expect("cleared");

    let two = Interceptor::start(stage.control_plane).await.expect("it starts");
    let second = field.operator_behind(&two).await;
    second.working().await;
    for (number, before) in before.iter().enumerate().skip(1).take(3) {
        eventually(&format!("{} is replaced", name(number)), async || {
            stage.secret_values(&name(number)).await.is_some_and(|values| values["token"] != *before)
        })
        .await;
    }
    all_are_right(stage).await;
    field.quiet().await;
    let written = two.seen().into_iter().filter(|seen| seen.is_write() && seen.resource == "secrets").map(|seen| seen.name);
    let expected: Vec<String> = (1..=3).map(name).collect();
    assert_eq!(tally(&written.collect::<Vec<_>>()), tally(&expected), "each is written once, and no other");
    assert_eq!(stage.calls("iam.token").await, 3, "one call each");
    drop(second);
}

/// A restart is a change of leader, too.
///
/// Promise 6.
///
/// Traps: T25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leader_with_a_thousand_fresh_tokens_writes_nothing_and_calls_nobody() {
    const TOKENS: usize = 1000;
    let field = Field::elected("thousand").await;
    let stage = &field.stage;
    let first = field.operator().await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    let make = |number: usize| async move { stage.token(&format!("token-{number}"), json!({ "providerRef": { "name": IAM } })).await };
    stream::iter(0..TOKENS).for_each_concurrent(32, make).await;
    let patience = Duration::from_secs(180);
    eventually_within(patience, Duration::from_millis(500), "all tokens are ready", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().filter(|token| token_condition(token, "Ready") == Some(("True", "Ready"))).count() == TOKENS
    })
    .await;
    let (two, three) = tokio::join!(Interceptor::start(stage.control_plane), Interceptor::start(stage.control_plane));
    let successors = [two.expect("it starts"), three.expect("it starts")];
    stage.control.clear_journal().await.expect("cleared");
    let begun = versions(stage).await;
    let mut leader = first;
    for interceptor in &successors {
        let next = field.operator_behind(interceptor).await;
        next.metrics_address().await;
        assert!(leader.stop().await.success());
        leader = next;
        leader.working().await;
        // That nothing happens needs a window.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let written: Vec<String> = interceptor.seen().iter().filter(|seen| seen.is_write()).map(ToString::to_string).collect();
        assert_eq!(written, Vec::<String>::new(), "writes of the new leader");
    }
    assert_eq!(stage.control.journal().await.expect("the simulator answers"), [], "calls of the new leaders");
    let ended = versions(stage).await;
    assert_eq!((ended.len(), ended == begun), (TOKENS, true), "every Secret is as it was");
}
