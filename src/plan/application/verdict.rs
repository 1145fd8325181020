//! What a pass came to: conditions, and when to look again.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    super::{Problem, wait},
    ABSENCE_SPACING, Attention, Claim, Deleting, Next, SecretView, Sight, Stage, Trouble, World,
    deletion::deletion_problem,
    later,
    maintenance::{dropped_scopes, missing_roles, scope_is_in_use, secret_is_right},
    next, obstacle,
    registration::fits,
};
use crate::{
    model::{ApplicationKind, Class, ClientId, Failure},
    reasons::Reason,
};

/// So often is a new credential tried again soon: with waits that double from 2 s, for about two minutes.
pub(super) const NEW_CREDENTIAL_ATTEMPTS: u32 = 6;

/// The state of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// True, for this reason.
    Yes(Reason),
    /// False, for this problem.
    No(Problem),
    /// Not known, for this reason.
    Unknown(Problem),
}

/// What a pass came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the registration stands.
    pub registered: State,
    /// Whether the Secret holds its credential.
    pub published: State,
    /// Whether the token endpoint accepts it.
    pub verified: State,
    /// What keeps the object from being ready.
    pub problem: Option<Problem>,
    /// Whether the last attempt at the service failed.
    pub failed: bool,
    /// When to try again; `None`: only when something changes.
    pub again: Option<Timestamp>,
}

impl Verdict {
    /// Whether a deletion met a failure, as opposed to having to wait until it can be sure.
    #[must_use]
    pub fn failed_deletion(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.reason != Reason::Deleting)
    }
}

impl World {
    /// What the pass came to, after [`next`] said to rest.
    #[must_use]
    pub fn verdict(&self, failures: u32, seed: &str, now: Timestamp) -> Verdict {
        let problem = self.problem(now);
        let registered = match (&self.recorded.client_id, &problem) {
            (Some(_), Some(problem)) if problem.reason == Reason::RemoteMissing => State::No(problem.clone()),
            (Some(_), Some(problem)) if problem.reason == Reason::ConfirmingAbsence => State::Unknown(problem.clone()),
            (Some(_), _) => State::Yes(Reason::Registered),
            (None, Some(problem)) => State::No(problem.clone()),
            (None, None) => State::Unknown(Problem::new(Reason::InProgress, "registration is under way")),
        };
        let published = match (&self.secret, &problem) {
            (SecretView::Ours { client_id: Some(named), is_intact: true, .. }, _) if self.recorded.client_id.as_ref() == Some(named) => {
                State::Yes(Reason::Published)
            }
            (SecretView::Absent, Some(problem)) if self.recorded.client_id.is_some() && problem.reason != Reason::SecretMissing => {
                State::No(Problem::new(
                    problem.reason,
                    format!("the Secret is not there, and follows when this is over: {}", problem.message),
                ))
            }
            (SecretView::Ours { is_intact: false, .. }, Some(problem)) if self.recorded.client_id.is_some() => State::No(Problem::new(
                problem.reason,
                format!("the Secret is not as it should be, and is put right when this is over: {}", problem.message),
            )),
            (_, Some(problem)) => State::No(problem.clone()),
            _ => State::Unknown(Problem::new(Reason::InProgress, "publication is under way")),
        };
        let verified = self.verification();
        Verdict {
            registered,
            published,
            verified,
            again: self.again(problem.as_ref(), failures, seed, now),
            failed: self.failed(),
            problem,
        }
    }

    fn verification(&self) -> State {
        if self.desired.kind == ApplicationKind::SinglePageApp {
            return State::Unknown(Problem::new(Reason::NotApplicable, "a SinglePageApp has no secret that could be tried"));
        }
        match self.troubles.iter().find(|trouble| trouble.stage == Stage::Verification) {
            Some(trouble) => State::No(Problem::of(&trouble.failure)),
            None if self.recorded.verified => State::Yes(Reason::Verified),
            None => State::Unknown(Problem::new(Reason::InProgress, "the credential was not tried yet")),
        }
    }

    /// The failures of the pass that count towards growing waits.
    fn failed(&self) -> bool {
        !self.troubles.is_empty() || (self.attention == Attention::Full && obstacle(self).is_none() && self.open_question().is_some())
    }

