use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    model::{Life, Told},
    plan::schedule::Policy,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn world() -> World {
    World {
        secret: SecretView::Ours { is_intact: true },
        published: Some(Published { expires_at: at(3600), refresh_at: at(1700), is_current: true, fits_the_spec: true }),
        ..World::empty()
    }
}

fn issued(expires_at: i64) -> Option<Result<Issued, Failure>> {
    Some(Ok(Issued { expires_at: at(expires_at), refresh_at: at(expires_at - 100), is_the_same: false }))
}

fn failure(class: Class, reason: Reason) -> Option<Result<Issued, Failure>> {
    Some(Err(Failure::new("getting a token", class, reason, "no")))
}

fn published(change: impl Fn(&mut Published)) -> World {
    let mut world = world();
    world.published.iter_mut().for_each(change);
    world
}

#[test]
fn a_token_is_fetched_when_its_time_has_come_or_when_it_is_not_the_right_one() {
    let none = World { secret: SecretView::Absent, published: None, ..world() };
    for (world, now, step, reason) in [
        (world(), 1000, None, "it is fresh"),
        (world(), 1700, Some(Step::Fetch), "its time has come"),
        (world(), 4000, Some(Step::Fetch), "it has ended"),
        (none.clone(), 0, Some(Step::Fetch), "there is none"),
        (published(|published| published.is_current = false), 1000, Some(Step::Fetch), "it is for something else"),
        (World { secret: SecretView::Absent, ..world() }, 1000, Some(Step::Fetch), "its Secret is gone"),
        (World { secret: SecretView::Ours { is_intact: false }, ..world() }, 1000, Some(Step::Fetch), "its Secret was changed"),
        (World { secret: SecretView::Leftover, ..none.clone() }, 1000, Some(Step::Fetch), "a former object's Secret"),
        (World { retry_at: Some(at(5000)), ..none.clone() }, 4000, None, "a failure waits"),
        (World { retry_at: Some(at(5000)), is_news: true, ..none.clone() }, 4000, Some(Step::Fetch), "unless something has changed"),
        (World { retry_at: Some(at(5000)), ..none.clone() }, 5000, Some(Step::Fetch), "or its time has come"),
        (World { suspended: true, ..none.clone() }, 0, None, "suspended"),
        (World { obstacle: Some(Problem::new(Reason::NotPermitted, "")), ..none.clone() }, 0, None, "not permitted"),
        (World { secret_rival: Some("another".into()), ..none.clone() }, 0, None, "an older object has the name"),
        (World { secret: SecretView::Foreign { whose: "x".into() }, ..none.clone() }, 0, None, "somebody else's Secret"),
        (World { secret: SecretView::Immutable, ..world() }, 1700, None, "an immutable Secret"),
        (World { contested_until: Some(at(9000)), secret: SecretView::Absent, ..none.clone() }, 0, None, "a contested Secret"),
        (World { issued: issued(7000), ..world() }, 1700, Some(Step::Publish), "it came"),
        (World { issued: issued(7000), written: Some(Ok(())), ..world() }, 1700, None, "it is published"),
        (World { issued: issued(7000), secret: SecretView::Leftover, ..none }, 0, Some(Step::TakeOver), "into a former object's Secret"),
        (World { issued: failure(Class::Transient, Reason::ServiceUnavailable), ..world() }, 1700, None, "a failure ends the pass"),
    ] {
        assert_eq!(next(&world, at(now)), step, "{reason}");
    }
}

