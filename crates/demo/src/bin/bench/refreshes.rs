//! Tokens that are kept fresh: how many a second, and how late.
//!
//! A token's time is reckoned from outside: the schedule of its lifetime, from the moment at which the API server was asked to write it.
//! `status.refreshAt` says the same in whole seconds, and is compared with it.

use std::{collections::BTreeMap, time::Duration};

use cloud_identity_operator::{api::AccessToken, model::Life, plan::schedule::Policy};
use control_plane::AuditEvents;
use jiff::Timestamp;
use kube::Api;
use stage::Operator;

use super::{
    Arguments,
    common::{Bench, Error, Usage, complaints, number, say},
    machine::Processors,
    tokens::Tokens,
};

/// So long the sustained rate is watched.
const WINDOW: Duration = Duration::from_secs(60);
/// Life of the tokens that are replaced once.
const ROUND: u32 = 300;

/// One write of a token's Secret.
#[derive(Clone, Copy)]
struct Write {
    received: Timestamp,
    done: Timestamp,
}

/// One token that replaced another.
struct Refresh {
    done: Timestamp,
    /// Seconds after the time of the one that was replaced.
    late: f64,
    /// Whether that one had ended.
    after_the_end: bool,
}

/// What all tokens of a namespace went through.
struct History {
    lifetime: Duration,
    waits: BTreeMap<String, Duration>,
    /// The first wait of a token that came with many others.
    first_waits: BTreeMap<String, Duration>,
    writes: BTreeMap<String, Vec<Write>>,
    /// In whole seconds, by name: for the last token.
    refresh_at: BTreeMap<String, Timestamp>,
}

impl History {
    async fn of(bench: &Bench, tokens: &Tokens, lifetime: u32, requests: &AuditEvents) -> Result<Self, Error> {
        let lifetime = Duration::from_secs(lifetime.into());
        let life = Life { lifetime, remaining: lifetime, is_told: true };
        let objects = Api::<AccessToken>::namespaced(bench.client.clone(), &tokens.namespace).list(&Default::default()).await?.items;
        let (waits, first_waits) = (BTreeMap::new(), BTreeMap::new());
        let mut history = Self { lifetime, waits, first_waits, writes: BTreeMap::new(), refresh_at: BTreeMap::new() };
        for object in objects {
            let name = object.metadata.name.unwrap_or_default();
            let uid = object.metadata.uid.as_deref().unwrap_or_default();
            history.waits.insert(name.clone(), Policy::DEFAULT.refresh_after(&life, uid));
            history.first_waits.insert(name.clone(), Policy::DEFAULT.refresh_after_a_crowd(&life, uid));
            if let Some(at) = object.status.and_then(|status| status.refresh_at) {
                history.refresh_at.insert(name, at.0);
            }
        }
        for event in requests.iter().filter(|event| event.resource == "secrets" && event.verb == "patch" && event.response_code < 300) {
            let write = Write { received: event.received_timestamp, done: event.stage_timestamp };
            history.writes.entry(event.name.clone()).or_default().push(write);
        }
        Ok(history)
    }

    fn refreshes(&self) -> Vec<Refresh> {
        let mut found = Vec::new();
        for (name, writes) in &self.writes {
            let of = |waits: &BTreeMap<String, Duration>| waits.get(name).copied().unwrap_or_default().as_secs_f64();
            let (usual, first) = (of(&self.waits), of(&self.first_waits));
            for (number, (former, next)) in writes.iter().zip(writes.iter().skip(1)).enumerate() {
                let gap = next.done.duration_since(former.received).as_secs_f64();
                // Whether it came with many others is not seen from outside: one that is replaced well before its usual time did.
                let came_with_many = gap + 1.0 < usual;
                let wait = if number == 0 && came_with_many { first } else { usual };
                found.push(Refresh { done: next.done, late: gap - wait, after_the_end: gap > self.lifetime.as_secs_f64() });
            }
        }
        found
    }

