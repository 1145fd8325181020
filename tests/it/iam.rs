//! Providers for IAM itself: who we are there, and that nothing else is made of them.

use std::time::Duration;

use cloud_identity_operator::api::{ClusterIdentityProvider, IdentityProvider, ProviderStatus};
use control_plane::ControlPlane;
use futures::future::join_all;
use identity_simulator::{Call, KeySeed, Options, Settings, Switches, switches::IamLifetimeFields};
use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::{DeleteParams, DynamicObject},
    core::ApiResource,
};
use serde_json::{Value, json};
use stage::{API_KEY, Operator, OperatorOptions, PATIENCE, SYSTEM, Stage, condition, eventually};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// A cluster of this module's own, for one operator at a time: a cluster provider is looked after by every operator of its cluster.
static CLUSTER: OnceCell<&'static ControlPlane> = OnceCell::const_new();
static TURN: Mutex<()> = Mutex::const_new(());

/// A stage whose operator lives in a namespace of its own, where cluster providers find their Secrets.
struct Scene {
    stage: Stage,
    home: String,
    _operator: Operator,
    _turn: MutexGuard<'static, ()>,
}

async fn cluster() -> &'static ControlPlane {
    let start = || async {
        let cluster: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await.expect("it starts")));
        let install = ["install", "cloud-identity-operator", "--namespace", SYSTEM, "--create-namespace", "--set", "replicaCount=0"];
        stage::helm(cluster, &install).await.expect("installed");
        stage::wait_for_crds(cluster).await.expect("served");
        cluster
    };
    CLUSTER.get_or_init(start).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Namespaced,
    Cluster,
}

const KINDS: [Kind; 2] = [Kind::Namespaced, Kind::Cluster];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Namespaced => "IdentityProvider",
            Self::Cluster => "ClusterIdentityProvider",
        }
    }
}

impl Scene {
    async fn new(prefix: &str) -> Self {
        let turn = TURN.lock().await;
        let mut stage = Stage::on(cluster().await, prefix, Options::default()).await;
        let namespace = stage.control_plane.create_namespace(prefix).await.expect("made");
        let home = std::mem::replace(&mut stage.namespace, namespace);
        stage.config_map("simulator-ca", &[("ca.crt", stage.simulator.ca_pem())]).await;
        stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
        let options =
            OperatorOptions { namespace: home.clone(), watch_namespaces: vec![stage.namespace.clone()], ..OperatorOptions::default() };
        let operator = stage.operator_with(options).await;
        Self { stage, home, _operator: operator, _turn: turn }
    }

    /// The name of a provider that no other test has, also in the whole cluster.
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.home)
    }

    async fn provide(&self, kind: Kind, name: &str, iam: Value) {
        let mut service = json!({ "url": self.stage.simulator.urls().iam, "apiKey": { "secretRef": { "name": "ibm-api-key" } } });
        stage::merge(&mut service, iam);
        let mut document = json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": kind.name(), "metadata": { "name": self.name(name) },
            "spec": { "iam": service, "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } } },
        });
        match kind {
            Kind::Namespaced => document["metadata"]["namespace"] = json!(self.stage.namespace),
            Kind::Cluster => document["spec"]["allowedNamespaces"] = json!({ "from": "All" }),
        }
        self.stage.apply(&document).await.expect("the provider is accepted");
    }

    /// A Secret where both kinds of provider find it.
    async fn key(&self, name: &str, value: &str) {
        self.stage.secret(name, &[("apikey", value)]).await;
        let document = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": self.home }, "stringData": { "apikey": value },
        });
        self.stage.apply(&document).await.expect("the Secret is accepted");
    }

    async fn status(&self, kind: Kind, name: &str) -> ProviderStatus {
        let (client, name) = (self.stage.client.clone(), self.name(name));
        let status = match kind {
            Kind::Namespaced => Api::<IdentityProvider>::namespaced(client, &self.stage.namespace).get(&name).await.map(|is| is.status),
            Kind::Cluster => Api::<ClusterIdentityProvider>::all(client).get(&name).await.map(|is| is.status),
        };
        status.expect("the provider is there").unwrap_or_default()
    }

    /// Waits until a provider says so, and returns its status.
    async fn says(&self, kind: Kind, name: &str, ready: (&str, &str)) -> ProviderStatus {
        let mut status = ProviderStatus::default();
        let until = tokio::time::Instant::now() + PATIENCE;
        while said(&status, "Ready") != Some(ready) {
            assert!(tokio::time::Instant::now() < until, "{} {name} never says {ready:?}: {status:?}", kind.name());
            tokio::time::sleep(Duration::from_millis(25)).await;
            status = self.status(kind, name).await;
        }
        status
    }

    /// The account of the stage's key.
    async fn account(&self) -> String {
        let keys = self.stage.control.keys().await.expect("the simulator answers");
        keys.into_iter().find(|key| key.value == API_KEY).expect("the key is there").account
    }

    async fn end(self, names: &[&str]) {
        let api: Api<DynamicObject> = Api::all_with(self.stage.client.clone(), &ApiResource::erase::<ClusterIdentityProvider>(&()));
        for name in names {
            api.delete(&self.name(name), &DeleteParams::default()).await.expect("deleted");
        }
    }
}