/// Promises 2 and 3: the use is recorded before it is made, and what came is stored whatever is in the way of everything else.
#[test]
fn a_refresh_token_is_used_in_this_order_and_only_when_it_may_be() {
    let due = |change: fn(&mut RefreshToken)| {
        let mut token = RefreshToken::default();
        change(&mut token);
        World { refresh_token: Some(token), ..world() }
    };
    let unanswered = |token: &mut RefreshToken| (token.unanswered_since, token.uses) = (Some(at(1600)), 1);
    for (world, now, step, reason) in [
        (due(|_| {}), 1000, None, "the published token is fresh"),
        (due(|_| {}), 1700, Some(Step::RecordUse), "its time has come"),
        (due(|token| token.is_recorded = true), 1700, Some(Step::Fetch), "it is recorded"),
        (due(unanswered), 1700, None, "an answer was lost, and the published token lives"),
        (World { is_news: true, ..due(unanswered) }, 1700, None, "whatever somebody wants"),
        (due(unanswered), 3600, Some(Step::RecordUse), "it has ended"),
        (due(|token| token.is_refused = true), 4000, None, "refused"),
        (World { is_news: true, ..due(|token| token.is_refused = true) }, 1700, Some(Step::RecordUse), "with another client, say"),
        (
            World { suspended: true, ..due(|token| token.has_successor = true) },
            1000,
            Some(Step::KeepSuccessor),
            "what came is stored first",
        ),
        (World { issued: issued(7000), ..due(|token| token.is_recorded = true) }, 1700, Some(Step::Publish), "it came"),
    ] {
        assert_eq!(next(&world, at(now)), step, "{reason}");
    }
    let waits = due(unanswered).verdict(1, "uid", at(1700));
    assert_eq!((waits.problem, waits.retry_at, waits.stands, waits.failed), (None, Some(at(3600)), true, false));
    let refused = World { issued: failure(Class::Unauthorized, Reason::ReauthorizationRequired), ..due(|token| token.is_recorded = true) };
    let refused = refused.verdict(1, "uid", at(1700));
    assert_eq!((refused.problem, refused.retry_at, refused.failed), (None, None, true), "only a person ends it");
}

/// Promises 2 and 6.
#[test]
fn on_schedule_a_token_that_ends_no_later_is_not_written_and_is_asked_for_again_at_half_the_rest() {
    for (expires_at, is_the_same) in [(3600, false), (3000, false), (3602, false), (9000, true)] {
        let reply = Issued { expires_at: at(expires_at), refresh_at: at(0), is_the_same };
        let world = World { issued: Some(Ok(reply)), ..world() };
        assert_eq!(next(&world, at(1800)), None, "{expires_at} {is_the_same}");
        assert_eq!(world.reused_refresh_at(at(1800)), Some(at(2700)));
        assert_eq!(
            next(&World { issued: world.issued.clone(), ..published(|published| published.is_current = false) }, at(1800)),
            Some(Step::Publish)
        );
        assert_eq!(next(&world, at(3700)), Some(Step::Publish), "what has ended is replaced by whatever lives");
    }
    let better = World { issued: issued(3603), ..world() };
    assert_eq!((next(&better, at(1800)), better.reused_refresh_at(at(1800))), (Some(Step::Publish), None));
}

/// Promises 2, 3 and 10.
#[test]
fn a_failure_leaves_the_token_says_until_when_it_lives_and_is_tried_again_in_time() {
    let failing = |class, reason| World { issued: failure(class, reason), ..world() };
    let dead = failing(Class::Transient, Reason::ServiceUnavailable).verdict(9, "uid", at(1800));
    assert_eq!((dead.problem, dead.failed), (None, true), "the published token lives");
    let State::No(fresh) = dead.fresh else { panic!("{:?}", dead.fresh) };
    assert!(fresh.message.contains("valid until 1970-01-01T01:00:00Z"), "{}", fresh.message);
    let wait = |world: &World, failures, now: i64| {
        world.verdict(failures, "uid", at(now)).retry_at.expect("again").duration_since(at(now)).as_secs()
    };
    // A quarter of the rest, at least 10 s, once the usual wait is longer.
    for (class, reason) in
        [(Class::Rejected, Reason::Rejected), (Class::Unauthorized, Reason::InvalidClient), (Class::Unexpected, Reason::UnexpectedResponse)]
    {
        assert_eq!(wait(&failing(class, reason), 3, 1800), 450, "{class:?}");
        assert_eq!(wait(&failing(class, reason), 3, 3580), 10, "{class:?}");
        assert!(wait(&failing(class, reason), 3, 3600) >= 24 * 60, "{class:?}: nothing lives any more");
    }
    assert!(wait(&failing(Class::Transient, Reason::ServiceUnavailable), 1, 1800) <= 3);
    let limited = World {
        issued: Some(Err(Failure {
            retry_after: Some(Duration::from_secs(600)),
            ..Failure::new("x", Class::RateLimited, Reason::RateLimited, "")
        })),
        ..world()
    };
    assert!(wait(&limited, 1, 3500) >= 600, "a pause is kept whatever ends meanwhile");
    let user = World { is_of_a_user: true, ..failing(Class::Unauthorized, Reason::InvalidGrant) };
    assert!(wait(&user, 1, 3500) >= 24 * 60, "a user is not locked out");
    let over = failing(Class::Transient, Reason::ServiceUnavailable).verdict(9, "uid", at(3600));
    let problem = over.problem.expect("it has ended");
    assert_eq!(problem.reason, Reason::ServiceUnavailable);
    assert!(problem.message.contains("ended at 1970-01-01T01:00:00Z"), "{}", problem.message);
}

