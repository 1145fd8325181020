//! What a cluster must do for the operator's tests to mean anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A ServiceAccount, with the rights of a built-in ClusterRole in its namespace.
pub(crate) async fn create_service_account(control_plane: &ControlPlane, namespace: &str, name: &str, role: Option<&str>) {
    let accounts: Api<ServiceAccount> = Api::namespaced(control_plane.admin_client(), namespace);
    accounts.create(&PostParams::default(), &object(json!({ "metadata": { "name": name } }))).await.unwrap();
    let Some(role) = role else { return };
    let bindings: Api<RoleBinding> = Api::namespaced(control_plane.admin_client(), namespace);
    let binding = json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
    });
    bindings.create(&PostParams::default(), &object(binding)).await.unwrap();
    wait_for_rights(control_plane, namespace, name).await;
}

/// The authorizer learns of a binding through a watch.
async fn wait_for_rights(control_plane: &ControlPlane, namespace: &str, name: &str) {
    let secrets: Api<Secret> = Api::default_namespaced(client_of(control_plane, namespace, name).await);
    let started = Instant::now();
    while secrets.list(&ListParams::default()).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "{name} has got no rights");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn client_of(control_plane: &ControlPlane, namespace: &str, name: &str) -> Client {
    let lifetime = Duration::from_secs(3600);
    let path = control_plane.kubeconfig_for_service_account(namespace, name, lifetime).await.unwrap();
    client_from(&path).await
}

async fn client_from(path: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn secret_of(owner: &impl Resource<DynamicType = ()>) -> Secret {
    secret_with_owner(json!(owner.owner_ref(&()).unwrap()))
}

fn secret_with_owner(owner: Value) -> Secret {
    object(json!({ "metadata": { "name": "owned", "ownerReferences": [owner] } }))
}

async fn wait_until_deleted(secrets: Api<Secret>, secret: &Secret, patience: Duration) {
    let uid = secret.uid().unwrap();
    let gone = await_condition(secrets, "owned", conditions::is_deleted(&uid));
    tokio::time::timeout(patience, gone).await.expect("the owned Secret is collected").unwrap();
}

#[tokio::test]
async fn a_secret_goes_with_its_owner() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("garbage").await.unwrap();
    let client = control_plane.admin_client();
    let owners: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let owner = owners.create(&PostParams::default(), &object(json!({ "metadata": { "name": "owner" } }))).await.unwrap();
    let secret = secrets.create(&PostParams::default(), &secret_of(&owner)).await.unwrap();
    owners.delete("owner", &DeleteParams::default()).await.unwrap();
    wait_until_deleted(secrets, &secret, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_secret_goes_with_an_owner_of_a_new_kind_after_a_restart_of_the_controller_manager() {
    let control_plane = ControlPlane::start().await.unwrap();
    let namespace = control_plane.create_namespace("garbage").await.unwrap();
    let client = control_plane.admin_client();
    create_kind(&client).await;
    control_plane.restart_controller_manager().await.unwrap();

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.org", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
    let widget = object(json!({
        "apiVersion": "example.org/v1", "kind": "Widget", "metadata": { "name": "owner" },
    }));
    let widget = widgets.create(&PostParams::default(), &widget).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let owner = json!(widget.owner_ref(&kind).unwrap());
    let secret = secrets.create(&PostParams::default(), &secret_with_owner(owner)).await.unwrap();
    widgets.delete("owner", &DeleteParams::default()).await.unwrap();
    // Without the restart it would be up to 30 s.
    wait_until_deleted(secrets, &secret, Duration::from_secs(10)).await;
}

async fn create_kind(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    let definition = json!({
        "metadata": { "name": "widgets.example.org" },
        "spec": {
            "group": "example.org",
            "names": { "kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList" },
            "scope": "Namespaced",
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
        },
    });
    definitions.create(&PostParams::default(), &object(definition)).await.unwrap();
    let established = await_condition(definitions, "widgets.example.org", conditions::is_crd_established());
    established.await.unwrap();
}

#[tokio::test]
async fn a_deleted_namespace_ends_and_takes_its_objects_along() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("ending").await.unwrap();
    let client = control_plane.admin_client();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    secrets.create(&PostParams::default(), &object(json!({ "metadata": { "name": "left" } }))).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    let uid = namespaces.get(&namespace).await.unwrap().uid().unwrap();
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    let gone = await_condition(namespaces, &namespace, conditions::is_deleted(&uid));
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the namespace ends").unwrap();
    assert!(secrets.get_opt("left").await.unwrap().is_none());
}

#[tokio::test]
async fn a_service_account_has_the_rights_it_was_given_and_no_other() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("rights").await.unwrap();
    create_service_account(control_plane, &namespace, "stranger", None).await;
    create_service_account(control_plane, &namespace, "editor", Some("edit")).await;
    let stranger = client_of(control_plane, &namespace, "stranger").await;
    let editor = client_of(control_plane, &namespace, "editor").await;

    let refused = Api::<Secret>::default_namespaced(stranger).list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_forbidden()), "{refused}");
    assert!(Api::<Secret>::default_namespaced(editor.clone()).list(&ListParams::default()).await.is_ok());
    assert!(Api::<Secret>::namespaced(editor, "default").list(&ListParams::default()).await.is_err());
}

#[tokio::test]
async fn a_kubeconfig_is_for_its_owner_alone_and_for_its_namespace() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("kubeconfig").await.unwrap();
    let lifetime = Duration::from_secs(600);
    let path = control_plane.kubeconfig_for_service_account(&namespace, "default", lifetime).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client_from(&path).await.default_namespace(), namespace);
    let other = control_plane.kubeconfig_for_service_account(&namespace, "default", lifetime).await.unwrap();
    assert_ne!(path, other);
}

#[tokio::test]
async fn namespaces_with_the_same_prefix_differ() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let first = control_plane.create_namespace("same").await.unwrap();
    let second = control_plane.create_namespace("same").await.unwrap();
    assert_ne!(first, second);
    let accounts: Api<ServiceAccount> = Api::namespaced(control_plane.admin_client(), &first);
    assert!(accounts.get_opt("default").await.unwrap().is_some());
}

#[tokio::test]
async fn kubectl_and_helm_reach_the_cluster_and_the_server_knows_its_version() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let version = control_plane.admin_client().apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1."), "{}", version.git_version);
    for mut command in [control_plane.kubectl_command(), control_plane.helm_command()] {
        let arguments: &[&str] = match command.get_program() == control_plane.kubectl() {
            true => &["get", "namespace", "default", "--output=name"],
            false => &["list", "--all-namespaces"],
        };
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(control_plane.url().starts_with("https://127.0.0.1:"));
    assert!(control_plane.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
}
