//! The rules for one access token: whether it is fetched now, whether what came is published, and when to look again.
//!
//! [`next`] looks at a [`World`] and names one step, or says that there is nothing more to do in this pass. Everything that must survive the
//! process stands in status and Secret; what is known more exactly in this process (times by its own steady clock) is handed in.
//!
//! # Guarantees
//!
//! * A published token is never taken away: a failure leaves it, and says when it will end.
//! * A scheduled refresh never replaces a token by one that ends no later.
//! * What was refused is not asked for again before its time, unless something that matters has changed.
//! * A refresh token is used only after that was recorded, and its successor is stored before anything else happens.

mod refresh_token;

use std::time::Duration;

pub use self::refresh_token::{RefreshToken, Use};

use jiff::Timestamp;

use super::{Problem, application::State, schedule, wait};
use crate::{
    model::{Class, Failure},
    reasons::Reason,
};

/// After `invalid_grant` of a user's grant the same is not presented again for this long: services lock users.
const USER_GRANT_REFUSED: Duration = Duration::from_secs(30 * 60);
/// How a failure begins to be told while the published token lives.
const VALID_UNTIL: &str = "the token in the Secret is valid until ";
/// A reply that ends at most this much later is no better than what is published: whole seconds, and the time that a reply takes.
const NO_LATER: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

/// What stands under the Secret's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretView {
    /// Nothing.
    Absent,
    /// Ours.
    Ours {
        /// Whether it is exactly what was last applied, in today's shape.
        is_intact: bool,
    },
    /// Published for an object of this cluster, kind, namespace and name that no longer exists.
    Leftover,
    /// Somebody else's.
    Foreign {
        /// Whose, in words.
        whose: String,
    },
    /// Ours, but made immutable.
    Immutable,
}

/// The token that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its end.
    pub expires_at: Timestamp,
    /// When it is to be replaced.
    pub refresh_at: Timestamp,
    /// Whether it was issued for what the spec, the provider and the credentials are now.
    pub is_current: bool,
    /// Whether it was issued for this generation of the spec.
    pub fits_the_spec: bool,
}

/// A token that came in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its end.
    pub expires_at: Timestamp,
    /// When it is to be replaced.
    pub refresh_at: Timestamp,
    /// Whether it is the published one, byte for byte, as far as that is remembered.
    pub is_the_same: bool,
}

/// Why a token is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is not.
    None,
    /// Its time has come.
    Scheduled,
    /// There is none, or not the right one: whatever comes is published.
    Anew,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take over the Secret of a former object.
    TakeOver,
    /// Store a refresh token that came in an earlier pass.
    KeepSuccessor,
    /// Record that the refresh token is used now.
    RecordUse,
    /// Ask the service for a token; the refresh token that comes with it is stored at once.
    Fetch,
    /// Write the Secret.
    Publish,
}

/// Everything that one pass knows.
#[derive(Clone, Debug)]
pub struct World {
    /// Whether the object is suspended.
    pub suspended: bool,
    /// What keeps a token from being asked for: a flaw of the spec, the provider, permits, credentials.
    pub obstacle: Option<Problem>,
    /// Another object that claims the same Secret and comes first.
    pub secret_rival: Option<String>,
    /// The Secret.
    pub secret: SecretView,
    /// Until when a Secret that somebody else keeps changing is left as it is.
    pub contested_until: Option<Timestamp>,
    /// What is published.
    pub published: Option<Published>,
    /// After a failure: when the next attempt is due.
    pub retry_at: Option<Timestamp>,
    /// After a failure: what was said of it.
    pub said: Option<Problem>,
    /// Whether something that matters has changed since that was decided.
    pub is_news: bool,
    /// Whether the grant presents something of a user's.
    pub is_of_a_user: bool,
    /// With a grant of that type: what is known of the refresh token.
    pub refresh_token: Option<RefreshToken>,
    /// What came of asking.
    pub issued: Option<Result<Issued, Failure>>,
    /// What came of writing the Secret.
    pub written: Option<Result<(), Failure>>,
}

/// What a pass came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What keeps the Secret from holding a valid token for this spec.
    pub problem: Option<Problem>,
    /// Whether the Secret holds a token that lives.
    pub published: State,
    /// Whether the last attempt to replace it went well.
    pub fresh: State,
    /// Whether the attempt of this pass failed.
    pub failed: bool,
    /// Whether an earlier failure still counts, so that nothing was tried.
    pub stands: bool,
    /// When to try again after a failure, or to look again while something is in the way; `None`: the schedule decides.
    pub retry_at: Option<Timestamp>,
}

