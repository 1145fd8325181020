//! The chart: what it renders, and that its rights are enough and no more.

use std::time::Duration;

use control_plane::{ControlPlane, Mark};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use stage::{Operator, OperatorOptions, Stage, helm, operator_binary, repository, run, wait_for_crds};

#[tokio::test]
async fn the_chart_renders_lints_and_refuses_what_contradicts_itself() {
    let stage = Stage::new("chart").await;
    let mut command = std::process::Command::new("bash");
    command.arg(repository().join("hack/check-chart.sh")).envs(
        stage.control_plane.helm_command().get_envs().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value.to_owned()))),
    );
    command.env("HELM", stage.control_plane.helm());
    let said = run(command, "").await;
    assert!(said.success, "{}{}", said.output, said.errors);
}

/// The operator as the release of a chart runs it: under its ServiceAccount, in its namespace, with an election.
async fn operator_of(stage: &Stage, release_namespace: &str, account: &str, options: OperatorOptions) -> Operator {
    let kubeconfig = stage
        .control_plane
        .kubeconfig_for_service_account(release_namespace, account, Duration::from_secs(3600))
        .await
        .expect("the ServiceAccount gets a token");
    let options = OperatorOptions { namespace: release_namespace.to_owned(), leader_election: true, ..options };
    Operator::start(&operator_binary().expect("the operator is built"), &kubeconfig, &options).await.expect("the operator starts")
}

/// A whole story: everything that an application can ask for, a change, a repair, a deletion.
async fn story(stage: &Stage) {
    stage.provider().await;
    stage.application("storefront", json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })).await;
    stage.ready("storefront").await;
    stage.application("storefront", json!({ "redirectUris": [], "secret": { "layout": "OAuth" } })).await;
    stage.ready("storefront").await;
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the Secret goes");
    stage::eventually("the Secret is back", async || {
        stage.secret_values("storefront").await.is_some_and(|values| values.contains_key("client_id"))
    })
    .await;
    stage.delete("storefront").await;
    assert!(stage.registered().await.is_empty());
}

fn refusals(stage: &Stage, since: Mark, release_namespace: &str, account: &str) -> String {
    let events = stage.control_plane.audit().since(since).expect("the audit log can be read");
    let events = events.by_service_account(release_namespace, account);
    assert!(!events.is_empty());
    events.only(|event| event.response_code == 403 || event.response_code == 401).to_string()
}

async fn holder(stage: &Stage, namespace: &str) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), namespace);
    let lease = leases.get("cloud-identity-operator").await.expect("the lease is there");
    lease.spec.and_then(|spec| spec.holder_identity)
}

/// What the account may do, as kubectl tells it, has no verb that destroys.
async fn may_not_delete(stage: &Stage, namespace: &str, account: &str) {
    let list = stage.kubectl(&["auth", "can-i", "--list", "--as", account, "--namespace", namespace]).await;
    assert!(list.success, "{}", list.errors);
    for verb in ["delete", "deletecollection", "escalate", "bind", "impersonate", "*"] {
        let line = list
            .output
            .lines()
            .find(|line| line.contains(&format!("[{verb}]")) || line.contains(&format!(" {verb} ")) || line.contains(&format!(" {verb}]")));
        assert!(line.is_none_or(|line| line.contains("selfsubject")), "{verb}: {line:?}");
    }
    for (resource, mode) in [
        ("secrets", "delete"),
        ("appidapplications", "delete"),
        ("pods", "create"),
        ("namespaces", "delete"),
        ("secrets", "deletecollection"),
    ] {
        let said = stage.kubectl(&["auth", "can-i", mode, resource, "--as", account, "--namespace", namespace]).await;
        assert!(said.output.starts_with("no"), "{mode} {resource}: {}", said.output);
    }
}

/// Least rights: Roles in the namespaces named are enough, with the election on, and nothing is tried that they do not allow.
#[tokio::test]
async fn in_one_namespace_its_roles_are_enough_for_a_whole_story() {
    let stage = Stage::new("chart").await;
    let home = stage.control_plane.create_namespace("release").await.expect("the namespace is made");
    let account = format!("{home}-cloud-identity-operator");
    let watched = format!("watchNamespaces={{{}}}", stage.namespace);
    let values = ["crds.install=false", "replicaCount=0", "clusterProviders.enabled=false", "allowLocalAddresses=true", &watched];
    let mut arguments = vec!["install", &home, "--namespace", &home];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    helm(stage.control_plane, &arguments).await.expect("a second release is installed");

    let since = stage.control_plane.audit().mark().expect("the audit log can be read");
    let options = OperatorOptions { arguments: vec!["--cluster-providers=false".into()], ..OperatorOptions::default() };
    let operator = operator_of(&stage, &home, &account, options.watching(&stage.namespace)).await;
    story(&stage).await;
    assert!(holder(&stage, &home).await.is_some_and(|holder| !holder.is_empty()), "it leads by the lease in its own namespace");
    assert!(operator.stop().await.success());
    assert_eq!(holder(&stage, &home).await.as_deref(), Some(""), "the lease is given back");
    assert_eq!(refusals(&stage, since, &home, &account), "", "nothing was tried that the Roles do not allow");
    let user = format!("system:serviceaccount:{home}:{account}");
    may_not_delete(&stage, &stage.namespace, &user).await;
    let elsewhere = stage.kubectl(&["auth", "can-i", "get", "secrets", "--as", &user, "--namespace", "default"]).await;
    assert!(elsewhere.output.starts_with("no"), "{}", elsewhere.output);
    helm(stage.control_plane, &["uninstall", &home, "--namespace", &home]).await.expect("the second release goes");
    assert!(stage.applications().list(&Default::default()).await.is_ok(), "the kinds stay");
}

