//! Refresh tokens that the server replaces at each use: none is used twice, whatever happens, but for the one repetition that a lost answer
//! allows.

mod crash;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cloud_identity_operator::api::AccessToken;
use identity_simulator::{Action, OAuthClientSeed, OAuthRefreshTokenSeed, OidcServerSeed, OidcSettings, Rule, When};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use stage::{
    Effect, Interceptor, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, Seen, Stage, eventually, token_condition, token_message,
};

use crate::ledger::{Ledger, WINDOW, tally};

pub(crate) const SERVER: &str = "main";
pub(crate) const CLIENT: &str = "orders";
const SECRET: &str = "cafec0de-secret-of-orders";

pub(crate) fn seed_of(name: &str) -> String {
    format!("cafec0de-first-refresh-token-of-{name}")
}

/// A server that takes back everything when a spent refresh token comes, a client, and a provider; no operator yet.
pub(crate) async fn with_server(prefix: &str, expires_in: i64) -> Stage {
    let stage = Stage::new(prefix).await;
    let settings = OidcSettings { expires_in, reuse_revokes_family: true, ..OidcSettings::default() };
    let client = OAuthClientSeed { client_id: CLIENT.into(), secret: Some(SECRET.into()), ..OAuthClientSeed::default() };
    let server = OidcServerSeed { id: SERVER.into(), clients: vec![client], settings, ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("pair", &[("client_id", CLIENT), ("client_secret", SECRET)]).await;
    let issuer = format!("{}/tenants/{SERVER}", stage.simulator.urls().oidc);
    let document = json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
        "metadata": { "name": "server", "namespace": stage.namespace },
        "spec": {
            "oidc": { "issuer": issuer, "credentials": { "secretRef": { "name": "pair" } } },
            "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } },
            "budget": { "requestsPerSecond": 1000, "concurrency": 16 },
        },
    });
    stage.apply(&document).await.expect("accepted");
    stage
}

/// Somebody has signed in, and put the refresh token into a Secret.
pub(crate) async fn sign_in(stage: &Stage, name: &str, token: &str) {
    let seed = OAuthRefreshTokenSeed {
        token: Some(token.into()),
        client_id: CLIENT.into(),
        subject: name.into(),
        scope: "openid orders".into(),
        ..OAuthRefreshTokenSeed::default()
    };
    stage.control.add_refresh_token(SERVER, &seed).await.expect("added");
    stage.secret(&format!("{name}-seed"), &[("refresh_token", token)]).await;
}

pub(crate) fn spec(name: &str) -> Value {
    let grant = json!({ "type": "RefreshToken", "refreshToken": { "secretRef": { "name": format!("{name}-seed") } } });
    json!({ "providerRef": { "name": "server" }, "grant": grant })
}

async fn token(stage: &Stage, name: &str) -> String {
    stage.secret_values(name).await.expect("the Secret is there")["token"].clone()
}

/// How often a spent refresh token came to the server, for each sign-in by its subject.
pub(crate) async fn reuses(stage: &Stage, name: &str) -> u64 {
    let tokens = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed");
    tokens.iter().filter(|token| token.subject == name).map(|token| token.reuses).sum()
}

/// A write of the state of `ann`.
fn is_state(seen: &Seen) -> bool {
    seen.is_write() && seen.resource == "secrets" && seen.name == "ann-state"
}

/// The refresh token that is used next.
async fn stored(stage: &Stage, name: &str) -> String {
    stage.secret_values(&format!("{name}-state")).await.expect("the Secret is there")["refresh_token"].clone()
}

async fn must_sign_in(stage: &Stage, name: &str) -> AccessToken {
    let is_said = |token: &AccessToken| token_condition(token, "Fresh") == Some(("False", "ReauthorizationRequired"));
    stage.token_where(name, "says that somebody must sign in", is_said).await
}

