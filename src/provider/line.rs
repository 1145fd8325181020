//! Who is next: by urgency, then in turn by namespace, so that neither a greedy namespace nor a mass of drift checks delays what is urgent.

use std::collections::{BTreeMap, HashMap};

/// How urgent it is, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// The token of somebody who has one that ends then, in seconds since 1970: what ends first comes first.
    Expiring(i64),
    /// A credential somebody waits for.
    Wanted,
    /// A deletion.
    Deletion,
    /// A look whether everything is as it was.
    Drift,
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
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), turns: HashMap::new(), turn: 0, sequence: 0 }
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

    /// Serves whoever is next.
    pub fn serve(&mut self) -> Option<T> {
        let (Place(_, turn, _), who) = self.waiting.pop_first()?;
        self.turn = self.turn.max(turn);
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

    fn forget_turns_of_nobody(&mut self) {
        if self.waiting.is_empty() {
            self.turns.clear();
            self.turn = 0;
        }
    }
}
