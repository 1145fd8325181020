//! Others on the tenant: what they have is never touched, and what objects share goes when the last of them goes.

use std::time::Duration;

use cloud_identity_operator::api::AppIdApplication;
use control_plane::ControlPlane;
use identity_simulator::{
    Access, Action, ApplicationEdit, ApplicationSeed, CallWait, Options, RoleSeed, Rule, Settings, Simulator, Switches, TenantSeed, When,
    switches::{RedirectUriOrder, ServerUrlSpelling},
};
use k8s_openapi::{api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};
use stage::{API_KEY, Operator, OperatorOptions, PROVIDER, SYSTEM, Stage, TENANT, condition, eventually};

/// Long enough to see that something does not happen: a pass takes a few milliseconds, a drift check comes every other second.
const WINDOW: Duration = Duration::from_secs(3);
/// A redirect URI that a person entered at the service.
const THEIRS: &str = "https://person.example.com/callback";

async fn with_drift(prefix: &str) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator_with(OperatorOptions { drift_interval: "2s".into(), ..OperatorOptions::default() }).await;
    stage.provider_ready().await;
    (stage, operator)
}

fn client_id(object: &AppIdApplication) -> String {
    object.status.as_ref().and_then(|status| status.client_id.clone()).expect("a client id")
}

fn document(entries: &[&str]) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("redirectUris".into(), json!(entries));
    document.insert("theirProperty".into(), json!({ "kept": [1, 2, 3] }));
    document
}

async fn application(stage: &Stage, id: &str) -> identity_simulator::Application {
    stage.registered().await.into_iter().find(|application| application.client_id == id).expect("it is registered")
}

/// Promise 4: Terraform, a person and another cluster use the tenant, with the same display name; nothing of theirs changes in the whole
/// life of an object.
///
/// Traps: T08, T10, T14.
#[tokio::test]
async fn nothing_of_others_on_the_tenant_is_touched_over_creation_change_drift_and_deletion() {
    let (stage, _operator) = with_drift("others").await;
    stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("added");
    for name in ["storefront", "storefront", "cio-aaaaaaaaaaaaaaaaaaaaaaaaaa", "Storefront"] {
        let seed = ApplicationSeed { name: name.into(), scopes: ["orders.read".to_owned()].into(), ..ApplicationSeed::default() };
        stage.control.add_application(TENANT, &seed).await.expect("added");
    }
    let uris = document(&["https://z.example.com/terraform", THEIRS, "https://a.example.com/other-cluster"]);
    stage.control.set_redirect_uris(TENANT, &uris).await.expect("set");
    let theirs = stage.registered().await;
    let untouched = async |when: &str| {
        let now = stage.registered().await;
        assert!(theirs.iter().all(|application| now.contains(application)), "{when}");
        let now = stage.control.redirect_uris(TENANT).await.expect("read");
        assert_eq!(now["theirProperty"], uris["theirProperty"], "{when}");
        let list = stage.redirect_uris().await;
        assert_eq!(json!(list[..3]), uris["redirectUris"], "{when}: their entries keep their order");
    };
    let spec = json!({ "scopes": ["orders.read"], "roles": ["shopper"], "redirectUris": ["https://shop.example.com/callback", THEIRS] });
    stage.application("storefront", spec).await;
    let id = client_id(&stage.ready("storefront").await);
    assert!(theirs.iter().all(|application| application.client_id != id));
    untouched("after creation").await;
    stage.application("storefront", json!({ "displayName": "Storefront", "scopes": [], "redirectUris": [THEIRS] })).await;
    stage.ready("storefront").await;
    untouched("after a change").await;
    let edit = ApplicationEdit { name: Some("renamed".into()), ..ApplicationEdit::default() };
    stage.control.edit_application(TENANT, &id, &edit).await.expect("edited");
    eventually("drift is repaired", async || application(&stage, &id).await.name == "Storefront").await;
    untouched("after drift").await;
    stage.delete("storefront").await;
    untouched("after deletion").await;
    assert_eq!((stage.registered().await, stage.redirect_uris().await.len()), (theirs.clone(), 3));
}

