//! When a refresh token may be used.
//!
//! A server that replaces refresh tokens takes the use of a spent one for theft, and takes back everything that came of the same sign-in: the
//! published access token too. So whoever does not know whether a use was answered may repeat it only while servers still take that for a
//! lost answer, or when there is nothing left to lose.

use jiff::{SignedDuration, Timestamp};

use crate::{model::Failure, plan::Problem, reasons::Reason};

/// A use without an answer is repeated once within this time of it.
const REPEATED_WITHIN: SignedDuration = SignedDuration::from_secs(10);
/// So long after a use without an answer it is repeated.
const REPEATED_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// What is known of the refresh token that would be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefreshToken {
    /// When it was last used, if no answer to that is known.
    pub unanswered_since: Option<Timestamp>,
    /// How often it was used since the last answer.
    pub uses: u32,
    /// Whether the service has said that it does not take it any more, when asked for the same as now.
    pub is_refused: bool,
    /// Whether it is recorded that this pass uses it.
    pub is_recorded: bool,
    /// Whether its successor has come and is not stored yet.
    pub has_successor: bool,
}

/// Whether it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// At once.
    Now,
    /// Not before then: no answer to the last use is known, and the published token lives until then.
    NotBefore(Timestamp),
    /// The service does not take it.
    Never,
}

impl RefreshToken {
    /// Whether it may be used now, when the published token ends at `end` and `is_news` says whether something has changed since the last answer.
    #[must_use]
    pub fn may_be_used(&self, end: Option<Timestamp>, is_news: bool, now: Timestamp) -> Use {
        if self.is_refused && !is_news {
            return Use::Never;
        }
        let Some(since) = self.unanswered_since else { return Use::Now };
        let may_be_repeated = self.uses < 2 && now.duration_since(since) < REPEATED_WITHIN;
        match end.filter(|end| *end > now) {
            Some(end) if !may_be_repeated => Use::NotBefore(end),
            _ => Use::Now,
        }
    }

    /// Whether a failed use of this pass leaves nothing open: the service has refused the token, or it says that it did not take up this use,
    /// and there was no other without an answer before.
    #[must_use]
    pub fn is_answered_by(&self, failure: &Failure) -> bool {
        failure.reason == Reason::ReauthorizationRequired || (!failure.may_have_happened && self.uses < 2)
    }

    /// When to use it again after a use of this pass that was not answered. `None`: nothing forbids the ordinary wait.
    #[must_use]
    pub fn repeated_at(&self, end: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let soon = now.checked_add(REPEATED_AFTER).ok()?;
        match self.may_be_used(end, true, soon) {
            Use::Now if end.is_some_and(|end| end > now) => Some(soon),
            Use::Now | Use::Never => None,
            Use::NotBefore(end) => Some(end),
        }
    }

