//! Moments at which a promise is easily broken: two things happen at once, or one of them at the wrong moment.

mod keys;
mod redirect_uris;

use std::time::Duration;

use identity_simulator::{Action, ApplicationSeed, Rule as Fault, When};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;
use stage::{Effect, Interceptor, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, Seen, Stage, TENANT, eventually};

const URI: &str = "https://shop.example.com/callback";
/// A list of redirect URIs that was read longer ago is read again before it is written.
const LIST_IS_OLD: Duration = Duration::from_millis(2500);

/// A stage whose operator's requests can be held and answered by the test.
async fn intercepted(prefix: &str) -> (Stage, Interceptor, Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let (interceptor, operator) = behind_an_interceptor(&stage).await;
    stage.provider_ready().await;
    (stage, interceptor, operator)
}

async fn behind_an_interceptor(stage: &Stage) -> (Interceptor, Operator) {
    let kubeconfig = stage.control_plane.kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, Duration::from_secs(3600)).await;
    let interceptor = Interceptor::start(stage.control_plane).await.expect("the interceptor starts");
    let path = interceptor.kubeconfig(&kubeconfig.expect("the ServiceAccount gets a token")).expect("the kubeconfig is written");
    let options = OperatorOptions::default().watching(&stage.namespace);
    let binary = stage::operator_binary().expect("the operator is built");
    (interceptor, Operator::start(&binary, &path, &options).await.expect("the operator starts"))
}

/// A write of an object's status.
fn status_of(name: &'static str) -> impl Fn(&Seen) -> bool + Send + 'static {
    move |seen| seen.name == name && seen.resource == "appidapplications" && seen.subresource == "status" && seen.is_write()
}

async fn delete_object(stage: &Stage, name: &str) {
    stage.applications().delete(name, &DeleteParams::default()).await.expect("the deletion is accepted");
}

/// An application that somebody else registered.
async fn legacy(stage: &Stage) -> identity_simulator::Application {
    let seed = ApplicationSeed { name: "legacy".into(), ..ApplicationSeed::default() };
    stage.control.add_application(TENANT, &seed).await.expect("the application is made")
}

/// Applications as they are, also when nobody can read them.
fn unread(stage: &Stage) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<cloud_identity_operator::api::AppIdApplication>(&());
    Api::namespaced_with(stage.client.clone(), &stage.namespace, &resource)
}

/// What the API server takes and nobody can read: a time with an offset of a hundred hours.
const UNREADABLE: &str = "2026-11-28T01:00:00+99:99";

async fn write_missing_since(api: &Api<DynamicObject>, name: &str, time: &str) {
    let parameters = PatchParams { field_manager: Some("user".into()), ..PatchParams::default() };
    let status = Patch::Merge(json!({ "status": { "missingSince": time } }));
    api.patch_status(name, &parameters, &status).await.expect("the API server takes it");
}

async fn hold_next(stage: &Stage, fault: Fault) -> u64 {
    stage.control.inject(&fault).await.expect("the fault is taken").id
}

fn held(operation: &str) -> Fault {
    Fault::next(operation, Action::Hold { when: When::BeforeCommit })
}

/// The Secret of an object that no longer exists.
async fn leftover(stage: &Stage, id: &str, value: &str, cluster: &str, tenant: &str) {
    let object = format!("AppIdApplication/{}/storefront", stage.namespace);
    let annotations = json!({
        "cloudidentity.dev/client-id": id, "cloudidentity.dev/cluster": cluster, "cloudidentity.dev/tenant": tenant,
        "cloudidentity.dev/object": object, "cloudidentity.dev/object-uid": "00000000-0000-4000-8000-000000000000",
    });
    let metadata = json!({ "name": "storefront", "namespace": stage.namespace, "annotations": annotations });
    let data = json!({ "clientId": id, "secret": value });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data });
    stage.apply(&secret).await.expect("the Secret is accepted");
}

/// Promise 4. The first status is refused once, as after any edit of the object meanwhile.
///
/// Traps: T14.
#[tokio::test]
async fn what_is_adopted_stays_adopted_when_the_first_status_is_refused() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let legacy = legacy(&stage).await;
    interceptor.intercept(status_of("storefront"), 0, 1, Effect::Answer(409));
    stage.application("storefront", json!({ "adopt": { "clientId": legacy.client_id } })).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(ready.status.and_then(|status| status.adopted), Some(true));
    assert_eq!(stage.registered().await[0].name, "legacy", "no displayName is asked for");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 4. The object is deleted when the adopted credential is published, and no status says so yet.
