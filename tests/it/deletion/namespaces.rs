//! Whole namespaces that are deleted at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use cloud_identity_operator::api::{AppIdApplication, IdentityProvider};
use identity_simulator::Settings;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PropagationPolicy},
};
use serde_json::{Value, json};
use stage::{Dice, OperatorOptions, Stage, condition, eventually, eventually_within};

use super::{THEIRS, client_id, their_redirect_uri};

/// As many as are deleted at once.
const NAMESPACES: usize = 20;

/// Seeds of orders in which they are deleted, each with its own order inside every namespace: sixty of those.
const ORDERS: [u64; 3] = [17, 42, 2026];

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
        ids.clear();
        // One after the other: elsewhere in the cluster there may be objects that cannot be read.
        for namespace in namespaces {
            let all = Api::<AppIdApplication>::namespaced(stage.client.clone(), namespace).list(&ListParams::default()).await;
            let all = all.expect("listed").items;
            let ready = all.iter().filter(|object| condition(object, "Ready").is_some_and(|(status, _)| status == "True"));
            ids.extend(ready.map(client_id));
        }
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
        let providers = Api::<IdentityProvider>::all(stage.client.clone()).list_metadata(&ListParams::default()).await.expect("listed");
        let secrets = Api::<Secret>::all(stage.client.clone()).list_metadata(&ListParams::default()).await.expect("listed");
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
