//! Processes that die or are stopped inside a use of a refresh token, and those that come after them.

use std::time::{Duration, Instant};

use identity_simulator::{Action, Rule, When};
use stage::{Effect, Interceptor, OperatorOptions, Seen, Stage, eventually, interceptor::RuleId, token_condition};

use super::{CLIENT, SERVER, behind, must_sign_in, operator_behind, reuses, seed_of, sign_in, spec, token, with_server};
use crate::{crash::field::install_release, ledger::tally};

const LEADING: &str = " leading instance=";
/// Of a call for a token, with a second to spare.
const DEADLINE: Duration = Duration::from_secs(19);

/// Where the process dies.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// At the n-th write of a Secret or status.
    Write(&'static str, usize, Effect),
    Service(When),
}

/// Every call of a use, in their order.
///
/// Before the first nothing has happened, after the last nothing is left to do; eight passes of one tenant run at once.
const POINTS: [Point; 8] = [
    Point::Write("state", 0, Effect::HoldAfter),
    Point::Service(When::BeforeCommit),
    Point::Service(When::AfterCommit),
    Point::Write("state", 1, Effect::HoldBefore),
    Point::Write("state", 1, Effect::HoldAfter),
    Point::Write("secret", 0, Effect::HoldBefore),
    Point::Write("secret", 0, Effect::HoldAfter),
    Point::Write("status", 0, Effect::HoldBefore),
];

impl Point {
    /// Whether it is recorded that the token is used, and no answer to that is.
    fn has_no_answer(self) -> bool {
        matches!(self, Self::Service(_) | Self::Write("state", 0, Effect::HoldAfter) | Self::Write("state", 1, Effect::HoldBefore))
    }

    /// Whether the server has replaced the refresh token and nobody has what came in its place.
    fn loses_the_answer(self) -> bool {
        matches!(self, Self::Service(When::AfterCommit) | Self::Write("state", 1, Effect::HoldBefore))
    }
}

/// The user whose token meets the point of this number.
fn name(number: usize) -> String {
    format!("user-{number}")
}

async fn sign_all_in(stage: &Stage) {
    for number in 0..POINTS.len() {
        sign_in(stage, &name(number), &seed_of(&name(number))).await;
    }
}

/// The refresh token that the server would take now.
async fn current(stage: &Stage, name: &str) -> Option<String> {
    let tokens = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed");
    tokens.into_iter().find(|token| token.subject == name && !token.spent && !token.revoked).map(|token| token.token)
}

/// What is held.
#[derive(Default)]
struct Held {
    rules: Vec<RuleId>,
    faults: Vec<u64>,
}

/// Makes each user's use stop at a point of its own, and waits until all have. Who has no refresh token any more is left out.
async fn stop_at(stage: &Stage, interceptor: &Interceptor, call: impl Fn(When) -> Action, begin: impl AsyncFn(usize)) -> Held {
    let mut held = Held::default();
    for (number, point) in POINTS.iter().enumerate() {
        let Some(current) = current(stage, &name(number)).await else { continue };
        match *point {
            Point::Write(what, skip, effect) => {
                let (resource, object) = match what {
                    "state" => ("secrets", format!("{}-state", name(number))),
                    "secret" => ("secrets", name(number)),
                    _ => ("accesstokens", name(number)),
                };
                let matches = move |seen: &Seen| seen.is_write() && seen.resource == resource && seen.name == object;
                held.rules.push(interceptor.intercept(matches, skip, 1, effect));
            }
            Point::Service(when) => {
                let rule = Rule::next("oidc.token", call(when)).body_contains(&current);
                held.faults.push(stage.control.inject(&rule).await.expect("accepted").id);
            }
        }
        begin(number).await;
    }
    for rule in &held.rules {
        interceptor.fired(*rule).await;
    }
    for fault in &held.faults {
        stage.control.wait_for_fault(*fault).await.expect("it is met");
    }
    held
}

/// What the process that comes after a first use makes of each point.
async fn first_uses_have_settled(stage: &Stage, round: &str) {
    for (number, point) in POINTS.iter().enumerate() {
        if point.loses_the_answer() {
            must_sign_in(stage, &name(number)).await;
        } else {
            stage.token_ready(&name(number)).await;
        }
        assert_eq!(reuses(stage, &name(number)).await, u64::from(point.loses_the_answer()), "{round}, {point:?}");
    }
}