/// The next step of a pass, or rest.
#[must_use]
pub fn next(world: &World, now: Timestamp) -> Option<Step> {
    let refresh_token = world.refresh_token.as_ref();
    if refresh_token.is_some_and(|token| token.has_successor) {
        return Some(Step::KeepSuccessor);
    }
    if world.obstacle().is_some() {
        return None;
    }
    match (&world.issued, &world.written) {
        (Some(Ok(_)), Some(_)) | (Some(Err(_)), _) => None,
        (Some(Ok(issued)), None) if !world.is_worth_publishing(issued, now) => None,
        (Some(Ok(_)), None) if world.secret == SecretView::Leftover => Some(Step::TakeOver),
        (Some(Ok(_)), None) => Some(Step::Publish),
        (None, _) if !world.may_ask(now) => None,
        (None, _) if refresh_token.is_some_and(|token| !token.is_recorded) => Some(Step::RecordUse),
        (None, _) => Some(Step::Fetch),
    }
}

#[cfg(test)]
impl World {
    /// Nothing is there, and nothing in the way: what a test changes is what it is about.
    pub(crate) fn empty() -> Self {
        Self {
            suspended: false,
            obstacle: None,
            secret_rival: None,
            secret: SecretView::Absent,
            contested_until: None,
            published: None,
            retry_at: None,
            said: None,
            is_news: false,
            is_of_a_user: false,
            refresh_token: None,
            issued: None,
            written: None,
        }
    }
}

impl World {
    /// Why a token would be fetched.
    #[must_use]
    pub fn need(&self, now: Timestamp) -> Need {
        match &self.published {
            Some(published)
                if matches!(self.secret, SecretView::Ours { is_intact: true }) && published.is_current && published.expires_at > now =>
            {
                if published.refresh_at <= now {
                    Need::Scheduled
                } else {
                    Need::None
                }
            }
            _ => Need::Anew,
        }
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        let waits = self.retry_at.is_some_and(|at| at > now) && !self.is_news;
        // What was recorded in this pass is used in it.
        let may_be_used =
            self.refresh_token.as_ref().is_some_and(|token| token.is_recorded) || self.use_of_the_refresh_token(now) == Use::Now;
        self.need(now) != Need::None && !waits && may_be_used
    }

    fn use_of_the_refresh_token(&self, now: Timestamp) -> Use {
        let end = self.published.as_ref().map(|published| published.expires_at);
        self.refresh_token.as_ref().map_or(Use::Now, |token| token.may_be_used(end, self.is_news, now))
    }

    /// What was met in an earlier pass, and keeps a token from being asked for in this one.
    fn standing(&self, now: Timestamp) -> Option<(Problem, Option<Timestamp>)> {
        if self.issued.is_some() || self.need(now) == Need::None {
            return None;
        }
        if let (Some(said), Some(at), false) = (&self.said, self.retry_at.filter(|at| *at > now), self.is_news) {
            return Some((said.clone(), Some(at)));
        }
        let allowed = self.use_of_the_refresh_token(now);
        let until = match allowed {
            Use::NotBefore(at) => Some(at),
            Use::Now | Use::Never => None,
        };
        Some((self.refresh_token.as_ref()?.obstacle(allowed)?, until))
    }

    /// A service may answer with the token that it gave before: on schedule that is no reason to write.
    fn is_worth_publishing(&self, issued: &Issued, now: Timestamp) -> bool {
        self.need(now) != Need::Scheduled || !self.is_reused(issued)
    }

    fn is_reused(&self, issued: &Issued) -> bool {
        issued.is_the_same
            || self.published.as_ref().is_some_and(|published| issued.expires_at.duration_since(published.expires_at) <= NO_LATER)
    }

    /// What keeps the object from being worked on, seen from the cluster alone.
    #[must_use]
    pub fn obstacle(&self) -> Option<Problem> {
        if self.suspended {
            return Some(Problem::suspended());
        }
        if let Some(obstacle) = &self.obstacle {
            return Some(obstacle.clone());
        }
        if let Some(rival) = &self.secret_rival {
            return Some(Problem::secret_rival(rival));
        }
        match &self.secret {
            SecretView::Ours { is_intact: false } | SecretView::Absent if self.contested_until.is_some() => {
                Some(Problem::contested_secret())
            }
            SecretView::Foreign { whose } => Some(Problem::foreign_secret(whose)),
            SecretView::Immutable => Some(Problem::immutable_secret()),
            _ => None,
        }
    }