    /// Tokens that had ended by then without another.
    fn dead(&self, by: Timestamp) -> usize {
        let has_ended = |writes: &&Vec<Write>| {
            let last = writes.iter().rfind(|write| write.done <= by);
            last.is_some_and(|write| by.duration_since(write.received).as_secs_f64() > self.lifetime.as_secs_f64())
        };
        self.writes.values().filter(has_ended).count()
    }

    /// Tokens that had not come once by then.
    fn waiting(&self, by: Timestamp) -> usize {
        let has_come = |name: &String| self.writes.get(name).and_then(|writes| writes.first()).is_some_and(|write| write.done <= by);
        self.waits.keys().filter(|name| !has_come(name)).count()
    }

    /// In how many cases, per cent, the time that was reckoned is what status says, to the second.
    fn agreement(&self) -> f64 {
        let agrees = |(name, said): &(&String, &Timestamp)| {
            let last = self.writes.get(*name).and_then(|writes| writes.last());
            let due = last.zip(self.waits.get(*name)).and_then(|(write, wait)| write.received.checked_add(*wait).ok());
            due.is_some_and(|due| (-0.25..1.25).contains(&due.duration_since(**said).as_secs_f64()))
        };
        100.0 * number(self.refresh_at.iter().filter(agrees).count()) / number(self.refresh_at.len().max(1))
    }
}

/// The values below which so many per mille of all lie, in the order of `shares`.
fn percentiles(values: impl Iterator<Item = f64>, shares: [usize; 3]) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    shares.map(|share| values.get(values.len().saturating_sub(1) * share / 1000).copied().unwrap_or_default())
}

fn say_lateness(what: &str, refreshes: &[Refresh]) {
    let [half, most, all] = percentiles(refreshes.iter().map(|refresh| refresh.late), [500, 990, 1000]);
    say(&format!("| {what}: p50, p99, highest | {half:.3} s, {most:.3} s, {all:.3} s |"));
}

/// What the API server refused: how often, and what.
fn refused(requests: &AuditEvents) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in requests.iter().filter(|event| event.response_code >= 400) {
        let kind = format!("{} {} {} → {}", event.verb, event.resource, event.subresource, event.response_code);
        *kinds.entry(kind).or_default() += 1;
    }
    if kinds.is_empty() { "0".into() } else { format!("{kinds:?}") }
}

