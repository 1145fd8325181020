//! `AccessToken`: a Secret that holds a valid token, from IAM and from App ID.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cloud_identity_operator::api::AccessToken;
use futures::{StreamExt, stream};
use identity_simulator::{Action, ApplicationSeed, Framing, KeyEdit, KeySeed, ProfileSeed, Rule, ServiceAccount, Settings, User, When};
use kube::{
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};
use stage::{
    Dice, IAM, Operator, OperatorOptions, PROVIDER, SERVICE_ACCOUNT, SYSTEM, Stage, TENANT, eventually, token_condition, token_message,
};

use crate::fixtures::claims;
use crate::ledger::{Ledger, WINDOW, restart_costs_nothing, tally};

/// What a first token costs, and every later one.
const WRITES_OF_A_TOKEN: [&str; 2] = ["patch secrets", "patch accesstokens/status"];

/// A stage with a provider for IAM that was found working; its tokens live as long as told.
async fn with_iam(prefix: &str, seconds: i64) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    lifetime(&stage, seconds).await;
    stage.iam().await;
    let operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    (stage, operator)
}

async fn lifetime(stage: &Stage, seconds: i64) {
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&Settings { iam_expires_in: seconds, app_id_expires_in: seconds, ..settings }).await.expect("set");
}

fn of_iam() -> Value {
    json!({ "providerRef": { "name": IAM } })
}

/// What asks for a token with an API key of the namespace's own, of the id `own`.
async fn with_own_key(stage: &Stage) -> Value {
    let key = KeySeed { id: "own".into(), value: "cafec0de-own-key".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("own-key", &[("apikey", "cafec0de-own-key")]).await;
    json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "own-key" } } })
}

async fn values(stage: &Stage, name: &str) -> BTreeMap<String, String> {
    stage.secret_values(name).await.expect("the Secret is there")
}

fn seconds_left(token: &AccessToken) -> i64 {
    let status = token.status.as_ref().expect("a status");
    let (end, begin) = (status.expires_at.as_ref().expect("an end"), status.last_refreshed_at.as_ref().expect("a beginning"));
    end.0.duration_since(begin.0).as_secs()
}

/// The published token is used as its reader would use it: at the service that takes it.
#[tokio::test]
async fn the_token_of_an_api_key_opens_the_service_and_tells_its_own_end() {
    let (stage, _operator) = with_iam("token", 3600).await;
    stage.token("key-protect", of_iam()).await;
    let ready = stage.token_ready("key-protect").await;
    let secret = values(&stage, "key-protect").await;
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["authorization", "expires_at", "scope", "token", "token_type"]);
    assert_eq!((secret["token_type"].as_str(), secret["scope"].as_str()), ("Bearer", "ibm openid"));
    assert_eq!(secret["authorization"], format!("Bearer {}", secret["token"]));
    let url = format!("{}/management/v4/{TENANT}/applications", stage.app_id_url());
    let answer = stage.http().get(url).header("authorization", &secret["authorization"]).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let status = ready.status.as_ref().expect("a status");
    assert_eq!(secret["expires_at"], status.expires_at.as_ref().expect("an end").0.to_string());
    assert!((3598..=3600).contains(&seconds_left(&ready)), "{}", seconds_left(&ready));
    let refresh = status.refresh_at.as_ref().expect("a time").0.duration_since(status.last_refreshed_at.as_ref().expect("a time").0);
    // The shorter of 66 per cent and 30 minutes, less 3 to 10 per cent.
    assert!((1618..=1747).contains(&refresh.as_secs()), "{refresh:?}");
    assert_eq!(status.secret_ref.as_ref().map(|secret| secret.name.as_str()), Some("key-protect"));
    for type_ in ["Ready", "SecretPublished", "Fresh"] {
        assert_eq!(token_condition(&ready, type_).map(|(status, _)| status), Some("True"), "{type_}");
    }
    let shown = stage.kubectl(&["get", "accesstokens"]).await.quietly();
    let (head, row) = shown.split_once('\n').expect("two lines");
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["NAME", "EXPIRES", "REFRESH", "READY", "AGE"]);
    assert_eq!(row.split_whitespace().nth(1), Some(secret["expires_at"].as_str()));
}

/// A client that the operator registered brings its own credential, whatever its Secret looks like.
#[tokio::test]
async fn a_registered_client_gets_its_token_whatever_layout_its_secret_has() {
    let stage = Stage::new("client").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.token("caller", json!({ "clientRef": { "name": "storefront" }, "grant": { "audienceRef": { "name": "orders" } } })).await;
    stage.token_reason("caller", "ClientNotFound").await;
    stage.application("orders", json!({})).await;
    let secret = json!({ "layout": "IbmBinding", "keys": { "binding": "json" } });
    stage.application("storefront", json!({ "secret": secret })).await;
    stage.token_ready("caller").await;
    let client_id = |name: &'static str| {
        let stage = &stage;
        async move { stage.ready(name).await.status.and_then(|status| status.client_id).expect("a client id") }
    };
    let first = claims(&values(&stage, "caller").await["token"]);
    assert_eq!((first["sub"].as_str(), &first["aud"]), (Some(client_id("storefront").await.as_str()), &json!([client_id("orders").await])));
    // Another client id, another token.
    stage.control.remove_application(TENANT, &client_id("orders").await).await.expect("removed");
    let restarted = stage.control.applications(TENANT).await.expect("listed").len();
    assert_eq!(restarted, 1);
    stage.application("orders", json!({ "scopes": ["orders.read"] })).await;
    eventually("the new audience is in the token", async || {
        let registered = stage.registered().await;
        let orders = registered.iter().find(|application| application.name == "orders");
        let audience = claims(&values(&stage, "caller").await["token"])["aud"].clone();
        orders.is_some_and(|orders| audience == json!([orders.client_id]))
    })
    .await;
}

