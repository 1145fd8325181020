//! Every secret value in these tests is marked; none of them may show up anywhere but in the Secrets themselves.

use std::collections::BTreeSet;

use base64::Engine;
use identity_simulator::{Action, Framing, RoleSeed, Rule, When, canaries, spellings};
use k8s_openapi::api::{core::v1::Event as CoreEvent, events::v1::Event};
use kube::Api;
use serde_json::json;
use stage::{API_KEY, Operator, OperatorOptions, PROVIDER, SYSTEM, Stage, TENANT, condition, eventually};

/// Everything that a text must not hold: all values that were ever issued or seeded, in every spelling, and their marks.
struct Forbidden(BTreeSet<String>);

impl Forbidden {
    async fn of(stage: &Stage, more: &[String]) -> Self {
        let issued = stage.control.secrets().await.expect("the simulator answers");
        let values = issued.into_iter().map(|secret| secret.value).chain(more.iter().cloned());
        // A part of a value is a leak, too: the first twenty characters are enough to know it by.
        let texts = values.flat_map(|value| {
            let beginning: String = value.chars().take(20).collect();
            let hexadecimal = value.bytes().map(|byte| format!("{byte:02x}")).collect();
            spellings(&value).into_iter().chain([beginning, hexadecimal])
        });
        Self(texts.filter(|text| text.len() >= 12).chain(canaries().iter().map(|mark| (*mark).to_owned())).collect())
    }

    fn search(&self, place: &str, text: &str) -> Vec<String> {
        let hits = self.0.iter().filter(|forbidden| text.contains(forbidden.as_str()));
        // What is told names the place alone: a failing test must not print what it looks for.
        hits.map(|forbidden| {
            let line = text.lines().position(|line| line.contains(forbidden.as_str())).unwrap_or_default();
            format!("{place}: a text of {} characters in line {}", forbidden.len(), line + 1)
        })
        .collect()
    }
}

