//! Deletion always ends, removes what is ours and nothing else, and names what could not be removed.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use cloud_identity_operator::api::{AppIdApplication, IdentityProvider};
use identity_simulator::{Action, RoleSeed, Rule, Settings, When};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PropagationPolicy},
};
use serde_json::{Map, Value, json};
use stage::{Dice, OperatorOptions, PROVIDER, Stage, TENANT, condition, eventually, eventually_within, message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);
/// As many as are deleted at once.
const NAMESPACES: usize = 20;
/// Seeds of orders in which they are deleted, each with its own order inside every namespace: sixty of those.
const ORDERS: [u64; 3] = [17, 42, 2026];
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

/// Namespaces with a provider, its credential and two applications each, all on the stage's tenant.
async fn neighbourhood(stage: &Stage, count: usize) -> Vec<String> {
    let settings = Settings { management_calls_per_second: 0, authorization_calls_per_second: 0, ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
    their_redirect_uri(stage).await;
    let one = async || {
        let namespace = stage.control_plane.create_namespace(&stage.namespace).await.expect("made");
        let place = |mut document: Value| {
            document["metadata"]["namespace"] = json!(namespace);
            document
        };
        let documents = [
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "simulator-ca" }, "data": { "ca.crt": stage.simulator.ca_pem() } }),
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "ibm-api-key" }, "stringData": { "apikey": stage::API_KEY } }),
            stage.provider_document(stage::PROVIDER),
            stage.application_document(
                "one",
                json!({ "redirectUris": ["https://shared.example.com/cb", format!("https://{namespace}.example.com/one")] }),
            ),
            stage.application_document("two", json!({ "scopes": ["orders.read"], "redirectUris": ["https://shared.example.com/cb"] })),
        ];
        for document in documents {
            stage.apply(&place(document)).await.expect("accepted");
        }
        namespace
    };
    let mut namespaces = Vec::new();
    for _ in 0..count.div_ceil(5) {
        let some = futures::future::join_all((0..5.min(count - namespaces.len())).map(|_| one())).await;
        namespaces.extend(some);
    }
    namespaces
}

fn watching(stage: &Stage, namespaces: &[String]) -> OperatorOptions {
    let watch_namespaces = namespaces.iter().chain([&stage.namespace]).cloned().collect();
    OperatorOptions { watch_namespaces, namespace: stage.namespace.clone(), ..OperatorOptions::default() }
}

async fn all_ready(stage: &Stage, namespaces: &[String]) -> Vec<String> {
    let mut ids = Vec::new();
    eventually("all applications are ready", async || {
        let all = Api::<AppIdApplication>::all(stage.client.clone()).list(&ListParams::default()).await.expect("listed");
        let ours = all.items.iter().filter(|object| object.namespace().is_some_and(|namespace| namespaces.contains(&namespace)));
        let ready: Vec<_> = ours.filter(|object| condition(object, "Ready").is_some_and(|(status, _)| status == "True")).collect();
        ids = ready.iter().map(|object| client_id(object)).collect();
        ids.len() == 2 * namespaces.len()
    })
    .await;
    ids
}

async fn delete_namespaces(stage: &Stage, namespaces: &[String], dice: &mut Dice) {
    let mut order = namespaces.to_vec();
    dice.shuffle(&mut order);
    let parameters = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    for namespace in &order {
        let mut parts = ["provider", "credential", "one", "two"];
        dice.shuffle(&mut parts);
        let some = dice.roll(parts.len());
        for part in &parts[..some] {
            let client = stage.client.clone();
            match *part {
                "provider" => drop(
                    Api::<IdentityProvider>::namespaced(client, namespace).delete(stage::PROVIDER, &parameters).await.expect("accepted"),
                ),
                "credential" => {
                    drop(Api::<Secret>::namespaced(client, namespace).delete("ibm-api-key", &parameters).await.expect("accepted"))
                }
                name => drop(Api::<AppIdApplication>::namespaced(client, namespace).delete(name, &parameters).await.expect("accepted")),
            }
        }
        Api::<Namespace>::all(stage.client.clone()).delete(namespace, &parameters).await.expect("accepted");
    }
}

/// Our part: an object that is told to go is gone within this long, with twenty namespaces of others at the same tenant.
const OUR_PART: Duration = Duration::from_secs(45);
/// Kubernetes' part as well: it looks at a few namespaces at a time, and at each that was not empty every eight seconds.
const ALL_OF_IT: Duration = Duration::from_secs(240);
/// Lists of a whole cluster cost the API server something.
const LISTED_EVERY: Duration = Duration::from_millis(250);