/// Two writes more than any refresh, no read; what comes in its place is known to nobody else, and goes on after a restart.
#[tokio::test]
async fn a_refresh_token_is_replaced_at_each_use_and_none_is_used_twice() {
    let stage = with_server("rotation", 8).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let operator = stage.operator().await;
    stage.ready_provider("server").await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let secret = stage.secret_values("ann").await.expect("there");
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["authorization", "expires_at", "scope", "token", "token_type"]);
    let state = stage.stored_secret("ann-state").await;
    assert!(state.metadata.labels.iter().flatten().any(|(label, _)| label == "cloudidentity.dev/state"));
    assert_eq!(state.metadata.owner_references.iter().flatten().map(|owner| owner.kind.as_str()).collect::<Vec<_>>(), ["AccessToken"]);
    let ledger = Ledger::open(&stage).await;
    let mut seen = vec![token(&stage, "ann").await];
    while seen.len() < 4 {
        let now = token(&stage, "ann").await;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("every refresh is in the audit log", async || tally(&ledger.writes()).get("patch accesstokens/status") >= Some(&3)).await;
    let (writes, refreshes) = (tally(&ledger.writes()), ledger.operations().await.len());
    assert_eq!(writes["patch accesstokens/status"], refreshes, "{writes:?}");
    assert_eq!((writes["patch secrets"], writes.len()), (3 * refreshes, 2), "{writes:?}");
    assert_eq!(ledger.reads(), Vec::<String>::new());
    // The next process goes on with the token that is stored.
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    let before = token(&stage, "ann").await;
    eventually("the next process refreshes", async || token(&stage, "ann").await != before).await;
    stage.token_ready("ann").await;
    assert_eq!(reuses(&stage, "ann").await, 0);
    let tokens = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed");
    assert!(tokens.len() >= 5 && tokens.iter().all(|token| !token.revoked));
    // Nobody may refer to it, and it goes with the object.
    let document = json!({ "providerRef": { "name": "server" }, "credentials": { "secretRef": { "name": "ann-state" } } });
    stage.token("thief", document).await;
    stage.token_reason("thief", "SecretReferenceRefused").await;
    stage.tokens().delete("ann", &DeleteParams::default()).await.expect("deleted");
    eventually("both Secrets are collected", async || {
        stage.secret_values("ann").await.is_none() && stage.secret_values("ann-state").await.is_none()
    })
    .await;
}

/// Another first refresh token begins anew; one that was touched does not, and a server that does not replace refresh tokens is fine, too.
#[tokio::test]
async fn another_first_refresh_token_begins_anew_and_the_same_one_touched_costs_nothing() {
    let stage = with_server("seed", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let _operator = stage.operator().await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let first = token(&stage, "ann").await;
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("ann-seed", json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    eventually("its version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(ledger.operations().await, Vec::<String>::new());
    sign_in(&stage, "ann", &seed_of("ann-again")).await;
    eventually("the new sign-in is used", async || token(&stage, "ann").await != first).await;
    stage.token_ready("ann").await;
    assert_eq!(reuses(&stage, "ann").await, 0);
    let settings = OidcSettings { rotation: false, ..OidcSettings::default() };
    stage.control.set_oidc_settings(SERVER, &settings).await.expect("set");
    for round in 0..2 {
        let before = token(&stage, "ann").await;
        stage.ask_for_token("ann", &format!("round-{round}")).await;
        eventually("refreshed", async || token(&stage, "ann").await != before).await;
    }
    // Of two objects with one refresh token the older has it.
    let mut other = spec("ann");
    other["secret"] = json!({ "name": "other-secret" });
    stage.token("other", other.clone()).await;
    let refused = stage.token_reason("other", "RefreshTokenShared").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("/ann uses the refresh token")));
    assert!(stage.secret_values("other-secret").await.is_none());
    // Another key of that Secret holds another sign-in's.
    let third = seed_of("third");
    sign_in(&stage, "third", &third).await;
    stage.secret("ann-seed", &[("refresh_token", &seed_of("ann-again")), ("third", &third)]).await;
    other["grant"]["refreshToken"]["secretRef"]["key"] = json!("third");
    stage.token("other", other).await;
    stage.token_ready("other").await;
    assert_eq!((reuses(&stage, "ann").await, reuses(&stage, "third").await), (0, 0));
    // The name of the operator's own Secret is taken like any other.
    stage.secret("taken-state", &[("mine", "cafec0de-mine")]).await;
    sign_in(&stage, "taken", &seed_of("taken")).await;
    let calls = stage.calls("oidc.token").await;
    stage.token("taken", spec("taken")).await;
    let refused = stage.token_reason("taken", "SecretConflict").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("taken-state")));
    assert_eq!(stage.calls("oidc.token").await, calls);
}

