//! The binary as a person starts it: flags, signals, metrics.

use std::{collections::BTreeSet, time::Instant};

use identity_simulator::Settings;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use stage::{Operator, OperatorOptions, Stage, eventually, operator_binary, run};

async fn by_hand(stage: &Stage, options: &OperatorOptions) -> Operator {
    let options = options.clone().watching(&stage.namespace);
    let binary = operator_binary().expect("the operator is built");
    Operator::start(&binary, stage.control_plane.admin_kubeconfig(), &options).await.expect("the operator starts")
}

/// With the kubeconfig of an administrator and no election, it works; asked to stop, it does.
#[tokio::test]
async fn it_runs_on_a_laptop_and_stops_when_asked() {
    let stage = Stage::new("laptop").await;
    stage.provider().await;
    let operator = by_hand(&stage, &OperatorOptions { namespace: stage.namespace.clone(), ..OperatorOptions::default() }).await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(operator.get(path).await, (200, "ok".to_owned()));
    }
    assert_eq!(operator.get("/nothing").await.0, 404);
    let begun = Instant::now();
    assert_eq!(operator.stop().await.code(), Some(0));
    assert!(begun.elapsed().as_secs() < 5, "nothing was under way, and it took {:?}", begun.elapsed());
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.namespace);
    assert!(
        leases.list(&Default::default()).await.expect("the API server answers").items.is_empty(),
        "without an election there is no lease"
    );
}

/// Whoever stops gives the lease back, so that the next one need not wait for it to run out.
#[tokio::test]
async fn the_lease_is_given_back_and_the_next_one_leads_at_once() {
    let stage = Stage::new("laptop").await;
    stage.provider().await;
    let options = OperatorOptions { namespace: stage.namespace.clone(), leader_election: true, ..OperatorOptions::default() };
    let first = by_hand(&stage, &options).await;
    first.working().await;
    let second = by_hand(&stage, &options).await;
    assert_eq!(second.get("/readyz").await.0, 200, "whoever stands by is ready, too");
    let begun = Instant::now();
    assert_eq!(first.stop().await.code(), Some(0));
    second.working().await;
    // The lease lasts 15 s.
    assert!(begun.elapsed().as_secs() < 10, "it took {:?}", begun.elapsed());
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    assert_eq!(second.stop().await.code(), Some(0));
}

