//! Nobody waits for somebody else's trouble, and trouble costs little.

use std::time::{Duration, Instant};

use cloud_identity_operator::api::{AccessToken, AppIdApplication, IdentityProvider};
use futures::future::join_all;
use identity_simulator::{AccessRole, Action, CallWait, KeySeed, OAuthClientSeed, OidcServerSeed, Rule, When, switches::RetryAfter};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stage::{IAM, OperatorOptions, PROVIDER, Stage, TENANT, condition, merge, observed, seed, status_written_at};

use crate::fixtures::{provide, token_endpoint};

const OTHER_TENANT: &str = "22222222-3333-4444-8555-666666666666";
const SLOW_TENANT: &str = "33333333-4444-4555-8666-777777777777";

/// Another tenant at the same services, with a key and a provider of its own.
async fn another_tenant(stage: &Stage, tenant: &str, name: &str) {
    let key = format!("cafec0de-api-key-of-the-tenant-{name}");
    stage.control.seed(&seed(tenant, &key)).await.expect("the tenant is seeded");
    let secret = format!("{name}-key");
    stage.secret(&secret, &[("apikey", &key)]).await;
    let mut document = stage.provider_document(name);
    merge(&mut document, json!({ "spec": { "appId": { "tenantId": tenant, "iam": { "apiKey": { "secretRef": { "name": secret } } } } } }));
    stage.apply(&document).await.expect("the provider is accepted");
}

/// Promise 9: a tenant that never answers and one that answers late delay only their own objects.
/// Traps: T29.
#[tokio::test]
async fn a_hanging_and_a_slow_tenant_delay_no_other_tenants_objects() {
    let stage = Stage::new("hanging").await;
    let _operator = stage.operator().await;
    another_tenant(&stage, OTHER_TENANT, "other").await;
    another_tenant(&stage, SLOW_TENANT, "slow").await;
    stage.ready_provider("other").await;
    stage.ready_provider("slow").await;
    // It worked once: nothing keeps its objects from registering.
    stage.provider().await;
    stage.provider_ready().await;
    // How long it takes here and now when nothing hangs: the machine may be busy with other tests.
    let alone = ten_become_ready(&stage, "before").await;
    stage.control.inject(&Rule::every("app_id", Action::Hang { when: When::BeforeCommit }).tenant(TENANT)).await.expect("accepted");
    let late = Action::Delay { when: When::BeforeCommit, milliseconds: 5000 };
    stage.control.inject(&Rule::every("app_id", late).tenant(SLOW_TENANT)).await.expect("accepted");
    let of = |name: &'static str| json!({ "providerRef": { "name": name } });
    let names = |prefix: &str| -> Vec<String> { (0..60).map(|n| format!("{prefix}-{n}")).collect() };
    let (stuck, slow) = (names("stuck"), names("slow"));
    join_all(stuck.iter().map(|name| stage.application(name, json!({})))).await;
    join_all(slow.iter().map(|name| stage.application(name, of("slow")))).await;
    for tenant in [TENANT, SLOW_TENANT] {
        let four = CallWait { tenant: Some(tenant.into()), ..CallWait::received("app_id.applications", 4) };
        stage.control.wait_for_calls(&four).await.expect("they are under way");
    }
    let beside = ten_become_ready(&stage, "beside").await;
    // Far less than the 20 s deadline of a single call to the tenant that hangs would add.
    assert!(beside < 3 * alone + Duration::from_secs(8), "it took {beside:?}, and {alone:?} without the tenant that hangs");
    assert!(stage.control.applications(TENANT).await.expect("the simulator answers").is_empty(), "the other tenant still hangs");
    // Each of its objects needs three calls, of which sixteen are under way at once: it cannot be through yet, and it goes on.
    let slow_ones = stage.applications().list(&Default::default()).await.expect("the API server answers").items;
    let ready = slow_ones.iter().filter(|object| object.metadata.name.as_ref().is_some_and(|name| slow.contains(name)));
    let ready = ready.filter(|object| condition(object, "Ready") == Some(("True", "Ready"))).count();
    assert!(ready < slow.len(), "the slow tenant is slow");
    stage.control.clear_faults().await.expect("mended");
    stage.ready("slow-0").await;
}

