//! A `ClusterIdentityProvider` lets a namespace do what it lists, and nothing else.

use std::{collections::BTreeMap, time::Duration};

use cloud_identity_operator::api::ClusterIdentityProvider;
use identity_simulator::{ApplicationSeed, OAuthClientSeed, OidcServerSeed, RoleSeed, User, VerificationKey};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use stage::{Operator, OperatorOptions, Stage, TENANT, condition, token_condition, token_message};

use crate::fixtures::key_file;

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

/// A stage whose applications use a cluster provider. The credential lies in another namespace, the operator's own.
struct Shared {
    stage: Stage,
    _operator: Operator,
    home: String,
    provider: String,
}

impl Shared {
    async fn new(prefix: &str, spec: Value) -> Self {
        let mut stage = Stage::new(prefix).await;
        // What `Stage` made lies in the operator's namespace; the applications live in a fresh one.
        let home = std::mem::replace(&mut stage.namespace, stage.control_plane.create_namespace(prefix).await.expect("made"));
        let shared_by = format!("{home}-shared");
        let options = OperatorOptions {
            namespace: home.clone(),
            watch_namespaces: vec![stage.namespace.clone()],
            drift_interval: "2s".into(),
            ..OperatorOptions::default()
        };
        let operator = stage.operator_with(options).await;
        let shared = Self { stage, _operator: operator, home, provider: shared_by };
        shared.provide(spec).await;
        shared
    }

    /// Makes or changes the provider; `spec` is merged over the connection.
    async fn provide(&self, spec: Value) {
        let mut document = self.stage.provider_document(&self.provider);
        document["kind"] = json!("ClusterIdentityProvider");
        document["metadata"] = json!({ "name": self.provider });
        stage::merge(&mut document["spec"], spec);
        self.stage.apply(&document).await.expect("the provider is accepted");
    }

    async fn application(&self, name: &str, spec: Value) {
        let mut whole = json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": self.provider } });
        stage::merge(&mut whole, spec);
        self.stage.application(name, whole).await;
    }

    /// Calls that are made for an application, by operation; those that look after the provider itself are left out.
    async fn calls(&self) -> BTreeMap<String, u64> {
        let counts = self.stage.control.calls().await.expect("the simulator answers");
        let of_the_provider = ["iam.token", "app_id.applications.list", "app_id.scopes.get"];
        let received = counts.operations.into_iter().map(|(operation, count)| (operation, count.received));
        received.filter(|(operation, _)| !of_the_provider.contains(&operation.as_str())).collect()
    }

    async fn end(self) {
        let resource = kube::core::ApiResource::erase::<cloud_identity_operator::api::ClusterIdentityProvider>(&());
        let providers: Api<kube::core::DynamicObject> = Api::all_with(self.stage.client.clone(), &resource);
        providers.delete(&self.provider, &DeleteParams::default()).await.expect("deleted");
    }

    async fn label(&self, value: Value) {
        let namespaces: Api<Namespace> = Api::all(self.stage.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "tenant": value } } }));
        namespaces.patch(&self.stage.namespace, &PatchParams::default(), &patch).await.expect("labelled");
    }
}

