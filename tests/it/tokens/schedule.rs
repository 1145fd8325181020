//! When a token is replaced, and what is said when it is not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use identity_simulator::{Action, Framing, KeyEdit, Rule, When};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use stage::{Dice, Operator, Stage, eventually, token_condition, token_message};

use super::{WRITES_OF_A_TOKEN, of_iam, values, with_iam, with_own_key};
use crate::{
    fixtures::claims,
    ledger::{Ledger, tally},
};

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
    stage.ask_for_token("own", "mended").await;
    stage.token_ready("own").await;
    stage.event("own", "Recovered").await;
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