/// Promise 2: a changed credential is used at once, by the services' own count of time.
/// Traps: T28.
#[tokio::test]
async fn a_changed_credential_is_used_within_three_seconds() {
    let stage = Stage::new("changed").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    let new =
        KeySeed { value: "cafec0de-the-next-key".into(), access: [(TENANT.to_owned(), AccessRole::Writer)].into(), ..KeySeed::default() };
    stage.control.add_key(&new).await.expect("the key is made");
    for key in ["cafec0de-a-key-nobody-knows", &new.value] {
        stage.control.clear_journal().await.expect("cleared");
        stage.secret("ibm-api-key", &[("apikey", key)]).await;
        let changed = jiff::Timestamp::now();
        stage.control.wait_for_calls(&CallWait::received("iam.token", 1)).await.expect("it is used");
        let calls = stage.control.journal().await.expect("the simulator answers");
        let used = calls.iter().find(|call| call.operation == "iam.token").expect("it is there").time;
        let gap = used.duration_since(changed).as_secs_f64();
        assert!(gap <= 3.0, "it took {gap} s");
    }
    stage.provider_ready().await;
}

async fn ten_become_ready(stage: &Stage, prefix: &str) -> Duration {
    let since = Instant::now();
    let names: Vec<String> = (0..10).map(|n| format!("{prefix}-{n}")).collect();
    join_all(names.iter().map(|name| stage.application(name, json!({ "providerRef": { "name": "other" } })))).await;
    join_all(names.iter().map(|name| stage.ready(name))).await;
    since.elapsed()
}

/// Promise 9: in one tenant, with a small budget, a namespace with one object does not wait for one with a hundred.
#[tokio::test]
async fn a_greedy_namespace_does_not_starve_a_modest_one() {
    let stage = Stage::new("greedy").await;
    let modest = stage.control_plane.create_namespace("modest").await.expect("the namespace is made");
    let options = OperatorOptions { watch_namespaces: vec![stage.namespace.clone(), modest.clone()], ..OperatorOptions::default() };
    let _operator = stage.operator_with(options).await;
    let slow = json!({ "spec": { "budget": { "requestsPerSecond": 10, "concurrency": 4 } } });
    let mut provider = stage.provider_document(PROVIDER);
    merge(&mut provider, slow);
    stage.apply(&provider).await.expect("the provider is accepted");
    let elsewhere = |mut document: serde_json::Value| {
        document["metadata"]["namespace"] = json!(modest);
        document
    };
    // The same tenant with the same key, from the other namespace.
    let ca = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "simulator-ca" }, "data": { "ca.crt": stage.simulator.ca_pem() } });
    let key =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "ibm-api-key" }, "stringData": { "apikey": stage::API_KEY } });
    for document in [ca, key, provider] {
        stage.apply(&elsewhere(document)).await.expect("accepted");
    }
    let names: Vec<String> = (0..100).map(|n| format!("greedy-{n}")).collect();
    join_all(names.iter().map(|name| stage.application(name, json!({})))).await;
    stage.control.wait_for_calls(&CallWait::answered("app_id.applications.create", 3)).await.expect("the greedy one is at work");
    stage.apply(&elsewhere(stage.application_document("modest", json!({})))).await.expect("accepted");
    let api: kube::Api<AppIdApplication> = kube::Api::namespaced(stage.client.clone(), &modest);
    stage::eventually("the modest object is ready", async || {
        let object = api.get("modest").await.expect("it is there");
        condition(&object, "Ready") == Some(("True", "Ready"))
    })
    .await;
    let ready = stage.applications().list(&Default::default()).await.expect("the API server answers");
    let ready = ready.iter().filter(|object| condition(object, "Ready") == Some(("True", "Ready"))).count();
    // A hundred objects cost three calls each, thirty seconds in all; the modest one shares the rate half and half. Counted, not timed: the
    // machine may be busy with other tests.
    assert!(ready < 60, "the modest one did not wait for the others, of which {ready} were through");
    api.delete("modest", &Default::default()).await.expect("accepted");
}