    fn problem(&self, now: Timestamp) -> Option<Problem> {
        if self.deleting.is_some() {
            return deletion_problem(self)
                .map(|problem| self.with_an_end(problem, now))
                .or_else(|| Some(Problem::new(Reason::Deleting, "the registration is being removed")));
        }
        if let Some(obstacle) = obstacle(self) {
            return Some(obstacle);
        }
        if let Some(trouble) = self.troubles.first() {
            let problem = Problem::of(&trouble.failure);
            let reason = if trouble.stage == Stage::Name { Reason::RenameFailed } else { problem.reason };
            return Some(Problem { reason, ..problem });
        }
        if self.attention < Attention::Full {
            return None;
        }
        self.open_question().or_else(|| match next(self, now) {
            Next::Rest => None,
            Next::Perform(_) => Some(Problem::new(Reason::InProgress, "work is under way")),
        })
    }

    /// A deletion that fails says until when it is tried.
    fn with_an_end(&self, problem: Problem, now: Timestamp) -> Problem {
        let Some(deleting) = self.deleting.as_ref().filter(|deleting| !deleting.released && !deleting.abandoned) else { return problem };
        let first_failed_at = deleting.first_failed_at.unwrap_or(now);
        let end = later(Timestamp::from_second(first_failed_at.as_second()).unwrap_or(first_failed_at), deleting.budget);
        let message = format!("the object is being deleted, tried until {end} and then given up, naming what is left; {}", problem.message);
        Problem { message, ..problem }
    }

    /// What was found at the service and cannot go on by itself.
    fn open_question(&self) -> Option<Problem> {
        match &self.recorded.client_id {
            None => self.registration_question(),
            Some(id) => self.maintenance_question(id),
        }
    }

    fn registration_question(&self) -> Option<Problem> {
        let unproven = |id: &ClientId| {
            Problem::new(
                Reason::Unproven,
                format!(
                    "the Secret names {id}, but does not hold its credential: set adopt.clientId to take the application over, or delete the Secret"
                ),
            )
        };
        match (&self.secret, &self.remote.sight) {
            (SecretView::Leftover { client_id: Some(id), .. }, Sight::Absent) => {
                return Some(Problem::new(
                    Reason::RestoredRegistrationGone,
                    format!("a former object's Secret names {id}, which no longer exists: delete the Secret to register anew"),
                ));
            }
            (SecretView::Leftover { client_id: Some(id), .. }, _) if self.held_elsewhere.contains_key(id) => return Some(unproven(id)),
            (SecretView::Leftover { client_id: Some(id), .. } | SecretView::Ours { client_id: Some(id), .. }, Sight::Present(_)) => {
                return Some(unproven(id));
            }
            (SecretView::Leftover { client_id: None, .. }, _) => {
                return Some(Problem::new(Reason::Unproven, "a former object's Secret names no client id: delete it to register anew"));
            }
            (SecretView::Ours { client_id: Some(id), .. }, Sight::Absent) => return Some(absence_problem(id)),
            _ => {}
        }
        if let Some(id) = &self.desired.adopt {
            return self.adoption_question(id);
        }
        missing_roles(self).first().map(|role| role_problem(role))
    }

    fn adoption_question(&self, id: &ClientId) -> Option<Problem> {
        if let Some(holder) = self.held_elsewhere.get(id) {
            return Some(Problem::new(
                Reason::AlreadyManaged,
                format!(
                    "the application {id} is held by {holder}: delete that object with deletionPolicy Retain first, or leave out adopt"
                ),
            ));
        }
        match &self.remote.sight {
            Sight::Absent => Some(remote_missing(id)),
            Sight::Present(application) if !fits(self, application) => Some(Problem::new(
                Reason::TypeMismatch,
                format!("the application {id} is of another type than spec.type; nothing was changed"),
            )),
            _ => None,
        }
    }

