//! The operator as its own process, under its own ServiceAccount with exactly the rights of the chart, on a real control plane beside the
//! identity simulator: for tests, the demo and the benchmarks.
//!
//! # Guarantees
//!
//! Everything ends with the value that started it. A [`Stage`] has a namespace, a simulator and a tenant of its own, so that tests run in
//! parallel on one control plane.

mod chronicle;
mod dice;
mod forbidden;
pub mod interceptor;
mod kubectl;
mod look;
mod operator;
mod tokens;
mod wait;

use std::{collections::BTreeMap, path::PathBuf, process::Output, time::Duration};

use cloud_identity_operator::{
    api::{AppIdApplication, Condition, IdentityProvider},
    controller::report,
};
use control_plane::ControlPlane;
use identity_simulator::{AccessRole, Control, KeySeed, Options, Seed, Simulator, TenantSeed};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use chronicle::{Chronicle, status_written_at};
pub use dice::Dice;
pub use forbidden::Forbidden;
pub use interceptor::{Effect, Interceptor, Seen};
pub use kubectl::{Said, documents, run};
pub use look::SecretWatch;
pub use operator::{Operator, OperatorOptions};
pub use tokens::{IAM, token_condition, token_message};
pub use wait::{PATIENCE, eventually, eventually_within};

/// Namespace of the chart's release.
pub const SYSTEM: &str = "cloud-identity-system";
/// ServiceAccount of the chart's release.
pub const SERVICE_ACCOUNT: &str = "cloud-identity-operator";
/// Tenant of every stage's simulator.
pub const TENANT: &str = "11111111-2222-4333-8444-555555555555";
/// API key of every stage's tenant.
pub const API_KEY: &str = "cafec0de-api-key-of-the-stage";
/// Name of the provider that [`Stage::provider`] makes.
pub const PROVIDER: &str = "appid";

/// What can go wrong on a stage.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

static CHART: OnceCell<()> = OnceCell::const_new();

/// A namespace, a simulator, and a tenant.
pub struct Stage {
    /// The control plane, shared by all tests of a binary.
    pub control_plane: &'static ControlPlane,
    /// The services.
    pub simulator: Simulator,
    /// Seeds, reads and breaks the services.
    pub control: Control,
    /// The namespace.
    pub namespace: String,
    /// Full rights, to play the user.
    pub client: Client,
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The operator's binary, beside the running program or where `CLOUD_IDENTITY_OPERATOR` says.
///
/// # Errors
///
/// When it was not built.
pub fn operator_binary() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("CLOUD_IDENTITY_OPERATOR") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let found = here.ancestors().skip(1).take(3).map(|directory| directory.join("cloud-identity-operator")).find(|path| path.is_file());
    found.ok_or_else(|| "the operator is not built: run `cargo build --workspace --bins` first".into())
}

/// Installs the chart once per control plane, with no Pod: the operator runs as a process under the chart's ServiceAccount.
///
/// # Errors
///
/// When helm fails.
pub async fn install_chart(control_plane: &'static ControlPlane) -> Result<(), Error> {
    CHART
        .get_or_try_init(|| async {
            helm(
                control_plane,
                &["install", "cloud-identity-operator", "--namespace", SYSTEM, "--create-namespace", "--set", "replicaCount=0"],
            )
            .await?;
            wait_for_crds(control_plane).await?;
            // The garbage collector notices new kinds only now and then.
            control_plane.restart_controller_manager().await?;
            Ok(())
        })
        .await
        .copied()
}

/// Waits until the API server serves our kinds.
///
/// # Errors
///
/// None so far.
///
/// # Panics
///
/// When it does not in time.
pub async fn wait_for_crds(control_plane: &ControlPlane) -> Result<(), Error> {
    let client = control_plane.admin_client();
    eventually("the CRDs are served", async || {
        let applications = Api::<AppIdApplication>::all(client.clone()).list(&Default::default()).await;
        let providers = Api::<IdentityProvider>::all(client.clone()).list(&Default::default()).await;
        applications.is_ok() && providers.is_ok()
    })
    .await;
    Ok(())
}

