//! `make bench`: a thousand applications on the real control plane, counted and timed from outside the operator.
//!
//! The simulator answers after 20 ms, its rate limit is off, and the providers' budget is raised: what is measured is the operator.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use clap::Parser;
use cloud_identity_operator::api::AppIdApplication;
use control_plane::ControlPlane;
use futures::{StreamExt, TryStreamExt, stream};
use identity_simulator::{Options, Simulator};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use stage::{API_KEY, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, install_chart, operator_binary, seed};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures the operator.
#[derive(Debug, Parser)]
struct Arguments {
    /// Tenants.
    #[arg(long, default_value_t = 5)]
    tenants: usize,
    /// Applications of each tenant (App ID allows 200).
    #[arg(long, default_value_t = 200)]
    applications: usize,
    /// Milliseconds that the simulator adds to each answer.
    #[arg(long, default_value_t = 20)]
    latency: u64,
    /// Secrets of others that are made afterwards.
    #[arg(long, default_value_t = 20_000)]
    foreign_secrets: usize,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let control_plane = ControlPlane::shared().await?;
    install_chart(control_plane).await?;
    let client = control_plane.admin_client();
    let namespace = control_plane.create_namespace("bench").await?;
    let ceiling = calibrate(&client, &namespace).await?;
    let simulator = Simulator::start(Options::default()).await?;
    let control = simulator.control();
    let tenants: Vec<String> = (0..arguments.tenants).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    for tenant in &tenants {
        control.seed(&seed(tenant, &format!("{API_KEY}-{tenant}"))).await?;
    }
    let mut settings = control.settings().await?;
    settings.latency_milliseconds = arguments.latency;
    settings.management_calls_per_second = 0;
    settings.authorization_calls_per_second = 0;
    control.set_settings(&settings).await?;
    prepare(&client, &namespace, &simulator, &tenants).await?;
    let kubeconfig = control_plane.kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, Duration::from_secs(24 * 3600)).await?;
    let options = OperatorOptions {
        log_filter: "warn,cloud_identity_operator::controller::run=info".into(),
        drift_interval: "1h".into(),
        ..OperatorOptions::default()
    }
    .watching(&namespace);
    let operator = Operator::start(&operator_binary()?, &kubeconfig, &options).await?;
    providers_ready(&client, &namespace, tenants.len()).await?;
    let total = arguments.tenants * arguments.applications;
    say(&format!(
        "{total} AppIdApplications, {} tenants; the simulator answers after {} ms, its rate limit is off, budget 1000/s and 64 in flight per tenant",
        tenants.len(),
        arguments.latency
    ));
    let before = Usage::of(&operator);
    let mark = control_plane.audit().mark()?;
    let calls_before = control.calls().await?.total.answered;
    let begun = Instant::now();
    create(&client, &namespace, &tenants, arguments.applications).await?;
    let created = begun.elapsed();
    all_ready(&client, &namespace, total).await?;
    let ready = begun.elapsed();
    let after = Usage::of(&operator);
    let audit = control_plane.audit().since(mark)?.by_service_account(SYSTEM, SERVICE_ACCOUNT);
    let (writes, reads) = (audit.writes().len(), audit.reads().len());
    let calls = control.calls().await?.total.answered - calls_before;
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let (n, rate) = (total as f64, total as f64 / ready.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let per_object = |count: usize| count as f64 / n;
    let writes_each = per_object(writes);
    say("");
    say("| what | value |");
    say("|---|---|");
    say(&format!("| write ceiling of the API server, calibrated in this run (32 workers, Secrets by apply) | {ceiling:.0}/s |"));
    say(&format!("| all objects created | {:.1} s |", created.as_secs_f64()));
    say(&format!("| time to all Ready | {:.1} s ({rate:.0} objects/s) |", ready.as_secs_f64()));
    say(&format!("| API requests that write, per object | {writes_each:.2} |"));
    say(&format!("| API requests that read, per object | {:.2} |", per_object(reads)));
    say(&format!("| remote calls, per object | {:.2} |", per_object(usize::try_from(calls)?)));
    // The user's own creations are writes too, and take their share of the ceiling.
    say(&format!("| objects/s × operator's writes per object, share of the ceiling | {:.0} % |", 100.0 * rate * writes_each / ceiling));
    say(&format!("| the same with the user's own creation of each object | {:.0} % |", 100.0 * rate * (writes_each + 1.0) / ceiling));
    say(&format!("| operator's CPU | {:.2} s ({:.2} ms per object) |", after.cpu - before.cpu, 1000.0 * (after.cpu - before.cpu) / n));
    say(&format!("| operator's memory (PSS) before, after | {:.1} MiB, {:.1} MiB |", before.pss, after.pss));
    say(&format!("| operator's highest resident memory | {:.1} MiB |", after.peak));
    operator.stop().await;
    let replayed = replay(control_plane, &client, &namespace, total / 2).await?;
    say(&format!("| the same writes made by a client that does nothing else (32 workers) | {replayed:.0} objects/s |"));
    say(&format!("| share of that | {:.0} % |", 100.0 * rate / replayed));
    let mark = control_plane.audit().mark()?;
    let calls_before = control.calls().await?.total.answered;
    let operator = Operator::start(&operator_binary()?, &kubeconfig, &options).await?;
    operator.working().await;
    // Whatever a restart would do has begun by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let audit = control_plane.audit().since(mark)?.by_service_account(SYSTEM, SERVICE_ACCOUNT);
    let calls = control.calls().await?.total.answered - calls_before;
    say(&format!("| restart with all of them fresh: API requests that write, remote calls | {}, {calls} |", audit.writes().len()));
    let fresh = Usage::of(&operator);
    say(&format!("| operator's memory (PSS) 5 s after the restart | {:.1} MiB |", fresh.pss));
    foreign_secrets(&client, &namespace, arguments.foreign_secrets).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let beside = Usage::of(&operator);
    say(&format!("| the same beside {} Secrets of others | {:.1} MiB |", arguments.foreign_secrets, beside.pss));
    drop(operator);
    Api::<AppIdApplication>::namespaced(client, &namespace).delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}

fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// How many writes a second the API server takes from one client: everything the operator could ever use. The Secrets are of the size of a
/// published credential with its metadata.
async fn calibrate(client: &Client, namespace: &str) -> Result<f64, Error> {
    const WRITES: usize = 2000;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::apply("calibration").force();
    let value = "x".repeat(2600);
    let begun = Instant::now();
    stream::iter(0..WRITES)
        .map(|n| {
            let (api, parameters, value) = (api.clone(), parameters.clone(), value.clone());
            async move {
                let name = format!("calibration-{n}");
                let secret =
                    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { "value": value } });
                api.patch(&name, &parameters, &Patch::Apply(&secret)).await
            }
        })
        .buffer_unordered(32)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a benchmark")]
    Ok(WRITES as f64 / seconds)
}

/// How many objects a second the API server takes when somebody only makes the writes that one object costs, user's creation included, with what
/// the operator wrote as the model: the ceiling of any operator that writes the same.
async fn replay(control_plane: &ControlPlane, client: &Client, namespace: &str, objects: usize) -> Result<f64, Error> {
    let model = Api::<AppIdApplication>::namespaced(client.clone(), namespace).get("app-0-0").await?;
    let published = Api::<Secret>::namespaced(client.clone(), namespace).get("app-0-0").await?;
    let namespace = control_plane.create_namespace("ceiling").await?;
    let parameters = PatchParams::apply("replay").force();
    let full = serde_json::to_value(&model.status)?;
    let mut recorded = full.clone();
    recorded.as_object_mut().ok_or("no status")?.remove("conditions");
    let document =
        |name: &str| json!({ "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AppIdApplication", "metadata": { "name": name } });
    let begun = Instant::now();
    stream::iter(0..objects)
        .map(async |n| -> Result<(), Error> {
            let name = format!("replay-{n}");
            let api: Api<AppIdApplication> = Api::namespaced(client.clone(), &namespace);
            let mut created = document(&name);
            created["spec"] = serde_json::to_value(&model.spec)?;
            let object = api.patch(&name, &PatchParams::apply("user"), &Patch::Apply(&created)).await?;
            let owner = object.controller_owner_ref(&());
            let mut claimed = document(&name);
            claimed["metadata"]["annotations"] = json!(model.metadata.annotations);
            claimed["metadata"]["finalizers"] = json!(["example.com/replay"]);
            api.patch(&name, &parameters, &Patch::Apply(&claimed)).await?;
            let metadata = &published.metadata;
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": published.data,
                "metadata": { "name": name, "labels": metadata.labels, "annotations": metadata.annotations, "ownerReferences": [owner] },
            });
            Api::<Secret>::namespaced(client.clone(), &namespace).patch(&name, &parameters, &Patch::Apply(&secret)).await?;
            for status in [&recorded, &full] {
                let mut reported = document(&name);
                reported["status"] = status.clone();
                api.patch_status(&name, &parameters, &Patch::Apply(&reported)).await?;
            }
            let event = json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "generateName": "replay-", "namespace": namespace },
                "eventTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::now()),
                "type": "Normal", "reason": "Registered", "action": "Reconcile", "note": "replayed",
                "reportingController": "replay", "reportingInstance": "replay",
                "regarding": { "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AppIdApplication", "namespace": namespace, "name": name },
            });
            let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
            events.create(&PostParams::default(), &serde_json::from_value(event)?).await?;
            Ok(())
        })
        .buffer_unordered(32)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let all = Api::<AppIdApplication>::namespaced(client.clone(), &namespace);
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    for n in 0..objects {
        all.patch(&format!("replay-{n}"), &PatchParams::default(), &release).await?;
    }
    all.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a benchmark")]
    Ok(objects as f64 / seconds)
}