/// A tenant that asks for fewer requests gets none until the pause is over, whoever wants something.
/// Traps: T28, T30.
#[tokio::test]
async fn a_rate_limit_pauses_the_whole_tenant() {
    let stage = Stage::new("limited").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    let headers = [("Retry-After".to_owned(), "6".to_owned())].into();
    let limited = Action::Answer { when: When::BeforeCommit, status: 429, headers, body: String::new() };
    let fault = stage.control.inject(&Rule::next("app_id.applications.create", limited)).await.expect("accepted");
    stage.application("first", json!({})).await;
    stage.control.wait_for_fault(fault.id).await.expect("it is limited");
    stage.reason("first", "RateLimited").await;
    stage.control.clear_journal().await.expect("cleared");
    let paused = Instant::now();
    let names: Vec<String> = (0..8).map(|n| format!("later-{n}")).collect();
    join_all(names.iter().map(|name| stage.application(name, json!({})))).await;
    for object in join_all(names.iter().map(|name| stage.reason(name, "RateLimited"))).await {
        let next = object.status.and_then(|status| status.next_action_at).expect("the next attempt is named");
        assert!(next.0.duration_since(jiff::Timestamp::now()).as_secs() <= 8, "{next:?}");
    }
    assert!(paused.elapsed() < Duration::from_secs(4), "all of them were told at once: {:?}", paused.elapsed());
    let counts = stage.control.calls().await.expect("the simulator answers");
    assert_eq!(counts.of("app_id").received, 0, "nothing was sent in the pause: {:?}", counts.operations);
    join_all(names.iter().map(|name| stage.ready(name))).await;
    stage.ready("first").await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    assert!(paused.elapsed() >= Duration::from_secs(3), "the pause was kept: {:?}", calls.first().map(|call| call.time));
}

/// Promise 9: objects whose credential the service always fails at, however many share it, delay nobody else's token.
#[tokio::test]
async fn a_credential_that_the_service_always_fails_at_stops_nobody_elses_token() {
    let stage = Stage::new("broken").await;
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    stage.token("good", json!({ "providerRef": { "name": IAM } })).await;
    stage.token_ready("good").await;
    let broken = Action::Answer { when: When::BeforeCommit, status: 500, headers: [].into(), body: "{}".into() };
    let key = "cafec0de-a-key-that-breaks-it";
    stage.control.inject(&Rule::every("iam.token", broken).body_contains(key)).await.expect("accepted");
    stage.secret("bad", &[("apikey", key)]).await;
    let names: Vec<String> = (0..8).map(|n| format!("bad-{n}")).collect();
    let spec = json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "bad" } } });
    join_all(names.iter().map(|name| stage.token(name, spec.clone()))).await;
    let has_failed = |token: &AccessToken| token.status.as_ref().and_then(|status| status.failures) >= Some(3);
    for token in join_all(names.iter().map(|name| stage.token_where(name, "failed three times", has_failed))).await {
        let said = stage::token_message(&token, "Ready").expect("a message");
        assert!(!said.contains("nothing was sent"), "each was answered: {said}");
    }
    let before = stage.secret_values("good").await.expect("there")["token"].clone();
    let asked = Instant::now();
    stage.ask_for_token("good", "now").await;
    stage::eventually("the next one is there", async || stage.secret_values("good").await.expect("there")["token"] != before).await;
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited for nobody: {:?}", asked.elapsed());
}

/// Promise 3: of a slow service as much is asked at once as the budget allows, and where that is too little it is said.
#[tokio::test]
async fn a_slow_service_is_asked_as_much_at_once_as_its_budget_allows_and_less_than_is_needed_is_said() {
    let stage = Stage::new("slow").await;
    let with = async |concurrency: u32| {
        let mut document = stage.iam_document(IAM);
        document["spec"]["budget"] = json!({ "requestsPerSecond": 1000, "concurrency": concurrency });
        stage.apply(&document).await.expect("accepted");
    };
    let settings = identity_simulator::Settings { iam_expires_in: 14, ..stage.control.settings().await.expect("the simulator answers") };
    stage.control.set_settings(&settings).await.expect("set");
    with(32).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    stage.control.clear_journal().await.expect("cleared");
    let late = |milliseconds| Rule::every("iam.token", Action::Delay { when: When::BeforeCommit, milliseconds });
    stage.control.inject(&late(8000)).await.expect("accepted");
    let names: Vec<String> = (0..24).map(|n| format!("token-{n}")).collect();
    join_all(names.iter().map(|name| stage.token(name, json!({ "providerRef": { "name": IAM } })))).await;
    stage.control.wait_for_calls(&CallWait::received("iam.token", 24)).await.expect("all of them ask");
    let counts = stage.control.calls().await.expect("the simulator answers");
    assert_eq!(counts.of("iam.token").answered, 0, "all of them at once");
    stage.control.clear_faults().await.expect("mended");
    join_all(names.iter().map(|name| stage.token_ready(name))).await;
    // Twenty-four tokens every six seconds or so, one after the other.
    stage.control.inject(&late(1000)).await.expect("accepted");
    with(1).await;
    stage::eventually("one of them says what is needed", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().any(|token| {
            let is_said = stage::token_condition(token, "Fresh") == Some(("False", "BudgetTooSmall"));
            is_said && stage::token_message(token, "Fresh").is_some_and(|said| said.contains("raise budget.concurrency"))
        })
    })
    .await;
}