///
/// Traps: T14.
#[tokio::test]
async fn what_is_adopted_is_not_deleted_with_an_object_that_had_no_status_yet() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let legacy = legacy(&stage).await;
    let record = interceptor.intercept(status_of("storefront"), 0, 1, Effect::HoldBefore);
    stage.application("storefront", json!({ "adopt": { "clientId": legacy.client_id } })).await;
    interceptor.fired(record).await;
    delete_object(&stage, "storefront").await;
    interceptor.release(record);
    stage.gone("storefront").await;
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 4. Another cluster registered it, and uses it still.
///
/// Traps: T08.
#[tokio::test]
async fn an_application_of_another_cluster_is_adopted_and_so_outlives_the_object() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    let legacy = legacy(&stage).await;
    leftover(&stage, &legacy.client_id, legacy.secret.as_deref().unwrap_or_default(), "another-cluster", TENANT).await;
    stage.application("storefront", json!({ "adopt": { "clientId": legacy.client_id } })).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(ready.status.and_then(|status| status.adopted), Some(true));
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 10.
#[tokio::test]
async fn a_registration_that_is_let_go_is_taken_by_the_object_that_waits_for_it() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("holder", json!({ "deletionPolicy": "Retain" })).await;
    let id = stage.ready("holder").await.status.and_then(|status| status.client_id);
    stage.application("heir", json!({ "adopt": { "clientId": id } })).await;
    stage.reason("heir", "AlreadyManaged").await;
    stage.delete("holder").await;
    let heir = stage.ready("heir").await;
    assert_eq!(heir.status.and_then(|status| status.client_id), id);
}

/// Promises 1 and 7. Tools that replace whole objects take away what is not in their file.
#[tokio::test]
async fn a_finalizer_that_was_taken_away_comes_back_and_does_its_work() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("storefront", json!({ "redirectUris": [URI] })).await;
    let mut object = stage.ready("storefront").await;
    (object.metadata.finalizers, object.metadata.annotations, object.metadata.managed_fields) = (None, None, None);
    stage.applications().replace("storefront", &PostParams::default(), &object).await.expect("the object is replaced");
    stage
        .application_where("storefront", "is claimed again", |object| {
            !object.finalizers().is_empty() && object.annotations().contains_key("cloudidentity.dev/tenant")
        })
        .await;
    stage.delete("storefront").await;
    assert_eq!((stage.registered().await.len(), stage.redirect_uris().await), (0, Vec::<String>::new()));
}

/// Promises 1 and 2. The object is deleted when the credential is published, and no status says so yet.
#[tokio::test]
async fn what_is_retained_keeps_its_secret_also_when_no_status_named_it_yet() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let record = interceptor.intercept(status_of("storefront"), 0, 1, Effect::HoldBefore);
    stage.application("storefront", json!({ "deletionPolicy": "Retain" })).await;
    interceptor.fired(record).await;
    delete_object(&stage, "storefront").await;
    interceptor.release(record);
    stage.gone("storefront").await;
    let id = stage.registered().await[0].client_id.clone();
    let released = stage.secrets().get("storefront").await.expect("the Secret stays");
    assert!(released.owner_references().is_empty());
    assert_eq!(stage.secret_values("storefront").await.and_then(|values| values.get("clientId").cloned()), Some(id));
}

/// Promise 7. The process ends when the Secret was let go and the finalizer not yet lifted, and no status says what was registered.
#[tokio::test]
async fn what_is_retained_stays_when_the_process_ends_between_letting_go_of_the_secret_and_of_the_object() {
    let (stage, interceptor, operator) = intercepted("promises").await;
    let record = interceptor.intercept(status_of("storefront"), 0, 1, Effect::HoldBefore);
    stage.application("storefront", json!({ "deletionPolicy": "Retain" })).await;
    interceptor.fired(record).await;
    let is_release = |seen: &Seen| seen.name == "storefront" && seen.resource == "appidapplications" && seen.subresource.is_empty();
    let release = interceptor.intercept(move |seen| is_release(seen) && seen.is_write(), 0, 1, Effect::HoldBefore);
    delete_object(&stage, "storefront").await;
    interceptor.release(record);
    interceptor.fired(release).await;
    drop(operator.kill().await);
    let _operator = stage.operator_with(OperatorOptions::default()).await;
    stage.gone("storefront").await;
    let registered = stage.registered().await;
    let published = stage.secret_values("storefront").await.expect("the Secret stays");
    assert_eq!(registered.iter().map(|one| Some(&one.client_id)).collect::<Vec<_>>(), [published.get("clientId")]);
}