/// Each user's published token, and how often a spent refresh token came so far.
async fn now(stage: &Stage) -> Vec<(String, u64)> {
    let mut now = Vec::new();
    for number in 0..POINTS.len() {
        now.push((token(stage, &name(number)).await, reuses(stage, &name(number)).await));
    }
    now
}

/// What the process that comes after a later use makes of each point: what is not answered is repeated within ten seconds or not at all while
/// the published token lives.
async fn later_uses_have_settled(stage: &Stage, before: &[(String, u64)], is_late: bool) {
    for (number, point) in POINTS.iter().enumerate() {
        let (held, reused) = &before[number];
        eventually(&format!("{point:?}: it is known what came of it"), async || {
            let object = stage.tokens().get(&name(number)).await.expect("there");
            let fresh = token_condition(&object, "Fresh").map(|(_, reason)| reason.to_owned()).unwrap_or_default();
            let is_the_same = token(stage, &name(number)).await == *held;
            assert_eq!(token_condition(&object, "Ready").map(|(status, _)| status), Some("True"), "{point:?}: a token lives");
            let more = reuses(stage, &name(number)).await - reused;
            assert!(more <= u64::from(point.loses_the_answer()), "{point:?}: a spent token was used again");
            match fresh.as_str() {
                "AnswerLost" => point.has_no_answer() && is_late && is_the_same && more == 0,
                "ReauthorizationRequired" => point.loses_the_answer() && is_the_same && more == 1,
                _ => !point.loses_the_answer() && !is_the_same,
            }
        })
        .await;
    }
}

fn hang(when: When) -> Action {
    Action::Hang { when }
}

/// Promises 2 and 3: a process that dies at any call of a first use or of a later one sends no spent token, but for the repetition of a use
/// whose answer nobody has any more; only that costs the sign-in, and not even that the published token.
#[tokio::test]
async fn a_process_that_dies_at_any_call_of_a_use_loses_no_more_than_an_answer() {
    let stage = with_server("crash-refresh", 3600).await;
    sign_all_in(&stage).await;
    let (interceptor, operator) = behind(&stage).await;
    stage.ready_provider("server").await;
    stop_at(&stage, &interceptor, hang, async |number| stage.token(&name(number), spec(&name(number))).await).await;
    drop(operator.kill().await);
    let operator = operator_behind(&stage, &interceptor, OperatorOptions::default().watching(&stage.namespace)).await;
    first_uses_have_settled(&stage, "the next process").await;
    // Who lost everything signs in again.
    for (number, point) in POINTS.iter().enumerate() {
        if point.loses_the_answer() {
            let again = name(number);
            stage.control.revoke_oauth(SERVER, &seed_of(&again)).await.expect("revoked");
            sign_in(&stage, &again, &format!("{}-again", seed_of(&again))).await;
            stage.token_ready(&again).await;
        }
    }
    let before = now(&stage).await;
    let begun = Instant::now();
    stop_at(&stage, &interceptor, hang, async |number| stage.ask_for_token(&name(number), "now").await).await;
    drop(operator.kill().await);
    let operator = operator_behind(&stage, &interceptor, OperatorOptions::default().watching(&stage.namespace)).await;
    operator.working().await;
    later_uses_have_settled(&stage, &before, begun.elapsed() > Duration::from_secs(9)).await;
}

/// The leader dies at any call of a use, and another process, which waits already, leads when the lease has run out: too late to repeat a
/// later use while the published token lives. A first use has nothing to lose, and is repeated once.
///
/// Promises 2 and 3.
///
/// Traps: T33.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_at_any_call_of_a_use_leaves_its_successor_one_repetition_of_a_first_use_and_none_of_a_later_one() {
    let (first, later) = (with_server("dead-first", 3600), with_server("dead-later", 3600));
    tokio::join!(async { succeed(&first.await, true).await }, async { succeed(&later.await, false).await });
}

