//! When a token is replaced: from its real lifetime, early enough for the slowest reader, and never all tokens at once.

use std::time::Duration;

use super::wait;

/// A lifetime above ten years, or none at all, is not believed.
const BELIEVED: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Never sooner than this after a token came.
const SOONEST: Duration = Duration::from_secs(1);
/// Not sooner than this, or [`SOONEST_SHARE`] of what was left, whichever is less.
const SOONEST_WANTED: Duration = Duration::from_secs(10);
const SOONEST_SHARE: f64 = 0.45;
/// Each token is replaced earlier by its own share of the wait, so that what was made together does not stay together.
const EARLIER: (f64, f64) = (-0.10, -0.03);
/// While a published token lives, the next attempt comes no later than after this share of what is left, ...
const RETRY_SHARE: u32 = 4;
/// ... but not sooner than this.
const RETRY_SOONEST: Duration = Duration::from_secs(10);

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

/// What a reply tells about a token's life. Everything in seconds; what is missing was not told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// `expires_in` (RFC 6749, section 5.1).
    pub expires_in: Option<f64>,
    /// The claim `iat`, when the token is a JWT.
    pub issued_at: Option<f64>,
    /// The claim `exp`, when the token is a JWT.
    pub expires_at: Option<f64>,
    /// The reply's `Date`: the service's clock, not ours.
    pub date: Option<f64>,
}

/// A token's life, counted from its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The whole lifetime.
    pub lifetime: Duration,
    /// What was left at receipt; never more than the lifetime.
    pub remaining: Duration,
    /// Whether the service told any of it.
    pub is_told: bool,
}

impl Life {
    /// The life that a reply tells, or `unknown` for both parts when it tells none.
    #[must_use]
    pub fn told(told: &Told, unknown: Duration) -> Self {
        let expires_in = told.expires_in.and_then(believed);
        let whole = told.expires_at.zip(told.issued_at).and_then(|(expires, issued)| believed(expires - issued));
        let Some(lifetime) = whole.or(expires_in) else {
            return Self { lifetime: unknown, remaining: unknown, is_told: false };
        };
        let by_the_services_clock = || told.expires_at.zip(told.date).and_then(|(expires, date)| believed(expires - date));
        let remaining = expires_in.or_else(by_the_services_clock).unwrap_or(lifetime);
        // Whatever the reply says, nobody takes a token after its own end.
        Self { lifetime, remaining: remaining.min(lifetime), is_told: true }
    }

    /// How long after receipt the token is to be replaced. `seed` is the object's UID.
    #[must_use]
    pub fn refresh_after(&self, policy: &Policy, seed: &str) -> Duration {
        let Self { lifetime, remaining, .. } = *self;
        let half = remaining / 2;
        let wait = if remaining >= policy.min_remaining * 2 {
            let age = lifetime.saturating_sub(remaining);
            let by_share = (lifetime * policy.at_percent / 100).checked_sub(age).filter(|wait| !wait.is_zero()).unwrap_or(half);
            by_share.min(remaining - policy.min_remaining).min(policy.max_interval)
        } else {
            half.min(policy.max_interval)
        };
        let earlier = wait::spread(wait, seed, 0, EARLIER.0, EARLIER.1);
        earlier.max(SOONEST_WANTED.min(remaining.mul_f64(SOONEST_SHARE))).max(SOONEST)
    }
}

/// A span that can be a lifetime.
fn believed(seconds: f64) -> Option<Duration> {
    let is_sensible = seconds.is_finite() && seconds > 0.0 && seconds <= BELIEVED.as_secs_f64();
    is_sensible.then(|| Duration::from_secs_f64(seconds))
}

