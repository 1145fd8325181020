//! The same faults at the use of a refresh token: what is said, and how often the token is sent.

use cloud_identity_operator::api::AccessToken;
use identity_simulator::Rule;
use jiff::{SignedDuration, Timestamp};
use stage::{Stage, token_condition};

use super::fault::{Fault, QUICK, date};
use crate::refresh_tokens::{CLIENT, SERVER, refresh, seed_of, sign_in, spec, with_server};

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
    // A pause of the tenant concerns all rows, and has a test of its own. One row after the other: the fetch that begins each one says that
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
        refresh(&stage, &name, "now").await;
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
