//! Moments at which a promise is easily broken: two things happen at once, or one of them at the wrong moment.

use std::time::Duration;

use identity_simulator::{AccessRole, Action, ApplicationSeed, KeySeed, Rule as Fault, When};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;
use stage::{Effect, Interceptor, Operator, OperatorOptions, PROVIDER, SERVICE_ACCOUNT, SYSTEM, Seen, Stage, TENANT, eventually};
use tokio::time::sleep;

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

async fn add_readers_key(stage: &Stage, value: &str) {
    add_key(stage, "reader", value, AccessRole::Reader).await;
}

async fn add_key(stage: &Stage, name: &str, value: &str, role: AccessRole) {
    let key = KeySeed {
        id: name.into(),
        value: value.into(),
        name: name.into(),
        access: [(TENANT.to_owned(), role)].into(),
        ..KeySeed::default()
    };
    stage.control.add_key(&key).await.expect("the key is made");
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

/// Promise 5. The provider's first pass has just found that there is no such ConfigMap when it is made.
#[tokio::test]
async fn what_a_provider_names_is_noticed_also_while_it_is_read_for_the_first_time() {
    let stage = Stage::new("promises").await;
    let (interceptor, operator) = behind_an_interceptor(&stage).await;
    // Providers that are there at the start are read one by one, before anything else.
    operator.working().await;
    let ca = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": stage.namespace },
            "data": { "ca.crt": stage.simulator.ca_pem() },
        })
    };
    let naming = |name: &str, map: &str| {
        let mut document = stage.provider_document(name);
        document["spec"]["tls"]["caBundle"]["configMapRef"]["name"] = json!(map);
        document
    };
    let reading = interceptor.intercept(|seen| seen.resource == "configmaps" && seen.name == "first-ca", 0, 1, Effect::HoldAfter);
    stage.apply(&naming("first", "first-ca")).await.expect("the provider is accepted");
    interceptor.fired(reading).await;
    stage.apply(&ca("first-ca")).await.expect("the ConfigMap is accepted");
    // The watch tells of one after the other: when the second has come, so has the first.
    stage.apply(&ca("second-ca")).await.expect("the ConfigMap is accepted");
    stage.apply(&naming("second", "second-ca")).await.expect("the provider is accepted");
    stage.ready_provider("second").await;
    interceptor.release(reading);
    stage.ready_provider("first").await;
}

/// Promise 5. The API server fails the reading that a changed key asks for: the change must not be forgotten with it.
#[tokio::test]
async fn a_key_that_changed_is_read_again_when_the_first_reading_fails() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let another = "cafec0de-api-key-another-of-promises";
    add_key(&stage, "another", another, AccessRole::Writer).await;
    let reading = interceptor.intercept(|seen| seen.resource == "secrets" && seen.verb == "get", 0, 1, Effect::Answer(500));
    stage.secret("ibm-api-key", &[("apikey", another)]).await;
    interceptor.fired(reading).await;
    let rotated = stage.secrets().get("ibm-api-key").await.expect("there is one").metadata.resource_version;
    let is_used = |provider: &cloud_identity_operator::api::IdentityProvider| {
        let used = provider.status.as_ref().and_then(|status| status.credentials_version.as_ref());
        used.map(|version| &version.resource_version) == rotated.as_ref()
    };
    stage.provider_where(PROVIDER, "names the changed Secret", is_used).await;
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

/// Promise 1. One object is deleted while another that lists the same entry is created, as when a release is renamed.
#[tokio::test]
async fn a_redirect_uri_that_is_listed_anew_during_a_deletion_has_an_owner_afterwards() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("old", json!({ "redirectUris": [URI] })).await;
    stage.ready("old").await;
    sleep(LIST_IS_OLD).await;
    let reading = hold_next(&stage, held("app_id.redirect_uris.get")).await;
    delete_object(&stage, "old").await;
    stage.control.wait_for_fault(reading).await.expect("the list is read");
    stage.application("new", json!({ "redirectUris": [URI] })).await;
    stage.application_where("new", "is claimed", |object| !object.finalizers().is_empty()).await;
    stage.control.release(reading).await.expect("the simulator answers");
    stage.gone("old").await;
    stage.ready("new").await;
    stage
        .application_where("new", "owns the entry", |object| {
            object.status.as_ref().is_some_and(|status| status.added.redirect_uris.contains(URI))
        })
        .await;
    stage.delete("new").await;
    assert_eq!(stage.redirect_uris().await, Vec::<String>::new());
}

/// Promise 4. An annotation can be written by anybody.
#[tokio::test]
async fn an_object_that_never_got_to_the_tenant_inherits_no_redirect_uri() {
    let (stage, _interceptor, _operator) = intercepted("promises").await;
    stage.application("owner", json!({ "redirectUris": [URI] })).await;
    stage.ready("owner").await;
    let mut document = stage.application_document("forged", json!({ "providerRef": { "name": "nowhere" }, "redirectUris": [URI] }));
    document["metadata"]["annotations"] = json!({ "cloudidentity.dev/tenant": TENANT });
    stage.apply(&document).await.expect("the object is accepted");
    stage.reason("forged", "ProviderNotFound").await;
    stage.delete("owner").await;
    assert_eq!(stage.redirect_uris().await, Vec::<String>::new());
}

