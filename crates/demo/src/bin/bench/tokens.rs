//! Tokens that are fetched for the first time, and a restart with all of them fresh. Also what all measurements of tokens stand on.

use std::time::{Duration, Instant};

use cloud_identity_operator::api::AccessToken;
use futures::{StreamExt, TryStreamExt, stream};
use identity_simulator::{Control, KeySeed, Options, Seed, SigningAlgorithm, Simulator};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use stage::API_KEY;

use super::{
    Arguments,
    common::{Bench, Error, Usage, WORKERS, complaints, number, say},
    machine::Processors,
};

/// Objects that the ceiling is found with.
const REPLAYED: usize = 1000;
/// Whatever a restart would do has begun by then.
const AFTER_RESTART: Duration = Duration::from_secs(10);

/// A namespace with tokens that no operator has seen yet, beside an IAM.
pub struct Tokens {
    pub namespace: String,
    pub control: Control,
    pub count: usize,
    /// Lives as long as the rest.
    _simulator: Simulator,
}

impl Tokens {
    /// Makes the tokens while no operator runs; only the providers are known to be ready.
    pub async fn set(bench: &Bench, arguments: &Arguments, count: usize, lifetime: u32) -> Result<Self, Error> {
        let tokens = Self::without_objects(bench, arguments, count, lifetime).await?;
        bench.create(&tokens.namespace, tokens.documents(arguments)).await?;
        Ok(tokens)
    }

    /// The objects themselves.
    pub fn documents(&self, arguments: &Arguments) -> impl Iterator<Item = Value> {
        let providers = arguments.providers;
        (0..self.count).map(move |n| document(n, providers))
    }

    /// Everything but the tokens.
    pub async fn without_objects(bench: &Bench, arguments: &Arguments, count: usize, lifetime: u32) -> Result<Self, Error> {
        let namespace = bench.control_plane.create_namespace("tokens").await?;
        let simulator = Simulator::start(Options::default()).await?;
        let control = simulator.control();
        let key = |n: usize| format!("{API_KEY}-{n}");
        let keys = (0..arguments.providers)
            .map(|n| KeySeed { id: format!("key-{n}"), value: key(n), name: "bench".into(), ..KeySeed::default() })
            .collect();
        control.seed(&Seed { keys, ..Seed::default() }).await?;
        let mut settings = control.settings().await?;
        settings.latency_milliseconds = arguments.latency;
        settings.management_calls_per_second = 0;
        settings.authorization_calls_per_second = 0;
        settings.iam_expires_in = lifetime.into();
        settings.signing = SigningAlgorithm::Es256;
        control.set_settings(&settings).await?;
        let mut documents = vec![
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "ca" }, "data": { "ca.crt": simulator.ca_pem() } }),
        ];
        for n in 0..arguments.providers {
            let secret = format!("key-{n}");
            documents
                .push(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret }, "stringData": { "apikey": key(n) } }));
            documents.push(json!({
                "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider", "metadata": { "name": format!("iam-{n}") },
                "spec": {
                    "iam": { "url": simulator.urls().iam, "apiKey": { "secretRef": { "name": secret } } },
                    "tls": { "caBundle": { "configMapRef": { "name": "ca" } } },
                    "budget": { "requestsPerSecond": 1000, "concurrency": 4 },
                }
            }));
        }
        bench.create(&namespace, documents.into_iter()).await?;
        let operator = bench.operator(&namespace).await?;
        bench.providers_ready(&namespace, arguments.providers).await;
        operator.stop().await;
        Ok(Self { namespace, control, count, _simulator: simulator })
    }

    /// How many calls the services answered so far.
    pub async fn calls(&self) -> Result<usize, Error> {
        Ok(usize::try_from(self.control.calls().await?.total.answered)?)
    }
}

pub fn name(n: usize) -> String {
    format!("token-{n}")
}

fn document(n: usize, providers: usize) -> Value {
    json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AccessToken", "metadata": { "name": name(n) },
        "spec": { "providerRef": { "name": format!("iam-{}", n % providers.max(1)) } },
    })
}

