//! Clocks that are wrong, at the service and under the operator, and a process that stands still for a while.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cloud_identity_operator::api::AccessToken;
use futures::future::join_all;
use identity_simulator::{
    Call, LifetimeAnswer, OAuthClientSeed, OidcServerSeed, OidcSettings, Settings, Switches, TokenForm, switches::IamLifetimeFields,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use stage::{IAM, Operator, OperatorOptions, Stage, eventually};
use tokio::sync::OnceCell;

use crate::ledger::{Ledger, WINDOW};

const SECRET: &str = "cafec0de-secret-of-orders";

/// Seconds that the tokens of these tests live.
const LIFE: i64 = 10;
/// They are replaced after half of that, less 3 to 10 per cent. Where the end is told as a time, in whole seconds like the time of the reply, a second
/// that begins between the two is taken off the life. The machine may be busy, so that it comes later.
const REPLACED: std::ops::Range<f64> = 4.0..8.0;

async fn set_up(stage: &Stage, ahead: i64) {
    let settings = Settings { iam_expires_in: LIFE, clock_offset_seconds: ahead, ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
}

fn by_iam() -> Value {
    json!({ "providerRef": { "name": IAM } })
}

/// Seconds between the token's end, as its status tells it, and now, by the API server's clock, which is ours.
fn left(token: &AccessToken) -> f64 {
    let end = token.status.as_ref().and_then(|status| status.expires_at.as_ref()).expect("an end");
    end.0.duration_since(Timestamp::now()).as_secs_f64()
}

/// The calls of an operation, in their order.
async fn calls(stage: &Stage, operation: &str) -> Vec<Call> {
    let calls = stage.control.journal().await.expect("the simulator answers");
    calls.into_iter().filter(|call| call.operation == operation).collect()
}

/// Waits for three refreshes of one token, and says what is wrong with their times.
async fn flaw_of_refreshes(stage: &Stage, operation: &str, token: &str) -> Option<String> {
    stage.token(token, json!({ "providerRef": { "name": if operation == "iam.token" { IAM } else { "server" } } })).await;
    let ready = stage.token_ready(token).await;
    let (begun, rest) = (calls(stage, operation).await.len(), left(&ready));
    if !(LIFE as f64 - 6.0..=LIFE as f64 + 1.0).contains(&rest) {
        return Some(format!("status says that {rest} s are left of {LIFE}"));
    }
    let mut seen = Vec::new();
    eventually("it was replaced three times", async || {
        seen = calls(stage, operation).await;
        seen.len() >= begun + 3
    })
    .await;
    let times: Vec<Timestamp> = seen[begun - 1..].iter().map(|call| call.time).collect();
    let apart: Vec<f64> = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect();
    apart.iter().any(|apart| !REPLACED.contains(apart)).then(|| format!("two tokens were fetched {apart:?} s apart"))
}

/// IAM, whose answers tell the end as a time and as a span, or one of them.
async fn flaw_at_iam(ahead: i64, fields: IamLifetimeFields) -> Option<String> {
    let stage = Stage::new("clock-iam").await;
    set_up(&stage, ahead).await;
    stage.control.set_switches(&Switches { iam_lifetime_fields: fields, ..Switches::default() }).await.expect("set");
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    flaw_of_refreshes(&stage, "iam.token", "token").await
}

/// A server that tells no span: what is known of the end is what the token says, by the server's own clock.
async fn flaw_at_a_server(ahead: i64) -> Option<String> {
    let stage = Stage::new("clock-oidc").await;
    set_up(&stage, ahead).await;
    let client = OAuthClientSeed { client_id: "orders".into(), secret: Some(SECRET.into()), ..OAuthClientSeed::default() };
    let settings =
        OidcSettings { expires_in: LIFE, lifetime: LifetimeAnswer::Absent, access_tokens: TokenForm::Jwt, ..OidcSettings::default() };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], settings, ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", SECRET)]).await;
    let mut document = stage.iam_document("server");
    document["spec"].as_object_mut().expect("an object").remove("iam");
    let issuer = format!("{}/tenants/main", stage.simulator.urls().oidc);
    document["spec"]["oidc"] = json!({ "issuer": issuer, "credentials": { "secretRef": { "name": "pair" } } });
    stage.apply(&document).await.expect("accepted");
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    flaw_of_refreshes(&stage, "oidc.token", "token").await
}

/// Promise 3: a service whose clock is ten minutes wrong moves no refresh: each comes after half of the life, by one call, and status tells
/// the end by the cluster's clock.
///
/// Traps: T22, T60.
#[tokio::test]
async fn whatever_the_services_clock_says_a_token_is_replaced_in_time_by_one_call() {
    let at_iam = [
        (600, IamLifetimeFields::Both),
        (-600, IamLifetimeFields::Both),
        (600, IamLifetimeFields::Expiration),
        (-600, IamLifetimeFields::Expiration),
    ];
    let at_iam = at_iam.map(|(ahead, fields)| async move {
        flaw_at_iam(ahead, fields).await.map(|flaw| format!("IAM, {ahead} s ahead, {fields:?}: {flaw}"))
    });
    let at_servers =
        [600, -600].map(|ahead| async move { flaw_at_a_server(ahead).await.map(|flaw| format!("a server, {ahead} s ahead: {flaw}")) });
    let (at_iam, at_servers) = tokio::join!(join_all(at_iam), join_all(at_servers));
    let flaws: Vec<String> = at_iam.into_iter().chain(at_servers).flatten().collect();
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
}

/// Promises 3 and 10: a process that stands still past the time of a refresh, or past the end of its tokens, replaces each token as soon as
/// it goes on, and once.
///
/// Traps: T21, T60.
#[tokio::test]
async fn a_process_that_stood_still_replaces_every_token_at_once_and_only_once() {
    const TOKENS: usize = 8;
    const LIFE: i64 = 16;
    let stage = Stage::new("frozen-tokens").await;
    let settings = Settings { iam_expires_in: LIFE, ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
    stage.iam().await;
    let operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    join_all(names.iter().map(|name| stage.token(name, by_iam()))).await;
    join_all(names.iter().map(|name| stage.token_ready(name))).await;
    let published = async || {
        let secrets = stage.secrets().list(&Default::default()).await.expect("listed").items;
        let tokens = secrets.into_iter().filter_map(|secret| secret.data?.remove("token"));
        tokens.map(|token| token.0).collect::<std::collections::BTreeSet<_>>()
    };
    // Past the refresh, which comes after 7.2 to 7.8 s; past the end.
    for still in [Duration::from_secs(10), Duration::from_secs(u64::try_from(LIFE).expect("positive") + 2)] {
        operator.freeze();
        let (before, ledger) = (published().await, Ledger::open(&stage).await);
        assert_eq!(before.len(), TOKENS);
        // That nothing happens while it stands still needs no proof; what happens then, does.
        tokio::time::sleep(still).await;
        assert_eq!(ledger.operations().await, Vec::<String>::new(), "a process that stands still asks nobody");
        operator.thaw();
        let thawed = Instant::now();
        eventually("every token is another one", async || published().await.is_disjoint(&before)).await;
        // Far less than a wait of any kind; the machine may be busy.
        assert!(thawed.elapsed() < Duration::from_secs(4), "after {still:?} it took {:?}", thawed.elapsed());
        tokio::time::sleep(WINDOW).await;
        assert_eq!(ledger.operations().await, vec!["iam.token"; TOKENS], "one call for each, after {still:?}");
        let secrets = ledger.events().writes().of_resource("secrets");
        assert_eq!(secrets.iter().count(), TOKENS, "one write for each, after {still:?}");
        join_all(names.iter().map(|name| stage.token_ready(name))).await;
    }
}

static SHIM: OnceCell<PathBuf> = OnceCell::const_new();

/// A library that makes the clock of a process wrong; the compiler is there, because the operator itself needs one.
async fn shim() -> PathBuf {
    let made = SHIM.get_or_init(|| async {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong_clock-{}.so", std::process::id()));
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/wrong_clock.c");
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let made = stage::run(compiler, "").await;
        assert!(made.success, "{}", made.errors);
        library
    });
    made.await.clone()
}

async fn with_clock(stage: &Stage, wrong_by: i64) -> Operator {
    let environment =
        vec![("LD_PRELOAD".to_owned(), shim().await.display().to_string()), ("WRONG_BY_SECONDS".to_owned(), wrong_by.to_string())];
    stage.operator_with(OperatorOptions { environment, ..OperatorOptions::default() }).await
}

/// Promises 3 and 6: a node's clock that is ten minutes wrong moves no refresh and no time in a status, and another process on another
/// clock goes on as if nothing had happened.
///
/// Traps: T25, T60.
#[tokio::test]
async fn a_process_whose_own_clock_is_ten_minutes_wrong_replaces_tokens_in_time_and_another_one_goes_on() {
    let flaws = join_all([(600, -600), (-600, 600)].map(|(first, second)| async move {
        let stage = Stage::new("wrong-clock").await;
        set_up(&stage, 0).await;
        stage.iam().await;
        let operator = with_clock(&stage, first).await;
        stage.ready_provider(IAM).await;
        if let Some(flaw) = flaw_of_refreshes(&stage, "iam.token", "short").await {
            return Some(format!("{first} s wrong: {flaw}"));
        }
        assert!(operator.log().contains("the API server's clock is not ours"), "its clock was wrong, and it found out");
        let settings = Settings { iam_expires_in: 3600, ..Settings::default() };
        stage.control.set_settings(&settings).await.expect("set");
        stage.ask_for_token("short", "a long one").await;
        stage.token("long", by_iam()).await;
        for name in ["short", "long"] {
            let is_long =
                |token: &AccessToken| token.status.as_ref().is_some_and(|status| status.expires_at.is_some()) && left(token) > 3000.0;
            let token = stage.token_where(name, "lives for an hour", is_long).await;
            if left(&token) > 3601.0 {
                return Some(format!("{first} s wrong: status says that {} s are left", left(&token)));
            }
        }
        drop(operator.kill().await);
        let ledger = Ledger::open(&stage).await;
        let operator = with_clock(&stage, second).await;
        operator.working().await;
        tokio::time::sleep(WINDOW).await;
        let cost = (ledger.writes(), ledger.operations().await);
        if cost != Default::default() {
            return Some(format!("after {first} s, {second} s wrong: {cost:?}"));
        }
        stage.control.set_settings(&Settings { iam_expires_in: LIFE, ..Settings::default() }).await.expect("set");
        flaw_of_refreshes(&stage, "iam.token", "new").await.map(|flaw| format!("then {second} s wrong: {flaw}"))
    }))
    .await;
    let flaws: Vec<String> = flaws.into_iter().flatten().collect();
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
}

/// Promises 3 and 10: a machine that slept stops the steady clock of its processes and every timer. What ended meanwhile is replaced soon
/// after it wakes, and not by a schedule that took no notice.
///
/// Traps: T21, T60.
#[tokio::test]
async fn a_process_whose_machine_slept_past_the_end_of_its_token_replaces_it_when_it_wakes() {
    let stage = Stage::new("asleep").await;
    const LIFE: u64 = 20;
    let settings = Settings { iam_expires_in: i64::try_from(LIFE).expect("few"), ..Settings::default() };
    stage.control.set_settings(&settings).await.expect("set");
    stage.iam().await;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("asleep-{}", std::process::id()));
    std::fs::write(&file, "0").expect("written");
    let environment =
        [("LD_PRELOAD", shim().await), ("ASLEEP_FILE", file.clone())].map(|(name, value)| (name.to_owned(), value.display().to_string()));
    let operator = stage.operator_with(OperatorOptions { environment: environment.into(), ..OperatorOptions::default() }).await;
    stage.ready_provider(IAM).await;
    stage.token("token", by_iam()).await;
    stage.token_ready("token").await;
    let token = async || stage.secret_values("token").await.expect("there")["token"].clone();
    let (first, still) = (token().await, LIFE + 1);
    operator.freeze();
    // That nothing happens while it stands still needs no proof; what happens then, does.
    tokio::time::sleep(Duration::from_secs(still)).await;
    std::fs::write(&file, still.to_string()).expect("written");
    operator.thaw();
    let woken = Instant::now();
    eventually("the token is another one", async || token().await != first).await;
    // It finds out within a second; the machine may be busy. By its own clock, the token would be replaced nine seconds later.
    assert!(woken.elapsed() < Duration::from_secs(5), "it took {:?}", woken.elapsed());
    stage.token_ready("token").await;
    drop(operator.kill().await);
    std::fs::remove_file(&file).expect("removed");
}

/// Promise 10: how new a key is, the cluster's clock tells: one that IAM does not know yet is presented again soon, also where the node's
/// clock is ahead.
///
/// Traps: T58, T60.
#[tokio::test]
async fn a_new_key_is_new_also_where_the_nodes_clock_is_ahead() {
    let stage = Stage::new("new-key").await;
    stage.iam().await;
    let _operator = with_clock(&stage, 600).await;
    stage.ready_provider(IAM).await;
    stage.secret("new-key", &[("apikey", "cafec0de-nobody-knows-me")]).await;
    let key = json!({ "secretRef": { "name": "new-key" } });
    let mut document = stage.iam_document("unknown");
    document["spec"]["iam"]["apiKey"] = key.clone();
    stage.apply(&document).await.expect("accepted");
    stage.token("of-its-own", json!({ "providerRef": { "name": IAM }, "credentials": key })).await;
    stage.token("of-the-provider", json!({ "providerRef": { "name": "unknown" } })).await;
    for name in ["of-its-own", "of-the-provider"] {
        let has_failed = |token: &AccessToken| token.status.as_ref().is_some_and(|status| status.failures.is_some());
        let token = stage.token_where(name, "was refused", has_failed).await;
        let next = token.status.and_then(|status| status.next_action_at).expect("it is tried again").0;
        assert!(next < Timestamp::now() + Duration::from_secs(120), "{name}: a new Secret may hold a new key: {next}");
    }
}