/// Promise 10. What woke an object is not forgotten with a pass that was cut short.
///
/// Traps: T28.
#[tokio::test]
async fn a_better_key_is_used_at_once_also_when_the_first_status_after_it_is_refused() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let reader = "cafec0de-api-key-reader-of-promises";
    add_readers_key(&stage, reader).await;
    stage.secret("ibm-api-key", &[("apikey", reader)]).await;
    let lacks_a_role =
        |provider: &_| stage::provider_condition(provider, "CanRegister").is_some_and(|(_, reason)| reason == "WriterRoleRequired");
    stage.provider_where(PROVIDER, "lacks a role", lacks_a_role).await;
    stage.application("storefront", json!({})).await;
    stage.reason("storefront", "WriterRoleRequired").await;
    interceptor.intercept(status_of("storefront"), 0, 1, Effect::Answer(409));
    stage.secret("ibm-api-key", &[("apikey", stage::API_KEY)]).await;
    stage.ready("storefront").await;
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

/// Promise 9. Two providers lead to one tenant, one of them with a key that may not write; their objects wait for the same turn.
#[tokio::test]
async fn another_providers_bad_key_fails_nobody_elses_redirect_uris() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    stage.secret("bad-key", &[("apikey", stage::API_KEY)]).await;
    let mut document = stage.provider_document("bad");
    document["spec"]["appId"]["iam"]["apiKey"]["secretRef"]["name"] = json!("bad-key");
    stage.apply(&document).await.expect("the provider is accepted");
    stage.ready_provider("bad").await;
    for (name, provider) in [("bad", "bad"), ("good", PROVIDER), ("other", PROVIDER)] {
        stage.application(name, json!({ "providerRef": { "name": provider } })).await;
        stage.ready(name).await;
    }
    let reader = "cafec0de-api-key-reader-of-promises";
    add_readers_key(&stage, reader).await;
    stage.secret("bad-key", &[("apikey", reader)]).await;
    let lacks_a_role =
        |provider: &_| stage::provider_condition(provider, "CanRegister").is_some_and(|(_, reason)| reason == "WriterRoleRequired");
    stage.provider_where("bad", "lacks a role", lacks_a_role).await;
    let records = ["bad", "good"].map(|name| interceptor.intercept(status_of(name), 0, 1, Effect::HoldBefore));
    for (name, record) in ["bad", "good"].into_iter().zip(records) {
        let uris = [format!("https://{name}.example.com/callback")];
        stage.patch_application(name, json!({ "redirectUris": uris })).await.expect("the change is accepted");
        interceptor.fired(record).await;
    }
    sleep(LIST_IS_OLD).await;
    let reading = hold_next(&stage, held("app_id.redirect_uris.get")).await;
    stage.patch_application("other", json!({ "redirectUris": ["https://other.example.com/callback"] })).await.expect("accepted");
    stage.control.wait_for_fault(reading).await.expect("the list is read");
    for record in records {
        interceptor.release(record);
        // The first one is to be the first in the queue, too.
        sleep(Duration::from_millis(500)).await;
    }
    stage.control.release(reading).await.expect("the simulator answers");
    stage.ready("good").await;
    stage.ready("other").await;
    stage.reason("bad", "WriterRoleRequired").await;
}

/// Promise 7. "At least one attempt per deletion", also when the list of redirect URIs cannot be written.
#[tokio::test]
async fn a_list_of_redirect_uris_that_cannot_be_written_does_not_keep_the_registration() {
    let stage = Stage::new("promises").await;
    stage.provider().await;
    let _operator = stage.operator_with(OperatorOptions { deletion_budget: "3s".into(), ..OperatorOptions::default() }).await;
    stage.application("storefront", json!({ "redirectUris": [URI] })).await;
    stage.ready("storefront").await;
    let body = r#"{"message":"no"}"#.into();
    let refused = Action::Answer { when: When::BeforeCommit, status: 400, headers: Default::default(), body };
    stage.control.inject(&Fault::every("app_id.redirect_uris.set", refused)).await.expect("the fault is taken");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await.len(), 0);
    let note = stage.event("storefront", "Orphaned").await;
    assert!(note.contains(URI) && !note.contains("the application"), "{note}");
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

/// Promise 4. The turn to write is long in coming: somebody else is served first, slowly, and a person edits the list meanwhile.
#[tokio::test]
async fn the_list_of_redirect_uris_is_fresh_when_it_is_written_however_long_the_turn_took() {
    let stage = Stage::new("promises").await;
    let mut document = stage.provider_document(PROVIDER);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 1000, "concurrency": 1 });
    stage.apply(&document).await.expect("the provider is accepted");
    let (interceptor, _operator) = behind_an_interceptor(&stage).await;
    stage.application("a", json!({})).await;
    stage.application("b", json!({})).await;
    stage.ready("a").await;
    let b = stage.ready("b").await.status.and_then(|status| status.client_id).expect("it is registered");
    let record = interceptor.intercept(status_of("a"), 0, 1, Effect::HoldBefore);
    let slow = hold_next(&stage, held("app_id.applications.get").path_contains(&b)).await;
    stage.patch_application("a", json!({ "redirectUris": ["https://a.example.com/callback"] })).await.expect("accepted");
    interceptor.fired(record).await;
    stage.patch_application("b", json!({ "displayName": "other" })).await.expect("accepted");
    stage.control.wait_for_fault(slow).await.expect("the slow call is under way");
    interceptor.release(record);
    sleep(LIST_IS_OLD).await;
    let mut list = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    list.insert("redirectUris".into(), json!(["https://person.example.com/callback"]));
    stage.control.set_redirect_uris(TENANT, &list).await.expect("the list is edited");
    stage.control.release(slow).await.expect("the simulator answers");
    stage.ready("a").await;
    let both = ["https://person.example.com/callback", "https://a.example.com/callback"];
    eventually("both entries are in the list", async || stage.redirect_uris().await == both).await;
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