/// Promise 10: what a person has to do is said, and the published token stays until it ends.
#[tokio::test]
async fn a_refresh_token_that_is_refused_is_not_tried_again_until_there_is_another() {
    let stage = with_server("refused-refresh", 8).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let operator = stage.operator().await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let held = stage.secret_values("ann").await;
    let family = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed")[0].family.clone();
    stage.control.revoke_oauth(SERVER, &family).await.expect("revoked");
    let refused = must_sign_in(&stage, "ann").await;
    assert_eq!(token_condition(&refused, "Ready").map(|(status, _)| status), Some("True"), "the token lives");
    let calls = stage.calls("oidc.token").await;
    stage.token_reason("ann", "ReauthorizationRequired").await;
    assert_eq!(stage.secret_values("ann").await, held, "the published token is not touched");
    stage.patch_secret("ann-seed", json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    drop(operator.kill().await);
    let operator = stage.operator().await;
    operator.working().await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.calls("oidc.token").await, calls, "neither a touch nor a restart tries it again");
    sign_in(&stage, "ann", &seed_of("ann-again")).await;
    stage.token_ready("ann").await;
    assert_ne!(stage.secret_values("ann").await, held);
    // Without the Secret nobody knows the current one, and the first is used up.
    stage.secrets().delete("ann-state", &DeleteParams::default()).await.expect("deleted");
    let lost = stage.token_reason("ann", "ReauthorizationRequired").await;
    assert!(token_message(&lost, "Ready").is_some_and(|said| said.contains("ann-state") && said.contains("is gone")));
    let calls = stage.calls("oidc.token").await;
    stage.patch_secret("ann-seed", json!({ "metadata": { "labels": { "team": "other" } } })).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.calls("oidc.token").await, calls, "the first one is used up, however often its Secret is touched");
    assert_eq!(reuses(&stage, "ann").await, 0);
}

