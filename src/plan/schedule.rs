//! When a token is replaced: from its real lifetime, early enough for the slowest reader, and never all tokens at once.

use std::time::Duration;

use super::wait;
use crate::model::Life;

/// Never sooner than this after a token came.
const SOONEST: Duration = Duration::from_secs(1);
/// Not sooner than this, or [`SOONEST_SHARE`] of what was left, whichever is less.
const SOONEST_WANTED: Duration = Duration::from_secs(10);
const SOONEST_SHARE: f64 = 0.45;
/// Each token is replaced earlier by its own share of the wait, so that what was made together does not stay together.
const EARLIER: (f64, f64) = (-0.10, -0.03);
/// Where many came at once the wait of each is only a share of that: evenly spread, they come neither together nor all within a short time.
const EARLIER_IN_A_CROWD: (f64, f64) = (-2.0 / 3.0, 0.0);
/// While a published token lives, the next attempt comes no later than after this share of what is left, ...
const RETRY_SHARE: u32 = 4;
/// ... but not sooner than this: what was refused would only be refused again, ...
const RETRY_SOONEST: Duration = Duration::from_secs(10);
/// ... while what passes by itself may have passed.
const RETRY_SOONEST_AFTER_A_HICCUP: Duration = Duration::from_secs(1);

/// How a user wants a token to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When so much of the lifetime is over, in per cent.
    pub at_percent: u32,
    /// After this long at the latest.
    pub max_interval: Duration,
    /// So much life must be left, as far as the lifetime allows it: whoever mounts a Secret sees a change up to 90 s late.
    pub min_remaining: Duration,
}

impl Policy {
    /// What holds where the spec says nothing.
    pub const DEFAULT: Self = Self { at_percent: 66, max_interval: Duration::from_secs(30 * 60), min_remaining: Duration::from_secs(120) };
}

impl Policy {
    /// How long after its receipt a token is to be replaced. `seed` is the object's UID.
    #[must_use]
    pub fn refresh_after(&self, life: &Life, seed: &str) -> Duration {
        not_too_soon(self.wait(life, seed), life)
    }

    /// The same for a token that came together with many others, at a time that no schedule chose: after their creation, or the change of a
    /// credential. The next waits are as always.
    #[must_use]
    pub fn refresh_after_a_crowd(&self, life: &Life, seed: &str) -> Duration {
        not_too_soon(wait::spread(self.wait(life, seed), seed, 1, EARLIER_IN_A_CROWD.0, EARLIER_IN_A_CROWD.1), life)
    }

    fn wait(&self, life: &Life, seed: &str) -> Duration {
        let Life { lifetime, remaining, .. } = *life;
        let half = remaining / 2;
        let wait = if remaining >= self.min_remaining * 2 {
            let age = lifetime.saturating_sub(remaining);
            let by_share = (lifetime * self.at_percent / 100).checked_sub(age).filter(|wait| !wait.is_zero()).unwrap_or(half);
            by_share.min(remaining - self.min_remaining).min(self.max_interval)
        } else {
            half.min(self.max_interval)
        };
        wait::spread(wait, seed, 0, EARLIER.0, EARLIER.1)
    }
}

fn not_too_soon(wait: Duration, life: &Life) -> Duration {
    wait.max(SOONEST_WANTED.min(life.remaining.mul_f64(SOONEST_SHARE))).max(SOONEST)
}

