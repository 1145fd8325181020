//! Who is next: by urgency, then in turn by namespace, so that neither a greedy namespace nor a mass of drift checks delays what is urgent.
//!
//! # Tokens that are to be replaced
//!
//! What ends first comes first, as long as that is in time for all who wait. The line knows its pace, so it knows when the `n`-th will be
//! served. If there is any order in which nobody is late, this is one: while the budget suffices no token ends for the sake of another, and no
//! namespace gets less than it needs because others need less.
//!
//! Where somebody will be late, or is, namespaces take turns, each with what ends first in it. Whoever has few tokens waits for one of every
//! other namespace at most, and there is time for that: late means fewer turns before the end than there are namespaces. So it is the greedy
//! namespace's tokens that are late. Short lives buy it nothing: they decide who is first within a namespace, and as soon as there are more of
//! them than can be served they decide nothing else. Nor does coming and going: who comes again has the last turn.
//!
//! # Those who have none yet
//!
//! Where more tokens are due than can be replaced, that would leave nothing for those who have none yet. So one of every four turns goes to
//! a credential that somebody waits for, or to a deletion, unless the next token is about to end. One that has ended already is not made worse by
//! a turn more, and where there are such, they would otherwise take all turns for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Of so many turns in a row one goes to those who wait behind the tokens that are to be replaced.
const SHARE: u32 = 4;
/// A token that ends this soon is about to end: nobody else goes first. Longer than one request may take.
const ABOUT_TO_END: Duration = Duration::from_secs(10);
/// Who is served later than so long before the end is late: the answer takes its time.
const ON_THE_WAY: Duration = Duration::from_secs(2);
/// The pace is the mean of about so many turns.
const PACE_TURNS: u32 = 8;

/// How urgent it is, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// The token of somebody who has one that ends then, or what else is to be done by then: what ends first comes first.
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
    expiring: Expiring<T>,
    /// All others.
    waiting: BTreeMap<Place, T>,
    /// Per namespace of those: its last turn.
    turns: HashMap<String, u64>,
    turn: u64,
    sequence: u64,
    /// So many turns in a row went to tokens that are to be replaced, while others waited for theirs.
    in_a_row: u32,
}

/// Those whose token ends, and how fast they are served.
#[derive(Debug)]
struct Expiring<T> {
    /// By end and number: who, and of which namespace.
    waiting: BTreeMap<(Instant, u64), (T, Arc<str>)>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Time from one turn to the next while somebody waits.
    pace: Duration,
    /// When the last turn was, if somebody has waited since.
    served_at: Option<Instant>,
}

#[derive(Debug)]
struct Namespace {
    /// When it was last served, or came: whoever has the smallest number is next.
    turn: u64,
    waiting: BTreeSet<(Instant, u64)>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        let expiring = Expiring { waiting: BTreeMap::new(), namespaces: HashMap::new(), pace: Duration::ZERO, served_at: None };
        Self { expiring, waiting: BTreeMap::new(), turns: HashMap::new(), turn: 0, sequence: 0, in_a_row: 0 }
    }
}

impl<T> Line<T> {
    /// Takes a place.
    pub fn join(&mut self, namespace: &str, urgency: Urgency, who: T) -> Place {
        self.sequence += 1;
        if let Urgency::Expiring(ends) = urgency {
            self.expiring.join(namespace, (ends, self.sequence), who);
            return Place(urgency, 0, self.sequence);
        }
        let turn = self.turns.get(namespace).map_or(self.turn, |last| last.max(&self.turn) + 1);
        self.turns.insert(namespace.to_owned(), turn);
        let place = Place(urgency, turn, self.sequence);
        self.waiting.insert(place, who);
        place
    }

    /// Gives a place up; `None` when it was served already.
    pub fn leave(&mut self, place: &Place) -> Option<T> {
        if let Place(Urgency::Expiring(ends), _, number) = *place {
            return self.expiring.leave((ends, number));
        }
        let who = self.waiting.remove(place);
        self.forget_turns_of_nobody();
        who
    }