/// A pair in a Secret, under whichever of the usual names; a user's name and password.
#[tokio::test]
async fn a_pair_in_a_secret_asks_for_its_own_token_and_for_a_users() {
    let stage = Stage::new("pair").await;
    let seeded = ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() };
    let application = stage.control.add_application(TENANT, &seeded).await.expect("added");
    let user = User { username: "ann@example.com".into(), password: "cafec0de-password-of-ann".into(), ..User::default() };
    stage.control.add_user(TENANT, &user).await.expect("added");
    let secret = application.secret.clone().expect("a secret");
    let (id, secret) = (application.client_id.as_str(), secret.as_str());
    for (name, pair) in [
        ("standard", [("client_id", id), ("client_secret", secret)]),
        ("camel", [("clientId", id), ("clientSecret", secret)]),
        ("ours", [("clientId", id), ("secret", secret)]),
        ("own-names", [("user", id), ("pass", secret)]),
    ] {
        stage.secret(name, &pair).await;
    }
    stage.secret("ann", &[("username", "ann@example.com\n"), ("password", "cafec0de-password-of-ann")]).await;
    stage.provider().await;
    let _operator = stage.operator().await;
    let of = |secret: Value| json!({ "providerRef": { "name": PROVIDER }, "credentials": { "secretRef": secret } });
    for name in ["standard", "camel", "ours"] {
        stage.token(&format!("token-{name}"), of(json!({ "name": name }))).await;
        stage.token_ready(&format!("token-{name}")).await;
        assert_eq!(claims(&values(&stage, &format!("token-{name}")).await["token"])["sub"], json!(id), "{name}");
    }
    let keys = json!({ "clientId": "user", "clientSecret": "pass" });
    stage.token("renamed", of(json!({ "name": "own-names", "keys": keys }))).await;
    stage.token_ready("renamed").await;
    let mut of_a_user = of(json!({ "name": "standard" }));
    of_a_user["grant"] = json!({ "type": "Password", "password": { "secretRef": { "name": "ann" } } });
    of_a_user["secret"] = json!({ "identityToken": true });
    stage.token("user", of_a_user).await;
    stage.token_ready("user").await;
    let published = values(&stage, "user").await;
    assert_eq!(claims(&published["token"])["amr"], json!(["cloud_directory"]));
    assert!(published["id_token"].split('.').count() == 3, "an ID token is there");
    assert!(!published.contains_key("refresh_token"), "a refresh token is never published");
    // What is missing is said, with the place and the names.
    stage.token("nothing", of(json!({ "name": "nowhere" }))).await;
    let missing = stage.token_reason("nothing", "CredentialsNotFound").await;
    let said = token_message(&missing, "Ready").expect("a message");
    assert!(said.contains("nowhere") && said.contains(&stage.namespace), "{said}");
    stage.secret("nowhere", &[("user", id)]).await;
    let missing = stage.token_where("nothing", "says which keys it needs", |token| {
        token_message(token, "Ready").is_some_and(|said| said.contains("client_id and client_secret"))
    });
    missing.await;
    stage.secret("nowhere", &[("client_id", id), ("client_secret", secret)]).await;
    stage.token_ready("nothing").await;
    stage.token("own", json!({ "providerRef": { "name": PROVIDER } })).await;
    stage.token_reason("own", "CredentialsRequired").await;
}

