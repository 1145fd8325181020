//! The same faults at the use of a refresh token: what is said, and how often the token is sent.

use std::time::Duration;

use cloud_identity_operator::api::AccessToken;
use futures::future::join_all;
use identity_simulator::Rule;
use jiff::{SignedDuration, Timestamp};
use stage::{Stage, eventually, token_condition, token_message};

use super::fault::{Fault, QUICK, TOLD, date};
use crate::refresh_tokens::{CLIENT, SERVER, reuses, seed_of, sign_in, spec, with_server};

const OPERATION: &str = "oidc.token";

/// What is said in the end, and how often the refresh token was sent: twice where nobody can say whether it was used.
fn expected(fault: Fault) -> (&'static str, usize) {
    match fault {
        Fault::BadRequest | Fault::Forbidden | Fault::NotFoundJson | Fault::NotFoundText | Fault::Conflict | Fault::Redirect => {
            ("Rejected", 1)
        }
        Fault::Unauthorized => ("InvalidClient", 1),
        Fault::LimitedForSeconds | Fault::LimitedUntilDate | Fault::Limited => ("RateLimited", 1),
        // Whoever does not know how to do it has not done it.
        Fault::NotImplemented => ("UnexpectedResponse", 1),
        Fault::HtmlOk | Fault::BreaksOff | Fault::Empty | Fault::Huge | Fault::GzipBomb => ("UnexpectedResponse", 2),
        // The first answer was a token, and the second a 400, of which as little is left.
        Fault::BrokenJson => ("Rejected", 2),
        Fault::ServerError
        | Fault::Unavailable
        | Fault::HtmlForbidden
        | Fault::DropBefore
        | Fault::DropAfter
        | Fault::Drip
        | Fault::Hang => ("ServiceUnavailable", 2),
    }
}

/// Whether nothing more is tried soon.
fn has_settled(token: &AccessToken) -> bool {
    let next = token.status.as_ref().and_then(|status| status.next_action_at.as_ref());
    token_condition(token, "Fresh").is_some_and(|(is, _)| is == "False")
        && next.is_some_and(|next| next.0.duration_since(Timestamp::now()) > SignedDuration::from_secs(60))
}

async fn current(stage: &Stage, name: &str) -> String {
    let tokens = stage.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("listed");
    tokens.into_iter().find(|token| token.subject == name && !token.spent).expect("one is good").token
}

/// Promises 2, 3 and 10: whatever the service answers to a refresh token, for as long as the published token lives, it is sent once, or once
/// more where the answer does not tell whether it was used; the published token stays bit for bit and Ready.
///
/// Traps: T04, T07, T28.
#[tokio::test]
async fn no_fault_makes_a_refresh_token_go_out_more_than_twice_or_touches_the_published_token() {
    let stage = with_server("faults-refresh", 3600).await;
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    let mut flaws = Vec::new();
    // A pause of the tenant concerns all rows, and has a test of its own, below. One row after the other: the fetch that begins each one says that
    // the tenant is well.
    for (number, fault) in QUICK.into_iter().filter(|fault| fault.pause().is_none()).enumerate() {
        let name = format!("row-{number}");
        sign_in(&stage, &name, &seed_of(&name)).await;
        stage.token(&name, spec(&name)).await;
        stage.token_ready(&name).await;
        let held = stage.stored_secret(&name).await;
        let action = fault.action(OPERATION, &stage.simulator.urls().noted, date());
        let rule = Rule::every(OPERATION, action).body_contains(&current(&stage, &name).await);
        let injected = stage.control.inject(&rule).await.expect("accepted");
        stage.ask_for_token(&name, "now").await;
        let token = stage.token_where(&name, &format!("has settled after {fault:?}"), has_settled).await;
        let sent = stage.control.journal().await.expect("the simulator answers");
        let sent = sent.iter().filter(|call| call.fault == Some(injected.id)).count();
        let reason = token_condition(&token, "Fresh").map(|(_, reason)| reason.to_owned()).unwrap_or_default();
        if (reason.as_str(), sent) != expected(fault) {
            flaws.push(format!("{fault:?}: {reason}, sent {sent} times, not {:?}", expected(fault)));
        }
        let is_untouched = stage.stored_secret(&name).await == held;
        if !is_untouched || token_condition(&token, "Ready") != Some(("True", "Ready")) {
            flaws.push(format!("{fault:?}: the published token is untouched: {is_untouched}, {:?}", token_condition(&token, "Ready")));
        }
    }
    assert!(flaws.is_empty(), "{} rows are not as they should be:\n{}", flaws.len(), flaws.join("\n"));
    assert!(stage.control.noted().await.expect("the simulator answers").is_empty(), "redirects are not followed");
}