/// Runs helm with the chart of the repository as its last argument.
///
/// # Errors
///
/// When helm fails; with what it said.
pub async fn helm(control_plane: &ControlPlane, arguments: &[&str]) -> Result<Output, Error> {
    let mut command = tokio::process::Command::from(control_plane.helm_command());
    let (verb, rest) = arguments.split_at(2.min(arguments.len()));
    command.args(verb);
    if verb.first().is_some_and(|verb| ["install", "upgrade", "template"].contains(verb)) {
        command.arg(repository().join("charts/cloud-identity-operator"));
    }
    let output = command.args(rest).output().await?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

impl Stage {
    /// A stage on the shared control plane, with a tenant and everything a provider needs, but no provider yet.
    ///
    /// # Panics
    ///
    /// When it cannot be set up.
    pub async fn new(prefix: &str) -> Self {
        Self::with(prefix, Options::default()).await
    }

    /// A stage whose simulator is started differently.
    ///
    /// # Panics
    ///
    /// When it cannot be set up.
    pub async fn with(prefix: &str, options: Options) -> Self {
        let control_plane = ControlPlane::shared().await.expect("the control plane starts");
        install_chart(control_plane).await.expect("the chart is installed");
        Self::on(control_plane, prefix, options).await
    }

    /// A stage on a control plane where the chart is installed already.
    ///
    /// # Panics
    ///
    /// When it cannot be set up.
    pub async fn on(control_plane: &'static ControlPlane, prefix: &str, options: Options) -> Self {
        let namespace = control_plane.create_namespace(prefix).await.expect("the namespace is made");
        let simulator = Simulator::start(options).await.expect("the simulator starts");
        let control = simulator.control();
        control.seed(&seed(TENANT, API_KEY)).await.expect("the tenant is seeded");
        let stage = Self { control_plane, client: control_plane.admin_client(), simulator, control, namespace };
        stage.make_credentials().await;
        stage
    }

    async fn make_credentials(&self) {
        self.config_map("simulator-ca", &[("ca.crt", self.simulator.ca_pem())]).await;
        self.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    }

    /// Makes the provider `appid` for the stage's tenant.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn provider(&self) {
        self.apply(&self.provider_document(PROVIDER)).await.expect("the provider is accepted");
    }

    /// The document of a provider for the stage's tenant, with a budget that does not slow tests down.
    #[must_use]
    pub fn provider_document(&self, name: &str) -> Value {
        json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "appId": { "url": self.app_id_url(), "tenantId": TENANT, "iam": { "url": self.simulator.urls().iam, "apiKey": { "secretRef": { "name": "ibm-api-key" } } } },
                "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } },
                "budget": { "requestsPerSecond": 1000, "concurrency": 16 },
            }
        })
    }

    /// A client that trusts the services of the stage, and nobody else.
    ///
    /// # Panics
    ///
    /// When it cannot be built.
    #[must_use]
    pub fn http(&self) -> reqwest::Client {
        // Whoever was first has chosen the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let authority = reqwest::Certificate::from_pem(self.simulator.ca_pem().as_bytes()).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([authority]).build().expect("a client")
    }

    /// Address of the stage's App ID region.
    #[must_use]
    pub fn app_id_url(&self) -> String {
        self.simulator.urls().regions["us-south"].clone()
    }

    /// The document of an application.
    #[must_use]
    pub fn application_document(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({ "providerRef": { "name": PROVIDER } });
        merge(&mut whole, spec);
        json!({ "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AppIdApplication", "metadata": { "name": name, "namespace": self.namespace }, "spec": whole })
    }

    /// Makes an application; `spec` is merged over a reference to the stage's provider.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn application(&self, name: &str, spec: Value) {
        self.apply(&self.application_document(name, spec)).await.expect("the application is accepted");
    }

    /// Applies a document as a user would, with server-side apply.
    ///
    /// # Errors
    ///
    /// What the API server says.
    pub async fn apply(&self, document: &Value) -> Result<(), kube::Error> {
        let (name, namespace) = (document["metadata"]["name"].as_str().unwrap_or_default(), document["metadata"]["namespace"].as_str());
        let version = document["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = document["kind"].as_str().unwrap_or_default();
        let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
        let api: Api<kube::core::DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(document)).await.map(drop)
    }

    /// The applications of the namespace.
    #[must_use]
    pub fn applications(&self) -> Api<AppIdApplication> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The providers of the namespace.
    #[must_use]
    pub fn providers(&self) -> Api<IdentityProvider> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Opens a chronicle of the namespace's applications.
    pub async fn chronicle(&self) -> Chronicle {
        Chronicle::open(self.applications()).await
    }

    /// The Secrets of the namespace.
    #[must_use]
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes or changes a Secret of the user.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn secret(&self, name: &str, values: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = values.iter().copied().collect();
        let document =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": self.namespace }, "stringData": data });
        self.apply(&document).await.expect("the Secret is accepted");
    }

    /// Makes or changes a ConfigMap of the user.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn config_map(&self, name: &str, values: &[(&str, &str)]) {
        let data = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
            data: Some(data),
            ..Default::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        api.create(&PostParams::default(), &map).await.expect("the ConfigMap is accepted");
    }

    /// The values of a Secret as text; `None` when there is no such Secret.
    ///
    /// # Panics
    ///
    /// When the API server does not answer.
    pub async fn secret_values(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let secret = self.secrets().get_opt(name).await.expect("the API server answers")?;
        let text = |(key, value): (String, k8s_openapi::ByteString)| (key, String::from_utf8_lossy(&value.0).into_owned());
        Some(secret.data.unwrap_or_default().into_iter().map(text).collect())
    }

    /// Starts an operator for this stage's namespace.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn operator(&self) -> Operator {
        self.operator_with(OperatorOptions::default()).await
    }

    /// Starts an operator with other options.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn operator_with(&self, options: OperatorOptions) -> Operator {
        let kubeconfig = self
            .control_plane
            .kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, Duration::from_secs(3600))
            .await
            .expect("the ServiceAccount gets a token");
        let options =
            if options.watch_namespaces.is_empty() && !options.all_namespaces { options.watching(&self.namespace) } else { options };
        Operator::start(&operator_binary().expect("the operator is built"), &kubeconfig, &options).await.expect("the operator starts")
    }

    /// Waits until an application is ready, and returns it.
    ///
    /// # Panics
    ///
    /// When it is not in time.
    pub async fn ready(&self, name: &str) -> AppIdApplication {
        self.application_where(name, "is ready", |object| {
            condition(object, "Ready").is_some_and(|(status, _)| status == "True") && observed(object)
        })
        .await
    }

    /// Waits until an application's `Ready` has a reason, and returns it.
    ///
    /// # Panics
    ///
    /// When it has not in time.
    pub async fn reason(&self, name: &str, reason: &str) -> AppIdApplication {
        self.application_where(name, &format!("has the reason {reason}"), |object| {
            condition(object, "Ready").is_some_and(|(_, is)| is == reason) && observed(object)
        })
        .await
    }

    /// Waits until an application is as described, and returns it.
    ///
    /// # Panics
    ///
    /// When it is not in time; with the object as it is then.
    pub async fn application_where(&self, name: &str, what: &str, is: impl Fn(&AppIdApplication) -> bool) -> AppIdApplication {
        wait::object(self.applications(), name, what, is).await
    }

    /// Waits until a provider is as described, and returns it.
    ///
    /// # Panics
    ///
    /// When it is not in time; with the object as it is then.
    pub async fn provider_where(&self, name: &str, what: &str, is: impl Fn(&IdentityProvider) -> bool) -> IdentityProvider {
        wait::object(self.providers(), name, what, is).await
    }

    /// Waits until a provider is ready.
    ///
    /// # Panics
    ///
    /// When it is not in time; with the object as it is then.
    pub async fn ready_provider(&self, name: &str) -> IdentityProvider {
        self.provider_where(name, "is ready", |provider| provider_condition(provider, "Ready") == Some(("True", "Ready"))).await
    }

    /// Deletes an application and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When it is not in time.
    pub async fn delete(&self, name: &str) {
        self.applications().delete(name, &DeleteParams::default()).await.expect("the deletion is accepted");
        self.gone(name).await;
    }

    /// Waits until an application is gone.
    ///
    /// # Panics
    ///
    /// When it is not in time; with the object as it is then.
    pub async fn gone(&self, name: &str) {
        wait::gone(self.applications(), name).await;
    }

    /// Changes the spec of an application, as `kubectl patch` would: an object that is gone stays gone.
    ///
    /// # Errors
    ///
    /// What the API server says.
    pub async fn patch_application(&self, name: &str, spec: Value) -> Result<AppIdApplication, kube::Error> {
        let parameters = PatchParams { field_manager: Some("user".into()), ..PatchParams::default() };
        self.applications().patch(name, &parameters, &Patch::Merge(json!({ "spec": spec }))).await
    }

    /// The applications at the service, by name.
    ///
    /// # Panics
    ///
    /// When the simulator does not answer.
    pub async fn registered(&self) -> Vec<identity_simulator::Application> {
        self.control.applications(TENANT).await.expect("the simulator answers")
    }

    /// How many calls of an operation the services answered for this stage.
    ///
    /// # Panics
    ///
    /// When the simulator does not answer.
    pub async fn calls(&self, operation: &str) -> u64 {
        self.control.calls().await.expect("the simulator answers").of(operation).answered
    }
}

