//! A day in the life of a token that cannot be replaced, in simulated time.

use super::*;

const DAY: i64 = 86_400;
const BEGIN: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// What is published when the trouble begins, in seconds from then on.
#[derive(Clone, Copy, Debug)]
enum Held {
    Nothing,
    /// It ends after so long; it was to be replaced at once.
    Until(i64),
}

/// What one day costs. A pass is made when the one before said so, and, where the process restarts, every hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    passes: u32,
    calls: u32,
    shortest: i64,
}

fn day(failure: &Failure, held: Held, is_of_a_user: bool, restarts: bool, uid: &str) -> Cost {
    let published = match held {
        Held::Nothing => None,
        Held::Until(end) => Some(Published { expires_at: at(BEGIN + end), refresh_at: at(BEGIN), is_current: true, fits_the_spec: true }),
    };
    let secret = if published.is_some() { SecretView::Ours { is_intact: true } } else { SecretView::Absent };
    let (mut cost, mut now, mut failures) = (Cost { shortest: i64::MAX, ..Cost::default() }, at(BEGIN), 0);
    let mut retry_at = None;
    while now < at(BEGIN + DAY) {
        let mut world = World { secret: secret.clone(), published: published.clone(), retry_at, is_of_a_user, ..World::empty() };
        while let Some(step) = next(&world, now) {
            assert_eq!(step, Step::Fetch, "nothing comes, so that nothing is written");
            cost.calls += 1;
            world.issued = Some(Err(failure.clone()));
        }
        cost.passes += 1;
        let verdict = world.verdict(failures + 1, uid, now);
        if verdict.failed {
            failures += 1;
            retry_at = verdict.retry_at;
            let again = retry_at.expect("what failed is tried again");
            assert!(again > now, "T30: in the future");
            cost.shortest = cost.shortest.min(again.duration_since(now).as_secs());
        }
        let due = retry_at.expect("what failed is tried again");
        // As status keeps it, a wait is never cut short.
        let due = if due.subsec_nanosecond() == 0 { due } else { at(due.as_second() + 1) };
        retry_at = Some(due);
        // Whoever starts anew looks at everything, and finds that the time has not come.
        let restart = at(now.as_second() + 3600);
        now = if restarts { due.min(restart) } else { due };
    }
    cost
}

/// Promise 9: no failure, however long it lasts, costs more than so many calls a day: what passes by itself as often as every five minutes,
/// what somebody has to change every half hour, and a few more while a published token comes to its end.
///
/// Traps: T28, T30.
#[test]
fn a_token_that_cannot_be_replaced_for_a_day_costs_a_bounded_number_of_calls() {
    let failure = |class, reason| Failure::new("getting a token", class, reason, "no");
    let told = |seconds| Failure { retry_after: Some(Duration::from_secs(seconds)), ..failure(Class::RateLimited, Reason::RateLimited) };
    // Attempts at growing waits, 300 s less a fifth; 30 minutes less a fifth; the documented block; as told.
    let (transient, refused, limited) = (360 + 9, 60 + 1, 2880 + 1);
    let rows = [
        (failure(Class::Transient, Reason::ServiceUnavailable), false, transient),
        (failure(Class::Transient, Reason::UnexpectedResponse), false, transient),
        (failure(Class::Unexpected, Reason::UnexpectedResponse), false, refused),
        (failure(Class::Rejected, Reason::Rejected), false, refused),
        (failure(Class::Unauthorized, Reason::InvalidClient), false, refused),
        (failure(Class::Unauthorized, Reason::InvalidGrant), true, refused),
        (failure(Class::RateLimited, Reason::RateLimited), false, limited),
        (told(600), false, 144 + 1),
        (told(3600), false, 24 + 1),
    ];
    let helds = [Held::Nothing, Held::Until(60), Held::Until(300), Held::Until(3600), Held::Until(12 * 3600), Held::Until(3 * DAY)];
    for (failure, is_of_a_user, most) in rows {
        for held in helds {
            for seed in 0..4 {
                let uid = format!("uid-{seed}");
                let cost = day(&failure, held, is_of_a_user, false, &uid);
                // A quarter of what is left each time, down to 10 s, or to a second for what passes by itself: so many before the end.
                let towards_the_end = match (held, failure.class) {
                    (Held::Nothing, _) | (_, Class::RateLimited) => 0,
                    _ if is_of_a_user => 0,
                    (_, Class::Transient) => 32,
                    _ => 40,
                };
                let what = format!("{:?} {:?} with {held:?}: {cost:?}", failure.class, failure.reason);
                assert!(cost.calls <= most + towards_the_end, "{what}, not at most {most} + {towards_the_end}");
                assert!(cost.calls >= most / 2, "{what}: what was mended is noticed late");
                let least = match failure.class {
                    Class::Transient => 1,
                    Class::RateLimited => 30,
                    _ if is_of_a_user => 24 * 60,
                    _ => 10,
                };
                assert!(cost.shortest >= least, "{what}, not at least {least} s");
                let restarted = day(&failure, held, is_of_a_user, true, &uid);
                assert_eq!(restarted.calls, cost.calls, "{what}: a restart is no reason to ask");
            }
        }
    }
}

/// An obstacle in the cluster costs no call at all, and a look every half hour or so.
///
/// Traps: T28.
#[test]
fn an_obstacle_in_the_cluster_costs_no_call_all_day() {
    for reason in [Reason::ProviderNotFound, Reason::CredentialsNotFound, Reason::NotPermitted, Reason::InvalidSpec] {
        let (mut now, mut passes) = (at(BEGIN), 0);
        while now < at(BEGIN + DAY) {
            let world = World { obstacle: Some(Problem::new(reason, "in the way")), ..World::empty() };
            assert_eq!(next(&world, now), None, "{reason}");
            let again = world.verdict(passes + 1, "uid", now).retry_at.expect("it is looked at again");
            assert!(again > now);
            now = again;
            passes += 1;
        }
        assert!((40..=61).contains(&passes), "{reason}: {passes} passes");
    }
}