    /// Serves whoever is next at this time.
    pub fn serve(&mut self, now: Instant) -> Option<T> {
        let other = self.waiting.first_key_value().map(|(place, _)| *place);
        let Some(token) = self.expiring.next(now).filter(|(ends, _)| self.is_their_turn(*ends, now, other)) else {
            let place = other?;
            let who = self.waiting.remove(&place)?;
            self.turn = self.turn.max(place.1);
            self.forget_turns_of_nobody();
            return Some(who);
        };
        self.sequence += 1;
        self.expiring.serve(token, now, self.sequence)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.expiring.waiting.is_empty()
    }

    /// Sends everybody away.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.expiring.clear();
        self.forget_turns_of_nobody();
    }

    /// Whether a token that ends then goes before the first of the others.
    fn is_their_turn(&mut self, ends: Instant, now: Instant, other: Option<Place>) -> bool {
        if other.is_none_or(|place| place.0 == Urgency::Drift) {
            self.in_a_row = 0;
            return true;
        }
        // What has ended already is not made worse by one turn more.
        let is_about_to_end = ends > now && ends <= now + ABOUT_TO_END;
        if self.in_a_row + 1 < SHARE || is_about_to_end {
            self.in_a_row = self.in_a_row.saturating_add(1).min(SHARE);
            return true;
        }
        self.in_a_row = 0;
        false
    }

    fn forget_turns_of_nobody(&mut self) {
        if self.waiting.is_empty() {
            self.turns.clear();
            self.turn = 0;
        }
    }
}

impl<T> Expiring<T> {
    fn join(&mut self, namespace: &str, key: (Instant, u64), who: T) {
        let name = self.namespaces.get_key_value(namespace).map_or_else(|| Arc::from(namespace), |(name, _)| name.clone());
        let of = self.namespaces.entry(name.clone()).or_insert_with(|| Namespace { turn: key.1, waiting: BTreeSet::new() });
        of.waiting.insert(key);
        self.waiting.insert(key, (who, name));
    }

    fn leave(&mut self, key: (Instant, u64)) -> Option<T> {
        let (who, name) = self.waiting.remove(&key)?;
        if let Some(of) = self.namespaces.get_mut(&name) {
            of.waiting.remove(&key);
            if of.waiting.is_empty() {
                self.namespaces.remove(&name);
            }
        }
        if self.waiting.is_empty() {
            self.served_at = None;
        }
        Some(who)
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.namespaces.clear();
        self.served_at = None;
    }

    fn next(&self, now: Instant) -> Option<(Instant, u64)> {
        if self.namespaces.len() < 2 || self.is_in_time_for_all(now) {
            return self.waiting.first_key_value().map(|(key, _)| *key);
        }
        self.namespaces.values().min_by_key(|of| of.turn).and_then(|of| of.waiting.first().copied())
    }

    /// Whether nobody is late when what ends first is served first. Looks no further than to one who would not be late even as the last.
    fn is_in_time_for_all(&self, now: Instant) -> bool {
        let turns = |number: usize| self.pace.saturating_mul(u32::try_from(number + self.namespaces.len()).unwrap_or(u32::MAX));
        let is_in_time = |number: usize, ends: Instant| ends.saturating_duration_since(now) > turns(number).saturating_add(ON_THE_WAY);
        let last = self.waiting.len();
        let mut near = self.waiting.keys().enumerate().take_while(|(_, (ends, _))| !is_in_time(last, *ends));
        near.all(|(number, (ends, _))| is_in_time(number, *ends))
    }

    fn serve(&mut self, key: (Instant, u64), now: Instant, turn: u64) -> Option<T> {
        if let Some(of) = self.waiting.get(&key).and_then(|(_, name)| self.namespaces.get_mut(name)) {
            of.turn = turn;
        }
        if let Some(before) = self.served_at {
            let took = now.saturating_duration_since(before);
            self.pace = if self.pace.is_zero() { took } else { (self.pace * (PACE_TURNS - 1) + took) / PACE_TURNS };
        }
        self.served_at = Some(now);
        self.leave(key)
    }
}

#[cfg(test)]
mod tests;
