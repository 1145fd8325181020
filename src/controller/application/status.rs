//! Report: what is stored, and what is said.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::super::{
    cluster::{Abort, Announcement},
    report::{
        Conditions, announcement, announcement_of_change, condition, is_part_of_a_beginning, kept_time, whole_seconds, whole_seconds_from,
    },
};
use super::Pass;
use crate::{
    api::{AddedAtService, AppIdApplicationStatus, BindingReference, DeletionProgress, LocalReference},
    model::Failure,
    plan::{
        application::{self as rules, Attention, Claim, News, Outcome, Recorded, SecretView, Step, Verdict},
        layout::Layout,
        wait,
    },
    reasons::Reason,
};

impl Pass {
    /// Writes what must be known before anything is added at the service.
    pub(super) async fn record(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let mut world = self.world.clone();
        world.absorb(&Step::Record, Ok(Outcome::Done), Timestamp::now());
        let former = self.object.status.clone().unwrap_or_default();
        let mut status = self.facts(&world.recorded, &former);
        // What the pass comes to is not known yet: the spec counts as not observed until the report.
        status.observed_generation = former.observed_generation.or(Some(-1));
        status.conditions = former.conditions.clone();
        status.failures = former.failures;
        status.next_action_at = former.next_action_at;
        status.provider_version = former.provider_version;
        let api = self.api();
        self.subject.write_status(&api, &status).await?;
        self.context.memory.told(&self.subject.uid, status.unclear_since.is_some());
        self.note_object();
        let mut object = (*self.object).clone();
        object.status = Some(status);
        self.object = Arc::new(object);
        Ok(Ok(Outcome::Done))
    }

    /// The part of status that the rules read back.
    pub(super) fn facts(&self, recorded: &Recorded, former: &AppIdApplicationStatus) -> AppIdApplicationStatus {
        let is_published = matches!(self.world.secret, SecretView::Ours { .. });
        let time = |time: Timestamp| Time(whole_seconds(time));
        AppIdApplicationStatus {
            client_id: recorded.client_id.as_ref().map(ToString::to_string),
            tenant: recorded.client_id.as_ref().and(recorded.tenant.as_ref()).map(ToString::to_string),
            adopted: recorded.adopted.then_some(true),
            secret_ref: is_published.then(|| LocalReference { name: self.secret_name.clone() }),
            binding: (is_published && self.shape.layout == Layout::ServiceBinding)
                .then(|| BindingReference { name: self.secret_name.clone() }),
            secret_version: self.trusted_version(),
            added: AddedAtService {
                scopes: recorded.added.scopes.clone(),
                roles: recorded.added.roles.clone(),
                redirect_uris: recorded.added.redirect_uris.clone(),
            },
            verified_at: recorded.verified.then(|| former.verified_at.clone().unwrap_or_else(|| time(Timestamp::now()))),
            unclear_since: recorded.unclear_since.map(time),
            missing_since: recorded.missing_since.map(time),
            deletion: former.deletion.clone(),
            ..AppIdApplicationStatus::default()
        }
    }

    pub(super) async fn announce_all(&mut self) {
        let news = std::mem::take(&mut self.world.news);
        let mut announcements: Vec<Announcement> = news
            .into_iter()
            .map(|News { reason, note }| Announcement { reason, note, is_warning: reason == Reason::RegisteredAgain })
            .collect();
        announcements.append(&mut self.announcements);
        for announcement in announcements {
            self.context.announce(&self.subject, &announcement).await;
        }
    }

    pub(super) async fn finish(mut self, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        if self.world.deleting.as_ref().is_some_and(|deleting| deleting.released)
            || (self.world.deleting.is_some() && self.world.claim == Claim::Absent)
        {
            return Ok(None);
        }
        let former = self.object.status.clone().unwrap_or_default();
        let was_full = self.world.attention == Attention::Full && rules::obstacle(&self.world).is_none();
        let failures = u32::try_from(former.failures.unwrap_or(0)).unwrap_or(0) + 1;
        let verdict = self.world.verdict(failures, &self.subject.uid, now);
        let status = self.status(&verdict, &former, failures, now);
        if self.repairs {
            self.context.memory.repaired(&self.subject.uid, now);
            self.announcements.push(Announcement {
                reason: Reason::SecretRepaired,
                note: format!("put the Secret {} back", self.secret_name),
                is_warning: false,
            });
        }
        let created = self.object.creation_timestamp();
        let begins_to_fail = status.deletion.is_some() && former.deletion.is_none();
        let said_of_the_deletion = condition(&status.conditions, "Ready").filter(|_| begins_to_fail);
        self.announcements.extend(
            announcement_of_change(&former.conditions, &status.conditions)
                .or_else(|| said_of_the_deletion.and_then(announcement))
                .filter(|change| self.world.news.iter().all(|news| news.reason != change.reason))
                .filter(|change| !is_part_of_a_beginning(change.reason, created.as_ref(), now))
                // That it is registered says the same.
                .filter(|change| change.reason != Reason::Recovered || former.client_id.is_some()),
        );
        let again = status.next_action_at.as_ref().map(|at| at.0);
        if status != former {
            let api = self.api();
            self.subject.write_status(&api, &status).await?;
            self.note_object();
        }
        if was_full {
            self.context.memory.checked(&self.subject.uid, now);
        }
        self.context.memory.leaves_damage(&self.subject.uid, self.damage());
        self.context.memory.told(&self.subject.uid, was_full || status.unclear_since.is_some());
        self.announce_all().await;
        let drift = (status.client_id.is_some() && !self.object.spec.suspend)
            .then(|| wait::next_drift_check(now, self.context.settings.drift_interval, &self.subject.uid))
            .flatten();
        Ok(match (again, drift) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    pub(super) fn status(
        &self,
        verdict: &Verdict,
        former: &AppIdApplicationStatus,
        failures: u32,
        now: Timestamp,
    ) -> AppIdApplicationStatus {
        let is_local = self.world.attention < Attention::Full && rules::obstacle(&self.world).is_none();
        let mut status = self.facts(&self.world.recorded, former);
        if is_local {
            // Only the Secret's version is news: everything else stays as the last full pass left it.
            return AppIdApplicationStatus { secret_version: status.secret_version, ..former.clone() };
        }
        let generation = self.subject.generation;
        status.observed_generation = Some(generation);
        status.conditions = Conditions::new(&former.conditions, generation, now)
            .ready(verdict.problem.as_ref())
            .state("Registered", &verdict.registered)
            .state("SecretPublished", &verdict.published)
            .state("Verified", &verdict.verified)
            .finish();
        let obstructed = rules::obstacle(&self.world).is_some();
        status.provider_version =
            if obstructed { former.provider_version.clone() } else { self.context.directory.version(&self.provider_key()) };
        status.failures = verdict.failed.then(|| i32::try_from(failures).unwrap_or(i32::MAX));
        let again = verdict.again.map(|at| Time(whole_seconds_from(at)));
        let is_the_same = obstructed && status.conditions == former.conditions;
        status.next_action_at = if is_the_same { kept_time(former.next_action_at.as_ref(), again, now) } else { again };
        if self.world.deleting.is_some() && verdict.failed_deletion() {
            status.deletion = former.deletion.clone().or_else(|| Some(DeletionProgress { first_failed_at: Time(whole_seconds(now)) }));
        }
        status
    }
}
