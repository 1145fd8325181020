//! No secret byte in anything the operator says (promise 8): every value that the services issued, or that a Secret held, is searched for in
//! everything that could carry it.

use std::collections::BTreeMap;

use identity_simulator::{Action, Rule, When, spellings};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};
use serde_json::json;
use stage::{API_KEY, OperatorOptions, PROVIDER, Stage, eventually};

/// A service that quotes what it was sent, or what it knows, in every member that its documents name.
fn quoting(secret: &str) -> String {
    json!({ "error": secret, "errorCode": secret, "error_description": format!("bad: {secret}"), "errorMessage": secret, "message": format!("({secret})"), "detail": secret,
        "errors": [{ "code": secret, "message": secret }], "secret": secret, "clientId": { "secret": secret }, "access_token": [secret] })
    .to_string()
}

fn answer(operation: &str, status: u16, body: String) -> Rule {
    Rule::next(
        operation,
        Action::Answer {
            when: When::BeforeCommit,
            status,
            headers: BTreeMap::from([("content-type".into(), "application/json".into())]),
            body,
        },
    )
}

/// Promise 8: at the most talkative setting of the log, with services that quote secrets in refusals and in successes that cannot be read.
///
/// Traps: T50.
#[tokio::test]
async fn no_secret_shows_in_log_event_status_metric_or_process_whatever_the_service_says() {
    let stage = Stage::new("canary").await;
    stage.provider().await;
    let options =
        OperatorOptions { log_filter: "trace".into(), arguments: vec!["--log-format".into(), "json".into()], ..OperatorOptions::default() };
    let operator = stage.operator_with(options).await;
    stage.application("good", json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })).await;
    stage.ready("good").await;
    let secret = stage.secret_values("good").await.expect("published")["secret"].clone();
    // Refusals and unreadable successes that quote the secret, one after the other, at every operation of a registration.
    for (number, (operation, status)) in [
        ("app_id.applications.create", 400),
        ("app_id.applications.create", 200),
        ("app_id.applications.update", 500),
        ("app_id.token", 401),
        ("app_id.token", 200),
        ("app_id.scopes.set", 403),
    ]
    .into_iter()
    .enumerate()
    {
        stage.control.inject(&answer(operation, status, quoting(&secret))).await.expect("the rule is taken");
        let name = format!("quoted-{number}");
        stage.application(&name, json!({ "scopes": ["orders.read"] })).await;
        stage
            .application_where(&name, "met the fault", |object| object.status.as_ref().is_some_and(|status| status.failures.is_some()))
            .await;
    }
    // The key is refused, in IAM's words, with the key in them; then it is replaced by something that is no key at all.
    stage.control.inject(&answer("iam.token", 400, quoting(API_KEY))).await.expect("the rule is taken");
    stage.secret("ibm-api-key", &[("apikey", "cafec0de-another-key-that-iam-does-not-know")]).await;
    stage.provider_where(PROVIDER, "is not ready", |provider| has_ready(provider, "False")).await;
    stage.secret("ibm-api-key", &[("apikey", "{\"apikey\": \"cafec0de-cut off")]).await;
    stage.provider_where(PROVIDER, "reads nonsense", |provider| has_reason(provider, "CredentialsInvalid")).await;
    stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    stage.provider_where(PROVIDER, "is ready again", |provider| has_ready(provider, "True")).await;
    stage.delete("good").await;
    eventually("the deletion is announced", async || events(&stage).await.contains("Deregistered")).await;

    let mut secrets: Vec<String> =
        stage.control.secrets().await.expect("the simulator answers").into_iter().map(|secret| secret.value).collect();
    secrets.extend(["cafec0de-another-key-that-iam-does-not-know".into(), "cafec0de-cut off".into(), own_token(operator.pid())]);
    assert!(secrets.len() > 8 && secrets.contains(&secret), "there is something to search for: {}", secrets.len());
    let places = [
        ("log", operator.log()),
        ("events", events(&stage).await),
        ("objects", objects(&stage).await),
        ("metrics", metrics(&operator.metrics_address().await).await),
        ("process", std::fs::read_to_string(format!("/proc/{}/cmdline", operator.pid())).unwrap_or_default()),
        ("environment", std::fs::read_to_string(format!("/proc/{}/environ", operator.pid())).unwrap_or_default()),
    ];
    assert!(places[0].1.lines().count() > 500, "the log is at its most talkative");
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty: nothing was searched");
        for secret in &secrets {
            let found = spellings(secret).into_iter().find(|spelling| text.contains(spelling.as_str()));
            // The message names the place alone: a failing test must not print what it looks for.
            assert!(found.is_none(), "a secret of {} characters shows in the {place}", secret.len());
        }
    }
}

fn has_ready(provider: &cloud_identity_operator::api::IdentityProvider, status: &str) -> bool {
    provider.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.type_ == "Ready" && condition.status == status)
}

fn has_reason(provider: &cloud_identity_operator::api::IdentityProvider, reason: &str) -> bool {
    provider.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.type_ == "Ready" && condition.reason == reason)
}

async fn events(stage: &Stage) -> String {
    let api: Api<Event> = Api::namespaced(stage.client.clone(), &stage.namespace);
    serde_json::to_string(&api.list(&ListParams::default()).await.expect("the API server answers").items).expect("events are JSON")
}

/// Every object with everything about it, but for the data of Secrets.
async fn objects(stage: &Stage) -> String {
    let secrets: Api<Secret> = stage.secrets();
    let mut list = secrets.list(&ListParams::default()).await.expect("the API server answers").items;
    for secret in &mut list {
        // What the user wrote with kubectl's annotation would be the user's own doing; nothing here does.
        secret.data = None;
    }
    let applications = stage.applications().list(&ListParams::default()).await.expect("the API server answers").items;
    let providers = stage.providers().list(&ListParams::default()).await.expect("the API server answers").items;
    format!(
        "{} {} {}",
        serde_json::to_string(&list).expect("Secrets are JSON"),
        serde_json::to_string(&applications).expect("applications are JSON"),
        serde_json::to_string(&providers).expect("providers are JSON")
    )
}

async fn metrics(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("metrics are served");
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").await.expect("the request is sent");
    let mut text = String::new();
    connection.read_to_string(&mut text).await.expect("metrics are text");
    text
}

/// The ServiceAccount token that the operator itself uses.
fn own_token(pid: u32) -> String {
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("the process runs");
    let path = environment.split('\0').find_map(|entry| entry.strip_prefix("KUBECONFIG=")).expect("the operator has a kubeconfig");
    let kubeconfig = std::fs::read_to_string(path).expect("the kubeconfig is there");
    let token = kubeconfig.split("token").nth(1).expect("the kubeconfig has a token");
    token.trim_start_matches(['"', ':', ' ']).chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect()
}
