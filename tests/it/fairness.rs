//! Who gets how much of a tenant's budget, and when: counted at the simulator.

use std::time::{Duration, Instant};

use cloud_identity_operator::api::AccessToken;
use futures::future::join_all;
use identity_simulator::Settings;
use jiff::Timestamp;
use kube::Api;
use serde_json::{Value, json};
use stage::{IAM, OperatorOptions, Stage, eventually, token_condition};

async fn lifetime(stage: &Stage, seconds: i64) {
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&Settings { iam_expires_in: seconds, ..settings }).await.expect("set");
}

fn provider(stage: &Stage, requests_per_second: u32) -> Value {
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": requests_per_second, "concurrency": 4 });
    document
}

/// When the service was asked for tokens, in milliseconds.
async fn asked_at(stage: &Stage) -> Vec<i64> {
    let calls = stage.control.journal().await.expect("the simulator answers");
    let mut times: Vec<i64> = calls.iter().filter(|call| call.operation == "iam.token").map(|call| call.time.as_millisecond()).collect();
    times.sort_unstable();
    times
}

/// The most of them within any second.
fn most_in_a_second(times: &[i64]) -> usize {
    (0..times.len()).map(|from| times[from..].iter().take_while(|at| **at < times[from] + 1000).count()).max().unwrap_or_default()
}

/// A hundred and twenty tokens that come within a few seconds are not replaced within a few seconds.
///
/// Traps: T27.
#[tokio::test]
async fn what_is_created_at_once_is_not_replaced_at_once() {
    const TOKENS: usize = 120;
    let stage = Stage::new("crowd").await;
    lifetime(&stage, 60).await;
    stage.apply(&provider(&stage, 40)).await.expect("the provider is accepted");
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    stage.control.clear_journal().await.expect("the simulator answers");
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    join_all(names.iter().map(|name| stage.token(name, json!({ "providerRef": { "name": IAM } })))).await;
    join_all(names.iter().map(|name| stage.token_ready(name))).await;
    let first = asked_at(&stage).await;
    assert_eq!(first.len(), TOKENS, "one call for each");
    // Forty a second; on a busy machine some arrive together that were sent apart.
    assert!(first[TOKENS - 1] - first[0] >= 2500, "the budget is held: {first:?}");
    // Half their lives, less up to 10 per cent, is 29 s at most.
    eventually("each was replaced once", async || asked_at(&stage).await.len() >= TOKENS * 2).await;
    let replaced = asked_at(&stage).await.split_off(TOKENS);
    let took = replaced[TOKENS - 1] - replaced[0];
    assert!(took > 10_000, "{took} ms for all");
    // The first nineteen were no crowd yet, and have their full time, as apart as it lets them be.
    let most = most_in_a_second(&replaced[..TOKENS]);
    assert!(most <= TOKENS / 4, "{most} within a second: {replaced:?}");
    for token in stage.tokens().list(&Default::default()).await.expect("listed") {
        assert_eq!(token_condition(&token, "Ready"), Some(("True", "Ready")), "{:?}", token.metadata.name);
    }
}

/// Promise 9: one namespace has more tokens than the budget suffices for; none of the other's ever ends.
#[tokio::test]
async fn a_namespace_with_too_many_tokens_lets_none_of_its_neighbours_end() {
    let stage = Stage::new("tokens").await;
    let modest = stage.control_plane.create_namespace("modest").await.expect("the namespace is made");
    lifetime(&stage, 10).await;
    let options = OperatorOptions { watch_namespaces: vec![stage.namespace.clone(), modest.clone()], ..OperatorOptions::default() };
    let elsewhere = |mut document: Value| {
        document["metadata"]["namespace"] = json!(modest);
        document
    };
    // The same tenant with the same key, from both namespaces.
    let ca = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "simulator-ca" }, "data": { "ca.crt": stage.simulator.ca_pem() } });
    let key =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "ibm-api-key" }, "stringData": { "apikey": stage::API_KEY } });
    stage.apply(&provider(&stage, 100)).await.expect("the provider is accepted");
    for document in [ca, key, provider(&stage, 100)] {
        stage.apply(&elsewhere(document)).await.expect("accepted");
    }
    let _operator = stage.operator_with(options).await;
    stage.ready_provider(IAM).await;
    let of_iam = || json!({ "providerRef": { "name": IAM } });
    let tokens: Api<AccessToken> = Api::namespaced(stage.client.clone(), &modest);
    for name in ["one", "two"] {
        stage.apply(&elsewhere(stage.token_document(name, of_iam()))).await.expect("accepted");
    }
    let is_ready = |token: &AccessToken| token_condition(token, "Ready") == Some(("True", "Ready"));
    eventually("the modest ones are ready", async || tokens.list(&Default::default()).await.expect("listed").iter().all(is_ready)).await;
    let names: Vec<String> = (0..60).map(|number| format!("greedy-{number}")).collect();
    join_all(names.iter().map(|name| stage.token(name, of_iam()))).await;
    join_all(names.iter().map(|name| stage.token_ready(name))).await;
    // Sixty tokens every five seconds are twelve a second.
    stage.apply(&provider(&stage, 5)).await.expect("accepted");
    let has_ended = |token: &AccessToken| {
        let status = token.status.as_ref().expect("a status");
        status.expires_at.as_ref().expect("an end").0 <= Timestamp::now()
    };
    let (begun, mut of_the_greedy, mut cleared) = (Instant::now(), 0, false);
    while begun.elapsed() < Duration::from_secs(18) {
        for token in tokens.list(&Default::default()).await.expect("listed") {
            assert!(!has_ended(&token), "a modest one has ended: {:?}", token.status);
        }
        let all = stage.tokens().list(&Default::default()).await.expect("listed");
        of_the_greedy = of_the_greedy.max(all.iter().filter(|token| has_ended(token)).count());
        if !cleared && begun.elapsed() > Duration::from_secs(2) {
            cleared = true;
            stage.control.clear_journal().await.expect("the simulator answers");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(of_the_greedy >= 5, "there is too little for all: {of_the_greedy} had ended");
    let asked = asked_at(&stage).await;
    let most = most_in_a_second(&asked);
    assert!(most <= 5 + 4 && asked.len() >= 50, "the budget is used and held: {asked:?}");
    tokens.delete_collection(&Default::default(), &Default::default()).await.expect("accepted");
}