/// A wait after a failed refresh, shortened as the end of the published token (`rest` from now) comes nearer.
#[must_use]
pub fn retry_after(wait: Duration, may_pass_by_itself: bool, rest: Option<Duration>) -> Duration {
    let soonest = if may_pass_by_itself { RETRY_SOONEST_AFTER_A_HICCUP } else { RETRY_SOONEST };
    match rest.filter(|rest| !rest.is_zero()) {
        Some(rest) => wait.min((rest / RETRY_SHARE).max(soonest)),
        None => wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn life(lifetime: f64, remaining: f64) -> Life {
        Life { lifetime: secs(lifetime), remaining: secs(remaining), is_told: true }
    }

    /// Without the share by which each is earlier.
    fn latest(life: &Life, policy: &Policy) -> f64 {
        (0..200).map(|n| policy.refresh_after(life, &format!("uid-{n}"))).max().unwrap_or_default().as_secs_f64()
    }

    #[test]
    fn the_schedule_of_the_contract() {
        let policy = Policy::DEFAULT;
        for (lifetime, remaining, wait, reason) in [
            (3600.0, 3600.0, 1800.0, "maxInterval"),
            (1200.0, 1200.0, 792.0, "66 per cent"),
            (300.0, 300.0, 180.0, "minRemaining"),
            (240.0, 240.0, 120.0, "twice minRemaining: just enough"),
            (200.0, 200.0, 100.0, "too short for minRemaining: half"),
            (3600.0, 2600.0, 1376.0, "a cached token: its age counts"),
            (3600.0, 1000.0, 500.0, "past its 66 per cent already: half of what is left"),
            (60.0, 60.0, 30.0, "a minute"),
        ] {
            let latest = latest(&life(lifetime, remaining), &policy);
            assert!(latest <= wait * 0.97 + 0.001 && latest >= wait * 0.96, "{reason}: {latest}, not a little under {wait}");
        }
        let shortest = |remaining: f64| policy.refresh_after(&life(remaining, remaining), "uid").as_secs_f64();
        assert!((shortest(4.0) - 1.85).abs() < 0.06, "{}", shortest(4.0));
        assert!((shortest(1.0) - 1.0).abs() < 0.001, "never sooner than a second");
    }

    /// Traps: T27.
    #[test]
    fn tokens_that_were_made_together_are_replaced_apart() {
        let mut waits: Vec<u64> =
            (0..10_000).map(|n| Policy::DEFAULT.refresh_after(&life(3600.0, 3600.0), &format!("uid-{n}")).as_secs()).collect();
        waits.sort_unstable();
        let busiest = waits.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or_default();
        // 10,000 tokens over 7 per cent of 1,800 s are 79 a second on average.
        assert!(busiest <= 2 * 79, "{busiest} in one second");
        // With each round they drift further apart: after n rounds the spread is n times as wide.
    }

    /// Ten thousand objects that are created by one apply, with a budget that lets all of them have their first token at once or within a minute.
    ///
    /// Traps: T27.
    #[test]
    fn ten_thousand_tokens_that_are_created_at_once_are_never_replaced_more_than_twice_as_often_as_on_average() {
        const TOKENS: u32 = 10_000;
        const HOURS: usize = 8;
        for created_within in [1.0, 55.0] {
            for life in [life(3600.0, 3600.0), life(900.0, 900.0)] {
                let mut minutes = vec![0_u32; HOURS * 60];
                for number in 0..TOKENS {
                    let seed = format!("uid-{number}");
                    let mut at = created_within * f64::from(number) / f64::from(TOKENS);
                    at += Policy::DEFAULT.refresh_after_a_crowd(&life, &seed).as_secs_f64();
                    let wait = Policy::DEFAULT.refresh_after(&life, &seed).as_secs_f64();
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a minute of some hours")]
                    while let Some(minute) = minutes.get_mut((at / 60.0) as usize) {
                        *minute += 1;
                        at += wait;
                    }
                }
                let (all, busiest) = (minutes.iter().sum::<u32>(), minutes.iter().max().copied().unwrap_or_default());
                let mean = f64::from(all) / (HOURS * 60) as f64;
                assert!(f64::from(busiest) <= 2.0 * mean, "{busiest} in one minute, {mean} on average; created within {created_within} s");
            }
        }
    }

    #[test]
    fn retries_get_denser_as_the_end_comes_nearer() {
        let wait = secs(1800.0);
        let after = |rest: Option<f64>| retry_after(wait, false, rest.map(secs)).as_secs_f64();
        assert_eq!(
            [after(None), after(Some(0.0)), after(Some(3600.0)), after(Some(100.0)), after(Some(20.0))],
            [1800.0, 1800.0, 900.0, 25.0, 10.0]
        );
        assert_eq!(retry_after(secs(2.0), true, Some(secs(100.0))), secs(2.0), "a hiccup waits no longer than a hiccup");
        assert_eq!(retry_after(secs(16.0), true, Some(secs(7.0))), secs(1.75), "and gets denser, too");
        assert_eq!(retry_after(secs(16.0), true, Some(secs(0.5))), secs(1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_128), ..ProptestConfig::default() })]

        /// Promise 3.
        ///
        /// Traps: T21.
        #[test]
        fn whatever_the_lifetime_enough_of_it_is_left_when_the_next_token_is_asked_for(
            lifetime in 3_u32..1_000_000,
            used in 0_u32..100,
            at_percent in 1_u32..=99,
            max_interval in 10_u64..100_000,
            min_remaining in 0_u64..3600,
            seed in 0_u32..1000,
        ) {
            let lifetime = f64::from(lifetime);
            let remaining = lifetime * (1.0 - f64::from(used) / 100.0);
            let life = life(lifetime, remaining);
            let policy = Policy { at_percent, max_interval: Duration::from_secs(max_interval), min_remaining: Duration::from_secs(min_remaining) };
            let wait = policy.refresh_after(&life, &seed.to_string());
            let in_a_crowd = policy.refresh_after_a_crowd(&life, &seed.to_string());
            prop_assert!(in_a_crowd <= wait && in_a_crowd >= Duration::from_secs(1), "{in_a_crowd:?} in a crowd, else {wait:?}");
            prop_assert!(in_a_crowd >= (wait / 4).min(secs(10.0)), "{in_a_crowd:?} in a crowd, else {wait:?}");
            let left = life.remaining.saturating_sub(wait).as_secs_f64();
            let promised = policy.min_remaining.as_secs_f64().min(remaining / 2.0);
            // Where a second is more than half of what is left, a second it is.
            prop_assert!(left + 0.001 >= promised || wait <= Duration::from_secs(1), "{left} s left of {remaining}");
            prop_assert!(wait >= Duration::from_secs(1));
            prop_assert!(wait <= policy.max_interval.max(secs(10.0)), "{wait:?}");
        }
    }
}
