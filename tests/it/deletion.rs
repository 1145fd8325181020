//! Deletion always ends, removes what is ours and nothing else, and names what could not be removed.

mod namespaces;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{Action, RoleSeed, Rule, Settings, When};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Map, json};
use stage::{OperatorOptions, PROVIDER, Stage, TENANT, condition, eventually, message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

/// Stands for a Secret's name of the object's own.
const OWN_NAME: &str = "own";

/// A redirect URI that a person entered at the service.
const THEIRS: &str = "https://person.example.com/callback";

async fn with_operator(prefix: &str, options: OperatorOptions) -> (Stage, stage::Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator_with(options).await;
    stage.provider_ready().await;
    (stage, operator)
}

fn impatient() -> OperatorOptions {
    OperatorOptions { deletion_budget: "3s".into(), ..OperatorOptions::default() }
}

fn client_id(object: &AppIdApplication) -> String {
    object.status.as_ref().and_then(|status| status.client_id.clone()).expect("a client id")
}

async fn metrics(operator: &stage::Operator) -> String {
    let mut stream = tokio::net::TcpStream::connect(operator.metrics_address().await).await.expect("metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    text
}

async fn their_redirect_uri(stage: &Stage) {
    let mut document = Map::new();
    document.insert("redirectUris".into(), json!([THEIRS]));
    stage.control.set_redirect_uris(TENANT, &document).await.expect("set");
}

/// Promises 4 and 7: where nobody ever answered, nothing was sent, and nothing holds the object.
#[tokio::test]
async fn an_object_at_an_address_where_nobody_answers_is_deleted_at_once() {
    let stage = Stage::new("nobody").await;
    let mut provider = stage.provider_document(PROVIDER);
    // The discard port: nothing listens there.
    provider["spec"]["appId"]["url"] = json!("https://127.0.0.1:9");
    stage.apply(&provider).await.expect("the provider is accepted");
    let _operator = stage.operator().await;
    stage.application("storefront", json!({})).await;
    let waiting = stage.reason("storefront", "ServiceUnavailable").await;
    assert!(message(&waiting).contains("127.0.0.1:9"), "it says where nobody answers: {}", message(&waiting));
    assert!(waiting.finalizers().is_empty(), "{:?}", waiting.finalizers());
    let asked = Instant::now();
    stage.delete("storefront").await;
    stage.gone("storefront").await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

/// Promises 7 and 10: a deletion that does not succeed says so, and when it will be given up.
#[tokio::test]
async fn a_deletion_that_fails_says_until_when_it_is_tried() {
    let (stage, _operator) = with_operator("until", OperatorOptions { deletion_budget: "8s".into(), ..OperatorOptions::default() }).await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    stage.control.inject(&Rule::every("app_id", Action::Drop { when: When::BeforeCommit })).await.expect("accepted");
    stage.applications().delete("storefront", &DeleteParams::default()).await.expect("asked for");
    let told = stage
        .application_where("storefront", "says that its deletion failed", |object| {
            object.status.as_ref().is_some_and(|status| status.deletion.is_some())
        })
        .await;
    let first = told.status.as_ref().and_then(|status| status.deletion.as_ref()).expect("it is there").first_failed_at.0;
    let end = first.checked_add(Duration::from_secs(8)).expect("in range");
    assert!(message(&told).contains(&format!("tried until {end} and then given up")), "{}", message(&told));
    let said = stage.event("storefront", "ServiceUnavailable").await;
    assert!(said.contains("the object is being deleted"), "{said}");
    stage.gone("storefront").await;
}

/// Promises 1 and 4: deletion cleans up whatever an object had, with every combination of optional fields, and nothing of others.
///
/// Traps: T16, T56.
#[tokio::test]
async fn deletion_cleans_up_with_every_combination_of_optional_fields() {
    let (stage, _operator) = with_operator("every", OperatorOptions::default()).await;
    // More than the service takes: 2 to the power of 8 combinations.
    let settings = Settings {
        management_calls_per_second: 0,
        authorization_calls_per_second: 0,
        applications_per_tenant: 1000,
        ..Settings::default()
    };
    stage.control.set_settings(&settings).await.expect("set");
    stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("added");
    their_redirect_uri(&stage).await;
    let fields = [
        json!({ "displayName": "Shown" }),
        json!({ "scopes": ["orders.read"] }),
        json!({ "roles": ["shopper"] }),
        json!({ "redirectUris": [THEIRS, "https://shared.example.com/callback"] }),
        json!({ "secret": { "layout": "OAuth", "keys": { "issuer": "ISSUER" }, "labels": { "a": "b" } } }),
        json!({ "type": "SinglePageApp" }),
        json!({ "deletionPolicy": "Delete" }),
        json!({ "secret": { "name": OWN_NAME } }),
    ];
    let names: Vec<String> = (0..1_usize << fields.len()).map(|set| format!("app-{set:03}")).collect();
    let make = async |(set, name): (usize, &String)| {
        let mut spec = json!({});
        for (_, field) in fields.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1) {
            stage::merge(&mut spec, field.clone());
        }
        if spec["secret"]["name"] == OWN_NAME {
            spec["secret"]["name"] = json!(format!("secret-{set}"));
        }
        stage.application(name, spec).await;
    };
    futures::StreamExt::for_each_concurrent(futures::stream::iter(names.iter().enumerate()), 8, make).await;
    for name in &names {
        stage.ready(name).await;
    }
    assert_eq!(stage.registered().await.len(), names.len());
    assert_eq!(stage.redirect_uris().await.len(), 2);
    for name in &names {
        stage.applications().delete(name, &DeleteParams::default()).await.expect("accepted");
    }
    for name in &names {
        stage.gone(name).await;
    }
    assert_eq!(stage.registered().await, []);
    assert_eq!(stage.redirect_uris().await, [THEIRS], "what a person entered stays");
    eventually("the Secrets are collected", async || {
        let left = stage.secrets().list(&ListParams::default()).await.expect("listed");
        left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>() == ["ibm-api-key"]
    })
    .await;
}

/// Promise 7: whoever deletes is told what was removed.
#[tokio::test]
async fn a_deletion_says_what_it_removed() {
    let (stage, _operator) = with_operator("says", OperatorOptions::default()).await;
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    stage.delete("storefront").await;
    let note = stage.event("storefront", "Deregistered").await;
    assert!(note.contains(&id), "{note}");
}

/// Promise 2: `Retain` keeps the registration and its Secret, without an owner, also when foreground deletion removes Secrets first.
#[tokio::test]
async fn retain_keeps_the_registration_and_a_secret_without_an_owner() {
    let (stage, _operator) = with_operator("retain", OperatorOptions::default()).await;
    for (name, parameters) in [("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())] {
        stage.application(name, json!({ "deletionPolicy": "Retain", "secret": { "layout": "OAuth2Proxy" } })).await;
        let id = client_id(&stage.ready(name).await);
        let before = stage.secret_values(name).await.expect("published");
        stage.applications().delete(name, &parameters).await.expect("accepted");
        stage.gone(name).await;
        // The garbage collector acts within a second or so, if it ever does.
        tokio::time::sleep(WINDOW).await;
        let secret = stage.stored_secret(name).await;
        assert_eq!(secret.owner_references(), [], "{name}");
        assert!(!secret.labels().contains_key("cloudidentity.dev/kind"), "{name}");
        let path = format!("AppIdApplication/{}/{name}", stage.namespace);
        assert_eq!(secret.annotations().get("cloudidentity.dev/retained-from"), Some(&path), "{name}");
        let after = stage.secret_values(name).await.expect("kept");
        assert_eq!((&after["client-id"], &after["client-secret"]), (&before["client-id"], &before["client-secret"]), "{name}");
        assert!(stage.registered().await.iter().any(|application| application.client_id == id), "{name}");
        assert!(stage.event(name, "Retained").await.contains(&id), "{name}");
    }
}

/// Promise 7: what is already gone at the service is no failure.
///
/// Traps: T19.
#[tokio::test]
async fn deleting_what_is_already_gone_succeeds() {
    let (stage, _operator) = with_operator("already", OperatorOptions::default()).await;
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    stage.control.remove_application(TENANT, &id).await.expect("removed behind our back");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await, []);
    let events = stage.events(&stage.namespace, "storefront").await;
    assert!(events.iter().all(|(reason, _)| reason != "Orphaned"), "{events:?}");
}

/// Promises 5 and 7: neither the plain `Not Found` of a wrong region nor a permanent refusal is success; both end within the budget, and the
/// leftover is named.
///
/// Traps: T02, T19.
#[tokio::test]
async fn a_deletion_that_is_refused_ends_within_the_budget_and_names_the_leftover() {
    let (stage, operator) = with_operator("refused", impatient()).await;
    stage.application("moved", json!({ "redirectUris": ["https://shop.example.com/callback"] })).await;
    stage.application("protected", json!({})).await;
    let (moved, protected) = (client_id(&stage.ready("moved").await), client_id(&stage.ready("protected").await));
    let refusal =
        Action::Answer { when: Default::default(), status: 403, headers: Default::default(), body: r#"{"message":"protected"}"#.into() };
    stage.control.inject(&Rule::every("app_id.applications.delete", refusal).path_contains(&protected)).await.expect("injected");
    stage.delete("protected").await;
    let note = stage.event("protected", "Orphaned").await;
    assert!(note.contains(&protected) && note.contains(TENANT), "{note}");
    assert!(stage.calls("app_id.applications.delete").await <= 5, "a refusal is not a loop");
    let other_region = stage.simulator.urls().regions.iter().find(|(region, _)| *region != "us-south").expect("another region").1.clone();
    let mut provider = stage.provider_document(stage::PROVIDER);
    provider["spec"]["appId"]["url"] = json!(other_region);
    stage.apply(&provider).await.expect("accepted");
    stage
        .provider_where(stage::PROVIDER, "leads to the other region", |provider| {
            provider.status.as_ref().and_then(|status| status.host.as_deref()).is_some_and(|host| other_region.starts_with(host))
        })
        .await;
    stage.delete("moved").await;
    let note = stage.event("moved", "Orphaned").await;
    assert!(note.contains(&moved) && note.contains("https://shop.example.com/callback"), "{note}");
    let left: BTreeSet<String> = stage.registered().await.into_iter().map(|application| application.client_id).collect();
    assert_eq!(left, [moved, protected].into());
    are_counted(&operator, 2).await;
}

/// A leftover is counted when its object is let go, which the API server tells others a moment earlier.
async fn are_counted(operator: &stage::Operator, leftovers: usize) {
    let mut counted = Vec::new();
    eventually("each leftover is counted once", async || {
        let text = metrics(operator).await;
        counted = text.lines().filter(|line| line.contains("orphaned") && !line.starts_with('#')).map(ToOwned::to_owned).collect();
        counted.len() == 1 && counted[0].ends_with(&format!(" {leftovers}"))
    })
    .await;
}

/// Promise 7: a provider or a credential that is deleted first does not keep a running operator from cleaning up.
///
/// Traps: T16.
#[tokio::test]
async fn a_provider_or_credential_that_went_first_leaves_nothing_behind_under_a_running_operator() {
    let (stage, _operator) = with_operator("first", impatient()).await;
    for round in ["provider", "secret", "both"] {
        let mut provider = stage.provider_document(round);
        provider["spec"]["appId"]["iam"]["apiKey"]["secretRef"]["name"] = json!(format!("key-of-{round}"));
        stage.secret(&format!("key-of-{round}"), &[("apikey", stage::API_KEY)]).await;
        stage.apply(&provider).await.expect("accepted");
        stage
            .application(round, json!({ "providerRef": { "name": round }, "redirectUris": [format!("https://{round}.example.com/cb")] }))
            .await;
        stage.ready(round).await;
        if round != "provider" {
            stage.secrets().delete(&format!("key-of-{round}"), &DeleteParams::default()).await.expect("deleted");
            stage.reason(round, "CredentialsNotFound").await;
        }
        if round != "secret" {
            stage.providers().delete(round, &DeleteParams::default()).await.expect("deleted");
            stage.reason(round, "ProviderNotFound").await;
        }
        stage.delete(round).await;
    }
    assert_eq!(stage.registered().await, []);
    assert_eq!(stage.redirect_uris().await, Vec::<String>::new());
}

/// Promise 7: with nothing in memory, deletion ends within the budget and names what is left.
///
/// Traps: T16.
#[tokio::test]
async fn with_the_provider_gone_and_nothing_in_memory_the_registration_is_given_up_and_named() {
    let (stage, operator) = with_operator("nothing", impatient()).await;
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    drop(operator.kill().await);
    stage.providers().delete(stage::PROVIDER, &DeleteParams::default()).await.expect("deleted");
    stage.applications().delete("storefront", &DeleteParams::default()).await.expect("accepted");
    let _operator = stage.operator_with(impatient()).await;
    stage.gone("storefront").await;
    assert!(stage.event("storefront", "Orphaned").await.contains(&id));
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 7: suspension does not hold up a deletion, whether something was registered or not; no finalizer of ours is left anywhere.
///
/// Traps: T18.
#[tokio::test]
async fn a_suspended_object_is_deleted_all_the_same_and_no_finalizer_is_left() {
    let (stage, _operator) = with_operator("suspended", OperatorOptions::default()).await;
    stage.application("never", json!({ "suspend": true })).await;
    stage.reason("never", "Suspended").await;
    stage.application("once", json!({})).await;
    stage.ready("once").await;
    stage.application("once", json!({ "suspend": true })).await;
    let kept = stage.reason("once", "Suspended").await;
    assert_eq!(condition(&kept, "Ready").map(|(status, _)| status), Some("True"));
    stage.delete("never").await;
    stage.delete("once").await;
    assert_eq!(stage.registered().await, []);
    let namespace = Api::<Namespace>::all(stage.client.clone()).get(&stage.namespace).await.expect("there");
    let secrets = stage.secrets().list(&ListParams::default()).await.expect("listed");
    let providers = stage.providers().list(&ListParams::default()).await.expect("listed");
    let mut finalizers: Vec<String> = namespace.finalizers().to_vec();
    finalizers.extend(secrets.iter().flat_map(|secret| secret.finalizers().to_vec()));
    finalizers.extend(providers.iter().flat_map(|provider| provider.finalizers().to_vec()));
    assert!(finalizers.iter().all(|finalizer| !finalizer.contains("cloudidentity.dev")), "{finalizers:?}");
}

/// A registration that is given up counts once, however often the object has to be let go.
#[tokio::test]
async fn a_leftover_is_counted_once_when_the_object_is_not_let_go_at_once() {
    let stage = Stage::new("counted").await;
    let proxy = stage::Interceptor::start(stage.control_plane).await.expect("it starts");
    let original = stage
        .control_plane
        .kubeconfig_for_service_account(stage::SYSTEM, stage::SERVICE_ACCOUNT, Duration::from_secs(3600))
        .await
        .expect("a token");
    let kubeconfig = proxy.kubeconfig(&original).expect("written");
    let options = impatient().watching(&stage.namespace);
    let operator = stage::Operator::start(&stage::operator_binary().expect("built"), &kubeconfig, &options).await.expect("it starts");
    stage.provider().await;
    stage.provider_ready().await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let refusal =
        Action::Answer { when: Default::default(), status: 403, headers: Default::default(), body: r#"{"message":"protected"}"#.into() };
    stage.control.inject(&Rule::every("app_id.applications.delete", refusal)).await.expect("injected");
    let is_release = |seen: &stage::Seen| seen.is_write() && seen.resource == "appidapplications" && seen.subresource.is_empty();
    proxy.intercept(is_release, 0, 2, stage::Effect::Answer(500));
    stage.delete("storefront").await;
    stage.event("storefront", "Orphaned").await;
    are_counted(&operator, 1).await;
}
