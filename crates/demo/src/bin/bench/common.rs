//! What all parts share.

use std::{collections::BTreeMap, fmt::Debug, io::Write, path::PathBuf, time::Duration, time::Instant};

use cloud_identity_operator::api::{Condition, IdentityProvider};
use control_plane::{AuditEvents, ControlPlane, Mark};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stage::{Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, install_chart, operator_binary};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// So many of the user's requests are in flight, and of the client's that finds a ceiling.
pub const WORKERS: usize = 32;

/// Where everything is measured.
pub struct Bench {
    pub control_plane: &'static ControlPlane,
    pub client: Client,
    kubeconfig: PathBuf,
}

impl Bench {
    pub async fn set() -> Result<Self, Error> {
        let control_plane = ControlPlane::shared().await?;
        install_chart(control_plane).await?;
        let kubeconfig = control_plane.kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, Duration::from_secs(24 * 3600)).await?;
        Ok(Self { control_plane, client: control_plane.admin_client(), kubeconfig })
    }

    pub async fn operator(&self, namespace: &str) -> Result<Operator, Error> {
        let options = OperatorOptions {
            log_filter: "warn,cloud_identity_operator::controller::run=info".into(),
            drift_interval: "1h".into(),
            ..OperatorOptions::default()
        }
        .watching(namespace);
        Operator::start(&operator_binary()?, &self.kubeconfig, &options).await
    }

    pub fn mark(&self) -> Result<Mark, Error> {
        Ok(self.control_plane.audit().mark()?)
    }

    /// What the operator asked of the API server since then.
    pub fn requests(&self, since: Mark) -> Result<AuditEvents, Error> {
        Ok(self.control_plane.audit().since(since)?.by_service_account(SYSTEM, SERVICE_ACCOUNT))
    }

    /// Makes objects as a user would, as fast as the API server takes them.
    pub async fn create(&self, namespace: &str, documents: impl Iterator<Item = Value>) -> Result<(), Error> {
        self.create_evenly(namespace, documents, Duration::ZERO).await
    }

    /// The same, one each `pace`.
    pub async fn create_evenly(&self, namespace: &str, documents: impl Iterator<Item = Value>, pace: Duration) -> Result<(), Error> {
        let mut next = tokio::time::Instant::now();
        let paced = documents.map(|document| {
            next += pace;
            (next, document)
        });
        let parameters = PatchParams::apply("user").force();
        stream::iter(paced)
            .map(async |(at, document)| -> Result<(), Error> {
                tokio::time::sleep_until(at).await;
                let version = document["apiVersion"].as_str().unwrap_or_default();
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, document["kind"].as_str().unwrap_or_default()));
                let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
                api.patch(document["metadata"]["name"].as_str().unwrap_or_default(), &parameters, &Patch::Apply(&document)).await?;
                Ok(())
            })
            .buffer_unordered(WORKERS)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    /// How many writes a second the API server takes from one client: everything the operator could ever use. The Secrets are of the size
    /// of a published one.
    pub async fn calibrate(&self, namespace: &str, size: usize) -> Result<f64, Error> {
        const WRITES: usize = 2000;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PatchParams::apply("calibration").force();
        let value = "x".repeat(size);
        let begun = Instant::now();
        stream::iter(0..WRITES)
            .map(|n| {
                let (api, parameters, value) = (api.clone(), parameters.clone(), value.clone());
                async move {
                    let name = format!("calibration-{n}");
                    let secret = json!({
                        "apiVersion": "v1", "kind": "Secret", "stringData": { "value": value },
                        "metadata": { "name": name, "labels": { "calibration": "true" } },
                    });
                    api.patch(&name, &parameters, &Patch::Apply(&secret)).await
                }
            })
            .buffer_unordered(WORKERS)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        let seconds = begun.elapsed().as_secs_f64();
        api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("calibration=true")).await?;
        Ok(number(WRITES) / seconds)
    }

    pub async fn providers_ready(&self, namespace: &str, count: usize) {
        let api: Api<IdentityProvider> = Api::namespaced(self.client.clone(), namespace);
        stage::eventually("the providers are ready", async || {
            let list = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
            list.iter().filter(|provider| provider.status.as_ref().is_some_and(|status| is_ready(&status.conditions))).count() == count
        })
        .await;
    }

    /// Waits until so many objects are Ready, all of them at the same time.
    pub async fn all_ready<K>(&self, namespace: &str, total: usize, conditions: impl Fn(&K) -> Option<&[Condition]>) -> Result<(), Error>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let mut readiness: BTreeMap<String, bool> = BTreeMap::new();
        let mut ready = 0;
        let mut stream = Box::pin(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(object) = stream.try_next().await? {
            let is = conditions(&object).is_some_and(is_ready);
            let was = readiness.insert(object.meta().name.clone().unwrap_or_default(), is).unwrap_or(false);
            ready = ready + usize::from(is) - usize::from(was);
            if ready == total {
                return Ok(());
            }
        }
        Err("the watch ended".into())
    }
}

fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A count to reckon with.
pub fn number(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

/// Warnings and errors in the operator's log; the first are shown.
pub fn complaints(operator: &Operator) -> usize {
    let log = operator.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    lines.iter().take(3).for_each(|line| say(&format!("<!-- {line} -->")));
    lines.len()
}

/// What the operator uses, as the kernel counts it.
pub struct Usage {
    /// Seconds.
    pub cpu: f64,
    /// MiB.
    pub pss: f64,
    /// MiB.
    pub peak: f64,
}

impl Usage {
    pub fn of(operator: &Operator) -> Self {
        let mebibytes = |bytes: u64| number(bytes >> 10) / 1024.0;
        Self { cpu: operator.processor_time().as_secs_f64(), pss: mebibytes(operator.memory()), peak: mebibytes(operator.peak_memory()) }
    }
}
