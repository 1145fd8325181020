//! Whom the operator talks to: only servers it may reach and can trust.

use futures::future::join_all;
use identity_simulator::{Options, Simulator};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use stage::{OperatorOptions, PROVIDER, Stage, condition, merge, provider_condition, status_written_at};

/// A provider whose status says why it does not work, reached through `change` of the usual document.
async fn refused(stage: &Stage, name: &str, change: Value, reason: &str) {
    let mut document = stage.provider_document(name);
    merge(&mut document, change);
    without_nulls(&mut document);
    stage.apply(&document).await.expect("the provider is accepted");
    let provider = stage
        .provider_where(name, &format!("is not ready: {reason}"), |object| provider_condition(object, "Ready") == Some(("False", reason)))
        .await;
    let status = provider.status.unwrap_or_default();
    assert!(status.next_action_at.is_some_and(|at| at.0 > jiff::Timestamp::now()), "{name}: the next attempt is named");
}

/// Half an hour, more or less, from when the status was written: what is not trusted is not asked again and again.
fn is_half_an_hour(written: Option<jiff::Timestamp>, next: Option<&Time>) -> bool {
    let ahead = written.zip(next).map(|(written, next)| next.0.duration_since(written).as_secs());
    ahead.is_some_and(|ahead| (24 * 60 - 2..=36 * 60 + 2).contains(&ahead))
}

/// A provider and an application on it, neither of which trusts the server, and both of which look again in half an hour.
async fn distrusted(stage: &Stage, name: &str, change: Value) {
    refused(stage, name, change, "TlsNotTrusted").await;
    stage.application(name, json!({ "providerRef": { "name": name } })).await;
    // Who asks right after somebody else was refused is told so without a call, and asks again soon; then it is the same for both.
    stage
        .application_where(name, "trusts the server as little and waits", |object| {
            let next = object.status.as_ref().and_then(|status| status.next_action_at.as_ref());
            condition(object, "Ready") == Some(("False", "TlsNotTrusted")) && is_half_an_hour(status_written_at(object), next)
        })
        .await;
    stage
        .provider_where(name, "waits for half an hour", |object| {
            let entries = object.metadata.managed_fields.iter().flatten();
            let written = entries.filter(|entry| entry.subresource.as_deref() == Some("status")).filter_map(|entry| entry.time.as_ref());
            let next = object.status.as_ref().and_then(|status| status.next_action_at.as_ref());
            is_half_an_hour(written.map(|time| time.0).max(), next)
        })
        .await;
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(without_nulls);
    }
}

/// Promise 10: a server that cannot prove who it is gets no credential, and provider and application say so, every half an hour.
/// Traps: T28, T52.
#[tokio::test]
async fn a_server_whose_certificate_is_not_trusted_gets_no_request() {
    let stage = Stage::new("tls").await;
    let _operator = stage.operator().await;
    let urls = stage.simulator.urls().clone();
    let another = Simulator::start(Options::default()).await.expect("it starts");
    stage.config_map("another-ca", &[("ca.crt", another.ca_pem())]).await;
    let mut rows = vec![
        ("without-ca".to_owned(), json!({ "spec": { "tls": null } })),
        ("wrong-ca".to_owned(), json!({ "spec": { "tls": { "caBundle": { "configMapRef": { "name": "another-ca" } } } } })),
    ];
    for (name, url) in [("other-authority", &urls.other_authority), ("expired", &urls.expired), ("wrong-host", &urls.wrong_host)] {
        rows.push((format!("{name}-iam"), json!({ "spec": { "appId": { "iam": { "url": url } } } })));
        rows.push((format!("{name}-app-id"), json!({ "spec": { "appId": { "url": url } } })));
    }
    join_all(rows.into_iter().map(async |(name, change)| distrusted(&stage, &name, change).await)).await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    let bad: Vec<_> = calls.iter().filter(|call| ["other_authority", "expired", "wrong_host"].contains(&call.listener.as_str())).collect();
    assert!(bad.is_empty(), "nothing was sent: {bad:?}");
    assert!(stage.registered().await.is_empty());
}

