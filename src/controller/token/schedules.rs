//! What this process knows more exactly than status says: moments of its own steady clock, and digests of what it published.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::super::uid::Uid;

/// What is known of one published token.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// When it was published, as status says it: whole seconds. Another value there means that somebody else published since.
    pub published_at: Timestamp,
    /// Its end.
    pub expires: Instant,
    /// When it is to be replaced.
    pub refresh: Instant,
    /// A digest of the token.
    pub token: [u8; 32],
    /// A digest of what it was asked for with.
    pub source: [u8; 32],
}

/// So many tokens of one place that came within [`CROWD_WITHIN`], at times that no schedule chose, are a crowd.
const CROWD: usize = 20;
const CROWD_WITHIN: Duration = Duration::from_secs(60);

/// By UID. Losing it costs nothing but time. A place is any number that stands for it.
#[derive(Debug, Default)]
pub struct Schedules {
    states: Mutex<HashMap<Uid, Box<State>>>,
    /// Requests a second that all tokens of a place need.
    needs: Mutex<HashMap<usize, f64>>,
    /// The last tokens of a place that came unplanned.
    unplanned: Mutex<HashMap<usize, VecDeque<Instant>>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    kept: Option<Kept>,
    /// Whether a pass of this process has reported.
    has_passed: bool,
    /// Where its tokens come from, and how many a second.
    demand: Option<(usize, f64)>,
}

impl Schedules {
    /// What is known of the token that was published then.
    #[must_use]
    pub fn of(&self, uid: &str, published_at: Option<Timestamp>) -> Option<Kept> {
        self.states.lock().get(&Uid::of(uid))?.kept.filter(|kept| Some(kept.published_at) == published_at)
    }

    /// A token was published, or is to be replaced at another time.
    pub fn keep(&self, uid: &str, kept: Kept) {
        self.states.lock().entry(Uid::of(uid)).or_default().kept = Some(kept);
    }

    /// A pass of this process has reported.
    pub fn passed(&self, uid: &str) {
        self.states.lock().entry(Uid::of(uid)).or_default().has_passed = true;
    }

    /// Whether a pass of this process has reported.
    #[must_use]
    pub fn has_passed(&self, uid: &str) -> bool {
        self.states.lock().get(&Uid::of(uid)).is_some_and(|state| state.has_passed)
    }

    /// A token of `place` came at a time that no schedule chose. Whether it is one of many.
    #[must_use]
    pub fn is_one_of_many(&self, place: usize, now: Instant) -> bool {
        let mut unplanned = self.unplanned.lock();
        unplanned.retain(|_, times| times.back().is_some_and(|last| now.saturating_duration_since(*last) < CROWD_WITHIN));
        let times = unplanned.entry(place).or_default();
        times.push_back(now);
        if times.len() > CROWD {
            times.pop_front();
        }
        times.len() == CROWD && times.front().is_some_and(|first| now.saturating_duration_since(*first) < CROWD_WITHIN)
    }

    /// A token of `place` is to be replaced every `interval`. Says how many requests a second all tokens of that place need.
    pub fn need(&self, uid: &str, place: usize, interval: Duration) -> f64 {
        let rate = 1.0 / interval.as_secs_f64().max(0.001);
        let before = self.states.lock().entry(Uid::of(uid)).or_default().demand.replace((place, rate));
        let mut needs = self.needs.lock();
        withdraw(&mut needs, before);
        let need = needs.entry(place).or_default();
        *need += rate;
        *need
    }

    /// The same of a token that a former process published, unless this one knows better.
    pub fn presume(&self, uid: &str, place: usize, interval: impl FnOnce() -> Option<Duration>) {
        let is_known = self.states.lock().get(&Uid::of(uid)).is_some_and(|state| state.demand.is_some());
        if let Some(interval) = (!is_known).then(interval).flatten() {
            self.need(uid, place, interval);
        }
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        let gone = self.states.lock().remove(&Uid::of(uid));
        withdraw(&mut self.needs.lock(), gone.and_then(|state| state.demand));
    }
}

fn withdraw(needs: &mut HashMap<usize, f64>, demand: Option<(usize, f64)>) {
    let Some((place, rate)) = demand else { return };
    if let Some(need) = needs.get_mut(&place) {
        *need -= rate;
        if *need <= rate / 1000.0 {
            needs.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_tokens_of_one_place_within_a_minute_are_a_crowd() {
        let (schedules, begun) = (Schedules::default(), Instant::now());
        let crowded = |place: usize, milliseconds: u64| schedules.is_one_of_many(place, begun + Duration::from_millis(milliseconds));
        let slowly: Vec<bool> = (0..60).map(|number| crowded(1, number * 4000)).collect();
        assert!(!slowly.contains(&true), "one every four seconds");
        let at_once: Vec<bool> = (0..40).map(|number| crowded(2, 240_000 + number * 100)).collect();
        assert_eq!(at_once.iter().filter(|is_crowded| **is_crowded).count(), 21, "from the twentieth on");
        assert!(!crowded(3, 244_000), "another place");
        assert!(!crowded(2, 400_000), "long after");
    }

    #[test]
    fn what_a_place_needs_is_the_sum_of_its_tokens_as_they_are_now() {
        const IBM: usize = 1;
        const OTHER: usize = 2;
        let schedules = Schedules::default();
        let second = Duration::from_secs(1);
        assert!((schedules.need("a", IBM, second * 2) - 0.5).abs() < 1e-9);
        assert!((schedules.need("b", IBM, second * 4) - 0.75).abs() < 1e-9);
        assert!((schedules.need("a", IBM, second) - 1.25).abs() < 1e-9, "another interval replaces the former");
        assert!((schedules.need("a", OTHER, second) - 1.0).abs() < 1e-9, "another place too");
        schedules.presume("a", IBM, || panic!("it is known"));
        schedules.presume("d", OTHER, || Some(second * 2));
        assert!((schedules.need("e", OTHER, second) - 2.5).abs() < 1e-9, "what a former process published counts");
        schedules.forget("b");
        assert!((schedules.need("c", IBM, second) - 1.0).abs() < 1e-9, "what is gone needs nothing");
    }
}