fn said<'a>(status: &'a ProviderStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.as_str(), condition.reason.as_str()))
}

/// Promise 10: a provider for IAM is ready with a key that works, and says whose key it is, whether the account was named or not.
/// Traps: T31.
#[tokio::test]
async fn a_provider_for_iam_is_ready_and_says_which_account_its_key_belongs_to() {
    let scene = Scene::new("iam-ready").await;
    let account = scene.account().await;
    for kind in KINDS {
        scene.provide(kind, "named", json!({ "accountId": account })).await;
        scene.provide(kind, "unnamed", json!({})).await;
        for name in ["named", "unnamed"] {
            let status = scene.says(kind, name, ("True", "Ready")).await;
            assert_eq!(status.tenant.as_ref(), Some(&account), "{kind:?} {name}");
            let identity = status.identity.clone().unwrap_or_default();
            assert_eq!(identity.account.as_ref(), Some(&account), "{kind:?} {name}");
            assert!(identity.iam_id.is_some_and(|id| id.starts_with("iam-ServiceId-")), "{kind:?} {name}");
            assert_eq!(status.host.as_ref(), Some(&scene.stage.simulator.urls().iam), "{kind:?} {name}");
            assert_eq!(said(&status, "CanRegister"), Some(("Unknown", "NotApplicable")), "{kind:?} {name}");
            assert_eq!((status.failures, status.next_action_at), (None, None), "{kind:?} {name}: nothing is left to do");
        }
    }
    assert_eq!(scene.stage.calls("iam.token").await, 1, "one key, one token");
    scene.end(&["named", "unnamed"]).await;
}

/// Promise 10: a key of another account than the one that was named is refused, and the account is not called proven.
#[tokio::test]
async fn a_key_of_another_account_is_a_mismatch_and_proves_nothing() {
    let scene = Scene::new("iam-account").await;
    let account = scene.account().await;
    let another =
        KeySeed { value: "cafec0de-of-another-account".into(), account: "fedcba9876543210fedcba9876543210".into(), ..KeySeed::default() };
    scene.stage.control.add_key(&another).await.expect("the key is made");
    scene.key("another-key", &another.value).await;
    for kind in KINDS {
        scene.provide(kind, "mismatch", json!({ "accountId": account, "apiKey": { "secretRef": { "name": "another-key" } } })).await;
        let status = scene.says(kind, "mismatch", ("False", "AccountMismatch")).await;
        assert_eq!(said(&status, "CanRegister"), Some(("False", "AccountMismatch")), "{kind:?}");
        assert_eq!(said(&status, "Stalled"), Some(("True", "AccountMismatch")), "{kind:?}");
        assert_eq!(status.identity.and_then(|identity| identity.account), Some(another.account.clone()), "{kind:?}: who we really are");
        assert_eq!(status.tenant, None, "{kind:?}: what the spec says is not proven");
        let message = &status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("there is one").message;
        assert!(message.contains(&another.account), "{kind:?}: {message}");
        assert_half_an_hour(&status.next_action_at.expect("it is looked at again").0, &format!("{kind:?}"));
    }
    // The key is replaced by one of the right account.
    scene.key("another-key", API_KEY).await;
    for kind in KINDS {
        let status = scene.says(kind, "mismatch", ("True", "Ready")).await;
        assert_eq!((status.tenant.as_ref(), status.failures), (Some(&account), None), "{kind:?}");
    }
    scene.end(&["mismatch"]).await;
}

fn assert_half_an_hour(next: &Timestamp, what: &str) {
    let ahead = next.duration_since(Timestamp::now()).as_secs();
    assert!((22 * 60..=36 * 60 + 1).contains(&ahead), "{what}: the next attempt is {ahead} s ahead");
}

/// Promise 10: a key that IAM does not know is said at once, tried again soon while the Secret is new, and works as soon as IAM knows it.
/// Traps: T58.
#[tokio::test]
async fn a_key_that_iam_does_not_know_is_said_and_works_once_it_is_known() {
    let scene = Scene::new("iam-unknown").await;
    scene.key("unknown-key", "cafec0de-nobody-knows-me").await;
    for kind in KINDS {
        scene.provide(kind, "unknown", json!({ "apiKey": { "secretRef": { "name": "unknown-key" } } })).await;
        let status = scene.says(kind, "unknown", ("False", "Unauthorized")).await;
        assert_eq!((status.tenant, status.identity), (None, None), "{kind:?}: nothing is known of us");
        let next = status.next_action_at.expect("it is tried again").0;
        assert!(next < Timestamp::now() + Duration::from_secs(120), "{kind:?}: a new Secret may hold a new key: {next}");
        let message = &status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("there is one").message;
        assert!(message.contains("BXNIM0415E"), "{kind:?}: {message}");
    }
    let known = KeySeed { value: "cafec0de-nobody-knows-me".into(), ..KeySeed::default() };
    scene.stage.control.add_key(&known).await.expect("the key is made");
    for kind in KINDS {
        scene.says(kind, "unknown", ("True", "Ready")).await;
    }
    scene.end(&["unknown"]).await;
}