async fn namespaces_gone(stage: &Stage, namespaces: &[String]) {
    let mut told: HashMap<String, Instant> = HashMap::new();
    let applications = Api::<AppIdApplication>::all(stage.client.clone());
    let all_namespaces = Api::<Namespace>::all(stage.client.clone());
    eventually_within(ALL_OF_IT, LISTED_EVERY, "objects and namespaces are gone", async || {
        let objects = applications.list_metadata(&ListParams::default()).await.expect("listed").items;
        let ours: Vec<_> = objects.iter().filter(|object| object.namespace().is_some_and(|home| namespaces.contains(&home))).collect();
        for object in ours.iter().filter(|object| object.metadata.deletion_timestamp.is_some()) {
            let since = told.entry(object.uid().unwrap_or_default()).or_insert_with(Instant::now);
            assert!(since.elapsed() < OUR_PART, "{:?}/{} holds up its namespace", object.namespace(), object.name_any());
        }
        let left = all_namespaces.list_metadata(&ListParams::default()).await.expect("listed").items;
        ours.is_empty() && !left.iter().any(|namespace| namespaces.contains(&namespace.name_any()))
    })
    .await;
}

async fn namespaces_deleted_in_order(seed: u64) {
    let stage = Stage::new(&format!("twenty-{seed}")).await;
    let namespaces = neighbourhood(&stage, NAMESPACES).await;
    let _operator = stage.operator_with(watching(&stage, &namespaces)).await;
    all_ready(&stage, &namespaces).await;
    assert_eq!(stage.registered().await.len(), 2 * NAMESPACES);
    delete_namespaces(&stage, &namespaces, &mut Dice(seed)).await;
    namespaces_gone(&stage, &namespaces).await;
    assert_eq!(stage.registered().await, [], "order {seed}");
    assert_eq!(stage.redirect_uris().await, [THEIRS], "order {seed}");
}

/// One test after the other: Kubernetes takes ten namespaces at a time, and the tests would wait for each other's.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Promise 7: namespaces are deleted in any order, with their provider and credential; nothing hangs and nothing is left at the service.
///
/// Traps: T16, T17.
#[tokio::test]
async fn twenty_namespaces_deleted_in_random_order_leave_nothing_at_the_service() {
    let _turn = TURN.lock().await;
    // Side by side: what takes long is Kubernetes, which looks at a namespace that is not empty every eight seconds.
    futures::future::join_all(ORDERS.map(namespaces_deleted_in_order)).await;
}

/// Promise 7: the same right after a restart: providers are read before any object is handled.
///
/// Traps: T16, T17.
#[tokio::test]
async fn namespaces_deleted_right_after_a_restart_leave_nothing_at_the_service() {
    let _turn = TURN.lock().await;
    let stage = Stage::new("restarted").await;
    let namespaces = neighbourhood(&stage, NAMESPACES).await;
    let operator = stage.operator_with(watching(&stage, &namespaces)).await;
    all_ready(&stage, &namespaces).await;
    drop(operator.kill().await);
    let operator = stage.operator_with(watching(&stage, &namespaces)).await;
    operator.working().await;
    delete_namespaces(&stage, &namespaces, &mut Dice(23)).await;
    namespaces_gone(&stage, &namespaces).await;
    assert_eq!(stage.registered().await, []);
    assert_eq!(stage.redirect_uris().await, [THEIRS]);
}

/// Promise 7: with the operator down meanwhile, deletion ends within the budget, and each leftover is named where it can be read.
///
/// Traps: T16, T17.
#[tokio::test]
async fn namespaces_deleted_while_no_operator_runs_end_and_each_leftover_is_named() {
    let _turn = TURN.lock().await;
    let stage = Stage::new("down").await;
    let namespaces = neighbourhood(&stage, NAMESPACES).await;
    let operator = stage.operator_with(watching(&stage, &namespaces)).await;
    let ids = all_ready(&stage, &namespaces).await;
    drop(operator.kill().await);
    delete_namespaces(&stage, &namespaces, &mut Dice(29)).await;
    eventually("providers and credentials are gone", async || {
        let providers = Api::<IdentityProvider>::all(stage.client.clone()).list(&ListParams::default()).await.expect("listed");
        let secrets = Api::<Secret>::all(stage.client.clone()).list(&ListParams::default()).await.expect("listed");
        let inside = |namespace: Option<String>| namespace.is_some_and(|namespace| namespaces.contains(&namespace));
        !providers.items.iter().any(|object| inside(object.namespace())) && !secrets.items.iter().any(|object| inside(object.namespace()))
    })
    .await;
    let _operator = stage.operator_with(OperatorOptions { deletion_budget: "3s".into(), ..watching(&stage, &namespaces) }).await;
    namespaces_gone(&stage, &namespaces).await;
    let mut notes = Vec::new();
    for name in ["one", "two"] {
        notes.extend(stage.events(&stage.namespace, name).await.into_iter().filter(|(reason, _)| reason == "Orphaned"));
    }
    for id in &ids {
        assert!(notes.iter().any(|(_, note)| note.contains(id)), "{id} is named in {notes:?}");
    }
    assert_eq!(stage.registered().await.len(), 2 * NAMESPACES, "nothing could be removed");
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
