//! A thousand applications.

use std::time::{Duration, Instant};

use cloud_identity_operator::api::AppIdApplication;
use control_plane::ControlPlane;
use futures::{StreamExt, TryStreamExt, stream};
use identity_simulator::{Options, Simulator};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use stage::{API_KEY, seed};

use super::{
    Arguments,
    common::{Bench, Error, Usage, WORKERS, number, say},
};

pub async fn measure(bench: &Bench, arguments: &Arguments) -> Result<(), Error> {
    let (control_plane, client) = (bench.control_plane, bench.client.clone());
    let namespace = control_plane.create_namespace("bench").await?;
    let ceiling = bench.calibrate(&namespace, 2600).await?;
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
    prepare(bench, &namespace, &simulator, &tenants).await?;
    let operator = bench.operator(&namespace).await?;
    bench.providers_ready(&namespace, tenants.len()).await;
    let total = arguments.tenants * arguments.applications;
    say(&format!(
        "{total} AppIdApplications, {} tenants; the simulator answers after {} ms, its rate limit is off, budget 1000/s and 4 in flight per tenant",
        tenants.len(),
        arguments.latency
    ));
    let before = Usage::of(&operator);
    let mark = bench.mark()?;
    let calls_before = control.calls().await?.total.answered;
    let begun = Instant::now();
    let applications = (0..arguments.tenants).flat_map(|tenant| (0..arguments.applications).map(move |n| application(tenant, n)));
    bench.create(&namespace, applications).await?;
    let created = begun.elapsed();
    bench.all_ready(&namespace, total, |object: &AppIdApplication| Some(&object.status.as_ref()?.conditions)).await?;
    let ready = begun.elapsed();
    let after = Usage::of(&operator);
    let audit = bench.requests(mark)?;
    let (writes, reads) = (audit.writes().len(), audit.reads().len());
    let calls = control.calls().await?.total.answered - calls_before;
    let (n, rate) = (number(total), number(total) / ready.as_secs_f64());
    let per_object = |count: usize| number(count) / n;
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
    let mark = bench.mark()?;
    let calls_before = control.calls().await?.total.answered;
    let operator = bench.operator(&namespace).await?;
    operator.working().await;
    // Whatever a restart would do has begun by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let audit = bench.requests(mark)?;
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
        .buffer_unordered(WORKERS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let all = Api::<AppIdApplication>::namespaced(client.clone(), &namespace);
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    for n in 0..objects {
        all.patch(&format!("replay-{n}"), &PatchParams::default(), &release).await?;
    }
    all.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(number(objects) / seconds)
}

async fn prepare(bench: &Bench, namespace: &str, simulator: &Simulator, tenants: &[String]) -> Result<(), Error> {
    let urls = simulator.urls();
    let app_id = urls.regions.get("us-south").ok_or("no region")?;
    let mut documents =
        vec![json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "ca" }, "data": { "ca.crt": simulator.ca_pem() } })];
    for (n, tenant) in tenants.iter().enumerate() {
        documents.push(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("key-{n}") }, "stringData": { "apikey": format!("{API_KEY}-{tenant}") } }));
        documents.push(json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider", "metadata": { "name": format!("tenant-{n}") },
            "spec": {
                "appId": { "url": app_id, "tenantId": tenant, "iam": { "url": urls.iam, "apiKey": { "secretRef": { "name": format!("key-{n}") } } } },
                "tls": { "caBundle": { "configMapRef": { "name": "ca" } } },
                "budget": { "requestsPerSecond": 1000, "concurrency": 4 },
            }
        }));
    }
    bench.create(namespace, documents.into_iter()).await
}

fn application(tenant: usize, n: usize) -> serde_json::Value {
    json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AppIdApplication", "metadata": { "name": format!("app-{tenant}-{n}") },
        "spec": { "providerRef": { "name": format!("tenant-{tenant}") } },
    })
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
        .buffer_unordered(WORKERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(())
}