/// Bodies that quote whatever a service could know: the key, a token, a client's secret.
fn quoting(secret: &str, status: u16) -> Action {
    let body = json!({
        "errorCode": "BXNIM0400E", "errorMessage": format!("the key {secret} is no good"), "error": secret, "error_description": format!("apikey={secret}"),
        "message": format!("Basic {secret}"), "errors": [{ "code": secret, "message": secret }], "context": { "apikey": secret },
    });
    let headers = [("Content-Type", "application/json"), ("X-Secret", secret), ("Retry-After", secret)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Action::Answer { when: When::BeforeCommit, status, headers, body: body.to_string() }
}

/// Runs the main story and several that fail, and returns every place that anybody but the owner of a Secret can read.
async fn collect(stage: &Stage, operator: &Operator) -> Vec<(String, String)> {
    let mut places = vec![("the log".to_owned(), operator.log())];
    let process = format!("/proc/{}", operator.pid());
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("{process}/{file}")).expect("the operator runs");
        places.push((file.to_owned(), String::from_utf8_lossy(&bytes).replace('\0', "\n")));
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let (status, text) = operator.get(path).await;
        assert_eq!(status, 200, "{path}");
        places.push((path.to_owned(), text));
    }
    for object in stage.applications().list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("application {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for object in stage.providers().list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("provider {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for mut secret in stage.secrets().list(&Default::default()).await.expect("the API server answers") {
        (secret.data, secret.string_data) = (None, None);
        places.push((format!("metadata of Secret {:?}", secret.metadata.name), serde_json::to_string(&secret).expect("JSON")));
    }
    for namespace in [stage.namespace.as_str(), SYSTEM, "default"] {
        let events: Api<Event> = Api::namespaced(stage.client.clone(), namespace);
        let core: Api<CoreEvent> = Api::namespaced(stage.client.clone(), namespace);
        for event in events.list(&Default::default()).await.expect("the API server answers") {
            places.push((format!("event {:?}", event.metadata.name), serde_json::to_string(&event).expect("JSON")));
        }
        for event in core.list(&Default::default()).await.expect("the API server answers") {
            places.push((format!("core event {:?}", event.metadata.name), serde_json::to_string(&event).expect("JSON")));
        }
    }
    let urls: Vec<String> = stage.control.journal().await.expect("the simulator answers").into_iter().map(|call| call.path).collect();
    places.push(("paths of the calls".to_owned(), urls.join("\n")));
    places
}

/// Faults whose answers are full of secrets, on an application each.
async fn failing_stories(stage: &Stage, secret: &str) {
    let faults = [
        ("create-400", "app_id.applications.create", quoting(secret, 400)),
        ("create-500", "app_id.applications.create", quoting(secret, 500)),
        ("create-429", "app_id.roles.list", quoting(secret, 404)),
        ("create-cut", "app_id.applications.create", Action::Truncate { keep: 300, framing: Framing::Consistent }),
        ("create-odd", "app_id.applications.create", quoting(secret, 200)),
        ("rename-409", "app_id.applications.update", quoting(secret, 409)),
        ("token-401", "app_id.token", quoting(secret, 401)),
        ("token-cut", "app_id.token", Action::Truncate { keep: 400, framing: Framing::Consistent }),
    ];
    for (name, operation, action) in faults {
        let fault = stage.control.inject(&Rule::every(operation, action)).await.expect("accepted");
        stage.application(name, json!({ "roles": ["shopper"] })).await;
        let said = |object: &cloud_identity_operator::api::AppIdApplication| {
            condition(object, "Ready").is_some_and(|(status, reason)| status == "False" && reason != "InProgress")
        };
        stage.application_where(name, "has failed", said).await;
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
}

async fn no_secret_leaks(format: &str) {
    let stage = Stage::new("canary").await;
    let role = RoleSeed { name: "shopper".into(), ..RoleSeed::default() };
    stage.control.add_role(TENANT, &role).await.expect("the role is made");
    let options = OperatorOptions {
        log_filter: "trace".into(),
        arguments: vec!["--log-format".into(), format.into()],
        leader_election: false,
        ..OperatorOptions::default()
    };
    let operator = stage.operator_with(options).await;
    stage.provider().await;
    stage.provider_ready().await;
    for (name, layout) in [("plain", "AppId"), ("proxy", "OAuth2Proxy"), ("binding", "IbmBinding")] {
        let spec = json!({ "scopes": ["read"], "roles": ["shopper"], "redirectUris": ["https://shop.example.com/"], "secret": { "layout": layout } });
        stage.application(name, spec).await;
        stage.ready(name).await;
    }
    stage.patch_application("plain", json!({ "displayName": "renamed" })).await.expect("accepted");
    stage.ready("plain").await;
    let issued = stage.secret_values("plain").await.expect("published")["secret"].clone();
    failing_stories(&stage, &issued).await;
    // A damaged Secret is put back.
    stage.patch_secret("plain", json!({ "stringData": { "secret": "cafec0de-written-by-somebody" } })).await;
    eventually("the Secret is put back", async || stage.secret_values("plain").await.is_some_and(|values| values["secret"] == issued))
        .await;
    // Keys that are nonsense, and one that IAM quotes back.
    for key in ["{\"apikey\": \"cafec0de-unfinished", "cafec0de with blanks", "cafec0de-nobody-knows-this-key"] {
        let fault = stage.control.inject(&Rule::every("iam.token", quoting(key, 400))).await.expect("accepted");
        stage.secret("ibm-api-key", &[("apikey", key)]).await;
        stage
            .provider_where(PROVIDER, "notices the bad key", |object| {
                stage::provider_condition(object, "Ready").is_some_and(|(is, _)| is == "False")
            })
            .await;
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
    stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    stage.provider_ready().await;
    stage.delete("plain").await;

    // What the operator itself holds: its own token, and whatever it wrote.
    let mut own = Vec::new();
    for secret in stage.secrets().list(&Default::default()).await.expect("the API server answers") {
        let public = ["clientId", "tenantId", "version"];
        let values = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| key.to_lowercase().contains("secret") && !public.contains(&key.as_str()));
        own.extend(values.map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned()));
    }
    own.push(operator.token());
    let own: Vec<String> = own.into_iter().filter(|value| value.len() >= 20).collect();
    assert!(own.len() >= 4, "there is something to look for");
    let forbidden = Forbidden::of(&stage, &own).await;
    assert!(forbidden.0.len() > 100, "there is something to look for: {}", forbidden.0.len());
    assert!(operator.token().starts_with("eyJ"), "the ServiceAccount has a token");
    // The search finds what it should, also inside something larger that is encoded.
    let leak = base64::engine::general_purpose::STANDARD.encode(format!("{}:{issued}", "someone"));
    assert!(!forbidden.search("a leak", &leak).is_empty() && !forbidden.search("a leak", &operator.token()).is_empty());
    let places = collect(&stage, &operator).await;
    let log = &places[0].1;
    assert!(log.contains("TRACE") && log.len() > 100_000, "the log is at trace level: {} bytes", log.len());
    assert!(format == "text" || log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "every line is JSON");
    let hits: Vec<String> = places.iter().flat_map(|(place, text)| forbidden.search(place, text)).collect();
    assert!(hits.is_empty(), "{} hits:\n{}", hits.len(), hits[..hits.len().min(40)].join("\n"));
}

/// Promise 8: no secret byte reaches a log, event, status, metric, annotation, URL or error text, in any spelling, at the finest level of the log.
/// Traps: T50.
#[tokio::test]
async fn no_secret_shows_up_anywhere_while_the_log_is_text_at_trace_level() {
    no_secret_leaks("text").await;
}

/// The same with a log for programs.
/// Traps: T50.
#[tokio::test]
async fn no_secret_shows_in_log_event_status_metric_or_process_whatever_the_service_says() {
    no_secret_leaks("json").await;
}