    fn maintenance_question(&self, id: &ClientId) -> Option<Problem> {
        match &self.remote.sight {
            Sight::Absent if self.recorded.adopted => return Some(remote_missing(id)),
            Sight::Absent | Sight::NotFound => return Some(absence_problem(id)),
            Sight::Present(application)
                if !secret_is_right(self, id) && application.secret.is_none() && self.desired.kind == ApplicationKind::RegularWebApp =>
            {
                return Some(Problem::new(
                    Reason::UnexpectedResponse,
                    "the service does not show the application's secret, so nothing complete can be published",
                ));
            }
            _ => {}
        }
        if let Some(role) = missing_roles(self).first() {
            return Some(role_problem(role));
        }
        let (wanted, present) = (self.desired.scopes.as_ref()?, self.remote.scopes.as_ref()?);
        let scope = dropped_scopes(self, wanted, present).into_iter().find(|scope| scope_is_in_use(self, id, scope))?;
        Some(Problem::new(
            Reason::ScopeInUse,
            format!(
                "a role holds the scope {scope}; removing it would take it from the role for good: annotate cloudidentity.dev/remove-scope: {scope} to do it"
            ),
        ))
    }

    fn again(&self, problem: Option<&Problem>, failures: u32, seed: &str, now: Timestamp) -> Option<Timestamp> {
        if let Some(deleting) = &self.deleting {
            return self.deletion_again(deleting, failures, seed, now);
        }
        let unclear = self.recorded.unclear_since.map(|_| self.absence_is_certain_at().max(later(now, Duration::from_secs(1))));
        if problem.is_some_and(|problem| matches!(problem.reason, Reason::Suspended | Reason::SecretMissing)) {
            // Only a change of the spec ends it.
            return None;
        }
        let wait = problem.map(|problem| match (self.slowest_failure(), problem.reason) {
            (_, Reason::ConfirmingAbsence) => ABSENCE_SPACING,
            (_, Reason::Contested) => {
                self.contested_until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or_default()
            }
            (Some(_), _) if self.credential_may_not_be_known_yet(failures) => wait::after_transient(failures, seed),
            (_, Reason::RoleNotFound) => wait::spread(wait::ROLE_MISSING, seed, failures, -0.2, 0.0),
            (Some(failure), _) => wait::after(failure, failures, seed),
            (None, Reason::InProgress) => Duration::from_secs(1),
            (None, _) => wait::spread(wait::WAITING, seed, failures, -0.2, 0.2),
        });
        let retry = wait.map(|wait| later(now, wait));
        // What cannot go on now cannot look for leftovers either: its own time counts.
        if problem.is_some() { retry } else { unclear }
    }

    /// A credential that was never accepted may be too new for the token endpoint: at first it is tried again as after any hiccup.
    fn credential_may_not_be_known_yet(&self, failures: u32) -> bool {
        let is_refused = |trouble: &Trouble| trouble.stage == Stage::Verification && trouble.failure.class == Class::Unauthorized;
        !self.recorded.verified && failures <= NEW_CREDENTIAL_ATTEMPTS && self.troubles.iter().all(is_refused)
    }

    /// A deletion is tried more often than the wait for a refusal allows: its budget ends before the next attempt would come.
    fn deletion_again(&self, deleting: &Deleting, failures: u32, seed: &str, now: Timestamp) -> Option<Timestamp> {
        if deleting.released || self.claim == Claim::Absent {
            return None;
        }
        if deletion_problem(self).is_none() {
            return Some(self.absence_is_certain_at().max(later(now, Duration::from_secs(1))));
        }
        let end = later(deleting.first_failed_at.unwrap_or(now), deleting.budget);
        let wait =
            self.slowest_failure().map_or(Duration::from_secs(10), |failure| wait::after(failure, failures, seed).min(deleting.budget / 5));
        Some(later(now, wait).min(end.max(later(now, Duration::from_secs(1)))))
    }

    fn slowest_failure(&self) -> Option<&Failure> {
        self.troubles
            .iter()
            .map(|trouble| &trouble.failure)
            .find(|failure| failure.class == Class::RateLimited)
            .or_else(|| self.troubles.first().map(|trouble| &trouble.failure))
    }
}

fn role_problem(role: &str) -> Problem {
    Problem::new(Reason::RoleNotFound, format!("the role {role:?} does not exist in the tenant: create it, or correct spec.roles"))
}

fn absence_problem(id: &ClientId) -> Problem {
    Problem::new(
        Reason::ConfirmingAbsence,
        format!("the application {id} was not found; it is looked for again before anything follows from that"),
    )
}

fn remote_missing(id: &ClientId) -> Problem {
    Problem::new(
        Reason::RemoteMissing,
        format!("the application {id}, which was to be adopted, does not exist at the service; nothing is registered in its place"),
    )
}