/// The Pod fits a namespace that enforces restricted pod security; a privileged one does not.
#[tokio::test]
async fn the_pod_satisfies_restricted_pod_security() {
    let stage = Stage::new("chart").await;
    let home = stage.control_plane.create_namespace("restricted").await.expect("the namespace is made");
    let label = Patch::Merge(
        json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" } } }),
    );
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    namespaces.patch(&home, &PatchParams::default(), &label).await.expect("the label is taken");
    let watched = format!("watchNamespaces={{{}}}", stage.namespace);
    let arguments = ["install", &home, "--namespace", &home, "--set", "crds.install=false", "--set", "replicaCount=0", "--set", &watched];
    helm(stage.control_plane, &arguments).await.expect("a second release is installed");
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), &home);
    let deployment = deployments.get(&format!("{home}-cloud-identity-operator")).await.expect("the Deployment is there");
    let template = serde_json::to_value(deployment.spec.expect("a spec").template).expect("JSON");
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "tried", "namespace": home, "labels": template["metadata"]["labels"] }, "spec": template["spec"] });
    let create = ["create", "--dry-run=server", "--namespace", &home, "--filename", "-"];
    stage.kubectl_with(&create, &pod.to_string()).await.quietly();
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = stage.kubectl_with(&create, &pod.to_string()).await;
    assert!(!refused.success && refused.errors.contains("violates PodSecurity"), "{}", refused.errors);
    helm(stage.control_plane, &["uninstall", &home, "--namespace", &home]).await.expect("the second release goes");
}

/// In all namespaces, with the election on: on a control plane of its own, since it would take care of everybody's objects.
/// Uninstalling it with live objects leaves them, their Secrets and their registrations.
///
/// Traps: T20, T55.
#[tokio::test]
async fn in_all_namespaces_its_rights_are_enough_and_uninstalling_leaves_everything() {
    // It ends with the process; its API server is stopped below.
    let control_plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await.expect("the control plane starts")));
    let home = "operators";
    let account = "cloud-identity-operator";
    let install = ["install", account, "--namespace", home, "--create-namespace", "--set", "replicaCount=0"];
    helm(control_plane, &install).await.expect("the chart is installed");
    wait_for_crds(control_plane).await.expect("the kinds are served");
    control_plane.restart_controller_manager().await.expect("it starts again");
    let stage = Stage::on(control_plane, "chart", identity_simulator::Options::default()).await;
    let since = control_plane.audit().mark().expect("the audit log can be read");
    let options = OperatorOptions { all_namespaces: true, ..OperatorOptions::default() };
    let operator = operator_of(&stage, home, account, options).await;
    story(&stage).await;
    may_not_delete(&stage, &stage.namespace, &format!("system:serviceaccount:{home}:{account}")).await;
    stage.application("kept", json!({})).await;
    stage.ready("kept").await;
    assert!(operator.stop().await.success());
    assert_eq!(holder(&stage, home).await.as_deref(), Some(""), "the lease is given back");
    assert_eq!(refusals(&stage, since, home, account), "", "nothing was tried that the ClusterRole does not allow");

    helm(control_plane, &["uninstall", account, "--namespace", home]).await.expect("the release goes");
    let kept = stage.applications().get("kept").await.expect("the object is still there");
    assert!(kept.metadata.deletion_timestamp.is_none());
    assert!(stage.secret_values("kept").await.is_some());
    assert_eq!(stage.registered().await.len(), 1);
    let guarded = stage.kubectl(&["delete", "crd", "appidapplications.cloudidentity.dev"]).await;
    assert!(!guarded.success && guarded.errors.contains("cloudidentity.dev/allow-delete"), "{}", guarded.errors);
    helm(control_plane, &install).await.expect("the chart is installed again");
    control_plane.kill_api_server().expect("it runs");
}