/// Promise 4: an entry that two objects list passes to the other one and goes with the last; one that a person added first never goes.
///
/// Traps: T08.
#[tokio::test]
async fn a_shared_redirect_uri_goes_with_the_last_object_that_lists_it() {
    let (stage, _operator) = with_drift("heirs").await;
    stage.control.set_redirect_uris(TENANT, &document(&[THEIRS])).await.expect("set");
    let shared = "https://shared.example.com/callback";
    stage.application("first", json!({ "redirectUris": [shared, THEIRS] })).await;
    let first = stage.ready("first").await;
    assert_eq!(first.status.expect("a status").added.redirect_uris, [shared.to_owned()].into());
    stage.application("second", json!({ "redirectUris": [shared] })).await;
    let second = stage.ready("second").await;
    assert!(second.status.expect("a status").added.redirect_uris.is_empty(), "it was there already");
    stage.application("first", json!({})).await;
    stage
        .application_where("second", "owns the entry now", |object| {
            object.status.as_ref().is_some_and(|status| status.added.redirect_uris.contains(shared))
        })
        .await;
    stage.ready("first").await;
    assert!(stage.event("first", "OwnershipPassed").await.contains("second"));
    assert_eq!(stage.redirect_uris().await, [THEIRS, shared]);
    stage.delete("first").await;
    assert_eq!(stage.redirect_uris().await, [THEIRS, shared]);
    stage.delete("second").await;
    assert_eq!(stage.redirect_uris().await, [THEIRS]);
}

/// Promises 4 and 6: thirty objects add entries to one list at once; none is lost, and one write serves many.
///
/// Traps: T08.
#[tokio::test]
async fn thirty_objects_that_add_redirect_uris_at_once_lose_none() {
    let stage = Stage::new("thirty").await;
    let settings = Settings { latency_milliseconds: 30, management_calls_per_second: 0, ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
    // So long that others come meanwhile, on a busy machine, too.
    let slow = Action::Delay { when: When::BeforeCommit, milliseconds: 250 };
    stage.control.inject(&Rule::every("app_id.redirect_uris.set", slow)).await.expect("accepted");
    stage.control.set_redirect_uris(TENANT, &document(&[THEIRS])).await.expect("set");
    stage.provider().await;
    let names: Vec<String> = (0..30).map(|number| format!("app-{number:02}")).collect();
    for name in &names {
        stage.application(name, json!({ "redirectUris": [format!("https://{name}.example.com/callback")] })).await;
    }
    let _operator = stage.operator().await;
    for name in &names {
        stage.ready(name).await;
    }
    assert_eq!(stage.redirect_uris().await.len(), 31);
    let writes = stage.calls("app_id.redirect_uris.set").await;
    assert!(writes < 20, "{writes} writes for 30 objects");
    for name in &names {
        stage.applications().delete(name, &DeleteParams::default()).await.expect("accepted");
    }
    for name in &names {
        stage.gone(name).await;
    }
    assert_eq!(stage.redirect_uris().await, [THEIRS]);
    assert_eq!(stage.control.redirect_uris(TENANT).await.expect("read"), document(&[THEIRS]));
}

/// Promise 4: scopes and roles that are missing are added; removed are only those that this object added.
#[tokio::test]
async fn only_scopes_and_roles_that_the_object_added_are_removed() {
    let (stage, _operator) = with_drift("scopes").await;
    let mut roles = Vec::new();
    for name in ["shopper", "auditor"] {
        roles.push(stage.control.add_role(TENANT, &RoleSeed { name: name.into(), ..RoleSeed::default() }).await.expect("added").id);
    }
    stage.application("storefront", json!({ "scopes": ["orders.read", "orders.write"], "roles": ["shopper"] })).await;
    let id = client_id(&stage.ready("storefront").await);
    let (scopes, assigned) = (["orders.read", "orders.write", "theirs"].map(String::from), roles.clone());
    let edit = ApplicationEdit { scopes: Some(scopes.into()), roles: Some(assigned.into_iter().collect()), ..ApplicationEdit::default() };
    stage.control.edit_application(TENANT, &id, &edit).await.expect("edited");
    stage.application("storefront", json!({ "scopes": ["orders.read"], "roles": [] })).await;
    let ready = stage.ready("storefront").await;
    let now = application(&stage, &id).await;
    assert_eq!(now.scopes, ["orders.read".to_owned(), "theirs".to_owned()].into());
    assert_eq!(now.roles, [roles[1].clone()].into(), "what somebody else assigned stays");
    let added = ready.status.expect("a status").added;
    assert_eq!((added.scopes, added.roles.is_empty()), (["orders.read".to_owned()].into(), true));
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    assert_eq!(application(&stage, &id).await.scopes.len(), 2, "absent means not managed");
}

/// Promises 4 and 10: a scope that a role holds is removed only when somebody asks for it by name.
#[tokio::test]
async fn a_scope_that_a_role_holds_is_removed_only_on_request() {
    let (stage, _operator) = with_drift("in-use").await;
    stage.application("storefront", json!({ "scopes": ["orders.read"] })).await;
    let id = client_id(&stage.ready("storefront").await);
    let access = vec![Access { application_id: id.clone(), scopes: ["orders.read".to_owned()].into() }];
    stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), access, ..RoleSeed::default() }).await.expect("added");
    stage.application("storefront", json!({ "scopes": [] })).await;
    stage.reason("storefront", "ScopeInUse").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(application(&stage, &id).await.scopes, ["orders.read".to_owned()].into());
    stage.patch("storefront", json!({ "metadata": { "annotations": { "cloudidentity.dev/remove-scope": "orders.read" } } })).await;
    stage.ready("storefront").await;
    assert!(application(&stage, &id).await.scopes.is_empty());
}