    /// The token that the Secret holds after this pass, if it holds one.
    fn held(&self) -> Option<(Timestamp, bool)> {
        if let (Some(Ok(issued)), Some(Ok(()))) = (&self.issued, &self.written) {
            return Some((issued.expires_at, true));
        }
        let is_there = matches!(self.secret, SecretView::Ours { is_intact: true } | SecretView::Immutable);
        let published = self.published.as_ref().filter(|_| is_there)?;
        Some((published.expires_at, published.fits_the_spec))
    }

    /// Why the Secret holds no token of this object.
    fn nothing_published(&self) -> Problem {
        match (self.obstacle(), &self.published) {
            (Some(obstacle), Some(_)) if obstacle.reason == Reason::Suspended => {
                let message =
                    "the Secret is gone or was changed, and the object is suspended: set spec.suspend to false, and it is put back";
                Problem::new(Reason::SecretMissing, message)
            }
            (Some(obstacle), _) => obstacle,
            (None, Some(_)) => Problem::new(Reason::SecretMissing, "the Secret is gone or was changed: it is put back with the next token"),
            (None, None) => {
                let failed = self.failure().map(|failure| failure.reason).or_else(|| self.said.as_ref().map(|said| said.reason));
                Problem::new(failed.unwrap_or(Reason::InProgress), "there is no Secret with a token of this object yet")
            }
        }
    }

    fn failure(&self) -> Option<&Failure> {
        let refused = self.issued.as_ref().and_then(|issued| issued.as_ref().err());
        refused.or_else(|| self.written.as_ref().and_then(|written| written.as_ref().err()))
    }