/// Promise 10. What is wrong with the command line, and how it should look.
#[tokio::test]
async fn a_wrong_flag_is_named_with_what_it_should_be() {
    let stage = Stage::new("laptop").await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    let kubeconfig = stage.control_plane.admin_kubeconfig().to_string_lossy().into_owned();
    let rows: [(&[&str], &str, &str); 10] = [
        (&["run", "--drift-interval", "soon"], &kubeconfig, r#""soon" is not a duration such as 90s, 10m or 1h"#),
        (&["run", "--deletion-budget=-5m"], &kubeconfig, "is negative"),
        (&["run", "--leader-election", "maybe"], &kubeconfig, "[possible values: true, false]"),
        (&["run", "--log-format", "xml"], &kubeconfig, "[possible values: text, json]"),
        (&["run", "--log-filter", "a=b=c"], &kubeconfig, "--log-filter: error parsing level filter: expected one of"),
        (&["run", "--metrics-address", "here"], &kubeconfig, "invalid socket address"),
        (&["run", "--metrics-address", &taken], &kubeconfig, "in use"),
        (&["run", "--metrics-address", "127.0.0.1:0", "--ca-file", "/does/not/exist"], &kubeconfig, "No such file"),
        (&["run", "--metrics-address", "127.0.0.1:0"], "/does/not/exist", "/does/not/exist"),
        (&["walk"], &kubeconfig, "unrecognized subcommand 'walk'"),
    ];
    for (arguments, kubeconfig, words) in rows {
        let mut command = std::process::Command::new(operator_binary().expect("the operator is built"));
        command.env_clear().env("KUBECONFIG", kubeconfig).args(arguments);
        let said = tokio::time::timeout(stage::PATIENCE, run(command, "")).await.expect("it ends");
        assert!(!said.success && said.errors.contains(words), "{arguments:?}: {}{}", said.output, said.errors);
        assert!(!said.errors.contains("panicked"), "{arguments:?}: {}", said.errors);
    }
}

/// The text is what Prometheus reads, its labels come from closed lists, and its length does not depend on how many objects there are.
///
/// Traps: T57.
#[tokio::test]
async fn metrics_have_base_units_and_labels_from_closed_lists_only() {
    let stage = Stage::new("laptop").await;
    let settings = stage.control.settings().await.expect("the simulator answers");
    let unlimited = Settings { management_calls_per_second: 0, authorization_calls_per_second: 0, ..settings };
    stage.control.set_settings(&unlimited).await.expect("the simulator answers");
    stage.provider().await;
    let operator = stage.operator().await;
    let names: Vec<String> = (0..20).map(|index| format!("observed{index}")).collect();
    let mut series = Vec::new();
    for some in names.chunks(10) {
        for name in some {
            stage.application(name, json!({ "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] })).await;
        }
        for name in some {
            stage.ready(name).await;
            stage.token(&format!("token-of-{name}"), json!({ "clientRef": { "name": name } })).await;
        }
        for name in some {
            stage.token_ready(&format!("token-of-{name}")).await;
        }
        // Objects are counted every 15 s: until then the families of what is counted may be missing.
        let is_told = "cloud_identity_token_expiry_timestamp_seconds{service=\"app_id\"}";
        eventually("the ends of the tokens are told, by the service that issued them", async || {
            operator.get("/metrics").await.1.contains(is_told)
        })
        .await;
        let (status, text) = operator.get("/metrics").await;
        assert_eq!(status, 200);
        series.push(samples(&text));
        for word in [&stage.namespace, "observed", "token-of", stage::TENANT, "127.0.0.1"] {
            assert!(!text.contains(word), "{word} stands in the metrics");
        }
    }
    // Which calls were needed, and what became of them, may differ from one moment to the next: every label's value comes from a closed list,
    // and the names of the series are the same.
    let families = |series: &BTreeSet<String>| -> BTreeSet<String> {
        series.iter().map(|series| series.split('{').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(families(&series[0]), families(&series[1]), "ten objects more make no family more");
    assert!(series[1].len() < 150, "{} series", series[1].len());
    let families = families(&series[1]);
    for family in [
        "cloud_identity_remote_calls_total",
        "cloud_identity_remote_call_duration_seconds_bucket",
        "cloud_identity_budget_wait_seconds_bucket",
        "cloud_identity_reconciles_total",
        "cloud_identity_reconcile_duration_seconds_sum",
        "cloud_identity_objects",
        "cloud_identity_tokens",
        "cloud_identity_token_refresh_lateness_seconds_bucket",
        "cloud_identity_leader",
    ] {
        assert!(families.contains(family), "{family} is missing in {families:?}");
    }
}

/// Every label, and every value that it may have.
const LABELS: [(&str, &[&str]); 7] = [
    ("service", &["app_id", "iam", "oidc", "secure_auth", "verify"]),
    (
        "operation",
        &[
            "app_id.application_roles.get",
            "app_id.application_roles.set",
            "app_id.applications.create",
            "app_id.applications.delete",
            "app_id.applications.get",
            "app_id.applications.list",
            "app_id.applications.update",
            "app_id.redirect_uris.get",
            "app_id.redirect_uris.set",
            "app_id.roles.list",
            "app_id.scopes.get",
            "app_id.scopes.set",
            "app_id.token",
            "iam.token",
            "oidc.discovery",
            "oidc.token",
            "secure_auth.me",
            "secure_auth.token",
            "verify.applications.list",
            "verify.token",
        ],
    ),
    (
        "outcome",
        &[
            // Of a call: an answer, or why there was none.
            "success",
            "client_error",
            "server_error",
            "rate_limited",
            "transient",
            "unauthorized",
            "rejected",
            "unexpected",
            // Of a pass.
            "done",
            "stale",
            "gone",
            "lost_lease",
            "cluster_error",
        ],
    ),
    ("kind", &["AccessToken", "AppIdApplication", "ClusterIdentityProvider", "IdentityProvider"]),
    ("ready", &["true", "false"]),
    ("state", &["absent", "expired", "suspended", "failing", "fresh"]),
    ("le", &["0.005", "0.02", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "120.0", "600.0", "+Inf"]),
];

/// The series of an OpenMetrics text, checked line by line.
fn samples(text: &str) -> BTreeSet<String> {
    assert!(text.ends_with("# EOF\n"), "the text ends with # EOF");
    let mut family = (String::new(), String::new());
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(name.starts_with("cloud_identity_"), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            for unit in ["milliseconds", "_ms", "minutes", "nanoseconds", "kilobytes", "percent"] {
                assert!(!name.contains(unit), "{line}: not a base unit");
            }
            assert!(!name.contains("duration") || name.ends_with("_seconds"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else if let Some(comment) = line.strip_prefix("# ") {
            assert!(["HELP ", "UNIT ", "EOF"].iter().any(|word| comment.starts_with(word)), "{line}");
        } else {
            let (identity, value) = line.rsplit_once(' ').expect("a series and a value");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            let (name, labels) = identity.split_once('{').unwrap_or((identity, "}"));
            let suffixes: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0)), "{line} stands under {family:?}");
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').expect("a label and a value");
                let allowed = LABELS.iter().find(|(label, _)| *label == key).map_or(&[][..], |(_, values)| *values);
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or_else(|| panic!("{line}"));
                assert!(allowed.contains(&value), "{line}: the label {key} with the value {value}");
            }
            assert!(series.insert(identity.to_owned()), "{line} stands there twice");
        }
    }
    series
}