/// Promises 1 and 10: a role that does not exist is said so before anything is registered.
#[tokio::test]
async fn a_missing_role_is_found_before_anything_is_registered() {
    let (stage, _operator) = with_drift("roles").await;
    stage.application("storefront", json!({ "roles": ["shopper"] })).await;
    let waiting = stage.reason("storefront", "RoleNotFound").await;
    assert!(waiting.metadata.finalizers.is_none() && stage.registered().await.is_empty());
    let next = waiting.status.and_then(|status| status.next_action_at).expect("a next look").0;
    let wait = next.as_second() - jiff::Timestamp::now().as_second();
    assert!((200..=301).contains(&wait), "it is looked at again in about five minutes, not in {wait} s");
    let role = stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("added");
    stage.application("storefront", json!({ "roles": ["shopper"], "displayName": "again" })).await;
    let id = client_id(&stage.ready("storefront").await);
    assert_eq!(application(&stage, &id).await.roles, [role.id].into());
}

/// Promises 1, 2 and 4: a provider that leads to another tenant is not followed; when it leads back, all is as it was.
#[tokio::test]
async fn a_provider_that_leads_elsewhere_costs_no_secret_and_no_call_with_that_id() {
    let (stage, _operator) = with_drift("elsewhere").await;
    let other = "99999999-2222-4333-8444-555555555555";
    stage.control.add_tenant(&TenantSeed { id: other.into(), region: "us-south".into(), ..TenantSeed::default() }).await.expect("added");
    let key = stage.control.keys().await.expect("listed").remove(0);
    let access = [TENANT, other].map(|tenant| (tenant.to_owned(), identity_simulator::AccessRole::Writer));
    let edit = identity_simulator::KeyEdit { access: Some(access.into()), ..Default::default() };
    stage.control.edit_key(&key.id, &edit).await.expect("edited");
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    let values = stage.secret_values("storefront").await;
    stage.providers().delete(PROVIDER, &DeleteParams::default()).await.expect("deleted");
    stage.reason("storefront", "ProviderNotFound").await;
    let mut provider = stage.provider_document(PROVIDER);
    provider["spec"]["appId"]["tenantId"] = json!(other);
    stage.apply(&provider).await.expect("accepted");
    stage.reason("storefront", "ProviderIdentityChanged").await;
    tokio::time::sleep(WINDOW).await;
    let calls = stage.control.journal().await.expect("read");
    assert!(!calls.iter().any(|call| call.tenant.as_deref() == Some(other) && call.path.contains(&id)), "{calls:#?}");
    assert_eq!(stage.control.applications(other).await.expect("listed"), []);
    assert_eq!(stage.secret_values("storefront").await, values);
    stage.providers().delete(PROVIDER, &DeleteParams::default()).await.expect("deleted");
    stage.provider().await;
    assert_eq!(client_id(&stage.ready("storefront").await), id);
    assert_eq!((stage.secret_values("storefront").await, stage.registered().await.len()), (values, 1));
}