/// Waits until so many calls were answered since `from`.
async fn answered(tokens: &Tokens, from: usize, count: usize) -> Result<(), Error> {
    while tokens.calls().await? < from + count {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

fn say_the_end(operator: &Operator, usage: &Usage, history: &History) {
    say(&format!("| operator's memory (PSS), highest resident memory | {:.1} MiB, {:.1} MiB |", usage.pss, usage.peak));
    say(&format!("| status.refreshAt says the same as the time that lateness is reckoned from | {:.1} % |", history.agreement()));
    say(&format!("| warnings in the operator's log | {} |", complaints(operator)));
}

/// As many tokens of a short life as are given, for a minute. They are made one by one over about as long as one is left in place, so that
/// their times are apart from the first: tokens that begin together drift apart only from round to round.
pub async fn sustained(bench: &Bench, arguments: &Arguments, count: usize) -> Result<(), Error> {
    let tokens = Tokens::without_objects(bench, arguments, count, arguments.lifetime).await?;
    let mark = bench.mark()?;
    let operator = bench.operator(&tokens.namespace).await?;
    let half = Duration::from_secs(arguments.lifetime.into()) / 2;
    let pace = half.mul_f64(0.93) / u32::try_from(count.max(1))?;
    bench.create_evenly(&tokens.namespace, tokens.documents(arguments), pace).await?;
    // Whatever the first round left behind is over then.
    tokio::time::sleep(Duration::from_secs(arguments.lifetime.into())).await;
    let (calls, processors, before, begun) = (tokens.calls().await?, Processors::now()?, Usage::of(&operator), Timestamp::now());
    tokio::time::sleep(WINDOW).await;
    let (ended, after, calls) = (Timestamp::now(), Usage::of(&operator), tokens.calls().await? - calls);
    let span = ended.duration_since(begun).as_secs_f64();
    let busy = Processors::now()?.since(processors, span);
    let requests = bench.requests(mark)?;
    let history = History::of(bench, &tokens, arguments.lifetime, &requests).await?;
    let window = requests.only(|event| event.stage_timestamp > begun && event.stage_timestamp <= ended);
    let mut refreshes = history.refreshes();
    refreshes.retain(|refresh| refresh.done > begun && refresh.done <= ended);
    let done = refreshes.len();
    let wanted: f64 = history.waits.values().map(|wait| 1.0 / wait.as_secs_f64()).sum();
    let each = |count: usize| number(count) / number(done.max(1));
    let late = refreshes.iter().filter(|refresh| refresh.after_the_end).count();
    say("");
    say(&format!(
        "{count} AccessTokens of {} s ({} providers): {wanted:.0} refreshes a second wanted; made one by one over {:.0} s, watched for {span:.0} s, {} s after the last was there",
        arguments.lifetime,
        arguments.providers,
        (pace * u32::try_from(count)?).as_secs_f64(),
        arguments.lifetime
    ));
    say("");
    say("| what | value |");
    say("|---|---|");
    say(&format!("| **refreshes** (goal: 150/s with none expired) | **{:.0}/s** |", number(done) / span));
    say(&format!("| tokens replaced after their end, tokens dead at the end | {late}, {} |", history.dead(ended)));
    say(&format!(
        "| tokens that had not come once, {} s after the last object was made | {} |",
        arguments.lifetime + 60,
        history.waiting(ended)
    ));
    say_lateness("lateness", &refreshes);
    say(&format!("| API requests that write, per refresh | {:.2} |", each(window.writes().len())));
    say(&format!("| API requests that read, per refresh | {:.2} |", each(window.reads().len())));
    say(&format!("| requests that the API server refused | {} |", refused(&window)));
    say(&format!("| remote calls, per refresh | {:.2} |", each(calls)));
    say(&format!("| processors | {busy} |"));
    say(&format!(
        "| operator's CPU | {:.0} % of one processor ({:.2} ms per refresh) |",
        100.0 * (after.cpu - before.cpu) / span,
        1000.0 * (after.cpu - before.cpu) / number(done.max(1))
    ));
    say_the_end(&operator, &after, &history);
    operator.stop().await;
    Ok(())
}

/// Tokens of 300 s, from the first to the second.
pub async fn one_round(bench: &Bench, arguments: &Arguments, count: usize) -> Result<(), Error> {
    let tokens = Tokens::set(bench, arguments, count, ROUND).await?;
    let (mark, calls) = (bench.mark()?, tokens.calls().await?);
    let operator = bench.operator(&tokens.namespace).await?;
    answered(&tokens, calls, count).await?;
    let (processors, begun) = (Processors::now()?, Timestamp::now());
    answered(&tokens, calls, 2 * count).await?;
    // What the last calls were for is written by then, and the calls of the providers themselves are made up for.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let span = Timestamp::now().duration_since(begun).as_secs_f64();
    let (usage, busy) = (Usage::of(&operator), Processors::now()?.since(processors, span));
    let history = History::of(bench, &tokens, ROUND, &bench.requests(mark)?).await?;
    let refreshes = history.refreshes();
    let first = refreshes.iter().map(|refresh| refresh.done).min().unwrap_or(begun);
    let last = refreshes.iter().map(|refresh| refresh.done).max().unwrap_or(begun);
    say("");
    say(&format!("{count} AccessTokens of {ROUND} s ({} providers), each replaced once", arguments.providers));
    say("");
    say("| what | value |");
    say("|---|---|");
    say(&format!("| refreshes, within | {}, {:.1} s |", refreshes.len(), last.duration_since(first).as_secs_f64()));
    say_lateness("**lateness** (goal: p99 0.5 s)", &refreshes);
    say(&format!("| tokens replaced after their end | {} |", refreshes.iter().filter(|refresh| refresh.after_the_end).count()));
    say(&format!("| processors, the wait included | {busy} |"));
    say_the_end(&operator, &usage, &history);
    operator.stop().await;
    Ok(())
}