/// Promise 9. Its Role went with the namespace.
#[tokio::test]
async fn a_watched_namespace_that_is_gone_does_not_stop_the_others() {
    let stage = Stage::new("promises").await;
    let namespace = stage.namespace.clone();
    let set = format!(
        "fullnameOverride={namespace},watchNamespaces={{{namespace}}},replicaCount=0,crds.install=false,userRoles.create=false,clusterProviders.enabled=false"
    );
    let arguments = ["install", &namespace, "--namespace", &namespace, "--set", &set];
    stage::helm(stage.control_plane, &arguments).await.expect("the release is installed");
    let kubeconfig = stage.control_plane.kubeconfig_for_service_account(&namespace, &namespace, Duration::from_secs(3600)).await;
    let options = OperatorOptions {
        namespace: namespace.clone(),
        watch_namespaces: vec![namespace.clone(), "was-deleted".into()],
        arguments: vec!["--cluster-providers".into(), "false".into()],
        ..OperatorOptions::default()
    };
    stage.provider().await;
    stage.application("storefront", json!({})).await;
    let binary = stage::operator_binary().expect("the operator is built");
    let kubeconfig = kubeconfig.expect("the ServiceAccount gets a token");
    let operator = Operator::start(&binary, &kubeconfig, &options).await.expect("the operator starts");
    stage.ready("storefront").await;
    assert!(operator.log().contains("a watched namespace cannot be read"));
}

/// Promises 2 and 10. The object fails for another reason, and its next attempt is minutes away.
///
/// Traps: T01.
#[tokio::test]
async fn an_edited_secret_of_a_failing_object_is_put_back_at_once() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let secret = stage.secret_values("storefront").await.and_then(|values| values.get("secret").cloned());
    stage.patch_application("storefront", json!({ "roles": ["nowhere"] })).await.expect("the change is accepted");
    stage.reason("storefront", "RoleNotFound").await;
    stage.secret("storefront", &[("secret", "cafec0de-broken")]).await;
    eventually("the Secret is put back", async || {
        stage.secret_values("storefront").await.and_then(|values| values.get("secret").cloned()) == secret
    })
    .await;
}

/// Promise 5. The id lives in another tenant than the one that would be asked.
#[tokio::test]
async fn a_former_objects_secret_of_another_tenant_is_no_reason_to_ask_this_one() {
    let stage = Stage::new("promises").await;
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    let cluster = namespaces.get("kube-system").await.ok().and_then(|namespace| namespace.uid()).expect("it has a UID");
    let (id, tenant) = ("11111111-0000-4000-8000-000000000001", "99999999-2222-4333-8444-555555555555");
    leftover(&stage, id, "cafec0de-elsewhere", &cluster, tenant).await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.application("storefront", json!({})).await;
    stage.reason("storefront", "ProviderIdentityChanged").await;
    assert_eq!(stage.calls("app_id.applications.get").await, 0);
}

/// Promises 9 and 10. A time that the API server takes for one and no program can read; nothing else of the status is lost.
#[tokio::test]
async fn an_object_that_cannot_be_read_says_so_and_holds_up_nobody() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("broken", json!({})).await;
    let id = stage.ready("broken").await.status.and_then(|status| status.client_id);
    let api = unread(&stage);
    write_missing_since(&api, "broken", UNREADABLE).await;
    let mut said = json!(null);
    eventually("the object says that it cannot be read", async || {
        let object = api.get("broken").await.expect("the API server answers");
        said = object.data["status"].clone();
        let conditions = said["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["reason"] == "InvalidSpec")
    })
    .await;
    assert_eq!(said["clientId"], json!(id), "{said}");
    stage.application("other", json!({})).await;
    stage.ready("other").await;
    stage.event("broken", "InvalidSpec").await;
    write_missing_since(&api, "broken", "2026-11-28T01:00:00Z").await;
    let mended = stage.ready("broken").await;
    assert_eq!(mended.status.and_then(|status| status.client_id), id);
}

/// Promise 7. Nobody mends it in time: its namespace must not wait for ever.
#[tokio::test]
async fn an_object_that_cannot_be_read_is_let_go_when_its_budget_is_used_up_and_its_registration_is_named() {
    let stage = Stage::new("promises").await;
    stage.provider().await;
    let impatient = || OperatorOptions { deletion_budget: "3s".into(), ..OperatorOptions::default() };
    let operator = stage.operator_with(impatient()).await;
    stage.application("broken", json!({})).await;
    let id = stage.ready("broken").await.status.and_then(|status| status.client_id).expect("registered");
    drop(operator.kill().await);
    let objects = unread(&stage);
    write_missing_since(&objects, "broken", UNREADABLE).await;
    objects.delete("broken", &DeleteParams::default()).await.expect("the deletion is accepted");
    let _operator = stage.operator_with(impatient()).await;
    eventually("the object is gone", async || objects.get_opt("broken").await.expect("the API server answers").is_none()).await;
    assert!(stage.event("broken", "Orphaned").await.contains(&id));
    assert_eq!(stage.registered().await.len(), 1, "what it was could not be read");
}