    /// When to ask again after a token that was reused: halfway to the end of what is published.
    #[must_use]
    pub fn reused_refresh_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (Some(Ok(issued)), None, Some(published)) = (&self.issued, &self.written, &self.published) else { return None };
        if self.is_worth_publishing(issued, now) {
            return None;
        }
        let rest = Duration::try_from(published.expires_at.duration_since(now)).unwrap_or_default();
        now.checked_add((rest / 2).max(Duration::from_secs(1))).ok()
    }

    /// What the pass came to, after [`next`] said to rest. `failures` counts this pass if it failed, `seed` is the object's UID.
    #[must_use]
    pub fn verdict(&self, failures: u32, seed: &str, now: Timestamp) -> Verdict {
        let held = self.held();
        let lives = held.is_some_and(|(expires_at, _)| expires_at > now);
        let published = match held {
            Some(_) if lives => State::Yes(Reason::Published),
            Some((expires_at, _)) => State::No(expired(expires_at)),
            None => State::No(self.nothing_published()),
        };
        if let Some(obstacle) = self.obstacle() {
            let is_suspended = obstacle.reason == Reason::Suspended;
            let problem = match held {
                Some((expires_at, _)) if is_suspended && !lives => {
                    let ended = expired(expires_at);
                    let message = "and the object is suspended: set spec.suspend to false, and it is replaced";
                    Problem::new(ended.reason, format!("{}, {message}", ended.message))
                }
                None if is_suspended && self.published.is_some() => self.nothing_published(),
                _ => obstacle.clone(),
            };
            // An obstacle that comes and goes is no reason to try what was refused sooner: its wait goes on meanwhile.
            let waits_for_its_turn = obstacle.reason == Reason::TokenExpired;
            let goes_on = waits_for_its_turn || self.retry_at.is_none_or(|at| at > now);
            let said = self.said.as_ref().filter(|_| !is_suspended && goes_on);
            let retry_at = said.and(self.retry_at).filter(|at| *at > now);
            return Verdict {
                retry_at: retry_at
                    // What could not be stored beside an obstacle.
                    .or_else(|| self.failure().and_then(|failure| self.retry_at(failure, failures, seed, None, now)))
                    .or_else(|| self.again_with(&obstacle, failures, seed, now)),
                problem: Some(problem),
                published,
                fresh: said.map_or_else(|| State::Unknown(beside(held, &obstacle, now)), |said| State::No(beside(held, said, now))),
                failed: false,
                stands: said.is_some(),
            };
        }
        let rest = held.filter(|_| lives).and_then(|(expires_at, _)| Duration::try_from(expires_at.duration_since(now)).ok());
        let (said, retry_at) = match (self.failure(), self.standing(now)) {
            (Some(failure), _) => (Problem::of(failure), self.retry_at(failure, failures, seed, rest, now)),
            (None, Some(standing)) => standing,
            (None, None) => {
                // A wait after a failure goes on; its failure is said already, and stays.
                let waiting = self.retry_at.filter(|at| *at > now && self.issued.is_none());
                let in_progress = || Problem::new(Reason::InProgress, "the token is being fetched");
                let problem = (!lives).then(in_progress);
                let fresh = if problem.is_some() { State::Unknown(in_progress()) } else { State::Yes(Reason::Refreshed) };
                return Verdict { problem, published, fresh, failed: false, stands: false, retry_at: waiting };
            }
        };
        let fits = held.is_some_and(|(_, fits)| fits);
        let problem = match held {
            Some(_) if lives && fits => None,
            Some((expires_at, _)) if !lives => {
                Some(Problem::new(said.reason, format!("the token in the Secret ended at {}; {}", shown(expires_at), said.message)))
            }
            _ => Some(said.clone()),
        };
        let failed = self.failure().is_some();
        Verdict { problem, published, fresh: State::No(beside(held, &said, now)), failed, stands: !failed, retry_at }
    }

    /// When to try again after a failure of this pass; `None`: not before somebody has changed something.
    fn retry_at(&self, failure: &Failure, failures: u32, seed: &str, rest: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
        if failure.reason == Reason::ReauthorizationRequired {
            return None;
        }
        let end = self.published.as_ref().map(|published| published.expires_at);
        let unanswered = self.refresh_token.as_ref().filter(|token| token.is_recorded && !token.is_answered_by(failure));
        let repeated_at = unanswered.and_then(|token| token.repeated_at(end, now));
        repeated_at.or_else(|| now.checked_add(self.retry_after(failure, failures, seed, rest)).ok())
    }

    fn retry_after(&self, failure: &Failure, failures: u32, seed: &str, rest: Option<Duration>) -> Duration {
        let wait = wait::after(failure, failures, seed);
        match failure.class {
            // As told; what is added to that must not cost the token its life.
            Class::RateLimited => schedule::retry_after(wait, true, rest).max(wait::as_told(failure, failures, seed)),
            // Presenting it again could lock somebody out.
            Class::Unauthorized if self.is_of_a_user && failure.reason == Reason::InvalidGrant => wait.max(USER_GRANT_REFUSED),
            class => schedule::retry_after(wait, class == Class::Transient, rest),
        }
    }

    fn again_with(&self, obstacle: &Problem, failures: u32, seed: &str, now: Timestamp) -> Option<Timestamp> {
        match obstacle.reason {
            // Only a change of the spec ends it.
            Reason::Suspended => None,
            // As soon as its turn comes.
            Reason::TokenExpired => None,
            Reason::Contested => self.contested_until,
            _ => now.checked_add(wait::spread(wait::WAITING, seed, failures, -0.2, 0.2)).ok(),
        }
    }
}

/// A failure to replace the token that the Secret holds, with the time until which that does no harm.
fn beside(held: Option<(Timestamp, bool)>, said: &Problem, now: Timestamp) -> Problem {
    match held.filter(|(expires_at, _)| *expires_at > now) {
        Some((expires_at, _)) => Problem::new(said.reason, format!("{VALID_UNTIL}{}; {}", shown(expires_at), said.message)),
        None => said.clone(),
    }
}

/// What was said of a failure, from what a status says: without the time until which it did no harm.
#[must_use]
pub fn said_of_failure(message: &str) -> &str {
    message.strip_prefix(VALID_UNTIL).and_then(|rest| rest.split_once("; ")).map_or(message, |(_, said)| said)
}

fn expired(at: Timestamp) -> Problem {
    Problem::new(Reason::TokenExpired, format!("the token in the Secret ended at {}", shown(at)))
}

/// What is said when the published token ends while the service is being asked for the next one.
#[must_use]
pub fn ended_meanwhile(at: Timestamp) -> Problem {
    let Problem { reason, message } = expired(at);
    Problem::new(reason, format!("{message}, and the service, asked for another, has not answered yet"))
}

/// Whole seconds are what status shows.
fn shown(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod day;
#[cfg(test)]
mod tests;