/// Promises 3 and 6: one call and two writes for each token, no read, and never one that has ended.
///
/// Traps: T21.
#[tokio::test]
async fn a_token_is_replaced_in_time_for_one_call_and_two_writes() {
    let (stage, _operator) = with_iam("refresh", 8).await;
    let ledger = Ledger::open(&stage).await;
    stage.token("key-protect", of_iam()).await;
    let first = stage.token_ready("key-protect").await;
    eventually("the first token is in the audit log", async || ledger.writes() == WRITES_OF_A_TOKEN).await;
    assert_eq!((ledger.reads(), ledger.operations().await), (vec!["get secrets".to_owned()], vec!["iam.token".to_owned()]));
    let ledger = Ledger::open(&stage).await;
    let begun = Instant::now();
    let mut seen = vec![values(&stage, "key-protect").await["token"].clone()];
    while seen.len() < 5 {
        let token = values(&stage, "key-protect").await["token"].clone();
        let now = jiff::Timestamp::now().as_second();
        // At least half of the life is left when it is replaced, less the time that this takes.
        let left = claims(&token)["exp"].as_i64().expect("an end") - now;
        assert!(left >= 3, "{left} s left");
        if seen.last() != Some(&token) {
            seen.push(token);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Four times something between 3.6 and 3.9 s.
    assert!((13..=18).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    eventually("every refresh is in the audit log", async || tally(&ledger.writes()).get("patch accesstokens/status") >= Some(&4)).await;
    let writes = tally(&ledger.writes());
    assert_eq!(writes["patch secrets"], writes["patch accesstokens/status"], "{writes:?}");
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!(ledger.reads(), Vec::<String>::new());
    let calls = ledger.operations().await;
    assert!(calls.iter().all(|call| call == "iam.token") && calls.len() == writes["patch secrets"], "{calls:?}");
    let last = stage.tokens().get("key-protect").await.expect("there");
    assert!(last.status.expect("a status").last_refreshed_at > first.status.expect("a status").last_refreshed_at);
}

/// A credential that nobody named before costs one read, and no word about anything being in the way.
#[tokio::test]
async fn a_first_token_with_a_credential_of_its_own_costs_one_call_and_two_writes_and_says_nothing_else() {
    let (stage, _operator) = with_iam("own-credential", 3600).await;
    let spec = with_own_key(&stage).await;
    let chronicle = stage.token_chronicle().await;
    let ledger = Ledger::open(&stage).await;
    stage.token("own", spec).await;
    stage.token_ready("own").await;
    eventually("the first token is in the audit log", async || ledger.writes().len() >= 2).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.operations().await), (WRITES_OF_A_TOKEN.map(str::to_owned).to_vec(), vec!["iam.token".to_owned()]));
    assert_eq!(ledger.reads(), ["get secrets"; 2], "the credential, and whether the name is free");
    let said: Vec<_> =
        chronicle.of("own").iter().filter_map(|token| token_condition(token, "Ready").map(|(_, reason)| reason.to_owned())).collect();
    assert!(said.iter().all(|reason| reason == "Ready"), "{said:?}");
}

/// Promise 6. Somebody labels the Secret of a token: it is looked at, and nobody is asked.
///
/// Traps: T24.
#[tokio::test]
async fn an_edit_of_the_metadata_of_a_tokens_secret_costs_one_read_and_no_call() {
    let (stage, _operator) = with_iam("labelled", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let token = values(&stage, "key-protect").await;
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("key-protect", json!({ "metadata": { "labels": { "team": "shop" }, "annotations": { "note": "touched" } } })).await;
    eventually("the Secret's new version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    // Proves that nothing follows.
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes().len(), ledger.reads(), ledger.operations().await), (1, vec!["get secrets".to_owned()], Vec::new()));
    let secret = stage.stored_secret("key-protect").await;
    assert_eq!(secret.metadata.labels.as_ref().and_then(|labels| labels.get("team")).map(String::as_str), Some("shop"), "it stays");
    assert_eq!(values(&stage, "key-protect").await, token);
}

/// Promises 6 and 7: a token that is deleted, in the foreground or in the background, is not put back while its Secret is collected, and
/// nobody is asked for another one.
#[tokio::test]
async fn the_deletion_of_tokens_asks_nobody_and_is_not_fought() {
    let (stage, _operator) = with_iam("deleted", 3600).await;
    let names: Vec<String> = (0..40).map(|number| format!("token-{number}")).collect();
    stream::iter(&names).for_each_concurrent(16, |name| stage.token(name, of_iam())).await;
    for name in &names {
        stage.token_ready(name).await;
    }
    let ledger = Ledger::open(&stage).await;
    let delete = |(number, name): (usize, String)| {
        let tokens = stage.tokens();
        async move {
            let parameters = if number % 2 == 0 { DeleteParams::foreground() } else { DeleteParams::background() };
            tokens.delete(&name, &parameters).await.expect("the deletion is accepted");
        }
    };
    stream::iter(names.into_iter().enumerate()).for_each_concurrent(16, delete).await;
    eventually("tokens and Secrets are gone", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let secrets = stage.secrets().list(&Default::default()).await.expect("listed").items;
        tokens.is_empty() && secrets.iter().all(|secret| !secret.metadata.name.as_ref().is_some_and(|name| name.starts_with("token-")))
    })
    .await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.operations().await, Vec::<String>::new());
    let secrets = ledger.events().writes().of_resource("secrets");
    assert!(secrets.is_empty(), "nothing is written: {secrets}");
}

/// Promise 10: a token that ends although nobody is to replace it says so, on the object, by an event and in the metrics, and costs no call.
///
/// Traps: T59.
#[tokio::test]
async fn a_suspended_token_that_ends_says_so_in_condition_event_and_metric() {
    let (stage, operator) = with_iam("suspended-end", 30).await;
    for name in ["living", "suspended"] {
        stage.token(name, of_iam()).await;
        stage.token_ready(name).await;
    }
    let mut suspended = of_iam();
    suspended["suspend"] = json!(true);
    stage.token("suspended", suspended).await;
    let object = stage.token_reason("suspended", "Suspended").await;
    assert_eq!(token_condition(&object, "Ready"), Some(("True", "Suspended")));
    let end = object.status.and_then(|status| status.expires_at).expect("an end").0;
    let held = values(&stage, "suspended").await;
    let line = async |line: &str| operator.get("/metrics").await.1.lines().any(|is| is == line);
    eventually("it is counted as suspended", async || line("cloud_identity_tokens{state=\"suspended\"} 1").await).await;
    assert!(line("cloud_identity_tokens{state=\"fresh\"} 1").await);
    let text = operator.get("/metrics").await.1;
    let soonest = text.lines().find_map(|line| line.strip_prefix("cloud_identity_token_expiry_timestamp_seconds{service=\"iam\"} "));
    assert_eq!(soonest.and_then(|text| text.parse().ok()), Some(end.as_second()), "{text}");
    let ended = stage.token_reason("suspended", "TokenExpired").await;
    assert_eq!(token_condition(&ended, "Ready"), Some(("False", "TokenExpired")));
    assert!(jiff::Timestamp::now() >= end, "not before its end");
    assert!(stage.event("suspended", "TokenExpired").await.contains("ended"));
    eventually("it is counted as expired", async || line("cloud_identity_tokens{state=\"expired\"} 1").await).await;
    assert_eq!(values(&stage, "suspended").await, held, "nobody took it away");
    // The other one was replaced meanwhile, and hardly late.
    let text = operator.get("/metrics").await.1;
    let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).expect("it is there");
    let count = number("cloud_identity_token_refresh_lateness_seconds_count ");
    let late = number("cloud_identity_token_refresh_lateness_seconds_sum ");
    assert!(count >= 1.0 && late / count < 2.0, "{count} refreshes, {late} s late together");
}

