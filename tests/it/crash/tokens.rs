//! A process that dies at any call of a token's first fetch, or of a refresh, costs nobody a token.

use identity_simulator::{Action, KeySeed, Rule, When};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stage::{Effect, IAM, Interceptor, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, Stage, eventually, interceptor::RuleId};

use crate::ledger::Ledger;

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

/// Makes each token's own call stop, and waits until all have.
async fn stop_at(stage: &Stage, interceptor: &Interceptor, points: &[(usize, Point)], begin: impl AsyncFnOnce()) {
    let mut rules: Vec<RuleId> = Vec::new();
    let mut faults = Vec::new();
    for (number, point) in points {
        match *point {
            Point::ApiServer(verb, resource, effect) => {
                let name = name(*number);
                let matches = move |seen: &stage::Seen| seen.verb == verb && seen.resource == resource && seen.name == name;
                rules.push(interceptor.intercept(matches, 0, 1, effect));
            }
            Point::Service(when) => {
                let rule = Rule::next("iam.token", Action::Hang { when }).body_contains(&key(*number));
                faults.push(stage.control.inject(&rule).await.expect("accepted"));
            }
        }
    }
    begin().await;
    for rule in rules {
        interceptor.fired(rule).await;
    }
    for fault in faults {
        stage.control.wait_for_fault(fault.id).await.expect("it is met");
    }
}

/// Promises 2, 3 and 6.
///
/// Traps: T25.
#[tokio::test]
async fn a_process_that_dies_at_any_call_costs_no_token_and_leaves_nothing_to_do() {
    let stage = Stage::new("crash-token").await;
    for number in 0..POINTS.len() {
        let seed = KeySeed { value: key(number), ..KeySeed::default() };
        stage.control.add_key(&seed).await.expect("added");
        stage.secret(&format!("key-{number}"), &[("apikey", &key(number))]).await;
    }
    let interceptor = Interceptor::start(stage.control_plane).await.expect("it starts");
    let lifetime = std::time::Duration::from_secs(3600);
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
    stop_at(&stage, &interceptor, &all, async || {
        for number in 0..POINTS.len() {
            let credentials = json!({ "secretRef": { "name": format!("key-{number}") } });
            stage.token(&name(number), json!({ "providerRef": { "name": IAM }, "credentials": credentials })).await;
        }
    })
    .await;
    drop(operator.kill().await);
    let operator = start(true).await;
    all_are_right(&stage).await;
    let before: Vec<_> = tokens(&stage).await;
    // A refresh reads nothing.
    let refresh: Vec<(usize, Point)> = all.iter().copied().skip(1).collect();
    stop_at(&stage, &interceptor, &refresh, async || {
        let ask = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": "now" } } }));
        for (number, _) in &refresh {
            stage.tokens().patch(&name(*number), &PatchParams::default(), &ask).await.expect("accepted");
        }
    })
    .await;
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