/// Promise 6: a suspended object is left alone, at the service and in the cluster; afterwards it catches up.
#[tokio::test]
async fn a_suspended_object_makes_no_call_and_no_write_and_catches_up_later() {
    let (stage, _operator) = with_drift("suspend").await;
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    let values = stage.secret_values("storefront").await;
    stage.application("storefront", json!({ "suspend": true })).await;
    let suspended = stage.reason("storefront", "Suspended").await;
    assert_eq!(condition(&suspended, "Ready").map(|(status, _)| status), Some("True"));
    let (calls, mark) = (stage.all_calls().await, stage.mark());
    stage.patch_secret("storefront", json!({ "stringData": { "secret": "cafec0de-edited" } })).await;
    let edit = ApplicationEdit { name: Some("renamed".into()), ..ApplicationEdit::default() };
    stage.control.edit_application(TENANT, &id, &edit).await.expect("edited");
    tokio::time::sleep(WINDOW).await;
    assert_eq!((stage.all_calls().await, stage.writes_since(mark, "secrets")), (calls, 0));
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    eventually("Secret and name are put back", async || {
        stage.secret_values("storefront").await == values && application(&stage, &id).await.name == "storefront"
    })
    .await;
}

/// Promises 4 and 6: what is changed behind our back is put back, whatever order the service answers in; then nothing is written any more.
///
/// Traps: T44, T46.
#[tokio::test]
async fn drift_is_put_back_and_without_drift_nothing_is_written() {
    let (stage, _operator) = with_drift("drift").await;
    stage.control.set_redirect_uris(TENANT, &document(&[THEIRS])).await.expect("set");
    let role = stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("added");
    let uris = ["https://b.example.com/cb", "https://a.example.com/cb"];
    let scopes = ["b", "a", "c"].map(String::from);
    stage.application("storefront", json!({ "scopes": scopes, "roles": ["shopper"], "redirectUris": uris })).await;
    let id = client_id(&stage.ready("storefront").await);
    let right = application(&stage, &id).await;
    let edit = ApplicationEdit {
        name: Some("renamed".into()),
        scopes: Some(["theirs".to_owned()].into()),
        roles: Some([].into()),
        ..ApplicationEdit::default()
    };
    stage.control.edit_application(TENANT, &id, &edit).await.expect("edited");
    stage.control.set_redirect_uris(TENANT, &document(&["https://new.example.com/theirs", uris[0], THEIRS])).await.expect("set");
    eventually("everything is put back", async || {
        let now = application(&stage, &id).await;
        now.name == right.name
            && right.scopes.is_subset(&now.scopes)
            && now.roles == [role.id.clone()].into()
            && stage.redirect_uris().await.len() == 4
    })
    .await;
    assert!(application(&stage, &id).await.scopes.contains("theirs"));
    assert_eq!(stage.redirect_uris().await, ["https://new.example.com/theirs", uris[0], THEIRS, uris[1]]);
    stage.ready("storefront").await;
    // The same entries in another order are no drift, nor is what the service fills in or spells differently.
    let mut shuffled = document(&[uris[1], THEIRS, "https://new.example.com/theirs", uris[0]]);
    shuffled.insert("filledIn".into(), json!({ "wildcards": false, "limit": 100 }));
    stage.control.set_redirect_uris(TENANT, &shuffled).await.expect("set");
    let spelling = Switches {
        redirect_uri_order: RedirectUriOrder::Sorted,
        server_url_spelling: ServerUrlSpelling::SmallA,
        ..stage.control.switches().await.expect("the simulator answers")
    };
    stage.control.set_switches(&spelling).await.expect("set");
    let (looks, changes) = (stage.calls("app_id.applications.get").await, stage.remote_changes().await);
    eventually("the check that put things back has ended", async || stage.calls("app_id.applications.get").await > looks).await;
    let (looks, mark) = (stage.calls("app_id.applications.get").await, stage.mark());
    eventually("two more checks were made", async || stage.calls("app_id.applications.get").await >= looks + 2).await;
    assert_eq!(stage.remote_changes().await, changes);
    assert_eq!(
        (stage.writes_since(mark, "appidapplications"), stage.writes_since(mark, "secrets"), stage.writes_since(mark, "events")),
        (0, 0, 0)
    );
}