/// Promise 9: what the first minute of a broken token costs, by the kind of failure: each attempt is one call and one status, and the waits
/// grow, or are as long as they were told to be.
///
/// Traps: T28, T30.
#[tokio::test]
async fn the_first_minute_of_a_broken_token_costs_so_many_calls_and_as_many_statuses() {
    const MINUTE: Duration = Duration::from_secs(40);
    let (stage, _operator) = with_iam("broken-minute", 60).await;
    let told = |status: u16, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Action::Answer { when: When::BeforeCommit, status, headers, body: "{}".into() }
    };
    // After 0, 2, 6, 14 and 30 s, each wait 20 per cent longer or shorter, and up to a second longer for the whole seconds of a status.
    let rows = [
        ("dropped", Some(Action::Drop { when: When::BeforeCommit }), false, 4..=5),
        ("refused", Some(told(400, &[])), false, 1..=1),
        ("paused", Some(told(429, &[("Retry-After", "11")])), false, 3..=4),
        // A quarter of what is left of a minute each time, and not sooner than after 10 s.
        ("held", Some(told(400, &[])), true, 3..=4),
        ("obstacle", None, false, 0..=0),
    ];
    let own = |name: &str| json!({ "providerRef": { "name": format!("ibm-{name}") }, "credentials": { "secretRef": { "name": format!("key-{name}") } } });
    let mut faults = BTreeMap::new();
    for (name, action, is_held, _) in &rows {
        let value = format!("cafec0de-key-{name}");
        // A tenant that pauses concerns nobody else.
        let provider = format!("cafec0de-provider-{name}");
        for (id, value) in [(format!("key-{name}"), &value), (format!("provider-{name}"), &provider)] {
            let seed = KeySeed { id: id.clone(), value: value.clone(), ..KeySeed::default() };
            stage.control.add_key(&seed).await.expect("added");
            if id != "key-obstacle" {
                stage.secret(&id, &[("apikey", value)]).await;
            }
        }
        let mut document = stage.iam_document(&format!("ibm-{name}"));
        document["spec"]["iam"]["apiKey"]["secretRef"]["name"] = json!(format!("provider-{name}"));
        stage.apply(&document).await.expect("accepted");
        stage.ready_provider(&format!("ibm-{name}")).await;
        if *is_held {
            stage.token(name, own(name)).await;
            stage.token_ready(name).await;
        }
        if let Some(action) = action {
            let rule = Rule::every("iam.token", action.clone()).body_contains(&value);
            faults.insert(*name, stage.control.inject(&rule).await.expect("accepted").id);
        }
    }
    let ledger = Ledger::open(&stage).await;
    for (name, _, is_held, _) in &rows {
        if *is_held {
            stage.ask_for_token(name, "another").await;
        } else {
            stage.token(name, own(name)).await;
        }
    }
    // The minute itself is what is looked at.
    tokio::time::sleep(MINUTE).await;
    let mut flaws = Vec::new();
    for (name, _, is_held, expected) in rows {
        let calls = ledger.calls().await.iter().filter(|call| call.fault.is_some() && call.fault == faults.get(name).copied()).count();
        if !expected.contains(&calls) {
            flaws.push(format!("{name}: {calls} calls, not {expected:?}"));
        }
        let writes = ledger.events().writes().only(|event| event.name == name);
        let statuses = writes.of_resource("accesstokens").iter().count();
        if statuses != calls.max(1) {
            flaws.push(format!("{name}: {statuses} statuses for {calls} calls"));
        }
        if writes.of_resource("secrets").iter().count() > 0 {
            flaws.push(format!("{name}: a Secret was written"));
        }
        let token = stage.tokens().get(name).await.expect("there");
        let is_ready = token_condition(&token, "Ready").is_some_and(|(status, _)| status == "True");
        if is_ready != is_held {
            flaws.push(format!("{name}: {:?}", token_condition(&token, "Ready")));
        }
    }
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
}

/// Promise 6. Nothing of what an operator of this version left behind is news.
///
/// Traps: T24, T25, T26.
#[tokio::test]
async fn a_restart_with_fresh_tokens_and_an_edit_of_metadata_cost_nothing() {
    let (stage, operator) = with_iam("fresh", 3600).await;
    for name in 0..20 {
        stage.token(&format!("token-{name}"), of_iam()).await;
    }
    for name in 0..20 {
        stage.token_ready(&format!("token-{name}")).await;
    }
    let (_operator, ledger) = restart_costs_nothing(&stage, operator).await;
    // The provider's credential, and nothing else, is read at the start.
    let read: Vec<_> = ledger.reads().into_iter().filter(|read| read.starts_with("get ")).collect();
    assert_eq!(read, ["get secrets", "get configmaps"]);
    let ledger = Ledger::open(&stage).await;
    let touch = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" }, "annotations": { "note": "touched" } } }));
    stage.tokens().patch("token-0", &PatchParams::default(), &touch).await.expect("accepted");
    stage.token("token-0", of_iam()).await;
    ledger.stays_empty("metadata of the token was edited").await;
}