async fn prepare(client: &Client, namespace: &str, simulator: &Simulator, tenants: &[String]) -> Result<(), Error> {
    let urls = simulator.urls();
    let app_id = urls.regions.get("us-south").ok_or("no region")?;
    let parameters = PatchParams::apply("user").force();
    let apply = async |document: serde_json::Value| -> Result<(), Error> {
        let kind = kube::core::GroupVersionKind::gvk(
            document["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group),
            document["apiVersion"].as_str().map_or("", |version| version.rsplit('/').next().unwrap_or("")),
            document["kind"].as_str().unwrap_or(""),
        );
        let api: Api<kube::core::DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &kube::core::ApiResource::from_gvk(&kind));
        api.patch(document["metadata"]["name"].as_str().unwrap_or(""), &parameters, &Patch::Apply(&document)).await?;
        Ok(())
    };
    apply(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "ca" }, "data": { "ca.crt": simulator.ca_pem() } }))
        .await?;
    for (n, tenant) in tenants.iter().enumerate() {
        apply(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("key-{n}") }, "stringData": { "apikey": format!("{API_KEY}-{tenant}") } })).await?;
        apply(json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider", "metadata": { "name": format!("tenant-{n}") },
            "spec": {
                "appId": { "url": app_id, "tenantId": tenant, "iam": { "url": urls.iam, "apiKey": { "secretRef": { "name": format!("key-{n}") } } } },
                "tls": { "caBundle": { "configMapRef": { "name": "ca" } } },
                "budget": { "requestsPerSecond": 1000, "concurrency": 64 },
            }
        }))
        .await?;
    }
    Ok(())
}

async fn providers_ready(client: &Client, namespace: &str, count: usize) -> Result<(), Error> {
    let api: Api<cloud_identity_operator::api::IdentityProvider> = Api::namespaced(client.clone(), namespace);
    stage::eventually("the providers are ready", async || {
        let list = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let ready =
            |conditions: &[cloud_identity_operator::api::Condition]| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        list.iter().filter(|provider| provider.status.as_ref().is_some_and(|status| ready(&status.conditions))).count() == count
    })
    .await;
    Ok(())
}

/// So many of the user's creations are in flight: enough that the operator never waits for the user.
const CREATORS: usize = 32;

async fn create(client: &Client, namespace: &str, tenants: &[String], each: usize) -> Result<(), Error> {
    let api: Api<kube::core::DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &kube::core::ApiResource::erase::<AppIdApplication>(&()));
    let parameters = PatchParams::apply("user");
    stream::iter((0..tenants.len()).flat_map(|tenant| (0..each).map(move |n| (tenant, n))))
        .map(|(tenant, n)| {
            let (api, parameters) = (api.clone(), parameters.clone());
            async move {
                let name = format!("app-{tenant}-{n}");
                let document = json!({
                    "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AppIdApplication", "metadata": { "name": name },
                    "spec": { "providerRef": { "name": format!("tenant-{tenant}") } },
                });
                api.patch(&name, &parameters, &Patch::Apply(&document)).await
            }
        })
        .buffer_unordered(CREATORS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(())
}

async fn all_ready(client: &Client, namespace: &str, total: usize) -> Result<(), Error> {
    let api: Api<AppIdApplication> = Api::namespaced(client.clone(), namespace);
    let mut readiness: BTreeMap<String, bool> = BTreeMap::new();
    let mut stream = Box::pin(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(object) = stream.try_next().await? {
        let ready = stage::condition(&object, "Ready").is_some_and(|(status, _)| status == "True");
        readiness.insert(object.metadata.name.unwrap_or_default(), ready);
        if readiness.len() == total && readiness.values().all(|ready| *ready) {
            return Ok(());
        }
    }
    Err("the watch ended".into())
}

/// Secrets that nobody refers to: of each the operator sees the metadata, for a moment.
async fn foreign_secrets(client: &Client, namespace: &str, count: usize) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    stream::iter(0..count)
        .map(|n| {
            let api = api.clone();
            let secret = Secret {
                metadata: kube::api::ObjectMeta { name: Some(format!("foreign-{n}")), ..Default::default() },
                string_data: Some([("value".to_owned(), "x".to_owned())].into()),
                ..Secret::default()
            };
            async move { api.create(&PostParams::default(), &secret).await }
        })
        .buffer_unordered(32)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(())
}

/// What the operator uses, as the kernel counts it.
struct Usage {
    /// Seconds.
    cpu: f64,
    /// MiB.
    pss: f64,
    /// MiB.
    peak: f64,
}

impl Usage {
    fn of(operator: &Operator) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "sizes of a benchmark")]
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Self { cpu: operator.processor_time().as_secs_f64(), pss: mebibytes(operator.memory()), peak: mebibytes(operator.peak_memory()) }
    }
}