    /// What its owner is told while it may not be used.
    #[must_use]
    pub fn obstacle(&self, allowed: Use) -> Option<Problem> {
        match allowed {
            Use::Now => None,
            Use::NotBefore(end) => {
                let message = format!(
                    "the refresh token was used and no answer came, so that it may be used up: it is used again when the published token has ended, at {}; put a new one into the Secret that grant.refreshToken names to be sooner",
                    super::shown(end)
                );
                Some(Problem::new(Reason::AnswerLost, message))
            }
            Use::Never => {
                let what_to_do = Reason::ReauthorizationRequired.what_to_do().unwrap_or_default();
                Some(Problem::new(
                    Reason::ReauthorizationRequired,
                    format!("the service does not take the refresh token any more; {what_to_do}"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::Class,
        plan::token::{Issued, Published, SecretView, Step, World, next},
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn used(uses: u32) -> RefreshToken {
        RefreshToken { unanswered_since: Some(at(0)), uses, ..RefreshToken::default() }
    }

    #[test]
    fn a_use_without_an_answer_is_repeated_once_soon_and_then_only_when_there_is_nothing_to_lose() {
        let lives = Some(at(600));
        for (token, end, now, expected, reason) in [
            (RefreshToken::default(), lives, 0, Use::Now, "never used"),
            (used(1), lives, 3, Use::Now, "the one repetition"),
            (used(1), lives, 10, Use::NotBefore(at(600)), "servers no longer take it for a repetition"),
            (used(2), lives, 3, Use::NotBefore(at(600)), "repeated already"),
            (used(2), lives, 600, Use::Now, "the published token has ended"),
            (used(5), None, 3, Use::Now, "nothing was ever published"),
            (RefreshToken { is_refused: true, ..RefreshToken::default() }, None, 0, Use::Never, "refused"),
        ] {
            assert_eq!(token.may_be_used(end, false, at(now)), expected, "{reason}");
        }
        let refused = RefreshToken { is_refused: true, ..RefreshToken::default() };
        assert_eq!(refused.may_be_used(lives, true, at(0)), Use::Now, "what was wrong may have been another part of the request");
        assert_eq!(used(1).may_be_used(lives, true, at(60)), Use::NotBefore(at(600)), "nobody's wish makes a spent token good");
    }

    #[test]
    fn what_follows_a_use_without_an_answer() {
        let lives = Some(at(600));
        for (token, end, now, expected, reason) in [
            (used(1), lives, 1, Some(at(2)), "within the time in which servers bear it"),
            (used(1), lives, 20, Some(at(600)), "an answer that did not come within its deadline"),
            (used(2), lives, 3, Some(at(600)), "the repetition"),
            (used(1), None, 1, None, "nothing to lose: like any failure"),
            (used(3), Some(at(0)), 5, None, "ended"),
        ] {
            assert_eq!(token.repeated_at(end, at(now)), expected, "{reason}");
        }
    }

    /// What happens to one use.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Answered,
        /// The server does not take the request up, and says so.
        TurnedAway,
        LostOnTheWay,
        AnswerLost,
        /// The process dies after the use is recorded, or with the answer in its hands.
        DiesBefore,
        DiesAfter,
        /// The API server does not take what came; the process goes on.
        NotStored,
    }

    /// A server that replaces refresh tokens, a Secret, a status and a process.
    #[derive(Default)]
    struct Miniature {
        now: i64,
        // The server: the token that is good, and whether somebody used a spent one.
        good: u32,
        reuses: u32,
        is_revoked: bool,
        // Stored: the token that is used next, its uses, when, and their number.
        token: u32,
        uses: u32,
        used_at: Option<i64>,
        number: i64,
        // Status: the last use that was answered, whether it was refused, failures, when to try again.
        answered: i64,
        is_refused: bool,
        failures: u32,
        retry_at: Option<Timestamp>,
        published: Option<Published>,
        // In the memory of the process.
        successor: Option<u32>,
    }

    impl Miniature {
        const LIFETIME: i64 = 600;

        fn world(&self) -> World {
            let is_answered = self.answered >= self.number;
            World {
                secret: if self.published.is_some() { SecretView::Ours { is_intact: true } } else { SecretView::Absent },
                published: self.published.clone(),
                retry_at: self.retry_at,
                is_of_a_user: true,
                refresh_token: Some(RefreshToken {
                    unanswered_since: self.used_at.filter(|_| self.uses > 0 && !is_answered).map(at),
                    uses: if is_answered { 0 } else { self.uses },
                    is_refused: is_answered && self.is_refused && self.uses > 0,
                    is_recorded: false,
                    has_successor: self.successor.is_some(),
                }),
                ..World::empty()
            }
        }

        fn came(&self) -> Issued {
            Issued { expires_at: at(self.now + Self::LIFETIME), refresh_at: at(self.now + 400), is_the_same: false }
        }

        fn store(&mut self, token: u32) {
            (self.token, self.uses, self.used_at) = (token, 0, None);
        }

        /// What the server does with the stored token, and the token that it gives instead.
        fn use_it(&mut self) -> Result<u32, Failure> {
            if self.token == self.good && !self.is_revoked {
                self.good += 1;
                return Ok(self.good);
            }
            self.reuses += 1;
            self.is_revoked = true;
            Err(Failure::new("x", Class::Unauthorized, Reason::ReauthorizationRequired, ""))
        }

        /// One pass. Whether it came to its end.
        fn pass(&mut self, fate: Fate) -> bool {
            let lost = || Failure { may_have_happened: true, ..Failure::new("x", Class::Transient, Reason::ServiceUnavailable, "") };
            let mut world = self.world();
            while let Some(step) = next(&world, at(self.now)) {
                match step {
                    Step::KeepSuccessor => {
                        let token = self.successor.take().expect("it is there");
                        self.store(token);
                        world.refresh_token = Some(RefreshToken::default());
                        world.issued = Some(Ok(self.came()));
                    }
                    Step::RecordUse => {
                        let known = world.refresh_token.as_mut().expect("there is one");
                        (self.uses, self.used_at, self.number) = (known.uses + 1, Some(self.now), self.number + 1);
                        *known = RefreshToken {
                            unanswered_since: Some(at(self.now)),
                            uses: self.uses,
                            is_recorded: true,
                            ..RefreshToken::default()
                        };
                        if fate == Fate::DiesBefore {
                            return false;
                        }
                    }
                    Step::Fetch => {
                        let answer = match fate {
                            Fate::TurnedAway => Err(Failure::new("x", Class::Transient, Reason::ServiceUnavailable, "")),
                            Fate::LostOnTheWay => Err(lost()),
                            Fate::AnswerLost => self.use_it().and(Err(lost())),
                            _ => self.use_it(),
                        };
                        match (answer, fate) {
                            (_, Fate::DiesAfter) => return false,
                            (Ok(token), Fate::NotStored) => {
                                self.successor = Some(token);
                                return true;
                            }
                            (Ok(token), _) => {
                                self.store(token);
                                world.issued = Some(Ok(self.came()));
                            }
                            (Err(_), Fate::AnswerLost) => world.issued = Some(Err(lost())),
                            (Err(failure), _) => world.issued = Some(Err(failure)),
                        }
                    }
                    Step::Publish => world.written = Some(Ok(())),
                    Step::TakeOver => unreachable!("nothing is left over here"),
                }
            }
            let verdict = world.verdict(self.failures + 1, "uid", at(self.now));
            if let (Some(Ok(issued)), Some(Ok(()))) = (&world.issued, &world.written) {
                let (expires_at, refresh_at) = (issued.expires_at, issued.refresh_at);
                self.published = Some(Published { expires_at, refresh_at, is_current: true, fits_the_spec: true });
            }
            match &world.issued {
                Some(Ok(_)) => (self.answered, self.is_refused) = (self.number, false),
                Some(Err(failure)) if world.refresh_token.as_ref().is_some_and(|token| token.is_answered_by(failure)) => {
                    (self.answered, self.is_refused) = (self.number, failure.reason == Reason::ReauthorizationRequired);
                }
                _ => {}
            }
            self.failures = if verdict.failed {
                self.failures + 1
            } else if verdict.stands {
                self.failures
            } else {
                0
            };
            self.retry_at = verdict.retry_at;
            true
        }
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            8 => Just(Fate::Answered),
            2 => Just(Fate::TurnedAway),
            2 => Just(Fate::LostOnTheWay),
            4 => Just(Fate::AnswerLost),
            1 => Just(Fate::DiesBefore),
            1 => Just(Fate::DiesAfter),
            2 => Just(Fate::NotStored),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_128), ..ProptestConfig::default() })]

        /// Promises 2, 3 and 10: while a published token lives, no spent refresh token is used but once, within ten seconds of the use that spent
        /// it; a sign-in ends only by an answer that nobody has; and what can go on goes on.
        #[test]
        fn only_a_lost_answer_costs_a_sign_in_and_a_spent_token_is_used_once_at_most_while_there_is_something_to_lose(
            fates in proptest::collection::vec((fate(), 0_i64..30), 1..40),
        ) {
            let mut world = Miniature::default();
            let (mut lost, mut last_use) = (false, 0);
            for (fate, delay) in fates {
                let (before, number, spent) = (world.reuses, world.number, world.token != world.good);
                let lives = world.published.as_ref().is_some_and(|published| published.expires_at > at(world.now));
                let was_refused = world.is_refused;
                let ended = world.pass(fate);
                if world.reuses > before && lives {
                    prop_assert!(spent && before == 0 && world.now - last_use < 10, "used again {} s later", world.now - last_use);
                }
                prop_assert!(!was_refused || world.number == number, "what was refused is used again");
                if world.number > number {
                    last_use = world.now;
                }
                let has_answer = world.token == world.good || world.successor == Some(world.good);
                lost |= !has_answer && matches!(fate, Fate::AnswerLost | Fate::DiesAfter);
                prop_assert!(has_answer || lost, "{fate:?} cost the sign-in");
                // A process that died knows nothing; the next one comes a while later.
                if !ended {
                    world.successor = None;
                }
                let due = world.retry_at.or_else(|| world.published.as_ref().map(|published| published.refresh_at));
                let due = if ended && world.successor.is_none() { due.map_or(world.now, |due| due.duration_since(at(0)).as_secs()) } else { world.now };
                world.now = due.max(world.now) + delay;
            }
            if !lost {
                // Now the server answers, and whatever was waited for is over.
                for _ in 0..4 {
                    world.now += Miniature::LIFETIME;
                    world.pass(Fate::Answered);
                }
                let published = world.published.as_ref().expect("a token is published");
                prop_assert!(published.expires_at > at(world.now) && world.reuses == 0);
            }
        }
    }
}