/// What matters replaces the token at once; what does not, does not.
///
/// Traps: T24.
#[tokio::test]
async fn a_changed_credential_a_changed_spec_and_a_request_replace_the_token_at_once() {
    let (stage, _operator) = with_iam("changed", 3600).await;
    let (one, other) = ("cafec0de-key-one", "cafec0de-key-other");
    for (id, key) in [("one", one), ("other", other)] {
        let seed = KeySeed { id: id.into(), value: key.into(), ..KeySeed::default() };
        stage.control.add_key(&seed).await.expect("added");
    }
    stage.secret("own-key", &[("apikey", one)]).await;
    let spec = json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "own-key" } } });
    stage.token("own", spec.clone()).await;
    stage.token_ready("own").await;
    let current = || async { values(&stage, "own").await["token"].clone() };
    let first = current().await;
    let replaced = async |before: &str, why: &str| {
        eventually(why, async || current().await != before).await;
        // The status follows the Secret.
        let version = stage.stored_secret("own").await.metadata.resource_version;
        let is_said = |token: &AccessToken| {
            let known = token.status.as_ref().and_then(|status| status.secret_version.as_ref());
            known.map(|known| &known.resource_version) == version.as_ref()
        };
        stage.token_where("own", "has a status that knows its Secret", is_said).await;
        current().await
    };
    stage.secret("own-key", &[("apikey", other)]).await;
    let second = replaced(&first, "another key, another token").await;
    assert_ne!(claims(&first)["iam_id"], claims(&second)["iam_id"]);
    // Touched, and the same: no call, and no write of the Secret.
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("own-key", json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    eventually("its version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.operations().await), (vec!["patch accesstokens/status".to_owned()], Vec::new()));
    let mut with_scope = spec.clone();
    with_scope["grant"] = json!({ "scopes": ["kms"] });
    stage.token("own", with_scope).await;
    let third = replaced(&second, "another scope, another token").await;
    let ask = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": "please" } } }));
    stage.tokens().patch("own", &PatchParams::default(), &ask).await.expect("accepted");
    let fourth = replaced(&third, "asked for").await;
    let ledger = Ledger::open(&stage).await;
    stage.tokens().patch("own", &PatchParams::default(), &ask).await.expect("accepted");
    ledger.stays_empty("the same request again").await;
    assert_eq!(current().await, fourth);
}

/// Promises 2, 4 and 6: a Secret that was deleted or edited comes back with a token; one that is somebody else's stays as it is.
#[tokio::test]
async fn the_secret_of_a_token_is_put_back_and_nobody_elses_is_touched() {
    let (stage, _operator) = with_iam("repair", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let first = values(&stage, "key-protect").await;
    stage.secrets().delete("key-protect", &DeleteParams::default()).await.expect("deleted");
    eventually("it is back", async || stage.secret_values("key-protect").await.is_some_and(|now| now["token"] != first["token"])).await;
    stage.patch_secret("key-protect", json!({ "stringData": { "token": "cafec0de-forged", "theirs": "kept" } })).await;
    eventually("it is right again", async || {
        stage.secret_values("key-protect").await.is_some_and(|now| now["token"].starts_with("ey") && now["theirs"] == "kept")
    })
    .await;
    assert!(stage.event("key-protect", "SecretRepaired").await.contains("key-protect"));
    stage.secret("taken", &[("mine", "cafec0de-mine")]).await;
    let before = stage.stored_secret("taken").await;
    let calls = stage.all_calls().await;
    stage.token("taken", of_iam()).await;
    let refused = stage.token_reason("taken", "SecretConflict").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("nobody this operator knows")));
    assert_eq!((stage.stored_secret("taken").await, stage.all_calls().await), (before, calls));
    stage.secrets().delete("taken", &DeleteParams::default()).await.expect("deleted");
    stage.token_ready("taken").await;
    // Nothing holds the object: its Secret is collected.
    stage.tokens().delete("key-protect", &DeleteParams::default()).await.expect("deleted");
    eventually("the Secret is collected", async || stage.secret_values("key-protect").await.is_none()).await;
}

/// Promises 2, 3 and 10: a key that is no longer accepted costs nobody a token that still lives; the status says how long that is.
#[tokio::test]
async fn a_refused_credential_leaves_the_token_until_it_ends_and_says_so() {
    let (stage, _operator) = with_iam("refused", 12).await;
    let spec = with_own_key(&stage).await;
    stage.token("own", spec).await;
    stage.token_ready("own").await;
    stage.control.edit_key("own", &KeyEdit { enabled: Some(false), ..KeyEdit::default() }).await.expect("disabled");
    let failing = stage.token_where("own", "says that it is not fresh", |token| {
        token_condition(token, "Fresh").is_some_and(|(status, _)| status == "False")
    });
    let failing = failing.await;
    assert_eq!(token_condition(&failing, "Ready").map(|(status, _)| status), Some("True"), "the token lives");
    let said = token_message(&failing, "Fresh").expect("a message").to_owned();
    let end = failing.status.as_ref().and_then(|status| status.expires_at.clone()).expect("an end").0;
    assert!(said.contains(&format!("valid until {end}")), "{said}");
    let held = values(&stage, "own").await;
    let ended = stage.token_where("own", "has ended", |token| token_condition(token, "Ready").is_some_and(|(status, _)| status == "False"));
    let ended = ended.await;
    assert!(jiff::Timestamp::now() >= end, "not before its end");
    assert!(token_message(&ended, "Ready").is_some_and(|said| said.contains("ended")), "{:?}", token_message(&ended, "Ready"));
    assert_eq!(values(&stage, "own").await, held, "the last good token stays");
    stage.control.edit_key("own", &KeyEdit { enabled: Some(true), ..KeyEdit::default() }).await.expect("enabled");
    let ask = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": "mended" } } }));
    stage.tokens().patch("own", &PatchParams::default(), &ask).await.expect("accepted");
    stage.token_ready("own").await;
    stage.event("own", "Recovered").await;
}

/// A shared credential is handed out as a token only where its owner says so.
#[tokio::test]
async fn the_token_of_a_cluster_providers_own_key_needs_a_permit() {
    let mut stage = Stage::new("shared").await;
    lifetime(&stage, 8).await;
    let home = std::mem::replace(&mut stage.namespace, stage.control_plane.create_namespace("shared").await.expect("made"));
    let name = format!("{home}-shared");
    let provide = async |permitted: bool| {
        let mut document = stage.iam_document(&name);
        document["kind"] = json!("ClusterIdentityProvider");
        document["metadata"] = json!({ "name": name });
        document["spec"]["allowedNamespaces"] = json!({ "from": "Listed", "names": [stage.namespace] });
        document["spec"]["permits"] = json!({ "accessTokens": permitted });
        stage.apply(&document).await.expect("accepted");
    };
    provide(false).await;
    let options =
        OperatorOptions { namespace: home.clone(), watch_namespaces: vec![stage.namespace.clone()], ..OperatorOptions::default() };
    let _operator = stage.operator_with(options).await;
    stage.token("own", json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": name } })).await;
    let refused = stage.token_reason("own", "NotPermitted").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("permits.accessTokens")));
    provide(true).await;
    stage.token_ready("own").await;
    provide(false).await;
    let before = values(&stage, "own").await;
    let refused = stage.token_reason("own", "NotPermitted").await;
    let end = refused.status.and_then(|status| status.expires_at).expect("an end").0;
    let over = stage.token_where("own", "says that the token has ended", |token| {
        token_condition(token, "SecretPublished") == Some(("False", "TokenExpired"))
    });
    assert_eq!(token_condition(&over.await, "Ready"), Some(("False", "NotPermitted")));
    let now = jiff::Timestamp::now();
    assert!((0..5).contains(&now.duration_since(end).as_secs()), "{now} is not soon after {end}");
    assert_eq!(values(&stage, "own").await, before, "what is published stays");
}

