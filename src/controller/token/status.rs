//! Report: what is stored, and what is said.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::super::{
    cluster::{Abort, Announcement},
    report::{
        Conditions, announcement, announcement_of_change, condition, is_part_of_a_beginning, kept_time, whole_seconds, whole_seconds_from,
    },
};
use super::{
    Kept, Pass,
    known::{earliest, local, moment_of, times},
    secret,
    source::Source,
    spec::{policy_of, secret_key},
};
use crate::{
    api::{AccessTokenStatus, LocalReference, ObjectVersion, REQUESTS_MOST, mark},
    plan::{
        Problem,
        application::State,
        token::{self as rules, SecretView, Verdict},
    },
    reasons::Reason,
};

/// A write that meets somebody else's is tried so often.
pub(super) const AGAIN: usize = 3;

impl Pass {
    pub(super) async fn finish(mut self) -> Result<Option<Timestamp>, Abort> {
        let now = self.context.clock.now();
        let former = self.object.status.clone().unwrap_or_default();
        let failures = u32::try_from(former.failures.unwrap_or(0)).unwrap_or(0) + 1;
        let verdict = self.world.verdict(failures, &self.subject.uid, now);
        let (status, kept) = self.status(&verdict, &former, failures, now);
        self.announcements.extend(
            changes(&former.conditions, &status.conditions, self.asked()).filter(|change| !self.is_of_the_beginning(change, &former, now)),
        );
        if status != former {
            self.write_status(&status).await?;
            self.context.memory.wrote(&self.subject.uid, &self.subject.resource_version);
        }
        if self.says_that_it_waits() && self.context.memory.is_woken(&self.subject.uid) {
            // What woke it is dealt with when its turn comes, not by saying that it has not.
            self.context.memory.wake(&self.subject.uid);
        }
        if let Some(kept) = kept {
            self.context.schedules.keep(&self.subject.uid, kept);
        }
        if let Some(late) = self.lateness(now) {
            self.context.metrics.replaced(late);
        }
        for announcement in std::mem::take(&mut self.announcements) {
            self.context.announce(&self.subject, &announcement).await;
        }
        let (expires_at, refresh_at) = times(&self.context, &status, &self.subject.uid);
        let retry_at = status.next_action_at.as_ref().map(|at| at.0);
        let waits = retry_at.is_some() || self.object.spec.suspend || verdict.stands || verdict.failed;
        let due = if waits { retry_at } else { refresh_at };
        Ok(local(now, earliest([due, expires_at.filter(|at| *at > now)])))
    }

    /// Says in the midst of a pass that the published token has ended. Nothing else is known yet, so all else stays as it was said.
    pub(super) async fn say_that_it_ended(&mut self, end: Timestamp) {
        if !self.context.leadership.holds() {
            return;
        }
        let former = self.object.status.clone().unwrap_or_default();
        let ended = rules::ended_meanwhile(end);
        let conditions = Conditions::new(&former.conditions, self.subject.generation, self.context.clock.now())
            .ready(Some(&ended))
            .state("SecretPublished", &State::No(ended))
            .as_before("Fresh")
            .finish();
        let change = announcement_of_change(&former.conditions, &conditions);
        let status = AccessTokenStatus { conditions, ..former };
        match self.write_status(&status).await {
            Ok(()) => {
                Arc::make_mut(&mut self.object).status = Some(status);
                self.context.memory.wrote(&self.subject.uid, &self.subject.resource_version);
                self.announcements.extend(change);
            }
            // It is said with the answer, then.
            Err(abort) => tracing::debug!(object = %self.subject.path(), error = %abort, "status could not say that the token has ended"),
        }
    }

    /// Writes the status. A label or an annotation that somebody wrote meanwhile is no reason to ask the service once more.
    async fn write_status(&mut self, status: &AccessTokenStatus) -> Result<(), Abort> {
        let api = self.api();
        for _ in 0..AGAIN {
            match self.subject.write_status(&api, status).await {
                Err(Abort::Stale) => {}
                result => return result,
            }
            let now = api.get(&self.subject.name).await.map_err(Abort::of("reading the object again"))?;
            let is_the_same = self.subject.is(&now)
                && now.status == self.object.status
                && now.annotations().get(mark::REFRESH) == self.object.annotations().get(mark::REFRESH);
            // Whoever was stopped meanwhile has a successor, who may have written the same status.
            if !is_the_same || !self.context.leadership.holds() {
                return Err(Abort::Stale);
            }
            self.subject.saw(&now);
        }
        Err(Abort::Stale)
    }

