//! The one place where a failure becomes a wait.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::model::{Class, Failure, RATE_LIMIT_UNKNOWN};

/// First wait after a transient failure; doubles with each further one.
const TRANSIENT_FIRST: Duration = Duration::from_secs(2);
/// Longest wait after a transient failure: with the spread of 20 % a broken object costs at most 360 attempts a day, and a few more while the waits grow.
const TRANSIENT_MOST: Duration = Duration::from_secs(300);
/// A provider that objects with nothing left wait for is looked at so often: less than what a minute allows it in reports.
const MISSED: Duration = Duration::from_secs(20);
/// What was refused is looked at again after this long (± 20 %), because what was wrong is often mended at the service.
pub const REFUSED: Duration = Duration::from_secs(30 * 60);
/// What waits for something in the cluster is woken by it; this is only the net below (± 20 %).
pub const WAITING: Duration = Duration::from_secs(30 * 60);
/// A role that does not exist yet is looked for this often.
pub const ROLE_MISSING: Duration = Duration::from_secs(300);

/// How long to wait before the next attempt, after `failures` attempts in a row (this one included) ended with `failure`.
///
/// `seed` spreads the waits of different objects and keeps each object's own wait reproducible.
#[must_use]
pub fn after(failure: &Failure, failures: u32, seed: &str) -> Duration {
    match failure.class {
        // Who says "at once" again and again says in the long run no more than who names no time.
        Class::RateLimited => as_told(failure, failures, seed).max(after_transient(failures, seed).min(RATE_LIMIT_UNKNOWN)),
        Class::Transient => {
            let wait = after_transient(failures, seed);
            failure.retry_after.map_or(wait, |told| wait.max(told))
        }
        Class::Unauthorized | Class::Rejected | Class::Unexpected => spread(REFUSED, seed, failures, -0.2, 0.2),
    }
}

/// How long a service that asked for a pause is left alone whatever happens.
#[must_use]
pub fn as_told(failure: &Failure, failures: u32, seed: &str) -> Duration {
    spread(failure.retry_after.unwrap_or(RATE_LIMIT_UNKNOWN), seed, failures, 0.0, 0.1)
}

/// How long until a provider is looked at again. One that objects with nothing left wait for is looked at for all of them, so that none waits
/// long when its service is back.
#[must_use]
pub fn of_a_provider(failure: &Failure, failures: u32, seed: &str, is_missed: bool) -> Duration {
    if !is_missed || failure.class != Class::Transient {
        return after(failure, failures, seed);
    }
    // As told, by the service or by the tenant's own pause, which ends with the first request that is let through.
    spread(MISSED, seed, failures, -0.2, 0.2).max(failure.retry_after.unwrap_or_default())
}

/// How long to wait after so many hiccups in a row.
#[must_use]
pub fn after_transient(failures: u32, seed: &str) -> Duration {
    let doubled = TRANSIENT_FIRST.saturating_mul(1_u32 << failures.saturating_sub(1).min(16)).min(TRANSIENT_MOST);
    spread(doubled, seed, failures, -0.2, 0.2)
}

/// `wait`, moved by a share of itself between `least` and `most`, chosen by `seed` and `round`.
#[must_use]
pub fn spread(wait: Duration, seed: &str, round: u32, least: f64, most: f64) -> Duration {
    let share = least + (most - least) * fraction(seed, u64::from(round));
    wait.mul_f64((1.0 + share).max(0.0))
}

/// A number in [0, 1) that depends on `seed` and `round` alone.
fn fraction(seed: &str, round: u64) -> f64 {
    let digest = Sha256::new().chain_update(seed).chain_update(round.to_be_bytes()).finalize();
    let mut first = [0_u8; 4];
    first.copy_from_slice(&digest[..4]);
    f64::from(u32::from_be_bytes(first)) / (f64::from(u32::MAX) + 1.0)
}