/// The simulator's own limit, which blocks for as long as it says, is met once and not again and again.
/// Traps: T28.
#[tokio::test]
async fn a_limit_that_is_met_is_not_met_again_and_again() {
    let stage = Stage::new("limit").await;
    let mut settings = stage.control.settings().await.expect("the simulator answers");
    (settings.management_calls_per_second, settings.block_milliseconds) = (12, 2000);
    stage.control.set_settings(&settings).await.expect("set");
    let switches = identity_simulator::Switches { retry_after: RetryAfter::Seconds, ..Default::default() };
    stage.control.set_switches(&switches).await.expect("set");
    let _operator = stage.operator().await;
    let mut document = stage.provider_document(PROVIDER);
    merge(&mut document, json!({ "spec": { "budget": { "requestsPerSecond": 20, "concurrency": 4 } } }));
    stage.apply(&document).await.expect("the provider is accepted");
    let names: Vec<String> = (0..10).map(|n| format!("app-{n}")).collect();
    join_all(names.iter().map(|name| stage.application(name, json!({})))).await;
    join_all(names.iter().map(|name| stage.ready(name))).await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    let limited = calls.iter().filter(|call| call.status == Some(429)).count();
    // Each block meets what is in flight at that moment, at most four calls; what was cut short begins with a look, so that ten objects
    // need about sixty calls, five blocks.
    assert!(limited <= 20, "{limited} calls into a closed door");
    assert_eq!(stage.registered().await.len(), 10);
    let created = stage.control.calls().await.expect("the simulator answers").of("app_id.applications.create").committed;
    assert_eq!(created, 10, "and none twice");
}

/// A failing object is asked about at growing intervals, never in a loop, and a change of its spec is tried at once.
/// Traps: T28, T29, T30.
#[tokio::test]
async fn a_failing_object_is_tried_at_growing_intervals_and_at_once_when_it_changes() {
    let stage = Stage::new("failing").await;
    let chronicle = stage.chronicle().await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let headers = [].into();
    let broken = Action::Answer { when: When::BeforeCommit, status: 500, headers, body: "{}".into() };
    stage.control.inject(&Rule::every("app_id.applications.get", broken)).await.expect("accepted");
    stage.control.clear_journal().await.expect("cleared");
    stage.patch_application("storefront", json!({ "displayName": "two" })).await.expect("accepted");
    let failed = |times: i32| {
        move |object: &AppIdApplication| object.status.as_ref().and_then(|status| status.failures) == Some(times) && observed(object)
    };
    chronicle.first("storefront", "failed three times", failed(3)).await;
    for times in 1..=3 {
        let object = chronicle.first("storefront", "failed", failed(times)).await;
        let next = object.status.as_ref().and_then(|status| status.next_action_at.clone()).expect("the next attempt is named");
        let ahead = next.0.duration_since(status_written_at(&object).expect("it was written")).as_secs_f64();
        let doubled = 2.0_f64.powi(times);
        assert!((doubled * 0.8 - 1.0..=doubled * 1.2 + 2.0).contains(&ahead), "after {times} failures the wait is {ahead} s");
    }
    assert_eq!(stage.calls("app_id.applications.get").await, 3, "one call an attempt");
    let since = Instant::now();
    stage.patch_application("storefront", json!({ "displayName": "three" })).await.expect("accepted");
    stage.control.wait_for_calls(&CallWait::answered("app_id.applications.get", 4)).await.expect("it is tried");
    assert!(since.elapsed() < Duration::from_secs(3), "at once: {:?}", since.elapsed());
    stage.control.clear_faults().await.expect("mended");
    // What fails and is mended comes back by itself.
    stage.ready("storefront").await;
}

