//! Status as people and programs read it: conditions, and when they change.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::cluster::Announcement;
use crate::{
    plan::Problem,
    plan::application::State,
    reasons::{Outlook, Reason},
};

/// An object may be seen before a provider that was applied with it.
const BEGINNING: SignedDuration = SignedDuration::from_secs(10);

/// The conditions of one object, being written anew from what a pass came to.
#[derive(Debug)]
pub struct Conditions<'a> {
    former: &'a [Condition],
    generation: i64,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// Conditions for `generation`, with what was said before.
    #[must_use]
    pub fn new(former: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { former, generation, now: whole_seconds(now), list: Vec::new() }
    }

    fn set(&mut self, type_: &str, status: &str, reason: Reason, message: &str) {
        let since = self
            .former
            .iter()
            .find(|former| former.type_ == type_ && former.status == status)
            .map(|former| former.last_transition_time.clone());
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.chars().take(1024).collect(),
            observed_generation: Some(self.generation),
            last_transition_time: since.unwrap_or(Time(self.now)),
        });
    }

    /// `Ready`, and what follows from it: `Reconciling` while something is tried again, `Stalled` while somebody has to act.
    #[must_use]
    pub fn ready(mut self, problem: Option<&Problem>) -> Self {
        let Some(problem) = problem else {
            self.set("Ready", "True", Reason::Ready, Reason::Ready.advice());
            return self;
        };
        let kept = condition(self.former, "Ready").map_or("False", |former| former.status.as_str());
        let status = if problem.reason == Reason::Suspended { kept.to_owned() } else { "False".to_owned() };
        self.set("Ready", &status, problem.reason, &problem.message);
        match problem.reason.outlook() {
            Outlook::NeedsChange => self.set("Stalled", "True", problem.reason, &problem.message),
            Outlook::Good | Outlook::Retried | Outlook::Waits if problem.reason != Reason::Suspended => {
                self.set("Reconciling", "True", problem.reason, &problem.message)
            }
            _ => {}
        }
        self
    }

    /// Any other condition.
    #[must_use]
    pub fn state(mut self, type_: &str, state: &State) -> Self {
        match state {
            State::Yes(reason) => self.set(type_, "True", *reason, reason.advice()),
            State::No(problem) => self.set(type_, "False", problem.reason, &problem.message),
            State::Unknown(problem) => self.set(type_, "Unknown", problem.reason, &problem.message),
        }
        self
    }

    /// A condition that stays as it was said.
    #[must_use]
    pub fn as_before(mut self, type_: &str) -> Self {
        self.list.extend(condition(self.former, type_).cloned());
        self
    }

    /// The conditions, ordered by type.
    #[must_use]
    pub fn finish(mut self) -> Vec<Condition> {
        self.list.sort_by(|a, b| a.type_.cmp(&b.type_));
        self.list
    }
}

/// Kubernetes stores whole seconds: anything finer would differ from what is read back, for ever.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The same for a time to act at, never earlier than `time`: acting too soon would be acting twice.
#[must_use]
pub fn whole_seconds_from(time: Timestamp) -> Timestamp {
    let whole = whole_seconds(time);
    if whole < time { Timestamp::from_second(time.as_second().saturating_add(1)).unwrap_or(whole) } else { whole }
}

