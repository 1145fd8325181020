//! Keys of providers that change, or are bad.

use std::time::Duration;

use identity_simulator::{AccessRole, KeySeed};
use serde_json::json;
use stage::{Effect, PROVIDER, Stage, TENANT};
use tokio::time::sleep;

use super::{LIST_IS_OLD, behind_an_interceptor, held, hold_next, intercepted, status_of};

async fn add_readers_key(stage: &Stage, value: &str) {
    add_key(stage, "reader", value, AccessRole::Reader).await;
}

async fn add_key(stage: &Stage, name: &str, value: &str, role: AccessRole) {
    let key = KeySeed {
        id: name.into(),
        value: value.into(),
        name: name.into(),
        access: [(TENANT.to_owned(), role)].into(),
        ..KeySeed::default()
    };
    stage.control.add_key(&key).await.expect("the key is made");
}

/// Promise 5. The provider's first pass has just found that there is no such ConfigMap when it is made.
#[tokio::test]
async fn what_a_provider_names_is_noticed_also_while_it_is_read_for_the_first_time() {
    let stage = Stage::new("promises").await;
    let (interceptor, operator) = behind_an_interceptor(&stage).await;
    // Providers that are there at the start are read one by one, before anything else.
    operator.working().await;
    let ca = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": stage.namespace },
            "data": { "ca.crt": stage.simulator.ca_pem() },
        })
    };
    let naming = |name: &str, map: &str| {
        let mut document = stage.provider_document(name);
        document["spec"]["tls"]["caBundle"]["configMapRef"]["name"] = json!(map);
        document
    };
    let reading = interceptor.intercept(|seen| seen.resource == "configmaps" && seen.name == "first-ca", 0, 1, Effect::HoldAfter);
    stage.apply(&naming("first", "first-ca")).await.expect("the provider is accepted");
    interceptor.fired(reading).await;
    stage.apply(&ca("first-ca")).await.expect("the ConfigMap is accepted");
    // The watch tells of one after the other: when the second has come, so has the first.
    stage.apply(&ca("second-ca")).await.expect("the ConfigMap is accepted");
    stage.apply(&naming("second", "second-ca")).await.expect("the provider is accepted");
    stage.ready_provider("second").await;
    interceptor.release(reading);
    stage.ready_provider("first").await;
}

/// Promise 5. The API server fails the reading that a changed key asks for: the change must not be forgotten with it.
#[tokio::test]
async fn a_key_that_changed_is_read_again_when_the_first_reading_fails() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let another = "cafec0de-api-key-another-of-promises";
    add_key(&stage, "another", another, AccessRole::Writer).await;
    let reading = interceptor.intercept(|seen| seen.resource == "secrets" && seen.verb == "get", 0, 1, Effect::Answer(500));
    stage.secret("ibm-api-key", &[("apikey", another)]).await;
    interceptor.fired(reading).await;
    let rotated = stage.secrets().get("ibm-api-key").await.expect("there is one").metadata.resource_version;
    let is_used = |provider: &cloud_identity_operator::api::IdentityProvider| {
        let used = provider.status.as_ref().and_then(|status| status.credentials_version.as_ref());
        used.map(|version| &version.resource_version) == rotated.as_ref()
    };
    stage.provider_where(PROVIDER, "names the changed Secret", is_used).await;
}

/// Promise 10. What woke an object is not forgotten with a pass that was cut short.
///
/// Traps: T28.
#[tokio::test]
async fn a_better_key_is_used_at_once_also_when_the_first_status_after_it_is_refused() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    let reader = "cafec0de-api-key-reader-of-promises";
    add_readers_key(&stage, reader).await;
    stage.secret("ibm-api-key", &[("apikey", reader)]).await;
    let lacks_a_role =
        |provider: &_| stage::provider_condition(provider, "CanRegister").is_some_and(|(_, reason)| reason == "WriterRoleRequired");
    stage.provider_where(PROVIDER, "lacks a role", lacks_a_role).await;
    stage.application("storefront", json!({})).await;
    stage.reason("storefront", "WriterRoleRequired").await;
    interceptor.intercept(status_of("storefront"), 0, 1, Effect::Answer(409));
    stage.secret("ibm-api-key", &[("apikey", stage::API_KEY)]).await;
    stage.ready("storefront").await;
}

/// Promise 9. Two providers lead to one tenant, one of them with a key that may not write; their objects wait for the same turn.
#[tokio::test]
async fn another_providers_bad_key_fails_nobody_elses_redirect_uris() {
    let (stage, interceptor, _operator) = intercepted("promises").await;
    stage.secret("bad-key", &[("apikey", stage::API_KEY)]).await;
    let mut document = stage.provider_document("bad");
    document["spec"]["appId"]["iam"]["apiKey"]["secretRef"]["name"] = json!("bad-key");
    stage.apply(&document).await.expect("the provider is accepted");
    stage.ready_provider("bad").await;
    for (name, provider) in [("bad", "bad"), ("good", PROVIDER), ("other", PROVIDER)] {
        stage.application(name, json!({ "providerRef": { "name": provider } })).await;
        stage.ready(name).await;
    }
    let reader = "cafec0de-api-key-reader-of-promises";
    add_readers_key(&stage, reader).await;
    stage.secret("bad-key", &[("apikey", reader)]).await;
    let lacks_a_role =
        |provider: &_| stage::provider_condition(provider, "CanRegister").is_some_and(|(_, reason)| reason == "WriterRoleRequired");
    stage.provider_where("bad", "lacks a role", lacks_a_role).await;
    let records = ["bad", "good"].map(|name| interceptor.intercept(status_of(name), 0, 1, Effect::HoldBefore));
    for (name, record) in ["bad", "good"].into_iter().zip(records) {
        let uris = [format!("https://{name}.example.com/callback")];
        stage.patch_application(name, json!({ "redirectUris": uris })).await.expect("the change is accepted");
        interceptor.fired(record).await;
    }
    sleep(LIST_IS_OLD).await;
    let reading = hold_next(&stage, held("app_id.redirect_uris.get")).await;
    stage.patch_application("other", json!({ "redirectUris": ["https://other.example.com/callback"] })).await.expect("accepted");
    stage.control.wait_for_fault(reading).await.expect("the list is read");
    for record in records {
        interceptor.release(record);
        // The first one is to be the first in the queue, too.
        sleep(Duration::from_millis(500)).await;
    }
    stage.control.release(reading).await.expect("the simulator answers");
    stage.ready("good").await;
    stage.ready("other").await;
    stage.reason("bad", "WriterRoleRequired").await;
}