/// A lost answer is repeated once; the answer that was lost after the server had replaced the token costs the sign-in, and not the published
/// token.
#[tokio::test]
async fn a_lost_answer_is_repeated_once_and_later_only_when_the_published_token_has_ended() {
    let stage = with_server("lost", 24).await;
    for name in ["once", "twice", "spent"] {
        sign_in(&stage, name, &seed_of(name)).await;
    }
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    for name in ["once", "twice", "spent"] {
        stage.token(name, spec(name)).await;
        stage.token_ready(name).await;
    }
    let current = async |name: &str| {
        let tokens = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed");
        tokens.into_iter().find(|token| token.subject == name && !token.spent).expect("one is good").token
    };
    for (name, when, times) in [("once", When::BeforeCommit, 1), ("twice", When::BeforeCommit, 2), ("spent", When::AfterCommit, 1)] {
        let rule = Rule::next("oidc.token", Action::Drop { when }).times(times).body_contains(&current(name).await);
        stage.control.inject(&rule).await.expect("accepted");
    }
    let held = [token(&stage, "once").await, token(&stage, "twice").await, token(&stage, "spent").await];
    let ends = stage.tokens().get("twice").await.expect("there").status.and_then(|status| status.expires_at).expect("an end").0;
    for name in ["once", "twice", "spent"] {
        stage.ask_for_token(name, "please").await;
    }
    eventually("the repetition is answered", async || token(&stage, "once").await != held[0]).await;
    assert_eq!(reuses(&stage, "once").await, 0);
    must_sign_in(&stage, "spent").await;
    assert_eq!(reuses(&stage, "spent").await, 1, "the one repetition");
    assert_eq!(token(&stage, "spent").await, held[2]);
    let waits = stage.token_where("twice", "waits until its token has ended", |token| {
        token
            .status
            .as_ref()
            .is_some_and(|status| status.failures == Some(2) && status.next_action_at.as_ref().is_some_and(|at| at.0 >= ends))
    });
    waits.await;
    let issued = async || {
        let tokens = stage.control.oauth_tokens(SERVER, CLIENT).await.expect("listed");
        tokens.iter().filter(|token| token.subject == "twice").count()
    };
    while jiff::Timestamp::now() < ends {
        assert_eq!((issued().await, token(&stage, "twice").await), (1, held[1].clone()), "it is used again before its end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("it goes on after the end", async || token(&stage, "twice").await != held[1]).await;
    stage.token_ready("twice").await;
    assert_eq!((reuses(&stage, "twice").await, reuses(&stage, "spent").await), (0, 1));
}

/// Whoever puts the operator's Secret back, or leads another object to a refresh token that is in use, makes nobody use a spent one.
#[tokio::test]
async fn an_older_state_and_an_object_that_was_led_to_anothers_refresh_token_use_nothing_twice() {
    let stage = with_server("older-state", 3600).await;
    // The older object is led to the refresh token of the younger one later.
    for name in ["older", "ann"] {
        sign_in(&stage, name, &seed_of(name)).await;
    }
    let operator = stage.operator().await;
    for name in ["older", "ann"] {
        stage.token(name, spec(name)).await;
        stage.token_ready(name).await;
        // Seconds tell which object is the older one.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let older = stage.secret_values("ann-state").await.expect("there");
    for round in ["first", "second"] {
        let before = token(&stage, "ann").await;
        stage.ask_for_token("ann", round).await;
        eventually("refreshed", async || token(&stage, "ann").await != before).await;
        stage.token_ready("ann").await;
    }
    let put_back = async || {
        stage.patch_secret("ann-state", json!({ "stringData": older })).await;
    };
    // This process knows what was there.
    put_back().await;
    let before = token(&stage, "ann").await;
    stage.ask_for_token("ann", "third").await;
    eventually("refreshed with what is remembered", async || token(&stage, "ann").await != before).await;
    stage.token_ready("ann").await;
    assert_eq!(reuses(&stage, "ann").await, 0);
    // The next one does not, and says so.
    drop(operator.kill().await);
    put_back().await;
    let _operator = stage.operator().await;
    stage.ask_for_token("ann", "fourth").await;
    let lost = stage.token_where("ann", "says that the state is an older one", |token| {
        token_condition(token, "Ready").is_some_and(|(_, reason)| reason == "ReauthorizationRequired")
    });
    assert!(token_message(&lost.await, "Ready").is_some_and(|said| said.contains("older state")));
    assert_eq!(reuses(&stage, "ann").await, 0);
    sign_in(&stage, "ann", &seed_of("ann-again")).await;
    stage.token_ready("ann").await;
    stage.token("older", spec("ann")).await;
    stage.token_reason("older", "RefreshTokenShared").await;
    assert_eq!(reuses(&stage, "ann").await, 0);
}

/// A tenant that is paused is asked nothing, and that uses nothing up.
#[tokio::test]
async fn a_pause_of_the_tenant_is_no_use_of_the_refresh_token() {
    let stage = with_server("paused-refresh", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let _operator = stage.operator().await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let uses = async || stage.secret_values("ann-state").await.expect("there")["use_number"].clone();
    let headers = [("Retry-After".to_owned(), "4".to_owned())].into();
    let answer = Action::Answer { when: When::BeforeCommit, status: 429, headers, body: "{}".into() };
    stage.control.inject(&Rule::next("oidc.token", answer)).await.expect("accepted");
    let before = token(&stage, "ann").await;
    stage.ask_for_token("ann", "first").await;
    let limited = stage.token_where("ann", "says that it has to wait", |token| {
        token_condition(token, "Fresh").is_some_and(|(_, reason)| reason == "RateLimited")
    });
    limited.await;
    let used = uses().await;
    // Somebody asks once more, while nobody may.
    stage.ask_for_token("ann", "second").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((uses().await, token(&stage, "ann").await), (used, before.clone()));
    eventually("it goes on after the pause", async || token(&stage, "ann").await != before).await;
    stage.token_ready("ann").await;
    assert_eq!(reuses(&stage, "ann").await, 0);
}

/// A gateway's 503 does not say whether the request was passed on: like a lost answer.
#[tokio::test]
async fn a_503_after_the_token_was_replaced_is_repeated_once_and_no_more() {
    let stage = with_server("gateway", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let _operator = stage.operator().await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let answer = Action::Answer { when: When::AfterCommit, status: 503, headers: Default::default(), body: "upstream reset".into() };
    stage.control.inject(&Rule::next("oidc.token", answer)).await.expect("accepted");
    stage.ask_for_token("ann", "please").await;
    must_sign_in(&stage, "ann").await;
    assert_eq!(reuses(&stage, "ann").await, 1);
}

/// What came is kept until it is stored, however long the API server refuses it.
#[tokio::test]
async fn a_successor_that_cannot_be_stored_is_kept_and_costs_no_call_more() {
    let stage = with_server("unstored", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let (interceptor, _operator) = behind(&stage).await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let calls = stage.calls("oidc.token").await;
    for (round, effect) in [Effect::Answer(500), Effect::DropBefore, Effect::Answer(409), Effect::DropAfter].into_iter().enumerate() {
        let before = token(&stage, "ann").await;
        // The first write says that the token is used, the second holds what came.
        let rule = interceptor.intercept(is_state, 1, 2, effect);
        stage.ask_for_token("ann", &format!("round-{round}")).await;
        interceptor.fired(rule).await;
        eventually("it is stored and published", async || token(&stage, "ann").await != before).await;
        stage.token_ready("ann").await;
        assert_eq!(stage.calls("oidc.token").await, calls + 1 + round as u64, "{effect:?}");
    }
    assert_eq!(reuses(&stage, "ann").await, 0);
}

/// An API server that fails for longer than a pass waits, and an object that is suspended then: what came is stored all the same.
#[tokio::test]
async fn what_came_is_stored_also_when_the_object_is_suspended_by_then() {
    let stage = with_server("suspended-successor", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let (interceptor, operator) = behind(&stage).await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let (published, before) = (token(&stage, "ann").await, stored(&stage, "ann").await);
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = fails.clone();
    let is_in_vain = move |seen: &Seen| is_state(seen) && is_failing.load(Ordering::Relaxed);
    // The first write says that the token is used.
    let rule = interceptor.intercept(is_in_vain, 1, usize::MAX, Effect::Answer(500));
    stage.ask_for_token("ann", "please").await;
    interceptor.fired(rule).await;
    let suspend = |suspend: bool| Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    stage.tokens().patch("ann", &PatchParams::default(), &suspend(true)).await.expect("accepted");
    operator.logged("a pass failed at the API server").await;
    let calls = stage.calls("oidc.token").await;
    fails.store(false, Ordering::Relaxed);
    stage.token_reason("ann", "Suspended").await;
    assert_ne!(stored(&stage, "ann").await, before, "it is stored");
    assert_eq!((token(&stage, "ann").await, stage.calls("oidc.token").await), (published.clone(), calls), "and nothing else is done");
    stage.tokens().patch("ann", &PatchParams::default(), &suspend(false)).await.expect("accepted");
    eventually("the sign-in goes on", async || token(&stage, "ann").await != published).await;
    assert_eq!((stage.calls("oidc.token").await, reuses(&stage, "ann").await), (calls + 1, 0));
}

/// Promise 2: a process that has to end, and an API server that fails just then, cost no sign-in: what came is stored before the process is gone.
#[tokio::test]
async fn a_process_that_ends_while_the_api_server_fails_stores_what_came_first() {
    let stage = with_server("hiccup", 3600).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    let (interceptor, operator) = behind(&stage).await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let late = Action::Delay { when: When::AfterCommit, milliseconds: 1500 };
    let fault = stage.control.inject(&Rule::next("oidc.token", late)).await.expect("accepted");
    let rule = interceptor.intercept(is_state, 1, 1, Effect::Answer(500));
    stage.ask_for_token("ann", "please").await;
    stage.control.wait_for_fault(fault.id).await.expect("under way");
    assert!(operator.stop().await.success(), "it ends by itself");
    assert_eq!(interceptor.hits(rule).len(), 1, "the write failed once");
    let (before, calls) = (token(&stage, "ann").await, stage.calls("oidc.token").await);
    let _operator = operator_behind(&stage, &interceptor, OperatorOptions::default().watching(&stage.namespace)).await;
    stage.token_ready("ann").await;
    stage.ask_for_token("ann", "again").await;
    eventually("the sign-in goes on", async || token(&stage, "ann").await != before).await;
    assert!(stage.calls("oidc.token").await > calls);
    assert_eq!(reuses(&stage, "ann").await, 0);
}

async fn behind(stage: &Stage) -> (Interceptor, Operator) {
    let interceptor = Interceptor::start(stage.control_plane).await.expect("it starts");
    let operator = operator_behind(stage, &interceptor, OperatorOptions::default().watching(&stage.namespace)).await;
    (interceptor, operator)
}

pub(crate) async fn operator_behind(stage: &Stage, interceptor: &Interceptor, options: OperatorOptions) -> Operator {
    let lifetime = Duration::from_secs(3600);
    // Where a Lease decides, the operator lives in the stage's own namespace.
    let (namespace, account) =
        if options.leader_election { (stage.namespace.as_str(), stage.namespace.as_str()) } else { (SYSTEM, SERVICE_ACCOUNT) };
    let kubeconfig = stage.control_plane.kubeconfig_for_service_account(namespace, account, lifetime).await.expect("written");
    let kubeconfig = interceptor.kubeconfig(&kubeconfig).expect("written");
    Operator::start(&stage::operator_binary().expect("built"), &kubeconfig, &options).await.expect("it starts")
}