/// Promises 4 and 10: adoption, roles and redirect URIs are closed unless the provider lists them, before any remote call.
///
/// Traps: T51.
#[tokio::test]
async fn what_a_cluster_provider_does_not_permit_is_refused_before_any_remote_call() {
    let shared = Shared::new("permits", json!({ "allowedNamespaces": { "from": "All" } })).await;
    let stage = &shared.stage;
    shared.application("plain", json!({})).await;
    stage.ready("plain").await;
    stage.delete("plain").await;
    let theirs = stage
        .control
        .add_application(TENANT, &ApplicationSeed { name: "legacy".into(), ..ApplicationSeed::default() })
        .await
        .expect("added");
    stage.control.add_role(TENANT, &RoleSeed { name: "shopper".into(), ..RoleSeed::default() }).await.expect("added");
    let calls = shared.calls().await;
    let wishes = [
        ("adopts", json!({ "adopt": { "clientId": theirs.client_id } })),
        ("roles", json!({ "roles": ["shopper"] })),
        ("redirects", json!({ "redirectUris": ["https://shop.example.com/callback"] })),
    ];
    for (name, wish) in &wishes {
        shared.application(name, wish.clone()).await;
        let refused = stage.reason(name, "NotPermitted").await;
        assert_eq!(condition(&refused, "Ready").map(|(status, _)| status), Some("False"), "{name}");
    }
    tokio::time::sleep(WINDOW).await;
    assert_eq!(shared.calls().await, calls, "nothing was asked of the service");
    let permits = json!({ "adoption": true, "roles": ["shopper"], "redirectUriPrefixes": ["https://shop.example.com"] });
    shared.provide(json!({ "allowedNamespaces": { "from": "All" }, "permits": permits })).await;
    for (name, _) in &wishes {
        stage.ready(name).await;
    }
    shared.application("elsewhere", json!({ "redirectUris": ["https://shop.example.com.evil.example/callback"] })).await;
    stage.reason("elsewhere", "NotPermitted").await;
    for name in ["adopts", "roles", "redirects", "elsewhere"] {
        stage.delete(name).await;
    }
    shared.end().await;
}

/// Promises 4 and 7: a namespace is allowed by name, by label or with all others; one that no longer is keeps its Secrets and can still delete.
///
/// Traps: T16, T18, T51.
#[tokio::test]
async fn a_namespace_that_is_no_longer_allowed_keeps_its_secret_and_can_still_delete() {
    let shared = Shared::new("allowed", json!({})).await;
    let stage = &shared.stage;
    shared.application("storefront", json!({})).await;
    stage.reason("storefront", "NamespaceNotAllowed").await;
    assert_eq!(shared.calls().await, BTreeMap::new(), "closed by default");
    shared.provide(json!({ "allowedNamespaces": { "from": "Listed", "names": ["another", shared.home] } })).await;
    shared.application("storefront", json!({ "displayName": "second look" })).await;
    stage.reason("storefront", "NamespaceNotAllowed").await;
    shared.provide(json!({ "allowedNamespaces": { "from": "Selected", "selector": { "matchLabels": { "tenant": "shop" } } } })).await;
    shared.label(json!("shop")).await;
    stage.ready("storefront").await;
    let values = stage.secret_values("storefront").await.expect("published");
    shared.label(Value::Null).await;
    stage.reason("storefront", "NamespaceNotAllowed").await;
    let calls = shared.calls().await;
    tokio::time::sleep(WINDOW * 2).await;
    assert_eq!(shared.calls().await, calls, "no drift check any more");
    assert_eq!(stage.secret_values("storefront").await, Some(values), "the Secret stays");
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await, [], "deletion still works");
    shared.end().await;
}