    fn status(&self, verdict: &Verdict, former: &AccessTokenStatus, failures: u32, now: Timestamp) -> (AccessTokenStatus, Option<Kept>) {
        let generation = self.subject.generation;
        let seconds = |at: Timestamp| Time(whole_seconds(at));
        let is_ours = matches!(self.world.secret, SecretView::Ours { .. }) || matches!(self.world.written, Some(Ok(())));
        let mut status = AccessTokenStatus {
            observed_generation: Some(generation),
            secret_ref: is_ours.then(|| LocalReference { name: secret_key(&self.object).name().to_owned() }),
            secret_version: self.secret_version.clone().filter(|_| is_ours).map(|version| {
                // One that is not right keeps its UID, by which it is known again, and no resourceVersion, so that it is looked at again.
                if self.is_left_damaged() { ObjectVersion { resource_version: String::new(), ..version } } else { version }
            }),
            failures: None,
            next_action_at: None,
            ..former.clone()
        };
        let mut kept = None;
        let asked_for = self.source.as_ref().map(|source| source.issued_for.clone());
        if let (Some(Ok(issued)), Some(Ok(())), Some((token, life))) = (&self.world.issued, &self.world.written, &self.token) {
            status.tenant = self.source.as_deref().map(Source::tenant);
            status.expires_at = Some(seconds(issued.expires_at));
            status.refresh_at = Some(seconds(issued.refresh_at));
            status.last_refreshed_at = Some(seconds(now));
            status.lifetime_unknown = (!life.is_told).then_some(true);
            status.issued_for = asked_for.clone();
            kept = Some(Kept {
                published_at: whole_seconds(now),
                expires: token.received + life.remaining,
                refresh: moment_of(now, issued.refresh_at),
                token: secret::digest_of(token),
                source: self.source_digest,
            });
        } else if let Some(again) = self.world.reused_refresh_at(now) {
            status.refresh_at = Some(seconds(again));
            kept = self.kept.map(|kept| Kept { refresh: moment_of(now, again), ..kept });
        } else if self.world.published.as_ref().is_some_and(|published| published.is_current) {
            // Nothing that is sent has changed: what is published stands for this, too.
            status.issued_for = asked_for.clone().or(former.issued_for.clone());
        }
        status.refresh_token = self.refresh_token_status(former);
        status.tried_for = match (verdict.failed, verdict.stands && !self.world.is_news) {
            (true, _) => asked_for,
            (false, true) => asked_for.or(former.tried_for.clone()),
            (false, false) => former.tried_for.clone().filter(|_| verdict.stands),
        };
        if verdict.stands {
            status.failures = former.failures;
        }
        if verdict.failed {
            status.failures = Some(i32::try_from(failures).unwrap_or(i32::MAX));
        }
        status.next_action_at = verdict.retry_at.map(|at| Time(whole_seconds_from(at)));
        let lacks_budget = self.lacks_budget();
        let usual = if status.lifetime_unknown == Some(true) { Reason::LifetimeUnknown } else { Reason::Refreshed };
        let fresh = match &verdict.fresh {
            State::Yes(_) if lacks_budget.is_some() => lacks_budget.map_or(State::Yes(usual), State::No),
            State::Yes(_) if !self.asked() => said_before(&former.conditions).unwrap_or(State::Yes(usual)),
            State::Yes(_) if self.lacks_scopes() => State::Yes(Reason::ScopesNotGranted),
            State::Yes(_) if self.world.reused_refresh_at(now).is_some() => State::Yes(Reason::TokenReused),
            State::Yes(_) => State::Yes(usual),
            other => other.clone(),
        };
        status.conditions = Conditions::new(&former.conditions, generation, now)
            .ready(verdict.problem.as_ref())
            .state("SecretPublished", &verdict.published)
            .state("Fresh", &fresh)
            .finish();
        if self.world.obstacle().is_some() && status.conditions == former.conditions && former.failures.is_none() {
            status.next_action_at = kept_time(former.next_action_at.as_ref(), status.next_action_at.take(), now);
        }
        (status, kept)
    }