pub async fn measure(bench: &Bench, arguments: &Arguments, count: usize) -> Result<(), Error> {
    let tokens = Tokens::set(bench, arguments, count, 3600).await?;
    let namespace = &tokens.namespace;
    say("");
    say(&format!(
        "{count} AccessTokens of IAM, {} providers with an API key each; ES256, 3600 s; the simulator answers after {} ms and has no rate limit, budget 1000/s and 4 in flight per provider; the objects were made before the operator was started",
        arguments.providers, arguments.latency
    ));
    let (mark, calls, processors, begun) = (bench.mark()?, tokens.calls().await?, Processors::now()?, Instant::now());
    let operator = bench.operator(namespace).await?;
    bench.all_ready(namespace, count, |object: &AccessToken| Some(&object.status.as_ref()?.conditions)).await?;
    let ready = begun.elapsed().as_secs_f64();
    let (usage, busy) = (Usage::of(&operator), Processors::now()?.since(processors, ready));
    let (requests, calls) = (bench.requests(mark)?, tokens.calls().await? - calls);
    tokio::time::sleep(AFTER_RESTART).await;
    let afterwards = Usage::of(&operator);
    let warnings = complaints(&operator);
    operator.stop().await;
    let (writes, reads) = (requests.writes(), requests.reads());
    let secrets = writes.of_resource("secrets").len();
    let statuses = writes.only(|event| event.resource == "accesstokens" && event.subresource == "status").len();
    let each = |count: usize| number(count) / number(tokens.count);
    let rate = number(count) / ready;
    let model = Model::of(bench, namespace).await?;
    let ceiling = bench.calibrate(namespace, model.size()).await?;
    let (replayed, replayed_again) = replay(bench, &model).await?;
    say("");
    say("| what | value |");
    say("|---|---|");
    say(&format!("| time from the operator's start to all Ready | {ready:.1} s ({rate:.0} tokens/s) |"));
    say(&format!(
        "| API requests that write, per token | {:.2} (Secrets {:.2}, status {:.2}) |",
        each(writes.len()),
        each(secrets),
        each(statuses)
    ));
    say(&format!("| API requests that read, per token | {:.2} |", each(reads.len())));
    say(&format!("| remote calls, per token | {:.2} |", each(calls)));
    say(&format!("| write ceiling, same two writes: a client that does nothing else ({WORKERS} workers) | {replayed:.0} tokens/s |"));
    say(&format!("| **share of that ceiling** (goal: 70 %) | **{:.0} %** |", 100.0 * rate / replayed));
    say(&format!("| the same client, writing the same objects once more, as a refresh does | {replayed_again:.0} tokens/s |"));
    say(&format!("| write ceiling, new Secrets of {} bytes by apply ({WORKERS} workers) | {ceiling:.0}/s |", model.size()));
    say(&format!("| share of that ceiling | {:.0} % |", 100.0 * rate * each(writes.len()) / ceiling));
    say(&format!("| processors until all Ready | {busy} |"));
    say(&format!("| operator's CPU | {:.2} s ({:.2} ms per token) |", usage.cpu, 1000.0 * usage.cpu / number(count)));
    say(&format!("| **operator's memory (PSS), right after the last token** (goal: 48 MiB at 10,000) | **{:.1} MiB** |", usage.pss));
    say(&format!("| the same {} s later | {:.1} MiB |", AFTER_RESTART.as_secs(), afterwards.pss));
    say(&format!("| operator's highest resident memory | {:.1} MiB |", afterwards.peak));
    say(&format!("| warnings in the operator's log | {warnings} |"));
    restart(bench, &tokens).await
}

async fn restart(bench: &Bench, tokens: &Tokens) -> Result<(), Error> {
    let (mark, calls, begun) = (bench.mark()?, tokens.calls().await?, Instant::now());
    let operator = bench.operator(&tokens.namespace).await?;
    operator.working().await;
    let known = begun.elapsed().as_secs_f64();
    tokio::time::sleep(AFTER_RESTART).await;
    let (usage, requests, calls) = (Usage::of(&operator), bench.requests(mark)?, tokens.calls().await? - calls);
    say(&format!(
        "| restart with all {} fresh, {} s: API requests that write, remote calls (goal: 0, 0) | {}, {calls} |",
        tokens.count,
        AFTER_RESTART.as_secs(),
        requests.writes().len()
    ));
    say(&format!("| the same: API requests that read, until everything is known | {}, {known:.1} s |", requests.reads().len()));
    say(&format!("| operator's memory (PSS) then, and its highest resident memory | {:.1} MiB, {:.1} MiB |", usage.pss, usage.peak));
    operator.stop().await;
    Ok(())
}

/// What the operator wrote for one token.
struct Model {
    token: AccessToken,
    secret: Secret,
}

impl Model {
    async fn of(bench: &Bench, namespace: &str) -> Result<Self, Error> {
        let token = Api::<AccessToken>::namespaced(bench.client.clone(), namespace).get(&name(0)).await?;
        let secret = Api::<Secret>::namespaced(bench.client.clone(), namespace).get(&name(0)).await?;
        Ok(Self { token, secret })
    }

    /// Bytes of data.
    fn size(&self) -> usize {
        self.secret.data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum()
    }
}

/// How many tokens a second the API server takes when somebody only makes the two writes that one costs, of objects that exist: the ceiling of
/// any operator that writes the same. First with new Secrets, then with changed ones.
async fn replay(bench: &Bench, model: &Model) -> Result<(f64, f64), Error> {
    let namespace = bench.control_plane.create_namespace("ceiling").await?;
    bench.create(&namespace, (0..REPLAYED).map(|n| document(n, 1))).await?;
    let first = replay_once(bench, model, &namespace, "2026-01-01T00:00:00Z").await?;
    Ok((first, replay_once(bench, model, &namespace, "2026-01-01T00:30:00Z").await?))
}

async fn replay_once(bench: &Bench, model: &Model, namespace: &str, at: &str) -> Result<f64, Error> {
    let parameters = PatchParams::apply("replay").force();
    let tokens: Api<AccessToken> = Api::namespaced(bench.client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), namespace);
    let objects = tokens.list(&Default::default()).await?.items;
    let (metadata, mut status) = (&model.secret.metadata, serde_json::to_value(&model.token.status)?);
    status["lastRefreshedAt"] = json!(at);
    let begun = Instant::now();
    stream::iter(&objects)
        .map(async |object| -> Result<(), Error> {
            let name = object.metadata.name.clone().unwrap_or_default();
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": model.secret.data, "stringData": { "replayed_at": at },
                "metadata": {
                    "name": name, "labels": metadata.labels, "annotations": metadata.annotations,
                    "ownerReferences": [object.controller_owner_ref(&())],
                },
            });
            secrets.patch(&name, &parameters, &Patch::Apply(&secret)).await?;
            let reported = json!({
                "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AccessToken", "metadata": { "name": name }, "status": status,
            });
            tokens.patch_status(&name, &parameters, &Patch::Apply(&reported)).await?;
            Ok(())
        })
        .buffer_unordered(WORKERS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(number(objects.len()) / begun.elapsed().as_secs_f64())
}