async fn succeed(stage: &Stage, is_first_use: bool) {
    sign_all_in(stage).await;
    install_release(stage).await;
    let one = Interceptor::start(stage.control_plane).await.expect("it starts");
    let two = Interceptor::start(stage.control_plane).await.expect("it starts");
    let leader = operator_behind(stage, &one, of_a_candidate(stage)).await;
    stage.ready_provider("server").await;
    let mut before = Vec::new();
    if !is_first_use {
        for number in 0..POINTS.len() {
            stage.token(&name(number), spec(&name(number))).await;
        }
        for number in 0..POINTS.len() {
            stage.token_ready(&name(number)).await;
        }
        before = now(stage).await;
    }
    let successor = operator_behind(stage, &two, of_a_candidate(stage)).await;
    successor.metrics_address().await;
    let begin = async |number: usize| {
        if is_first_use {
            stage.token(&name(number), spec(&name(number))).await;
        } else {
            stage.ask_for_token(&name(number), "please").await;
        }
    };
    let calls = stage.calls("oidc.token").await;
    stop_at(stage, &one, hang, begin).await;
    let of_the_leader = stage.calls("oidc.token").await - calls;
    // The first point is before the call.
    assert_eq!(of_the_leader, POINTS.len() as u64 - 1);
    drop(leader.kill().await);
    successor.logged(LEADING).await;
    if is_first_use {
        first_uses_have_settled(stage, "the successor").await;
    } else {
        later_uses_have_settled(stage, &before, true).await;
        for (number, point) in POINTS.iter().enumerate().filter(|(_, point)| point.has_no_answer()) {
            is_fresh_or(stage, &name(number), "False", Some("AnswerLost")).await;
            assert_eq!(token(stage, &name(number)).await, before[number].0, "{point:?}: the published token is untouched");
        }
    }
}

/// Of a process that leads or waits to, in the stage's own namespace.
fn of_a_candidate(stage: &Stage) -> OperatorOptions {
    OperatorOptions {
        namespace: stage.namespace.clone(),
        leader_election: true,
        arguments: vec!["--cluster-providers".into(), "false".into()],
        ..OperatorOptions::default().watching(&stage.namespace)
    }
}

/// A leader that is stopped between recording a use and sending it, with another in its place, sends nothing when it goes on; and its
/// successor does not use the token before there is nothing left to lose.
///
/// Traps: T33.
#[tokio::test]
async fn a_leader_that_was_stopped_before_it_used_a_refresh_token_sends_nothing_and_its_successor_waits() {
    let stage = with_server("second-leader", 40).await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    install_release(&stage).await;
    let options = || of_a_candidate(&stage);
    let one = Interceptor::start(stage.control_plane).await.expect("it starts");
    let two = Interceptor::start(stage.control_plane).await.expect("it starts");
    let first = operator_behind(&stage, &one, options()).await;
    stage.token("ann", spec("ann")).await;
    let ready = stage.token_ready("ann").await;
    let ends = ready.status.and_then(|status| status.expires_at).expect("an end").0;
    let second = operator_behind(&stage, &two, options()).await;
    second.metrics_address().await;
    let recorded = one.intercept(|seen| seen.is_write() && seen.resource == "secrets" && seen.name == "ann-state", 0, 1, Effect::HoldAfter);
    stage.ask_for_token("ann", "please").await;
    one.fired(recorded).await;
    first.freeze();
    let calls = stage.calls("oidc.token").await;
    second.logged(LEADING).await;
    let led = Instant::now();
    one.release(recorded);
    first.thaw();
    let waits = stage
        .token_where("ann", "waits until its token has ended", |token| token_condition(token, "Fresh") == Some(("False", "AnswerLost")));
    waits.await;
    assert!(jiff::Timestamp::now() < ends, "the successor led in time, after {:?}", led.elapsed());
    let mut first = first;
    first.ended().await;
    assert_eq!(stage.calls("oidc.token").await, calls, "nobody has used it");
    stage
        .token_where("ann", "is fresh after its end", |token| token_condition(token, "Fresh").is_some_and(|(status, _)| status == "True"))
        .await;
    assert!(jiff::Timestamp::now() >= ends);
    assert_eq!((stage.calls("oidc.token").await, reuses(&stage, "ann").await), (calls + 1, 0));
}

/// Waits until a token's condition `Fresh` says so.
async fn is_fresh_or(stage: &Stage, name: &str, status: &str, reason: Option<&str>) {
    let what = format!("is fresh: {status}, {reason:?}");
    let is = |token: &cloud_identity_operator::api::AccessToken| {
        token_condition(token, "Fresh").is_some_and(|(is, said)| is == status && reason.is_none_or(|reason| reason == said))
    };
    stage.token_where(name, &what, is).await;
}

