//! Who is next: by urgency, then in turn by namespace, so that neither a greedy namespace nor a mass of drift checks delays what is urgent.
//!
//! Where more tokens are due than can be replaced, that would leave nothing for those who have none yet. So one of every four turns goes to
//! a credential that somebody waits for, or to a deletion, unless the next token is about to end. One that has ended already is not made worse by
//! a turn more, and where there are such, they would otherwise take all turns for ever.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

/// Of so many turns in a row one goes to those who wait behind the tokens that are to be replaced.
const SHARE: u32 = 4;
/// A token that ends this soon is about to end: nobody else goes first. Longer than one request may take.
const ABOUT_TO_END: Duration = Duration::from_secs(10);

/// How urgent it is, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// The token of somebody who has one that ends then: what ends first comes first.
    Expiring(Instant),
    /// A credential somebody waits for.
    Wanted,
    /// A deletion.
    Deletion,
    /// A look whether everything is as it was.
    Drift,
}

impl Urgency {
    /// Whether a place for the one is as good as a place for the other.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Expiring(a), Self::Expiring(b)) => a.max(b) - a.min(b) < Duration::from_secs(1),
            _ => self == other,
        }
    }
}

/// A place in a line: urgency, turn of its namespace, number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(Urgency, u64, u64);

impl Place {
    /// How urgent it is.
    #[must_use]
    pub const fn urgency(&self) -> Urgency {
        self.0
    }
}

/// Those who wait.
#[derive(Debug)]
pub struct Line<T> {
    waiting: BTreeMap<Place, T>,
    /// Per namespace: its last turn.
    turns: HashMap<String, u64>,
    turn: u64,
    sequence: u64,
    /// So many turns in a row went to tokens that are to be replaced, while others waited for theirs.
    in_a_row: u32,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), turns: HashMap::new(), turn: 0, sequence: 0, in_a_row: 0 }
    }
}

impl<T> Line<T> {
    /// Takes a place.
    pub fn join(&mut self, namespace: &str, urgency: Urgency, who: T) -> Place {
        self.sequence += 1;
        let turn = self.turns.get(namespace).map_or(self.turn, |last| last.max(&self.turn) + 1);
        self.turns.insert(namespace.to_owned(), turn);
        let place = Place(urgency, turn, self.sequence);
        self.waiting.insert(place, who);
        place
    }

    /// Gives a place up; `None` when it was served already.
    pub fn leave(&mut self, place: &Place) -> Option<T> {
        let who = self.waiting.remove(place);
        self.forget_turns_of_nobody();
        who
    }

    /// Serves whoever is next at this time.
    pub fn serve(&mut self, now: Instant) -> Option<T> {
        let place = self.next(now)?;
        let who = self.waiting.remove(&place)?;
        self.turn = self.turn.max(place.1);
        self.forget_turns_of_nobody();
        Some(who)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends everybody away.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.forget_turns_of_nobody();
    }

    fn next(&mut self, now: Instant) -> Option<Place> {
        let (first, _) = self.waiting.first_key_value()?;
        let Urgency::Expiring(ends) = first.0 else { return Some(*first) };
        let other = self.waiting.range(Place(Urgency::Wanted, 0, 0)..).next().map(|(place, _)| place);
        let Some(other) = other.filter(|place| place.0 != Urgency::Drift) else {
            self.in_a_row = 0;
            return Some(*first);
        };
        // What has ended already is not made worse by one turn more.
        let is_about_to_end = ends > now && ends <= now + ABOUT_TO_END;
        if self.in_a_row + 1 < SHARE || is_about_to_end {
            self.in_a_row = self.in_a_row.saturating_add(1).min(SHARE);
            return Some(*first);
        }
        self.in_a_row = 0;
        Some(*other)
    }