/// Promise 10: while a failure waits, and while an obstacle comes and goes, what was said of it stands, and so does its time.
#[test]
fn what_was_said_of_a_failure_stands_until_its_time_whatever_comes_and_goes() {
    let said = Problem::new(Reason::InvalidGrant, "refused");
    let waiting = |change: fn(&mut World)| {
        let mut world = World { said: Some(said.clone()), retry_at: Some(at(3000)), ..world() };
        change(&mut world);
        world
    };
    let blocked = |world: &mut World| world.obstacle = Some(Problem::new(Reason::NamespaceNotAllowed, "not allowed"));
    // Ready (`None`: true), reason of Fresh, when to look again (`None`: chosen anew), whether the failure still counts.
    type Row = (World, i64, Option<Reason>, Reason, Option<i64>, bool);
    let rows: [Row; 6] = [
        (waiting(|_| {}), 1800, None, Reason::InvalidGrant, Some(3000), true),
        (waiting(blocked), 1800, Some(Reason::NamespaceNotAllowed), Reason::InvalidGrant, Some(3000), true),
        (waiting(blocked), 3000, Some(Reason::NamespaceNotAllowed), Reason::NamespaceNotAllowed, None, false),
        (waiting(|world| world.suspended = true), 1800, Some(Reason::Suspended), Reason::Suspended, None, false),
        (World { retry_at: Some(at(9000)), ..waiting(|_| {}) }, 4000, Some(Reason::InvalidGrant), Reason::InvalidGrant, Some(9000), true),
        (World { retry_at: None, ..waiting(blocked) }, 1800, Some(Reason::NamespaceNotAllowed), Reason::InvalidGrant, None, true),
    ];
    for (row, (world, now, ready, fresh, again, stands)) in rows.into_iter().enumerate() {
        let verdict = world.verdict(2, "uid", at(now));
        assert_eq!(verdict.problem.map(|problem| problem.reason), ready, "{row}");
        let (State::No(problem) | State::Unknown(problem)) = verdict.fresh else { panic!("{row}: {:?}", verdict.fresh) };
        assert_eq!((problem.reason, verdict.stands, verdict.failed), (fresh, stands, false), "{row}");
        if problem.reason == Reason::InvalidGrant {
            assert_eq!(said_of_failure(&problem.message), "refused", "{row}");
        }
        assert!(again.is_none_or(|again| verdict.retry_at == Some(at(again))), "{row}: {:?}", verdict.retry_at);
    }
}

#[test]
fn a_token_for_a_former_spec_is_not_ready_although_it_lives() {
    let world = World {
        issued: failure(Class::Rejected, Reason::Rejected),
        ..published(|published| {
            published.is_current = false;
            published.fits_the_spec = false;
        })
    };
    let verdict = world.verdict(1, "uid", at(1000));
    assert_eq!(verdict.problem.map(|problem| problem.reason), Some(Reason::Rejected));
    assert_eq!(verdict.published, State::Yes(Reason::Published));
}

#[test]
fn suspension_keeps_ready_until_the_token_ends() {
    let suspended = World { suspended: true, ..world() };
    let reason = |now: i64| suspended.verdict(1, "uid", at(now)).problem.map(|problem| problem.reason);
    assert_eq!((reason(1000), reason(3600)), (Some(Reason::Suspended), Some(Reason::TokenExpired)));
}

/// A service, a Secret, and a process that dies now and then.
struct Miniature {
    now: Timestamp,
    stored: Option<Published>,
    token_ends: Option<Timestamp>,
    retry_at: Option<Timestamp>,
    failures: u32,
    lifetime: i64,
    caches: bool,
    cached_until: Option<Timestamp>,
    calls: u32,
}