/// Promises 2, 3 and 10: a server that asks for a pause, in seconds or until a date, has not used the refresh token. It is sent again, once, and
/// not before that time, not even by another process; nobody needs to sign in.
///
/// Traps: T28.
#[tokio::test]
async fn a_refresh_token_that_is_refused_with_a_pause_is_sent_again_after_it_and_is_still_good() {
    join_all([Fault::LimitedForSeconds, Fault::LimitedUntilDate].map(is_sent_again_after_the_pause)).await;
}

async fn is_sent_again_after_the_pause(fault: Fault) {
    let stage = with_server("paused-refresh", 3600).await;
    let operator = stage.operator().await;
    stage.ready_provider("server").await;
    sign_in(&stage, "ann", &seed_of("ann")).await;
    stage.token("ann", spec("ann")).await;
    stage.token_ready("ann").await;
    let (held, sent) = (stage.stored_secret("ann").await, current(&stage, "ann").await);
    // In whole seconds, as HTTP has it.
    let date = Timestamp::from_second(Timestamp::now().as_second() + 9).expect("in range");
    let limited = fault.action(OPERATION, &stage.simulator.urls().noted, date);
    let injected = stage.control.inject(&Rule::next(OPERATION, limited).body_contains(&sent)).await.expect("accepted");
    stage.control.clear_journal().await.expect("cleared");
    stage.ask_for_token("ann", "now").await;
    let is_told = |token: &AccessToken| token_condition(token, "Fresh") == Some(("False", "RateLimited"));
    let told = stage.token_where("ann", "says that the server asks for a pause", is_told).await;
    let calls = async || {
        let calls = stage.control.journal().await.expect("the simulator answers");
        calls.into_iter().filter(|call| call.operation == OPERATION).collect::<Vec<_>>()
    };
    let first = calls().await.into_iter().find(|call| call.fault == Some(injected.id)).expect("it was refused");
    let until = if fault == Fault::LimitedUntilDate { date } else { first.time + TOLD };
    let next = told.status.as_ref().and_then(|status| status.next_action_at.as_ref()).expect("a time is named").0;
    assert!(next >= until && next < until + Duration::from_secs(4), "{fault:?}: {next} is named, and the pause ends at {until}");
    assert!(token_message(&told, "Fresh").is_some_and(|message| message.contains("valid until")), "{fault:?}");
    assert_eq!((token_condition(&told, "Ready"), stage.stored_secret("ann").await), (Some(("True", "Ready")), held.clone()), "{fault:?}");
    // What it was told is known to the next process, too.
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    eventually("it is replaced", async || stage.stored_secret("ann").await.data != held.data).await;
    stage.token_ready("ann").await;
    let uses = calls().await;
    let last = &uses[uses.len() - 1];
    assert_eq!(uses.len(), 2, "{fault:?}: {uses:?}");
    assert!(last.time >= until, "{fault:?}: it was sent again at {}, before {until}", last.time);
    assert_eq!(reuses(&stage, "ann").await, 0, "{fault:?}");
    let request = stage.control.last_token_request(SERVER, CLIENT).await.expect("a request");
    assert_eq!(request.field("refresh_token"), Some(sent.as_str()), "{fault:?}: the same one");
}