/// The CA bundle is used, from a ConfigMap and from a Secret, with its own key names, and a changed one is taken up.
/// Traps: T52.
#[tokio::test]
async fn a_private_authority_works_from_a_config_map_and_from_a_secret() {
    let stage = Stage::new("ca").await;
    let _operator = stage.operator().await;
    let pem = stage.simulator.ca_pem().to_owned();
    stage.secret("ca-in-a-secret", &[("ca.crt", &pem)]).await;
    stage.secret("ca-by-key", &[("root.pem", &pem)]).await;
    for (name, bundle) in [
        ("from-map", json!({ "configMapRef": { "name": "simulator-ca" } })),
        ("from-secret", json!({ "configMapRef": null, "secretRef": { "name": "ca-in-a-secret" } })),
        ("from-key", json!({ "configMapRef": null, "secretRef": { "name": "ca-by-key", "key": "root.pem" } })),
    ] {
        let mut document = stage.provider_document(name);
        merge(&mut document, json!({ "spec": { "tls": { "caBundle": bundle } } }));
        without_nulls(&mut document);
        stage.apply(&document).await.expect("the provider is accepted");
        stage.provider_where(name, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
    }
    stage.secret("ca-by-key", &[("root.pem", "no certificate")]).await;
    stage
        .provider_where("from-key", "notices nonsense", |object| {
            provider_condition(object, "Ready") == Some(("False", "CredentialsInvalid"))
        })
        .await;
    stage.secret("ca-by-key", &[("root.pem", &pem)]).await;
    stage.provider_where("from-key", "is ready again", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
}

/// A provider cannot lead the operator to the machine it runs on, by address or by name.
/// Traps: T51.
#[tokio::test]
async fn loopback_is_refused_by_address_and_by_name_unless_it_is_allowed() {
    let stage = Stage::new("loopback").await;
    let _operator = stage.operator_with(OperatorOptions { allow_local_addresses: false, ..OperatorOptions::default() }).await;
    let by_name = |url: &str| url.replace("127.0.0.1", "localhost");
    refused(&stage, "by-address", json!({}), "AddressNotAllowed").await;
    let names =
        json!({ "spec": { "appId": { "url": by_name(&stage.app_id_url()), "iam": { "url": by_name(&stage.simulator.urls().iam) } } } });
    refused(&stage, "by-name", names, "AddressNotAllowed").await;
    stage.application("storefront", json!({ "providerRef": { "name": "by-name" } })).await;
    stage.reason("storefront", "AddressNotAllowed").await;
    let calls = stage.control.calls().await.expect("the simulator answers");
    assert_eq!(calls.total.received, 0, "nothing was sent");
}

/// `--provider-hosts` is a list of what may be asked, and nothing else is.
/// Traps: T51.
#[tokio::test]
async fn a_host_outside_the_allow_list_is_refused() {
    let stage = Stage::new("hosts").await;
    let arguments = vec!["--provider-hosts".to_owned(), "127.0.0.1,iam.example.com".to_owned()];
    let _operator = stage.operator_with(OperatorOptions { arguments, ..OperatorOptions::default() }).await;
    stage.provider().await;
    stage.provider_where(PROVIDER, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
    let elsewhere = stage.app_id_url().replace("127.0.0.1", "localhost");
    refused(&stage, "elsewhere", json!({ "spec": { "appId": { "url": elsewhere } } }), "AddressNotAllowed").await;
    let iam = stage.simulator.urls().iam.replace("127.0.0.1", "localhost");
    refused(&stage, "iam-elsewhere", json!({ "spec": { "appId": { "iam": { "url": iam } } } }), "AddressNotAllowed").await;
}

/// Proxy variables are honoured: with a proxy that is not there nothing is reached, and what is exempt is reached directly.
#[tokio::test]
async fn a_dead_proxy_is_not_walked_around() {
    let stage = Stage::new("proxy").await;
    // The API server is at 127.0.0.1, which is exempt; `localhost` is not.
    let environment = vec![("HTTPS_PROXY".to_owned(), "http://127.0.0.1:9".to_owned()), ("NO_PROXY".to_owned(), "127.0.0.1".to_owned())];
    let _operator = stage.operator_with(OperatorOptions { environment, ..OperatorOptions::default() }).await;
    let by_name = |url: &str| url.replace("127.0.0.1", "localhost");
    let names =
        json!({ "spec": { "appId": { "url": by_name(&stage.app_id_url()), "iam": { "url": by_name(&stage.simulator.urls().iam) } } } });
    refused(&stage, "through-the-proxy", names, "ServiceUnavailable").await;
    assert_eq!(stage.control.calls().await.expect("the simulator answers").total.received, 0, "nothing went around the proxy");
    stage.provider().await;
    stage.provider_where(PROVIDER, "is ready", |object| provider_condition(object, "Ready") == Some(("True", "Ready"))).await;
}