/// The first drift check of an object after `after`: every `interval`, at a phase that its UID decides, so that
/// neither a restart nor a change moves it. `None` when `interval` is zero (checks are off).
#[must_use]
pub fn next_drift_check(after: Timestamp, interval: Duration, uid: &str) -> Option<Timestamp> {
    let interval = i64::try_from(interval.as_secs()).ok().filter(|seconds| *seconds > 0)?;
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of an interval fits where the interval fits")]
    let phase = (fraction(uid, u64::MAX) * interval as f64) as i64;
    let now = after.as_second();
    let next = now + 1 + (phase - (now + 1)).rem_euclid(interval);
    Timestamp::from_second(next).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Reason;

    fn failure(class: Class, retry_after: Option<u64>) -> Failure {
        Failure { retry_after: retry_after.map(Duration::from_secs), ..Failure::new("asking", class, Reason::Rejected, "") }
    }

    #[test]
    fn transient_waits_grow_to_a_bound_and_never_fall_below_what_the_service_asked_for() {
        let waits: Vec<_> = (1..=20).map(|n| after(&failure(Class::Transient, None), n, "uid")).collect();
        assert!(waits[0] >= Duration::from_millis(1600) && waits[0] <= Duration::from_millis(2400), "{:?}", waits[0]);
        assert!(waits.iter().all(|wait| *wait <= TRANSIENT_MOST.mul_f64(1.2)));
        assert!(waits[19] >= TRANSIENT_MOST.mul_f64(0.8));
        assert!(after(&failure(Class::Transient, Some(90)), 1, "uid") >= Duration::from_secs(90));
        assert!(after(&failure(Class::Transient, None), u32::MAX, "uid") <= TRANSIENT_MOST.mul_f64(1.2));
    }

    #[test]
    fn a_provider_that_others_wait_for_is_looked_at_three_times_a_minute_or_as_told() {
        let (hiccup, paused) = (failure(Class::Transient, None), failure(Class::Transient, Some(30)));
        for failures in 1..30 {
            let [missed, told, alone] = [(&hiccup, true), (&paused, true), (&hiccup, false)]
                .map(|(failure, is_missed)| of_a_provider(failure, failures, "uid", is_missed).as_secs_f64());
            assert!((16.0..=24.0).contains(&missed), "{failures}: {missed}");
            assert!((30.0 - told).abs() < 0.001, "{failures}: {told}");
            assert!(failures < 10 || alone >= 240.0, "{failures}: {alone}");
        }
        let refused = failure(Class::Rejected, None);
        assert_eq!(of_a_provider(&refused, 1, "uid", true), after(&refused, 1, "uid"));
    }

    #[test]
    fn a_rate_limit_waits_as_told_or_for_the_documented_block() {
        let told = after(&failure(Class::RateLimited, Some(7)), 1, "uid");
        assert!(told >= Duration::from_secs(7) && told < Duration::from_secs(8), "{told:?}");
        assert!(after(&failure(Class::RateLimited, None), 9, "uid") >= Duration::from_secs(30));
        assert!(after(&failure(Class::RateLimited, Some(3600)), 20, "uid") >= Duration::from_secs(3600));
    }

    #[test]
    fn refusals_are_tried_again_every_thirty_minutes_more_or_less() {
        for class in [Class::Unauthorized, Class::Rejected, Class::Unexpected] {
            for failures in 1..50 {
                let wait = after(&failure(class, None), failures, "uid").as_secs();
                assert!((24 * 60..=36 * 60).contains(&wait), "{class:?}: {wait}");
            }
        }
    }

    /// Traps: T28.
    #[test]
    fn an_object_that_fails_for_a_day_is_tried_a_bounded_number_of_times() {
        const DAY: Duration = Duration::from_secs(86_400);
        let attempts = |failure: &Failure, seed: &str| {
            let mut spent = Duration::ZERO;
            (1..100_000)
                .take_while(|failures| {
                    spent += after(failure, *failures, seed);
                    spent <= DAY
                })
                .count()
                + 1
        };
        let most = [
            // 300 s less a fifth, and eight shorter waits on the way there.
            (failure(Class::Transient, None), 360 + 8),
            // 30 minutes less a fifth.
            (failure(Class::Unauthorized, None), 60 + 1),
            (failure(Class::Rejected, None), 60 + 1),
            (failure(Class::Unexpected, None), 60 + 1),
            // A whole tenant shares these.
            (failure(Class::RateLimited, None), 2880 + 1),
            // Five shorter waits on the way there.
            (failure(Class::RateLimited, Some(0)), 2880 + 6),
        ];
        for (failure, most) in most {
            for seed in 0..100 {
                let attempts = attempts(&failure, &format!("uid-{seed}"));
                assert!(attempts <= most, "{:?}: {attempts} attempts in a day, not at most {most}", failure.class);
                assert!(attempts >= most / 2, "{:?}: only {attempts} attempts: what was mended is noticed late", failure.class);
            }
        }
    }

    #[test]
    fn drift_checks_keep_their_phase_whatever_the_time_of_the_question() {
        let interval = Duration::from_secs(3600);
        let start = Timestamp::from_second(1_800_000_000).expect("in range");
        let first = next_drift_check(start, interval, "uid").expect("on");
        assert!(first > start);
        assert_eq!(next_drift_check(first, interval, "uid").expect("on").as_second() - first.as_second(), 3600);
        let before = Timestamp::from_second(first.as_second() - 1).expect("in range");
        assert_eq!(next_drift_check(before, interval, "uid"), Some(first));
        assert_eq!(next_drift_check(start, Duration::ZERO, "uid"), None);
        let phases: std::collections::BTreeSet<_> = (0..100).map(|n| next_drift_check(start, interval, &format!("uid-{n}"))).collect();
        assert!(phases.len() > 90, "objects are spread over the interval");
    }
}