    /// Whether the tenant's tokens need more requests than its budget allows: said before any of them comes too late.
    fn lacks_budget(&self) -> Option<Problem> {
        let (Some((_, life)), Some(source)) = (&self.token, &self.source) else { return None };
        if !self.context.claims.lives(&self.subject.uid) {
            // It was deleted meanwhile.
            return None;
        }
        // What is needed in the long run: a first wait that is shortened in a crowd comes once.
        let interval = policy_of(&self.object).refresh_after(life, &self.subject.uid);
        let gate = source.connection.service.gate();
        let needed = self.context.schedules.need(&self.subject.uid, source.connection.place(), interval);
        let (mean, budget) = (gate.mean(), gate.budget());
        let (allowed, lacks_concurrency) = budget.rate(mean);
        (needed > allowed).then(|| {
            let message = match mean.filter(|_| lacks_concurrency) {
                Some(mean) => format!(
                    "the tokens of this tenant need {needed:.1} requests a second, and its budget allows {allowed:.1}, since each takes {:.1} s: raise budget.concurrency of the provider, or they come late",
                    mean.as_secs_f64()
                ),
                None => format!(
                    "the tokens of this tenant need {needed:.1} requests a second, and its budget allows {allowed}: raise budget.requestsPerSecond of the provider to {:.0} at least, or they come late",
                    needed.ceil().min(f64::from(REQUESTS_MOST))
                ),
            };
            Problem::new(Reason::BudgetTooSmall, message)
        })
    }

    /// Whether the token that came is good for less than was asked for. A server has to say so (RFC 6749, section 3.3).
    fn lacks_scopes(&self) -> bool {
        let (Some((token, _)), Some(source)) = (&self.token, &self.source) else { return false };
        token.scope.as_ref().is_some_and(|scope| !source.request.is_granted_by(scope))
    }

    /// Whether a change, or what it ends, is no more than that object and provider were applied together.
    fn is_of_the_beginning(&self, change: &Announcement, former: &AccessTokenStatus, now: Timestamp) -> bool {
        let created = self.object.creation_timestamp();
        let ended = condition(&former.conditions, "Ready").and_then(|ready| Reason::named(&ready.reason));
        let reason = if change.reason == Reason::Recovered { ended } else { Some(change.reason) };
        reason.is_some_and(|reason| is_part_of_a_beginning(reason, created.as_ref(), now))
    }

    /// How long after its time the published token was replaced; `None` where it was not, or for another reason than its time.
    fn lateness(&self, now: Timestamp) -> Option<Duration> {
        let was_held = self.world.secret == SecretView::Ours { is_intact: true } && matches!(self.world.written, Some(Ok(())));
        let published = self.world.published.as_ref().filter(|published| was_held && published.is_current)?;
        Duration::try_from(now.duration_since(published.refresh_at)).ok()
    }

    /// Whether this pass does no more than say that the token has ended while it waits for its turn.
    fn says_that_it_waits(&self) -> bool {
        self.world.obstacle.as_ref().is_some_and(|obstacle| obstacle.reason == Reason::TokenExpired)
    }

    fn asked(&self) -> bool {
        self.world.issued.is_some()
    }

    fn is_left_damaged(&self) -> bool {
        self.world.secret == SecretView::Ours { is_intact: false } && !matches!(self.world.written, Some(Ok(())))
    }
}

/// What was said of the last attempt, when it was good; that the budget is too small stands until the next one, too.
fn said_before(conditions: &[Condition]) -> Option<State> {
    let fresh = condition(conditions, "Fresh")?;
    match (Reason::named(&fresh.reason)?, fresh.status.as_str()) {
        (reason, "True") => Some(State::Yes(reason)),
        (Reason::BudgetTooSmall, _) => Some(State::No(Problem::new(Reason::BudgetTooSmall, fresh.message.clone()))),
        _ => None,
    }
}

/// The events that a change of conditions deserves: one for `Ready`, or else one for `Fresh`.
fn changes(former: &[Condition], now: &[Condition], is_replaced: bool) -> Option<Announcement> {
    if let Some(change) = announcement_of_change(former, now) {
        return Some(change);
    }
    let status = |list: &[Condition]| condition(list, "Fresh").map(|fresh| fresh.status.clone());
    let (before, after) = (status(former), condition(now, "Fresh")?);
    match (before.as_deref(), after.status.as_str()) {
        (Some("False"), "True") if condition(former, "Fresh").is_some_and(|fresh| fresh.reason != Reason::BudgetTooSmall.as_str()) => {
            let replaced = "the token is replaced in time again";
            let note = if is_replaced { replaced } else { "what kept the token from being replaced is over: it is replaced at its time" }
                .to_owned();
            Some(Announcement { reason: Reason::Refreshed, note, is_warning: false })
        }
        // One for each of thousands of tokens would help nobody.
        (Some("True"), "False") if after.reason != Reason::BudgetTooSmall.as_str() => announcement(after),
        _ => None,
    }
}