/// What is said under a type of condition, if anything is.
#[must_use]
pub fn condition<'a>(list: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    list.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of a type stands and is true.
#[must_use]
pub fn is_true(list: &[Condition], type_: &str) -> bool {
    condition(list, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether `Ready` says a problem, word for word.
#[must_use]
pub fn is_said(list: &[Condition], problem: &Problem) -> bool {
    condition(list, "Ready").is_some_and(|ready| ready.reason == problem.reason.as_str() && ready.message == problem.message)
}

/// The event that a change of `Ready` deserves: a new problem, or recovery from one.
#[must_use]
pub fn announcement_of_change(former: &[Condition], now: &[Condition]) -> Option<Announcement> {
    let (before, after) = (condition(former, "Ready"), condition(now, "Ready")?);
    let quiet = [Reason::InProgress, Reason::Deleting, Reason::Suspended].map(Reason::as_str);
    let had_problem = before.as_ref().is_some_and(|before| before.status != "True" && !quiet.contains(&before.reason.as_str()));
    if after.status == "True" {
        return had_problem.then(|| Announcement {
            reason: Reason::Recovered,
            note: Reason::Recovered.advice().to_owned(),
            is_warning: false,
        });
    }
    let is_same = before.is_some_and(|before| before.status == after.status && before.reason == after.reason);
    if is_same || quiet.contains(&after.reason.as_str()) {
        return None;
    }
    announcement(after)
}

/// Whether a problem is what one apply of an object and of those that it needs brings about: nothing that anybody has to hear of.
#[must_use]
pub fn is_part_of_a_beginning(reason: Reason, created: Option<&Time>, now: Timestamp) -> bool {
    use Reason::{ClientNotFound, ClientNotReady, ProviderNotFound, ProviderNotReady};
    let is_young = created.is_some_and(|created| now.duration_since(created.0) < BEGINNING);
    is_young && [ProviderNotFound, ProviderNotReady, ClientNotFound, ClientNotReady].contains(&reason)
}

/// When an obstacle is looked at again, `again` or when it was going to be: the same obstacle as before keeps its time unless that has come
/// nearer, since looking at it once more is no news.
#[must_use]
pub fn kept_time(former: Option<&Time>, again: Option<Time>, now: Timestamp) -> Option<Time> {
    let is_ahead = |at: &&Time| at.0 > now && again.as_ref().is_none_or(|again| at.0 <= again.0);
    former.filter(is_ahead).cloned().or(again)
}

/// The warning that says the same as a condition.
#[must_use]
pub fn announcement(condition: &Condition) -> Option<Announcement> {
    let reason = Reason::named(&condition.reason)?;
    Some(Announcement { reason, note: condition.message.clone(), is_warning: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_flips() {
        let problem = Problem::new(Reason::ServiceUnavailable, "x");
        let first = Conditions::new(&[], 1, at(100)).ready(Some(&problem)).finish();
        let other = Problem::new(Reason::RateLimited, "y");
        let second = Conditions::new(&first, 2, at(200)).ready(Some(&other)).finish();
        let third = Conditions::new(&second, 2, at(300)).ready(None).finish();
        let time = |list: &[Condition]| list.iter().find(|c| c.type_ == "Ready").map(|c| c.last_transition_time.0.as_second());
        assert_eq!((time(&first), time(&second), time(&third)), (Some(100), Some(100), Some(300)));
        assert!(third.iter().all(|condition| condition.type_ == "Ready"), "abnormal conditions are absent when all is well");
    }

    #[test]
    fn suspension_keeps_the_value_of_ready() {
        let ready = Conditions::new(&[], 1, at(1)).ready(None).finish();
        let suspended = Conditions::new(&ready, 2, at(2)).ready(Some(&Problem::new(Reason::Suspended, "s"))).finish();
        assert_eq!((suspended[0].status.as_str(), suspended[0].reason.as_str()), ("True", "Suspended"));
        assert_eq!(suspended.len(), 1);
    }

    #[test]
    fn only_a_new_problem_and_recovery_are_announced() {
        let list =
            |reason: Option<Reason>| Conditions::new(&[], 1, at(1)).ready(reason.map(|reason| Problem::new(reason, "m")).as_ref()).finish();
        let change =
            |from: &[Condition], to: Option<Reason>| announcement_of_change(from, &list(to)).map(|announcement| announcement.reason);
        assert_eq!(change(&[], None), None, "a good start is no news");
        assert_eq!(change(&[], Some(Reason::RateLimited)), Some(Reason::RateLimited));
        assert_eq!(change(&list(Some(Reason::RateLimited)), Some(Reason::RateLimited)), None, "the same problem again");
        assert_eq!(change(&list(Some(Reason::RateLimited)), None), Some(Reason::Recovered));
        assert_eq!(change(&list(Some(Reason::InProgress)), None), None);
        assert_eq!(change(&list(None), Some(Reason::Suspended)), None);
    }
}
