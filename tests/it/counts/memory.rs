//! What stays in memory, and what does not.

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use stage::{Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM};

use super::stage_with_provider;
use crate::ledger::Ledger;

/// Unrelated Secrets cost nothing: of each, the API server sends metadata only (so its size does not matter), which are dropped on arrival.
///
/// Traps: T34.
#[tokio::test]
async fn twelve_thousand_foreign_secrets_cost_no_memory() {
    const SECRETS: usize = 12_000;
    // In KiB. Their names, UIDs and versions alone would be more than the first; their metadata, at 1 KiB each, twice the second, which
    // leaves room for the pages of a list that are read at the start.
    const WHILE_IT_RUNS: u64 = 1024;
    const AT_THE_START: u64 = 6 * 1024;
    let (stage, operator) = stage_with_provider("counts", OperatorOptions::default()).await;
    stage.application("before", json!({})).await;
    stage.ready("before").await;
    let before = memory_of(&operator);
    let ledger = Ledger::open(&stage).await;
    let secrets = stage.secrets();
    let make = |index: usize| {
        let secrets = secrets.clone();
        async move {
            let document = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("foreign-{index}") }, "stringData": { "filler": "cafec0de-of-somebody-else" } });
            let secret = serde_json::from_value(document).expect("a Secret");
            secrets.create(&Default::default(), &secret).await.map(drop)
        }
    };
    stream::iter(0..SECRETS).map(make).buffer_unordered(32).try_collect::<()>().await.expect("the Secrets are made");
    // What is registered last is seen last: the watch has brought everything by then.
    stage.application("after", json!({})).await;
    stage.ready("after").await;
    // A watch may be opened anew at any time; what it costs is seen in the memory.
    let reads: Vec<String> = ledger.reads().into_iter().filter(|read| !read.starts_with("watch ")).collect();
    assert_eq!(reads, ["get secrets"], "the one of the new object");
    let grown = memory_of(&operator).saturating_sub(before);
    assert!(grown < WHILE_IT_RUNS, "{grown} KiB more for {SECRETS} Secrets while it ran");
    assert!(operator.stop().await.success());
    let operator = stage.operator().await;
    operator.working().await;
    let grown = memory_of(&operator).saturating_sub(before);
    assert!(grown < AT_THE_START, "{grown} KiB more for {SECRETS} Secrets that are there at the start");
    let audit = stage.control_plane.audit().since(ledger.mark).expect("the audit log can be read");
    let whole = audit.by_service_account(SYSTEM, SERVICE_ACCOUNT).in_namespace(&stage.namespace).of_resource("secrets");
    assert!(whole.iter().filter(|event| event.verb == "get").all(|event| !event.name.starts_with("foreign-")), "{whole}");
    // They stay: taking them away keeps the API server busy for longer than all of this, and nobody else looks here.
}

/// A provider that is gone is forgotten, and with it what its ConfigMap holds: that is kept as a whole.
///
/// Traps: T34.
#[tokio::test]
async fn twenty_providers_that_were_deleted_leave_nothing_of_their_ca_bundles_in_memory() {
    const PROVIDERS: usize = 20;
    const KIB_OF_EACH: usize = 900;
    // In KiB: a third of what they are together.
    const MOST: u64 = (PROVIDERS * KIB_OF_EACH / 3) as u64;
    let (stage, operator) = stage_with_provider("bundles", OperatorOptions::default()).await;
    let filler = "cafec0de-ca-bundle".repeat(KIB_OF_EACH * 1024 / 18);
    let come_and_go = async |name: String| {
        stage.config_map(&name, &[("ca.crt", stage.simulator.ca_pem()), ("filler", &filler)]).await;
        let mut document = stage.iam_document(&name);
        document["spec"]["tls"]["caBundle"]["configMapRef"]["name"] = json!(name);
        stage.apply(&document).await.expect("the provider is accepted");
        stage.ready_provider(&name).await;
        stage.providers().delete(&name, &Default::default()).await.expect("the provider is deleted");
    };
    // What the first ones need is used again by the others.
    for index in 0..3 {
        come_and_go(format!("first{index}")).await;
    }
    let before = memory_of(&operator);
    for index in 0..PROVIDERS {
        come_and_go(format!("provider{index}")).await;
    }
    // What is read last is known last: the watch has told of every deletion by then.
    stage.application("after", json!({})).await;
    stage.ready("after").await;
    let grown = memory_of(&operator).saturating_sub(before);
    assert!(grown < MOST, "{grown} KiB more after {PROVIDERS} providers, each with {KIB_OF_EACH} KiB");
}

/// Memory of its own in KiB. What it shares with other processes of the same program says nothing about it.
fn memory_of(operator: &Operator) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid())).expect("the process can be looked at");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel says it");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}
