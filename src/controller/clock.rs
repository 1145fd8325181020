//! What time it is: steady inside the process, and the API server's outside of it.
//!
//! A node's clock may be wrong by minutes, and may jump. Times that are stored in the cluster are therefore in the API server's time (the
//! `Date` of its answers); between two answers a clock that cannot jump counts on.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// A `Date` has whole seconds and travels for a while: what differs by less is the same time.
const SAME: SignedDuration = SignedDuration::from_secs(2);

/// The cluster's time.
#[derive(Debug)]
pub struct Clock(Mutex<Anchor>);

#[derive(Debug)]
struct Anchor {
    steady: Instant,
    time: Timestamp,
}

impl Default for Clock {
    fn default() -> Self {
        Self::at(Instant::now(), Timestamp::now())
    }
}

impl Clock {
    /// A clock that shows `time` at `steady`.
    #[must_use]
    pub const fn at(steady: Instant, time: Timestamp) -> Self {
        Self(Mutex::new(Anchor { steady, time }))
    }

    /// The API server dated an answer to a request that was sent at `sent` and whose answer was seen at `seen`: somewhere between the two. An
    /// answer that was long on its way, or waited here because the process was busy or stood still, tells nothing more exact than that.
    pub fn heard(&self, date: Timestamp, sent: Instant, seen: Instant) {
        let date = date.checked_add(SignedDuration::from_millis(500)).unwrap_or(date);
        let mut anchor = self.0.lock();
        let (ahead, behind) = (date.duration_since(anchor.time_at(seen)), anchor.time_at(sent).duration_since(date));
        if ahead > SAME || behind > SAME {
            tracing::info!(?ahead, ?behind, "the API server's clock is not ours; its time counts");
            *anchor = Anchor { steady: seen, time: date };
        }
    }

    /// The machine slept for a while after `awake`: this clock did not count that. What the API server said since is right already.
    pub fn slept(&self, span: Duration, awake: Instant) {
        let mut anchor = self.0.lock();
        if anchor.steady <= awake {
            anchor.time = anchor.time.checked_add(span).unwrap_or(anchor.time);
        }
    }

    /// The cluster's time at a moment of this process that was told as `said` when it was reckoned. Where that is sooner, time has passed
    /// since that no clock of this process counted, and what was said is right.
    #[must_use]
    pub fn time_or_sooner(&self, steady: Instant, said: Option<Timestamp>) -> Timestamp {
        let reckoned = self.time_at(steady);
        said.filter(|said| reckoned.duration_since(*said) > SAME).unwrap_or(reckoned)
    }

    /// The cluster's time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.time_at(Instant::now())
    }

    /// The cluster's time at a moment of this process.
    #[must_use]
    pub fn time_at(&self, steady: Instant) -> Timestamp {
        self.0.lock().time_at(steady)
    }
}

impl Anchor {
    fn time_at(&self, steady: Instant) -> Timestamp {
        let later = steady.checked_duration_since(self.steady);
        let moved = match later {
            Some(later) => self.time.checked_add(later),
            None => self.time.checked_sub(self.steady.saturating_duration_since(steady)),
        };
        moved.unwrap_or(self.time)
    }
}

/// A moment of this process that lies `from_now` after `now`, or before it.
#[must_use]
pub fn moment(now: Instant, from_now: SignedDuration) -> Instant {
    let span = Duration::try_from(from_now.abs()).unwrap_or_default();
    if from_now.is_negative() { now.checked_sub(span).unwrap_or(now) } else { now.checked_add(span).unwrap_or(now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    /// Traps: T60.
    #[test]
    fn a_local_clock_that_is_wrong_or_jumps_moves_nothing_once_the_api_server_was_heard() {
        let begun = Instant::now();
        for skew in [-600, 0, 600] {
            let clock = Clock::at(begun, at(10_000 + skew));
            clock.heard(at(10_000), begun, begun);
            let shown = clock.time_at(begun + Duration::from_secs(100)).duration_since(at(10_100)).abs();
            assert!(shown <= SAME, "{skew} s: {shown:?}");
            clock.heard(at(10_101), begun + Duration::from_secs(100), begun + Duration::from_secs(100));
            let after = clock.time_at(begun + Duration::from_secs(100)).duration_since(at(10_100)).abs();
            assert_eq!(after, shown, "a second more or less is the way of an answer");
        }
    }
    /// Traps: T60.
    #[test]
    fn an_answer_that_was_long_on_its_way_moves_nothing_and_a_clock_that_is_wrong_is_found_out_all_the_same() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let clock = Clock::at(begun, at(10_000));
        // Dated when the request came in, seen half a minute later; dated when it was answered at last.
        for date in [10_100, 10_115, 10_130] {
            clock.heard(at(date), after(100), after(130));
            assert_eq!(clock.time_at(after(130)), at(10_130), "dated {date}");
        }
        for (date, shown) in [(10_200, 10_200), (10_090, 10_090)] {
            let clock = Clock::at(begun, at(10_000));
            clock.heard(at(date), after(100), after(130));
            let off = clock.time_at(after(130)).duration_since(at(shown)).abs();
            assert!(off <= SAME, "dated {date}: {off:?}");
        }
    }

    #[test]
    fn an_end_that_was_reckoned_before_the_machine_slept_is_the_one_that_was_said_whoever_found_out_about_the_sleep() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let (end, said) = (after(100), Some(at(10_100)));
        type Finds = fn(&Clock, Instant);
        let by_the_kernel: Finds = |clock, now| clock.slept(Duration::from_secs(300), now);
        let by_the_api_server: Finds = |clock, now| clock.heard(at(10_310), now, now);
        let by_both: Finds = |clock, now| {
            clock.heard(at(10_310), now, now);
            clock.slept(Duration::from_secs(300), now.checked_sub(Duration::from_secs(1)).expect("a moment"));
        };
        for finds in [by_the_kernel, by_the_api_server, by_both] {
            let clock = Clock::at(begun, at(10_000));
            assert_eq!(clock.time_or_sooner(end, said), at(10_100));
            assert_eq!(clock.time_or_sooner(after(101), said), at(10_101), "status says whole seconds, which were rounded");
            finds(&clock, after(10));
            let now = clock.time_at(after(10));
            assert!(now.duration_since(at(10_310)).abs() <= SAME, "{now}");
            assert_eq!(clock.time_or_sooner(end, said), at(10_100), "at the same time of the world");
        }
    }
}