/// Promise 10: an application that refers to a provider for IAM says that it is the wrong kind of provider, and nobody is asked for it.
#[tokio::test]
async fn an_application_on_a_provider_for_iam_is_a_mismatch_without_a_call() {
    let scene = Scene::new("iam-mismatch").await;
    for kind in KINDS {
        scene.provide(kind, "iam", json!({})).await;
        scene.says(kind, "iam", ("True", "Ready")).await;
    }
    scene.stage.control.clear_journal().await.expect("cleared");
    for (kind, name) in KINDS.into_iter().zip(["beside", "above"]) {
        scene.stage.application(name, json!({ "providerRef": { "kind": kind.name(), "name": scene.name("iam") } })).await;
        let object = scene.stage.reason(name, "ProviderServiceMismatch").await;
        assert_eq!(condition(&object, "Ready").map(|(status, _)| status), Some("False"), "{kind:?}");
        assert_eq!(condition(&object, "Registered").map(|(status, _)| status), Some("False"), "{kind:?}");
        assert!(object.meta().finalizers.as_ref().is_none_or(Vec::is_empty), "{kind:?}: nothing can be registered, so nothing is claimed");
        assert_eq!(scene.stage.secret_values(name).await, None, "{kind:?}");
    }
    // A window: nobody is asked.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.stage.all_calls().await, 0);
    for name in ["beside", "above"] {
        scene.stage.delete(name).await;
    }
    assert_eq!(scene.stage.all_calls().await, 0, "nor for a deletion");
    scene.end(&["iam"]).await;
}

/// Seconds that the management tokens live in the test of their end.
const LIFE: i64 = 10;
/// From when on another token is fetched: a fifth before the end.
const USED: f64 = 8.0;

/// One stage whose objects ask the service every second while its tokens live for ten.
async fn flaw_of_expiring_tokens(offset: i64, fields: IamLifetimeFields) -> Option<String> {
    let stage = Stage::new("expiring").await;
    let settings = Settings { iam_expires_in: LIFE, clock_offset_seconds: offset, ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
    stage.control.set_switches(&Switches { iam_lifetime_fields: fields, ..Switches::default() }).await.expect("set");
    let _operator = stage.operator_with(OperatorOptions { drift_interval: "1s".into(), ..OperatorOptions::default() }).await;
    stage.provider().await;
    let names = ["one", "two", "three", "four", "five"];
    join_all(names.map(|name| stage.application(name, json!({})))).await;
    join_all(names.map(|name| stage.ready(name))).await;
    let mints = |calls: &[Call]| calls.iter().filter(|call| call.operation == "iam.token").cloned().collect::<Vec<_>>();
    let mut calls = Vec::new();
    eventually("four tokens were fetched", async || {
        calls = stage.control.journal().await.expect("the simulator answers");
        mints(&calls).len() >= 4
    })
    .await;
    let refused: Vec<_> = calls.iter().filter(|call| call.status == Some(401)).collect();
    if let Some(call) = refused.first() {
        return Some(format!("{} calls were made with a token that was over, the first at {}", refused.len(), call.operation));
    }
    for pair in mints(&calls).windows(2) {
        let apart = pair[1].time.duration_since(pair[0].time).as_secs_f64();
        // Never earlier: one request at a time serves all who wait. Hardly later: every second somebody needs one; the machine may be busy.
        if !(USED..USED + 4.0).contains(&apart) {
            return Some(format!("two tokens were fetched {apart} s apart"));
        }
    }
    let drift = calls.iter().filter(|call| call.operation == "app_id.applications.get").count();
    (drift < 50).then(|| format!("only {drift} drift checks: the tokens were not needed"))
}

/// Promise 9: the token that all objects of a tenant share is replaced in time, by one request at a time, whatever the clocks say.
/// Traps: T31, T60.
#[tokio::test]
async fn a_shared_token_is_replaced_before_it_ends_by_one_request_whatever_the_clocks_say() {
    let positions = [
        (0, IamLifetimeFields::Both),
        (600, IamLifetimeFields::Both),
        (-600, IamLifetimeFields::Both),
        (600, IamLifetimeFields::Expiration),
        (-600, IamLifetimeFields::Neither),
    ];
    let flaws = join_all(positions.map(|(offset, fields)| async move {
        flaw_of_expiring_tokens(offset, fields).await.map(|flaw| format!("clock {offset} s ahead, {fields:?}: {flaw}"))
    }))
    .await;
    let flaws: Vec<String> = flaws.into_iter().flatten().collect();
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
}