/// Promises 4 and 10: a tenant that is full refuses with a reason; nothing is removed to make room.
///
/// Traps: T41.
#[tokio::test]
async fn a_full_tenant_refuses_with_a_reason_and_nothing_is_removed_to_make_room() {
    let (stage, _operator) = with_drift("full").await;
    let theirs = stage
        .control
        .add_application(TENANT, &ApplicationSeed { name: "legacy".into(), ..ApplicationSeed::default() })
        .await
        .expect("added");
    stage.control.set_settings(&Settings { applications_per_tenant: 1, ..Settings::default() }).await.expect("set");
    stage.application("storefront", json!({})).await;
    stage
        .application_where("storefront", "was refused", |object| {
            condition(object, "Registered").is_some_and(|(status, reason)| status == "False" && reason == "LimitReached")
        })
        .await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.registered().await, [theirs]);
    assert_eq!(stage.calls("app_id.applications.create").await, 1, "a refusal is not a loop");
    stage.control.set_settings(&Settings::default()).await.expect("set");
    stage.application("storefront", json!({ "displayName": "again" })).await;
    stage.ready("storefront").await;
    assert_eq!(stage.registered().await.len(), 2);
}

/// A cluster of its own. Its servers end with the process.
async fn another_cluster() -> &'static ControlPlane {
    let cluster: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await.expect("it starts")));
    install(cluster).await;
    cluster.restart_controller_manager().await.expect("it restarts");
    cluster
}

async fn install(cluster: &'static ControlPlane) {
    stage::helm(cluster, &["install", "cloud-identity-operator", "--namespace", SYSTEM, "--create-namespace", "--set", "replicaCount=0"])
        .await
        .expect("installed");
    let applications = Api::<AppIdApplication>::all(cluster.admin_client());
    eventually("the CRDs are served", async || applications.list(&ListParams::default()).await.is_ok()).await;
}

/// A stage on another cluster that uses the services and the namespace's name of `first`.
async fn twin(first: &Stage, cluster: &'static ControlPlane) -> Stage {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": first.namespace } })).expect("valid");
    Api::all(cluster.admin_client()).create(&PostParams::default(), &namespace).await.expect("made");
    let simulator = Simulator::start(Options::default()).await.expect("it starts");
    let control = first.simulator.control();
    let stage = Stage { control_plane: cluster, client: cluster.admin_client(), simulator, control, namespace: first.namespace.clone() };
    stage.config_map("simulator-ca", &[("ca.crt", first.simulator.ca_pem())]).await;
    stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    stage.apply(&first.provider_document(PROVIDER)).await.expect("accepted");
    stage
}