    fn forget_turns_of_nobody(&mut self) {
        if self.waiting.is_empty() {
            self.turns.clear();
            self.turn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A name, and how urgent it is.
    type Waiting = (&'static str, Urgency);

    /// Serves everybody who waits, by name.
    fn order(now: Instant, waiting: &[Waiting]) -> String {
        let mut line = Line::default();
        for (name, urgency) in waiting {
            line.join("ns", *urgency, *name);
        }
        let mut served = Vec::new();
        while let Some(name) = line.serve(now) {
            served.push(name);
        }
        assert!(line.is_empty());
        served.join(" ")
    }

    #[test]
    fn one_of_four_turns_goes_to_those_who_have_nothing_yet_unless_a_token_is_about_to_end() {
        let now = Instant::now();
        let ends_in = |seconds| Urgency::Expiring(now + Duration::from_secs(seconds));
        let (far, near, ended) = (ends_in(60), ends_in(9), Urgency::Expiring(now));
        let (new, gone, drift) = (Urgency::Wanted, Urgency::Deletion, Urgency::Drift);
        let rows: [(&str, Vec<Waiting>, &str); 7] = [
            ("one of four", [("E", far); 8].into_iter().chain([("n", new); 3]).collect(), "E E E n E E E n E E n"),
            ("about to end", [("E", near); 5].into_iter().chain([("n", new); 2]).collect(), "E E E E E n n"),
            ("what ends first", vec![("later", ends_in(90)), ("n", new), ("E", far), ("soon", near)], "soon E later n"),
            (
                "after the rush the others are next",
                vec![("E", near); 4].into_iter().chain([("e", far), ("n", new)]).collect(),
                "E E E E n e",
            ),
            ("what has ended shares, too", vec![("E", ended); 4].into_iter().chain([("n", new)]).collect(), "E E E n E"),
            ("a deletion has its share", vec![("E", far); 4].into_iter().chain([("d", gone), ("look", drift)]).collect(), "E E E d E look"),
            ("a drift check has none", vec![("E", far); 6].into_iter().chain([("look", drift)]).collect(), "E E E E E E look"),
        ];
        for (reason, waiting, expected) in rows {
            assert_eq!(order(now, &waiting), expected, "{reason}");
        }
    }

    #[test]
    fn namespaces_take_turns_also_within_the_share() {
        let now = Instant::now();
        let mut line = Line::default();
        for _ in 0..9 {
            line.join("old", Urgency::Expiring(now + Duration::from_secs(3600)), "E");
        }
        for (namespace, name) in [("greedy", "g"), ("greedy", "g"), ("modest", "m")] {
            line.join(namespace, Urgency::Wanted, name);
        }
        let served: Vec<&str> = std::iter::from_fn(|| line.serve(now)).collect();
        assert_eq!(served.join(" "), "E E E g E E E m E E E g");
    }

    #[test]
    fn who_leaves_is_not_served_and_leaves_once() {
        let now = Instant::now();
        let mut line = Line::default();
        let place = line.join("ns", Urgency::Wanted, 1);
        line.join("ns", Urgency::Wanted, 2);
        assert_eq!((line.leave(&place), line.leave(&place)), (Some(1), None));
        assert_eq!((line.serve(now), line.serve(now)), (Some(2), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_128), ..ProptestConfig::default() })]

        /// Whoever comes and whenever turns come: nobody is served twice or forgotten; a token that is about to end waits for nobody but tokens
        /// that end sooner, unless some have ended already; and somebody without a token waits for at most three that could have waited or that
        /// have ended.
        #[test]
        fn nobody_starves_and_no_token_ends_for_the_sake_of_others(
            events in proptest::collection::vec((0_u8..6, 0_u64..120, 0_u8..3), 1..200),
        ) {
            let begun = Instant::now();
            let mut line = Line::default();
            let mut waiting: HashMap<usize, Urgency> = HashMap::new();
            let mut passed_over = 0;
            let mut clock = Duration::ZERO;
            for (number, (kind, seconds, namespace)) in events.into_iter().enumerate() {
                clock += Duration::from_millis(500);
                let now = begun + clock;
                let urgency = match kind {
                    0 | 1 => Urgency::Expiring(now + Duration::from_secs(seconds)),
                    2 => Urgency::Wanted,
                    3 => Urgency::Drift,
                    _ => {
                        let served = line.serve(now);
                        prop_assert_eq!(served.is_some(), !waiting.is_empty());
                        let Some(urgency) = served.map(|number: usize| waiting.remove(&number).expect("served once")) else { continue };
                        let first_end = waiting.values().filter_map(|waits| match waits {
                            Urgency::Expiring(ends) => Some(*ends),
                            _ => None,
                        }).min();
                        let somebody_has_none = waiting.values().any(|waits| *waits == Urgency::Wanted);
                        match urgency {
                            Urgency::Expiring(ends) => {
                                prop_assert!(first_end.is_none_or(|first| ends <= first), "what ends first comes first");
                                let could_wait = ends > now + ABOUT_TO_END || ends <= now;
                                passed_over = if somebody_has_none && could_wait { passed_over + 1 } else if somebody_has_none { passed_over } else { 0 };
                                prop_assert!(passed_over < SHARE, "somebody starves");
                            }
                            Urgency::Wanted => {
                                passed_over = 0;
                                let may_wait = |first: Instant| first > now + ABOUT_TO_END || first <= now;
                                prop_assert!(first_end.is_none_or(may_wait), "a token ends for the sake of others");
                            }
                            _ => prop_assert!(!somebody_has_none && first_end.is_none(), "a look can wait"),
                        }
                        continue;
                    }
                };
                line.join(["a", "b", "c"][usize::from(namespace)], urgency, number);
                waiting.insert(number, urgency);
            }
            while let Some(number) = line.serve(begun + clock) {
                prop_assert!(waiting.remove(&number).is_some());
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