/// The leader is frozen (SIGSTOP) with each token at another point of the use of its refresh token, another one leads, and then the first goes
/// on. No refresh token is sent twice; what the first one had in its hands is stored, and the successor goes on with that.
///
/// Promises 2 and 3.
///
/// Traps: T33.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_frozen_inside_a_use_and_its_successor_send_no_refresh_token_twice() {
    let stage = with_server("frozen-refresh", 3600).await;
    sign_all_in(&stage).await;
    install_release(&stage).await;
    let options = || of_a_candidate(&stage);
    let one = Interceptor::start(stage.control_plane).await.expect("it starts");
    let two = Interceptor::start(stage.control_plane).await.expect("it starts");
    let mut first = operator_behind(&stage, &one, options()).await;
    for number in 0..POINTS.len() {
        stage.token(&name(number), spec(&name(number))).await;
    }
    let mut before = Vec::new();
    for number in 0..POINTS.len() {
        stage.token_ready(&name(number)).await;
        before.push(token(&stage, &name(number)).await);
    }
    let second = operator_behind(&stage, &two, options()).await;
    second.metrics_address().await;
    let calls = stage.calls("oidc.token").await;
    let mut sent = Vec::new();
    for number in 0..POINTS.len() {
        sent.push(current(&stage, &name(number)).await);
    }
    let hold = |when| Action::Hold { when };
    let begun = Instant::now();
    let held = stop_at(&stage, &one, hold, async |number| stage.ask_for_token(&name(number), "please").await).await;
    first.freeze();
    second.logged(LEADING).await;
    let mut after = Vec::new();
    for (number, point) in POINTS.iter().enumerate() {
        let name = name(number);
        if point.has_no_answer() {
            is_fresh_or(&stage, &name, "False", Some("AnswerLost")).await;
            assert_eq!(token(&stage, &name).await, before[number], "{point:?}: the published token is untouched");
        } else {
            eventually(&format!("{point:?}: the successor refreshes it"), async || {
                let asked = stage.tokens().get(&name).await.expect("there").status.and_then(|status| status.issued_for?.request);
                asked.as_deref() == Some("please")
            })
            .await;
            stage.token_ready(&name).await;
            assert_ne!(token(&stage, &name).await, before[number], "{point:?}");
        }
        after.push(token(&stage, &name).await);
    }

    let position = one.position();
    for rule in held.rules {
        one.release(rule);
    }
    for fault in held.faults {
        stage.control.release(fault).await.expect("the simulator answers");
    }
    first.thaw();
    // Whoever goes on after the deadline of a call may find the deadline before the answer.
    let is_in_time = begun.elapsed() < DEADLINE;
    let status = first.ended().await;
    assert!(!status.success(), "it lost the lease: {status}");
    let written = one.seen_since(position).into_iter().filter(|seen| seen.is_write() && seen.status.is_some_and(|status| status < 300));
    let written: Vec<String> = written.map(|seen| seen.name).collect();
    assert!(written.iter().all(|name| name.ends_with("-state")), "it stores what it had in its hands, and no more: {written:?}");
    let mut kept = 0;
    for (number, point) in POINTS.iter().enumerate() {
        let name = name(number);
        let state = async || stage.secret_values(&format!("{name}-state")).await.expect("there").remove("refresh_token");
        let is_kept = state().await != sent[number];
        let is_expected = match point {
            Point::Write("state", 0, _) => !is_kept,
            Point::Service(_) if !is_in_time => true,
            _ => is_kept,
        };
        assert!(is_expected, "{point:?}: the state holds another refresh token than was sent: {is_kept}");
        kept += u64::from(is_kept);
        if point.has_no_answer() && is_kept {
            eventually(&format!("{point:?}: the successor goes on with what was stored"), async || {
                token(&stage, &name).await != before[number]
            })
            .await;
            stage.token_ready(&name).await;
            is_fresh_or(&stage, &name, "True", None).await;
            assert_eq!(state().await, current(&stage, &name).await, "{point:?}: the state holds the good one");
        } else {
            assert_eq!(token(&stage, &name).await, after[number], "{point:?}: what was published is untouched");
        }
        assert_eq!(reuses(&stage, &name).await, 0, "{point:?}: a spent token was sent");
    }
    // The first point is before the call; whose answer is known, is asked for what is not published yet once more.
    assert_eq!(stage.calls("oidc.token").await, calls + (POINTS.len() as u64 - 1) + kept);
    let published = two.seen().into_iter().filter(|seen| seen.is_write() && seen.resource == "secrets" && !seen.name.ends_with("-state"));
    let published = tally(&published.map(|seen| seen.name).collect::<Vec<_>>());
    assert!(published.values().all(|writes| *writes == 1), "the successor publishes each once at most: {published:?}");
}