/// Promise 4: two clusters with the same namespace, name and display name on one tenant keep apart.
///
/// Traps: T08.
#[tokio::test]
async fn two_clusters_with_the_same_objects_on_one_tenant_keep_apart() {
    let (first, _operator) = with_drift("twins").await;
    let second = twin(&first, another_cluster().await).await;
    let _other = second.operator_with(OperatorOptions { drift_interval: "2s".into(), ..OperatorOptions::default() }).await;
    const ONE: &str = "https://one.example.com/callback";
    const TWO: &str = "https://two.example.com/callback";
    // One after the other: two clusters that write the list in the same moment are the documented exception.
    first.application("storefront", json!({ "scopes": ["orders.read"], "redirectUris": [ONE] })).await;
    let one = client_id(&first.ready("storefront").await);
    second.application("storefront", json!({ "scopes": ["orders.read"], "redirectUris": [TWO] })).await;
    let two = client_id(&second.ready("storefront").await);
    assert_ne!(one, two);
    assert_eq!(first.redirect_uris().await, [ONE, TWO]);
    let theirs = application(&first, &two).await;
    first.application("storefront", json!({ "displayName": "renamed", "scopes": ["orders.write"], "redirectUris": [ONE] })).await;
    first.ready("storefront").await;
    assert_eq!(application(&first, &two).await, theirs);
    assert_eq!(first.redirect_uris().await, [ONE, TWO]);
    first.delete("storefront").await;
    assert_eq!(first.registered().await, [theirs]);
    assert_eq!(first.redirect_uris().await, [TWO], "the other cluster's entry stays");
    // The other cluster looks once more: what it writes within two seconds of a look may be behind, which is the documented exception.
    first.control.clear_journal().await.expect("cleared");
    first.control.wait_for_calls(&CallWait::answered("app_id.redirect_uris.get", 1)).await.expect("it looks");
    assert_eq!(client_id(&second.ready("storefront").await), two);
    second.delete("storefront").await;
    assert_eq!(first.registered().await, []);
    assert_eq!(first.redirect_uris().await, Vec::<String>::new());
}

/// Promises 2 and 7: deleting a CRD is refused; uninstalling the chart keeps objects, Secrets and registrations; installing it again goes on.
///
/// Traps: T20, T55.
#[tokio::test]
async fn neither_uninstalling_the_chart_nor_deleting_a_crd_costs_a_registration() {
    let first = Stage::new("uninstall").await;
    let cluster = another_cluster().await;
    let stage = twin(&first, cluster).await;
    let operator = stage.operator().await;
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.admin_client());
    let ours = async || {
        let all = definitions.list(&ListParams::default()).await.expect("listed");
        all.items
            .into_iter()
            .map(|definition| definition.name_any())
            .filter(|name| name.ends_with(".cloudidentity.dev"))
            .collect::<Vec<_>>()
    };
    let names = ours().await;
    assert_eq!(names.len(), 4);
    let refused = async || {
        for name in &names {
            let error = definitions.delete(name, &DeleteParams::default()).await.expect_err("it is guarded").to_string();
            assert!(error.contains("cloudidentity.dev/allow-delete"), "{error}");
        }
    };
    refused().await;
    assert!(operator.stop().await.success());
    stage::helm(cluster, &["uninstall", "cloud-identity-operator", "--namespace", SYSTEM, "--wait"]).await.expect("uninstalled");
    refused().await;
    assert_eq!(ours().await, names);
    assert_eq!(client_id(&stage.applications().get("storefront").await.expect("it is still there")), id);
    assert!(stage.secret_values("storefront").await.is_some());
    assert_eq!(first.registered().await.len(), 1);
    let other = cluster.create_namespace("usable").await.expect("the cluster is usable");
    let namespaces: Api<Namespace> = Api::all(cluster.admin_client());
    namespaces.delete(&other, &DeleteParams::default()).await.expect("accepted");
    eventually("namespaces can be deleted", async || namespaces.get_opt(&other).await.expect("answered").is_none()).await;
    install(cluster).await;
    let _operator = stage.operator().await;
    stage.delete("storefront").await;
    assert_eq!(first.registered().await, []);
    let allow = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/allow-delete": "true" } } }));
    for name in &names {
        definitions.patch(name, &PatchParams::default(), &allow).await.expect("annotated");
        definitions.delete(name, &DeleteParams::default()).await.expect("allowed now");
    }
}