/// The variables and the file of IBM's SDKs, and a suspended object.
#[tokio::test]
async fn the_layout_of_ibms_sdks_and_a_change_of_layout() {
    let (stage, _operator) = with_iam("layout", 3600).await;
    let sdk = json!({ "layout": "IbmSdk", "service": "kms", "serviceUrl": "https://kms.example.com", "labels": { "team": "shop" } });
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": sdk })).await;
    stage.token_ready("kms").await;
    let secret = values(&stage, "kms").await;
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["KMS_AUTH_TYPE", "KMS_BEARER_TOKEN", "KMS_URL", "ibm-credentials.env", "token"]);
    assert_eq!(secret["KMS_BEARER_TOKEN"], secret["token"]);
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } } })).await;
    eventually("the keys of the former layout are gone", async || {
        values(&stage, "kms").await.keys().map(String::as_str).eq(["authorization", "bearer", "expires_at", "scope", "token_type"])
    })
    .await;
    stage.token_ready("kms").await;
    let ledger = Ledger::open(&stage).await;
    stage.token("kms", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } }, "suspend": true })).await;
    let suspended = stage.token_reason("kms", "Suspended").await;
    assert_eq!(token_condition(&suspended, "Ready"), Some(("True", "Suspended")));
    assert_eq!(ledger.operations().await, Vec::<String>::new());
}

/// Promise 3: whatever one provider's tokens need together is said before any of them comes too late.
#[tokio::test]
async fn a_budget_that_is_too_small_says_which_rate_is_needed() {
    let stage = Stage::new("budget").await;
    lifetime(&stage, 4).await;
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 2 });
    stage.apply(&document).await.expect("accepted");
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    for number in 0..6 {
        stage.token(&format!("token-{number}"), of_iam()).await;
    }
    // Six tokens every 1.9 s or so.
    let mut ended = Vec::new();
    let is_said = |token: &AccessToken| token_condition(token, "Fresh") == Some(("False", "BudgetTooSmall"));
    eventually("one of them says what is needed", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let has_ended =
            |token: &&AccessToken| token_condition(token, "SecretPublished").is_some_and(|(_, reason)| reason == "TokenExpired");
        ended.extend(tokens.iter().filter(has_ended).filter_map(|token| token.metadata.name.clone()));
        tokens.iter().any(|token| is_said(token) && token_message(token, "Fresh").is_some_and(|said| said.contains("allows 2: raise")))
    })
    .await;
    assert!(ended.is_empty(), "it is said before anything ends: {ended:?}");
    document["spec"]["budget"] = json!({ "requestsPerSecond": 50 });
    stage.apply(&document).await.expect("accepted");
    eventually("none says so any more", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().all(|token| !is_said(token) && token_condition(token, "Fresh").is_some_and(|(status, _)| status == "True"))
    })
    .await;
}

/// What objects needed that were deleted while their tokens were fetched is needed no more.
#[tokio::test]
async fn a_token_that_was_deleted_while_it_was_fetched_takes_nothing_of_the_budget() {
    const GONE: usize = 3;
    let stage = Stage::new("budget-gone").await;
    lifetime(&stage, 4).await;
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 1 });
    stage.apply(&document).await.expect("accepted");
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    // Each would need half a request a second.
    for number in 0..GONE {
        let name = format!("gone-{number}");
        let late = Action::Delay { when: When::AfterCommit, milliseconds: 1000 };
        let fault = stage.control.inject(&Rule::next("iam.token", late)).await.expect("accepted");
        stage.token(&name, of_iam()).await;
        stage.control.wait_for_fault(fault.id).await.expect("under way");
        stage.tokens().delete(&name, &Default::default()).await.expect("deleted");
    }
    stage.token("stays", of_iam()).await;
    let token = stage.token_where("stays", "says how fresh it is", |token| token_condition(token, "Fresh").is_some()).await;
    assert_eq!(token_condition(&token, "Fresh"), Some(("True", "Refreshed")), "{:?}", token_message(&token, "Fresh"));
}

/// A wait after a refusal goes on in the next process, also where the object names a credential of its own.
///
/// Traps: T25, T28.
#[tokio::test]
async fn a_restart_does_not_try_again_what_was_refused() {
    let (stage, operator) = with_iam("waits", 3600).await;
    let locked = KeySeed { id: "locked".into(), value: "cafec0de-locked-key".into(), ..KeySeed::default() };
    stage.control.add_key(&locked).await.expect("added");
    // What the service says of a new key that it does not know passes soon; this does not.
    let headers = BTreeMap::from([("Content-Type".to_owned(), "application/json".to_owned())]);
    let answer = Action::Answer { when: When::BeforeCommit, status: 403, headers, body: r#"{"errorCode":"BXNIM0000E"}"#.into() };
    stage.control.inject(&Rule::every("iam.token", answer).body_contains(&locked.value)).await.expect("accepted");
    stage.secret("wrong", &[("apikey", "cafec0de-locked-key")]).await;
    for number in 0..5 {
        let spec = json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "wrong" } } });
        stage.token(&format!("token-{number}"), spec).await;
    }
    let waits = |token: &AccessToken| {
        let next = token.status.as_ref().and_then(|status| status.next_action_at.clone());
        next.is_some_and(|at| at.0.duration_since(jiff::Timestamp::now()).as_secs() > 60)
    };
    for number in 0..5 {
        stage.token_where(&format!("token-{number}"), "waits for minutes", waits).await;
    }
    let (operator, _) = restart_costs_nothing(&stage, operator).await;
    // What is mended while nobody runs is used at once by the next.
    drop(operator.kill().await);
    let key = KeySeed { id: "right".into(), value: "cafec0de-right-key".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("wrong", &[("apikey", "cafec0de-right-key")]).await;
    let _operator = stage.operator().await;
    stage.token_ready("token-0").await;
}