/// Promise 6: fifty applications need one IAM token, and each of them the same few calls, however many there are.
/// Traps: T31.
#[tokio::test]
async fn fifty_applications_share_one_token_and_cost_the_same_each() {
    let stage = Stage::new("fifty").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.provider_ready().await;
    // The budget of the stage's provider is above the service's limit: here every call counts, and none is to be refused.
    let settings = stage.control.settings().await.expect("the simulator answers");
    let unlimited = identity_simulator::Settings { management_calls_per_second: 0, authorization_calls_per_second: 0, ..settings };
    stage.control.set_settings(&unlimited).await.expect("set");
    stage.control.clear_journal().await.expect("cleared");
    let mut costs = Vec::new();
    for round in 0..2 {
        let names: Vec<String> = (0..25).map(|n| format!("app-{round}-{n}")).collect();
        join_all(names.iter().map(|name| stage.application(name, json!({ "scopes": ["read"] })))).await;
        join_all(names.iter().map(|name| stage.ready(name))).await;
        let counts = stage.control.calls().await.expect("the simulator answers");
        assert_eq!(counts.of("iam.token").received, 0, "the provider's token serves all");
        costs.push(counts.of("app_id").received);
        stage.control.clear_journal().await.expect("cleared");
    }
    // POST, scopes, rename and one token to try the credential: four calls, no list.
    assert_eq!(costs, [100, 100]);
}

/// Promise 9: who names somebody else's issuer beside a token endpoint of their own neither pauses that issuer's tokens nor shares its budget.
#[tokio::test]
async fn a_provider_with_somebody_elses_issuer_and_its_own_token_endpoint_stops_nobody() {
    let stage = Stage::new("issuer").await;
    let secret = "cafec0de-secret-of-orders";
    for id in ["main", "other"] {
        let client = OAuthClientSeed { client_id: "orders".into(), secret: Some(secret.into()), ..OAuthClientSeed::default() };
        let server = OidcServerSeed { id: id.into(), clients: vec![client], ..OidcServerSeed::default() };
        stage.control.add_oidc_server(&server).await.expect("added");
    }
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", secret)]).await;
    let tenants = format!("{}/tenants", stage.simulator.urls().oidc);
    let provide = async |name: &str, more: serde_json::Value| {
        let mut oidc = json!({ "issuer": format!("{tenants}/main"), "credentials": { "secretRef": { "name": "pair" } } });
        merge(&mut oidc, more);
        let document = json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
            "metadata": { "name": name, "namespace": stage.namespace },
            "spec": { "oidc": oidc, "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } } },
        });
        stage.apply(&document).await.expect("accepted");
    };
    let _operator = stage.operator().await;
    provide("honest", json!({})).await;
    stage.ready_provider("honest").await;
    let limited = Action::Answer {
        when: When::BeforeCommit,
        status: 429,
        headers: [("Retry-After".to_owned(), "3600".to_owned())].into(),
        body: String::new(),
    };
    stage.control.inject(&Rule::every("oidc", limited).tenant("other")).await.expect("accepted");
    provide("borrows", json!({ "tokenEndpoint": format!("{tenants}/other/token") })).await;
    stage
        .provider_where("borrows", "is told to wait", |provider| {
            stage::provider_condition(provider, "Ready") == Some(("False", "RateLimited"))
        })
        .await;
    stage.token("orders", json!({ "providerRef": { "name": "honest" } })).await;
    stage.token_ready("orders").await;
}