impl Miniature {
    /// One pass; says when to look again.
    fn pass(&mut self, fails: bool, dies_before_status: bool, uid: &str) -> Timestamp {
        let mut world = World {
            secret: if self.token_ends.is_some() { SecretView::Ours { is_intact: self.stored.is_some() } } else { SecretView::Absent },
            published: self.stored.clone(),
            retry_at: self.retry_at,
            ..world()
        };
        while let Some(step) = next(&world, self.now) {
            match step {
                Step::Fetch => {
                    self.calls += 1;
                    world.issued = Some(if fails {
                        Err(Failure::new("x", Class::Transient, Reason::ServiceUnavailable, ""))
                    } else {
                        let cached = self.cached_until.filter(|end| self.caches && *end > self.now);
                        let expires_at = cached.unwrap_or(self.now + SignedDuration::from_secs(self.lifetime));
                        self.cached_until = Some(expires_at);
                        let left = expires_at.duration_since(self.now).as_secs_f64();
                        let life = Life::told(&Told { expires_in: Some(left), ..Told::default() }, Duration::from_secs(600));
                        let refresh_at = self.now + Policy::DEFAULT.refresh_after(&life, uid);
                        Ok(Issued { expires_at, refresh_at, is_the_same: cached.is_some() })
                    });
                }
                Step::TakeOver => unreachable!("nothing is left over here"),
                Step::KeepSuccessor | Step::RecordUse => unreachable!("the grant is another one"),
                Step::Publish => {
                    let Some(Ok(issued)) = &world.issued else { unreachable!("it was fetched") };
                    self.token_ends = Some(issued.expires_at);
                    world.written = Some(Ok(()));
                }
            }
        }
        if dies_before_status {
            // The Secret may be newer than what status says of it: the next process sees a version that it does not know.
            if world.written.is_some() {
                self.stored = None;
            }
            return self.now;
        }
        let verdict = world.verdict(self.failures + 1, uid, self.now);
        self.failures = if verdict.failed { self.failures + 1 } else { 0 };
        self.retry_at = verdict.retry_at;
        if let (Some(Ok(issued)), Some(Ok(()))) = (&world.issued, &world.written) {
            self.stored =
                Some(Published { expires_at: issued.expires_at, refresh_at: issued.refresh_at, is_current: true, fits_the_spec: true });
        } else if let (Some(again), Some(stored)) = (world.reused_refresh_at(self.now), &mut self.stored) {
            stored.refresh_at = again;
        }
        let due = self.stored.as_ref().map(|stored| stored.refresh_at);
        self.retry_at.or(due).unwrap_or(self.now).max(self.now + SignedDuration::from_millis(50))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_128), ..ProptestConfig::default() })]

    /// Promise 3: whatever the lifetime, while the service answers at least every third time and is not down longer than the slack, no
    /// reader ever finds a token that has ended; and no storm of calls is needed for that.
    ///
    /// Traps: T21, T22.
    #[test]
    fn a_token_that_lives_is_always_there_while_the_service_mostly_answers(
        lifetime in 300_i64..100_000,
        caches: bool,
        accidents in proptest::collection::vec((0_u8..3, proptest::bool::weighted(0.1)), 60),
        uid in 0_u32..1000,
    ) {
        let mut site = Miniature {
            now: at(1_800_000_000), stored: None, token_ends: None, retry_at: None, failures: 0, lifetime, caches, cached_until: None, calls: 0,
        };
        let uid = format!("uid-{uid}");
        let mut in_a_row = 0;
        for (failing, dies) in accidents {
            // At most two failures in a row: each is followed by a short wait.
            let fails = failing == 0 && in_a_row < 2;
            in_a_row = if fails { in_a_row + 1 } else { 0 };
            let had_one = site.token_ends.is_some();
            let next = site.pass(fails, dies, &uid);
            prop_assert!(!had_one || site.token_ends.is_some_and(|end| end > next || caches), "it ended: {:?} at {next}", site.token_ends);
            site.now = next;
        }
        prop_assert!(site.calls <= 60);
    }
}

/// Promise 3: who is limited again and again waits longer, and never longer than the token can bear beyond what was asked for.
#[test]
fn what_is_added_to_a_pause_that_the_service_asked_for_costs_no_token_its_life() {
    for (pause, rest, most) in [(1, 8, 2.1), (1, 3600, 33.0), (5, 8, 5.5), (20, 8, 22.0)] {
        for failures in 1..10 {
            let told = Some(Duration::from_secs(pause));
            let limited = Failure { retry_after: told, ..Failure::new("x", Class::RateLimited, Reason::RateLimited, "") };
            let world = World { issued: Some(Err(limited)), ..published(|published| published.expires_at = at(1700 + rest)) };
            let again = world.verdict(failures, "uid", at(1700)).retry_at.expect("a time").duration_since(at(1700)).as_secs_f64();
            assert!((pause as f64..=most).contains(&again), "told {pause} s, {rest} s left, failure {failures}: {again} s");
        }
    }
}