/// Promise 9: where more refreshes are due than the budget allows, a token that nobody has yet is not put off for ever by those that have life
/// enough left.
#[tokio::test]
async fn a_new_token_gets_its_turn_although_more_refreshes_are_due_than_the_budget_allows() {
    // Fifty-two every ten seconds, and four a second: forty of them keep the service busy for ever.
    const TOKENS: usize = 52;
    let stage = Stage::new("share").await;
    lifetime(&stage, 3600).await;
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 4, "concurrency": 1 });
    stage.apply(&document).await.expect("accepted");
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let often = json!({ "providerRef": { "name": IAM }, "refresh": { "maxInterval": "10s" } });
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    futures::future::join_all(names.iter().map(|name| stage.token(name, often.clone()))).await;
    eventually("every one of them has its first token", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let has_one = |token: &&AccessToken| token.status.as_ref().is_some_and(|status| status.expires_at.is_some());
        tokens.iter().filter(has_one).count() == TOKENS
    })
    .await;
    // It was as much as it was meant to be.
    eventually("one of them says that the budget is too small", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().any(|token| token_condition(token, "Fresh") == Some(("False", "BudgetTooSmall")))
    })
    .await;
}

/// The ends of the tokens in the Secrets of a stage, as somebody sees them who watches: `None` for a Secret that is gone or holds no token.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<BTreeMap<String, Option<i64>>>>);