/// Promise 9: who may create a provider can slow down nobody by naming an issuer: neither without a credential, nor with one that the issuer
/// refuses after it was good elsewhere.
#[tokio::test]
async fn a_strangers_provider_takes_nothing_from_the_budget_of_an_issuer() {
    let stage = Stage::new("strangers").await;
    for id in ["main", "other"] {
        let secret = Some("cafec0de-secret-of-orders".to_owned());
        let client = OAuthClientSeed { client_id: "orders".into(), secret, ..OAuthClientSeed::default() };
        let server = OidcServerSeed { id: id.into(), clients: vec![client], ..OidcServerSeed::default() };
        stage.control.add_oidc_server(&server).await.expect("added");
    }
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", "cafec0de-secret-of-orders")]).await;
    stage.secret("wrong", &[("client_id", "orders"), ("client_secret", "cafec0de-of-nobody")]).await;
    let _operator = stage.operator().await;
    let issuer = |tenant: &str| format!("{}/tenants/{tenant}", stage.simulator.urls().oidc);
    let credentials = |name: &str| json!({ "secretRef": { "name": name } });
    let (ample, meagre) = (json!({ "requestsPerSecond": 100, "concurrency": 8 }), json!({ "requestsPerSecond": 1, "concurrency": 1 }));
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer("main"), "credentials": credentials("pair") }, "budget": ample })).await;
    provide(&stage, "nobody", json!({ "oidc": { "issuer": issuer("main") }, "budget": meagre })).await;
    for name in ["server", "nobody"] {
        stage.ready_provider(name).await;
    }
    // It is good at its own place, and keeps its name when it is led to the other one.
    let endpoint = token_endpoint(&stage, "main").await;
    let at =
        |endpoint: &str, pair: &str| json!({ "oidc": { "tokenEndpoint": endpoint, "credentials": credentials(pair) }, "budget": meagre });
    let of_the_same = json!({ "oidc": { "tokenEndpoint": endpoint, "credentials": credentials("pair") }, "budget": ample });
    provide(&stage, "explicit", of_the_same).await;
    provide(&stage, "wanderer", at(&endpoint.replace("main", "other"), "pair")).await;
    for name in ["explicit", "wanderer"] {
        stage.ready_provider(name).await;
    }
    provide(&stage, "wanderer", at(&endpoint, "wrong")).await;
    let is_refused = |provider: &_| stage::provider_condition(provider, "Ready").is_some_and(|(status, _)| status == "False");
    stage.provider_where("wanderer", "is refused", is_refused).await;
    for provider in ["server", "explicit"] {
        let names: Vec<String> = (0..20).map(|number| format!("{provider}-{number}")).collect();
        let begun = Instant::now();
        join_all(names.iter().map(|name| stage.token(name, json!({ "providerRef": { "name": provider } })))).await;
        join_all(names.iter().map(|name| stage.token_ready(name))).await;
        // At the stranger's budget it takes twenty.
        assert!(begun.elapsed() < Duration::from_secs(10), "{provider}: {:?}", begun.elapsed());
    }
}

/// Promise 6: a provider that fails and that nobody waits for is looked at less and less often, also by the next process.
#[tokio::test]
async fn a_failing_provider_that_nobody_waits_for_is_left_alone_by_the_next_process_too() {
    let stage = Stage::new("unmissed").await;
    let server = OidcServerSeed { id: "main".into(), ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.control.inject(&Rule::every("oidc", Action::Drop { when: When::BeforeCommit })).await.expect("accepted");
    let operator = stage.operator().await;
    provide(&stage, "server", json!({ "oidc": { "issuer": format!("{}/tenants/main", stage.simulator.urls().oidc) } })).await;
    let failed = |times: i32| move |provider: &IdentityProvider| provider.status.as_ref().and_then(|status| status.failures) >= Some(times);
    stage.provider_where("server", "fails", failed(1)).await;
    operator.kill().await;
    // As if that had gone on for a while.
    let parameters = PatchParams { field_manager: Some("stage".into()), ..PatchParams::default() };
    let status = Patch::Merge(json!({ "status": { "failures": 9, "nextActionAt": jiff::Timestamp::now().to_string() } }));
    stage.providers().patch_status("server", &parameters, &status).await.expect("accepted");
    let _operator = stage.operator().await;
    let provider = stage.provider_where("server", "fails again", failed(10)).await;
    let next = provider.status.and_then(|status| status.next_action_at).expect("it says when");
    let wait = next.0.duration_since(jiff::Timestamp::now()).as_secs();
    assert!(wait > 200, "it is looked at again in {wait} s");
}