/// A wait after a failed refresh, shortened as the end of the published token (`rest` from now) comes nearer.
#[must_use]
pub fn retry_after(wait: Duration, rest: Option<Duration>) -> Duration {
    match rest.filter(|rest| !rest.is_zero()) {
        Some(rest) => wait.min((rest / RETRY_SHARE).max(RETRY_SOONEST)),
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

    /// Traps: T22.
    #[test]
    fn a_life_is_what_the_reply_tells() {
        let unknown = secs(600.0);
        let jwt = |issued: f64, expires: f64| Told { issued_at: Some(issued), expires_at: Some(expires), ..Told::default() };
        for (told, lifetime, remaining, is_told, reason) in [
            (Told { expires_in: Some(3600.0), ..Told::default() }, 3600.0, 3600.0, true, "an opaque token"),
            (Told { expires_in: Some(1800.0), ..jwt(0.0, 3600.0) }, 3600.0, 1800.0, true, "a cached token that is half used up"),
            (Told { date: Some(2400.0), ..jwt(0.0, 3600.0) }, 3600.0, 1200.0, true, "no expires_in: by the service's clock"),
            (jwt(0.0, 3600.0), 3600.0, 3600.0, true, "neither expires_in nor a date"),
            (Told { expires_in: Some(7200.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "the token's own end counts"),
            (Told::default(), 600.0, 600.0, false, "nothing"),
            (Told { expires_in: Some(0.0), ..Told::default() }, 600.0, 600.0, false, "zero"),
            (Told { expires_in: Some(-5.0), ..Told::default() }, 600.0, 600.0, false, "negative"),
            (Told { expires_in: Some(2_f64.powi(40)), ..Told::default() }, 600.0, 600.0, false, "absurd"),
            (Told { expires_in: Some(f64::NAN), ..Told::default() }, 600.0, 600.0, false, "not a number"),
            (Told { expires_in: Some(-5.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "the token tells what expires_in does not"),
            (Told { date: Some(4000.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "a date beyond the end is a wrong clock"),
            (jwt(3600.0, 0.0), 600.0, 600.0, false, "a token that ends before it begins"),
        ] {
            let expected = Life { lifetime: secs(lifetime), remaining: secs(remaining), is_told };
            assert_eq!(Life::told(&told, unknown), expected, "{reason}");
        }
    }

    /// Without the share by which each is earlier.
    fn latest(life: &Life, policy: &Policy) -> f64 {
        (0..200).map(|n| life.refresh_after(policy, &format!("uid-{n}"))).max().unwrap_or_default().as_secs_f64()
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
        let shortest = |remaining: f64| life(remaining, remaining).refresh_after(&policy, "uid").as_secs_f64();
        assert!((shortest(4.0) - 1.85).abs() < 0.06, "{}", shortest(4.0));
        assert!((shortest(1.0) - 1.0).abs() < 0.001, "never sooner than a second");
    }

    /// Traps: T27.
    #[test]
    fn tokens_that_were_made_together_are_replaced_apart() {
        let mut waits: Vec<u64> =
            (0..10_000).map(|n| life(3600.0, 3600.0).refresh_after(&Policy::DEFAULT, &format!("uid-{n}")).as_secs()).collect();
        waits.sort_unstable();
        let busiest = waits.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or_default();
        // 10,000 tokens over 7 per cent of 1,800 s are 79 a second on average.
        assert!(busiest <= 2 * 79, "{busiest} in one second");
        // With each round they drift further apart: after n rounds the spread is n times as wide.
    }

    #[test]
    fn retries_get_denser_as_the_end_comes_nearer() {
        let wait = secs(1800.0);
        let after = |rest: Option<f64>| retry_after(wait, rest.map(secs)).as_secs_f64();
        assert_eq!(
            [after(None), after(Some(0.0)), after(Some(3600.0)), after(Some(100.0)), after(Some(20.0))],
            [1800.0, 1800.0, 900.0, 25.0, 10.0]
        );
        assert_eq!(retry_after(secs(2.0), Some(secs(100.0))), secs(2.0), "a hiccup waits no longer than a hiccup");
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
            let wait = life.refresh_after(&policy, &seed.to_string());
            let left = life.remaining.saturating_sub(wait).as_secs_f64();
            let promised = policy.min_remaining.as_secs_f64().min(remaining / 2.0);
            // Where a second is more than half of what is left, a second it is.
            prop_assert!(left + 0.001 >= promised || wait <= Duration::from_secs(1), "{left} s left of {remaining}");
            prop_assert!(wait >= Duration::from_secs(1));
            prop_assert!(wait <= policy.max_interval.max(secs(10.0)), "{wait:?}");
        }
    }
}