impl Ends {
    /// Watches the Secrets of the stage until the task ends.
    fn watch(&self, stage: &Stage) -> tokio::task::JoinHandle<()> {
        let (ends, secrets) = (self.clone(), stage.secrets());
        tokio::spawn(async move {
            let mut events = Box::pin(watcher(secrets, watcher::Config::default()));
            while let Some(event) = events.next().await {
                let (secret, is_there) = match event {
                    Ok(Event::Apply(secret) | Event::InitApply(secret)) => (secret, true),
                    Ok(Event::Delete(secret)) => (secret, false),
                    _ => continue,
                };
                let name = secret.metadata.name.unwrap_or_default();
                if !name.starts_with("token-") {
                    continue;
                }
                let token = secret.data.and_then(|data| String::from_utf8(data.get("token")?.0.clone()).ok()).filter(|_| is_there);
                let end = token.filter(|token| !token.is_empty()).and_then(|token| claims(&token)["exp"].as_i64());
                ends.lock().insert(name, end);
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Promise 3, as a reader sees it: hundreds of tokens of short life, a service that fails in every way for a third of its answers, a process
/// that dies in the midst of it, and a prober that watches every Secret and looks at all of them ten times a second.
///
/// Traps: T21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_ever_finds_an_expired_token_while_a_third_of_all_answers_fails() {
    const TOKENS: usize = 300;
    const LIFETIME: i64 = 60;
    const FAULTS: u64 = 100;
    const LASTS: Duration = Duration::from_secs(48);
    const LASTS_AT_MOST: Duration = Duration::from_secs(80);
    let (stage, operator) = with_iam("prober", LIFETIME).await;
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    stream::iter(&names).for_each_concurrent(32, |name| stage.token(name, of_iam())).await;
    let ends = Ends::default();
    let watching = ends.watch(&stage);
    eventually("every token is published", async || {
        let ends = ends.lock();
        names.iter().all(|name| ends.get(name).is_some_and(Option::is_some))
    })
    .await;
    // Every kind of fault, one for each third call or so: they are made as often as tokens are replaced.
    let answer = |status: u16, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Action::Answer { when: When::BeforeCommit, status, headers, body: "{}".into() }
    };
    let faults = [
        Action::Drop { when: When::BeforeCommit },
        Action::Drop { when: When::AfterCommit },
        answer(500, &[]),
        answer(503, &[("Retry-After", "1")]),
        answer(429, &[("Retry-After", "2")]),
        answer(408, &[]),
        Action::Html { when: When::BeforeCommit, status: 403 },
        Action::Truncate { keep: 20, framing: Framing::Consistent },
        Action::Truncate { keep: 20, framing: Framing::ContentLength },
        Action::Delay { when: When::BeforeCommit, milliseconds: 3000 },
        Action::Drip { bytes: 100, milliseconds: 150 },
    ];
    let begun = Instant::now();
    let (mut dice, mut first, mut second) = (Dice(20_261_128), Some(operator), None);
    let before = stage.control.calls().await.expect("counted").operations["iam.token"].received;
    let (mut looks, mut tightest, mut injected, mut asked) = (0, i64::MAX, 0, before);
    // On a busy machine the pauses leave less time to ask in: it goes on until there was enough of everything, but not for ever.
    while begun.elapsed() < LASTS || injected < FAULTS || asked <= before + u64::try_from(TOKENS).expect("few") {
        assert!(begun.elapsed() < LASTS_AT_MOST, "only {injected} faults, and {} calls", asked - before);
        let round = Instant::now();
        asked = stage.control.calls().await.expect("counted").operations["iam.token"].received;
        while injected < (asked - before) / 3 {
            injected += 1;
            let fault = faults[dice.roll(faults.len())].clone();
            stage.control.inject(&Rule::next("iam.token", fault)).await.expect("accepted");
        }
        if begun.elapsed() > LASTS / 2
            && let Some(running) = first.take()
        {
            // In the midst of it the process dies, and another one takes over.
            drop(running.kill().await);
            second = Some(stage.operator().await);
        }
        let now = jiff::Timestamp::now().as_second();
        let ended = ends.lock().iter().find(|(_, end)| end.is_none_or(|end| end <= now)).map(|(name, end)| (name.clone(), *end));
        if let Some((name, end)) = ended {
            let object = stage.tokens().get(&name).await.expect("there");
            panic!("{name} holds a token that has ended: {end:?}, {}", serde_json::to_string_pretty(&object.status).expect("JSON"));
        }
        tightest = tightest.min(ends.lock().values().flatten().map(|end| end - now).min().expect("there are some"));
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100).saturating_sub(round.elapsed())).await;
    }
    watching.abort();
    assert!(second.is_some_and(|mut operator: Operator| operator.is_running()), "the second process runs");
    assert_eq!(ends.lock().len(), TOKENS);
    assert!(looks > 100, "{looks} looks");
    assert!(tightest < LIFETIME / 2, "{tightest} s: the faults were felt");
}

/// A trusted profile: the operator's own account assumes it, and no key lies anywhere. Its token goes to IBM's hosts, and to those that a flag
/// names.
#[tokio::test]
async fn a_trusted_profile_is_assumed_with_the_operators_own_token_and_by_nobody_elses_host() {
    let mut stage = Stage::new("profile").await;
    let home = std::mem::replace(&mut stage.namespace, stage.control_plane.create_namespace("profile").await.expect("made"));
    let account = ServiceAccount { namespace: SYSTEM.into(), name: SERVICE_ACCOUNT.into() };
    let profile = ProfileSeed { name: "operator".into(), subjects: [account].into(), ..ProfileSeed::default() };
    let profile = stage.control.add_profile(&profile).await.expect("added");
    // What a kubelet would do for the chart's Pod.
    let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> = kube::Api::namespaced(stage.client.clone(), SYSTEM);
    let wanted = serde_json::from_value(json!({ "spec": { "audiences": ["iam"] } })).expect("valid");
    let made = accounts.create_token_request(SERVICE_ACCOUNT, &PostParams::default(), &wanted).await.expect("made");
    let token = made.status.expect("a status").token;
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.token", stage.namespace));
    std::fs::write(&file, token).expect("written");
    let name = format!("{home}-ibm");
    let mut document = stage.iam_document(&name);
    document["kind"] = json!("ClusterIdentityProvider");
    document["metadata"] = json!({ "name": name });
    document["spec"]["iam"] = json!({ "url": stage.simulator.urls().iam, "trustedProfile": { "id": profile.id } });
    document["spec"]["allowedNamespaces"] = json!({ "from": "Listed", "names": [stage.namespace] });
    document["spec"]["permits"] = json!({ "accessTokens": true });
    stage.apply(&document).await.expect("accepted");
    let options = |hosts: Vec<String>| OperatorOptions {
        namespace: home.clone(),
        watch_namespaces: vec![stage.namespace.clone()],
        arguments: ["--iam-token-file".to_owned(), file.display().to_string()].into_iter().chain(hosts).collect(),
        ..OperatorOptions::default()
    };
    stage.token("profile", json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": name } })).await;
    let operator = stage.operator_with(options(Vec::new())).await;
    let refused = stage.token_reason("profile", "AddressNotAllowed").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("--iam-hosts")));
    assert_eq!(stage.calls("iam.token").await, 0, "the token went nowhere");
    drop(operator.kill().await);
    let _operator = stage.operator_with(options(vec!["--iam-hosts".into(), "127.0.0.1".into()])).await;
    stage.token_ready("profile").await;
    let claims = claims(&values(&stage, "profile").await["token"]);
    assert_eq!(claims["iam_id"], json!(format!("iam-{}", profile.id)));
    std::fs::remove_file(&file).expect("it is there");
}

/// Promises 6 and 10: a writer that keeps changing the Secret of a token is not fought without end, and costs few tokens.
///
/// Traps: T45.
#[tokio::test]
async fn a_hostile_writer_of_a_token_meets_few_repairs_and_the_condition_contested() {
    let (stage, _operator) = with_iam("hostile-token", 3600).await;
    stage.token("key-protect", of_iam()).await;
    stage.token_ready("key-protect").await;
    let ledger = Ledger::open(&stage).await;
    let mut rounds = 0;
    eventually("the object says that the Secret is contested", async || {
        let is_right = values(&stage, "key-protect").await["token"].starts_with("ey");
        if is_right && rounds < 20 {
            rounds += 1;
            stage.patch_secret("key-protect", json!({ "stringData": { "token": format!("cafec0de-hostile-{rounds}") } })).await;
        }
        let token = stage.tokens().get("key-protect").await.expect("there");
        token_condition(&token, "Ready").is_some_and(|(_, reason)| reason == "Contested")
    })
    .await;
    for round in 0..10 {
        stage.patch_secret("key-protect", json!({ "stringData": { "token": format!("cafec0de-more-{round}") } })).await;
    }
    tokio::time::sleep(WINDOW).await;
    assert!((5..=6).contains(&rounds), "{rounds} rounds");
    assert!(ledger.operations().await.len() <= 6, "{:?}", ledger.operations().await);
    // What its owner asks for is done all the same.
    stage.token("key-protect", json!({ "providerRef": { "name": IAM }, "secret": { "keys": { "token": "bearer" } } })).await;
    stage.token_ready("key-protect").await;
    assert!(values(&stage, "key-protect").await.contains_key("bearer"));
}