/// Promises 6 and 10: what was refused to a user is not sent again for half an hour, whatever comes and goes meanwhile: services lock users.
///
/// Traps: T28.
#[tokio::test]
async fn an_obstacle_that_comes_and_goes_sends_no_password_again_that_was_refused() {
    let chosen = json!({ "allowedNamespaces": { "from": "Selected", "selector": { "matchLabels": { "tenant": "shop" } } } });
    let shared = Shared::new("flapping", chosen).await;
    let stage = &shared.stage;
    shared.label(json!("shop")).await;
    let by_hand = ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() };
    let application = stage.control.add_application(TENANT, &by_hand).await.expect("added");
    let user = User { username: "ann@example.com".into(), password: "cafec0de-password-of-ann".into(), ..User::default() };
    stage.control.add_user(TENANT, &user).await.expect("added");
    let secret = application.secret.as_deref().expect("a secret");
    stage.secret("pair", &[("client_id", &application.client_id), ("client_secret", secret)]).await;
    stage.secret("ann", &[("username", "ann@example.com"), ("password", "cafec0de-wrong")]).await;
    let spec = json!({
        "providerRef": { "kind": "ClusterIdentityProvider", "name": shared.provider }, "credentials": { "secretRef": { "name": "pair" } },
        "grant": { "type": "Password", "password": { "secretRef": { "name": "ann" } } },
    });
    stage.token("user", spec).await;
    let refused = stage.token_reason("user", "InvalidGrant").await;
    let (said, status) = (token_message(&refused, "Ready").map(ToOwned::to_owned), refused.status.expect("a status"));
    let calls = stage.calls("app_id.token").await;
    for _ in 0..3 {
        shared.label(Value::Null).await;
        let away = stage.token_reason("user", "NamespaceNotAllowed").await;
        assert_eq!(token_condition(&away, "Fresh"), Some(("False", "InvalidGrant")), "what was said of the last attempt still stands");
        shared.label(json!("shop")).await;
        let back = stage.token_reason("user", "InvalidGrant").await;
        assert_eq!(token_message(&back, "Ready").map(ToOwned::to_owned), said);
        let now = back.status.expect("a status");
        assert_eq!((now.next_action_at, now.failures), (status.next_action_at.clone(), Some(1)));
    }
    assert_eq!(stage.calls("app_id.token").await, calls, "the same password is not sent again");
    stage.secret("ann", &[("username", "ann@example.com"), ("password", "cafec0de-password-of-ann")]).await;
    stage.token_ready("user").await;
    stage.tokens().delete("user", &DeleteParams::default()).await.expect("deleted");
    shared.end().await;
}

/// A cluster provider's private key signs for its own client. Without the permit nobody else has it sign: not by naming that very client in a
/// Secret of their own.
///
/// Traps: T51.
#[tokio::test]
async fn a_cluster_providers_key_signs_for_no_client_of_a_namespace_without_the_permit() {
    let shared = Shared::new("signer", json!({ "allowedNamespaces": { "from": "All" } })).await;
    let stage = &shared.stage;
    let public = VerificationKey { pem: Some(key_file("p256.pub.pem")), ..VerificationKey::default() };
    let client = OAuthClientSeed { client_id: "operators-own".into(), public_keys: vec![public], ..OAuthClientSeed::default() };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    for (name, key, value) in [("id", "client_id", "operators-own".to_owned()), ("key", "private_key", key_file("p256.pem"))] {
        let metadata = json!({ "name": name, "namespace": shared.home });
        let document = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": { key: value } });
        stage.apply(&document).await.expect("accepted");
    }
    let name = format!("{}-signer", shared.home);
    let provide = async |permits: bool| {
        let signs = json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": "key" } }, "algorithm": "ES256" });
        let issuer = format!("{}/tenants/main", stage.simulator.urls().oidc);
        let document = json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "ClusterIdentityProvider", "metadata": { "name": name },
            "spec": {
                "oidc": { "issuer": issuer, "credentials": { "secretRef": { "name": "id" } }, "clientAuthentication": signs },
                "allowedNamespaces": { "from": "All" }, "permits": { "accessTokens": permits },
                "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } },
            },
        });
        stage.apply(&document).await.expect("accepted");
    };
    provide(false).await;
    stage.secret("mine", &[("client_id", "operators-own")]).await;
    let provider = json!({ "kind": "ClusterIdentityProvider", "name": name });
    stage.token("honest", json!({ "providerRef": provider })).await;
    stage.token("sly", json!({ "providerRef": provider, "credentials": { "secretRef": { "name": "mine" } } })).await;
    for token in ["honest", "sly"] {
        stage.token_reason(token, "NotPermitted").await;
        assert!(stage.secret_values(token).await.is_none(), "{token}");
    }
    provide(true).await;
    for token in ["honest", "sly"] {
        stage.token_ready(token).await;
    }
    let providers: Api<ClusterIdentityProvider> = Api::all(stage.client.clone());
    providers.delete(&name, &DeleteParams::default()).await.expect("deleted");
    shared.end().await;
}
