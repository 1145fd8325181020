//! What this process knows more exactly than status says: moments of its own steady clock, and digests of what it published.

use std::{
    collections::HashMap,
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

/// By UID. Losing it costs nothing but time.
#[derive(Debug, Default)]
pub struct Schedules(Mutex<HashMap<Uid, Box<State>>>, Mutex<HashMap<usize, f64>>);

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
        self.0.lock().get(&Uid::of(uid))?.kept.filter(|kept| Some(kept.published_at) == published_at)
    }

    /// A token was published, or is to be replaced at another time.
    pub fn keep(&self, uid: &str, kept: Kept) {
        self.0.lock().entry(Uid::of(uid)).or_default().kept = Some(kept);
    }

    /// A pass of this process has reported.
    pub fn passed(&self, uid: &str) {
        self.0.lock().entry(Uid::of(uid)).or_default().has_passed = true;
    }

    /// Whether a pass of this process has reported.
    #[must_use]
    pub fn has_passed(&self, uid: &str) -> bool {
        self.0.lock().get(&Uid::of(uid)).is_some_and(|state| state.has_passed)
    }

    /// A token of `place`, which is any number that stands for it, is to be replaced every `interval`. Says how many requests a second all tokens of that place need.
    pub fn need(&self, uid: &str, place: usize, interval: Duration) -> f64 {
        let rate = 1.0 / interval.as_secs_f64().max(0.001);
        let before = self.0.lock().entry(Uid::of(uid)).or_default().demand.replace((place, rate));
        let mut needs = self.1.lock();
        withdraw(&mut needs, before);
        let need = needs.entry(place).or_default();
        *need += rate;
        *need
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        let gone = self.0.lock().remove(&Uid::of(uid));
        withdraw(&mut self.1.lock(), gone.and_then(|state| state.demand));
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
    fn what_a_place_needs_is_the_sum_of_its_tokens_as_they_are_now() {
        const IBM: usize = 1;
        const OTHER: usize = 2;
        let schedules = Schedules::default();
        let second = Duration::from_secs(1);
        assert!((schedules.need("a", IBM, second * 2) - 0.5).abs() < 1e-9);
        assert!((schedules.need("b", IBM, second * 4) - 0.75).abs() < 1e-9);
        assert!((schedules.need("a", IBM, second) - 1.25).abs() < 1e-9, "another interval replaces the former");
        assert!((schedules.need("a", OTHER, second) - 1.0).abs() < 1e-9, "another place too");
        schedules.forget("b");
        assert!((schedules.need("c", IBM, second) - 1.0).abs() < 1e-9, "what is gone needs nothing");
    }
}