/// A tenant with an API key that may write.
#[must_use]
pub fn seed(tenant: &str, key: &str) -> Seed {
    Seed {
        tenants: vec![TenantSeed { id: tenant.into(), region: "us-south".into(), ..TenantSeed::default() }],
        keys: vec![KeySeed {
            id: format!("key-of-{tenant}"),
            value: key.into(),
            name: "stage".into(),
            access: [(tenant.to_owned(), AccessRole::Writer)].into(),
            ..KeySeed::default()
        }],
        ..Seed::default()
    }
}

/// Status and reason of a condition.
#[must_use]
pub fn condition<'a>(object: &'a AppIdApplication, type_: &str) -> Option<(&'a str, &'a str)> {
    status_and_reason(&object.status.as_ref()?.conditions, type_)
}

/// What `Ready` of an application says; nothing where it says nothing.
#[must_use]
pub fn message(object: &AppIdApplication) -> String {
    let ready = object.status.as_ref().and_then(|status| report::condition(&status.conditions, "Ready"));
    ready.map(|ready| ready.message.clone()).unwrap_or_default()
}

/// Status and reason of a provider's condition.
#[must_use]
pub fn provider_condition<'a>(object: &'a IdentityProvider, type_: &str) -> Option<(&'a str, &'a str)> {
    status_and_reason(&object.status.as_ref()?.conditions, type_)
}

fn status_and_reason<'a>(conditions: &'a [Condition], type_: &str) -> Option<(&'a str, &'a str)> {
    report::condition(conditions, type_).map(|condition| (condition.status.as_str(), condition.reason.as_str()))
}

/// Whether the status speaks of the present spec.
#[must_use]
pub fn observed(object: &AppIdApplication) -> bool {
    object.status.as_ref().is_some_and(|status| status.observed_generation == object.metadata.generation)
}

/// Merges `change` over `base`, objects member by member.
pub fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}
