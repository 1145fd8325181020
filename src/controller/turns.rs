//! So many passes over objects of one tenant run at once; the others wait in a line, and hold nothing meanwhile but their place.
//!
//! No turn is lost: it is given back when its [`Turn`] is dropped, wherever that is, and goes to whoever is next at once.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::provider::line::{Line, Place, Urgency};

/// What is done with a turn when it comes.
type Call = Box<dyn FnOnce(Turn) + Send>;

/// The turns of one tenant.
pub struct Turns(Mutex<State>);

struct State {
    at_once: u32,
    taken: u32,
    line: Line<Call>,
}

impl Turns {
    /// As many at once.
    #[must_use]
    pub fn new(at_once: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { at_once, taken: 0, line: Line::default() })))
    }

    /// A turn, when one is free: then nobody waits.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.0.lock();
        if state.taken >= state.at_once {
            return None;
        }
        state.taken += 1;
        Some(Turn { of: self.clone() })
    }

    /// From now on as many at once. What is under way goes on; whoever waits is served where there are more.
    pub fn set(self: &Arc<Self>, at_once: u32) {
        let before = std::mem::replace(&mut self.0.lock().at_once, at_once);
        for _ in before..at_once {
            drop(self.take());
        }
    }

    /// Whether somebody who comes now has to wait.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        let state = self.0.lock();
        state.taken >= state.at_once
    }

    /// Takes a place in the line. `call` is called with the turn, on whatever thread gives it.
    #[must_use]
    pub fn wait(self: &Arc<Self>, namespace: &str, urgency: Urgency, call: impl FnOnce(Turn) + Send + 'static) -> Ticket {
        let place = self.0.lock().line.join(namespace, urgency, Box::new(call));
        let ticket = Ticket { of: self.clone(), place };
        // One may have become free since it was asked for.
        if let Some(turn) = self.take() {
            drop(turn);
        }
        ticket
    }

    /// A turn is over: the next one begins, or it is free.
    fn pass_on(self: &Arc<Self>) {
        let next = {
            let mut state = self.0.lock();
            // There may be fewer by now.
            let next = if state.taken > state.at_once { None } else { state.line.serve(Instant::now()) };
            if next.is_none() {
                state.taken -= 1;
            }
            next
        };
        // Outside the lock: whoever is called may drop the turn, or take a place.
        if let Some(call) = next {
            call(Turn { of: self.clone() });
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("taken", &self.0.lock().taken).finish_non_exhaustive()
    }
}

/// The right to work on one object; given back when dropped.
#[derive(Debug)]
pub struct Turn {
    of: Arc<Turns>,
}

impl Turn {
    /// Whether it is one of these.
    #[must_use]
    pub fn is_of(&self, turns: &Arc<Turns>) -> bool {
        Arc::ptr_eq(&self.of, turns)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.pass_on();
    }
}

/// A place in the line, and what keeps the line alive. Given up when dropped.
#[derive(Debug)]
pub struct Ticket {
    of: Arc<Turns>,
    place: Place,
}

impl Ticket {
    /// Whether it is the right place for something of that urgency.
    #[must_use]
    pub fn suits(&self, turns: &Arc<Turns>, urgency: Urgency) -> bool {
        Arc::ptr_eq(&self.of, turns) && self.place.urgency().is_like(urgency)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let call = self.of.0.lock().line.leave(&self.place);
        // Outside the lock: what a call holds is nobody's business here.
        drop(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, sync::mpsc};

    /// Everybody's turn is put into the channel, with a name.
    fn wait(turns: &Arc<Turns>, served: &mpsc::Sender<(&'static str, Turn)>, name: &'static str, urgency: Urgency) -> Ticket {
        let served = served.clone();
        turns.wait(name, urgency, move |turn| drop(served.send((name, turn))))
    }

    #[test]
    fn a_turn_that_is_over_goes_to_the_most_urgent_and_none_is_lost() {
        let (turns, (sender, served)) = (Turns::new(2), mpsc::channel());
        let (first, second) = (turns.take().expect("free"), turns.take().expect("free"));
        assert!(turns.take().is_none(), "two at once");
        let mut tickets: BTreeMap<_, _> =
            [("drift", Urgency::Drift), ("wanted", Urgency::Wanted), ("gone", Urgency::Wanted), ("deletion", Urgency::Deletion)]
                .map(|(name, urgency)| (name, wait(&turns, &sender, name, urgency)))
                .into();
        drop(tickets.remove("gone"));
        drop(first);
        let (name, turn) = served.try_recv().expect("a turn was over");
        assert_eq!(name, "wanted");
        assert!(served.try_recv().is_err(), "one turn for one");
        drop(turn);
        assert_eq!(served.try_recv().expect("passed on").0, "deletion", "who gave up has no turn, and what is dropped unused goes on");
        // The turn of the deletion was dropped with what was received.
        assert_eq!(served.try_recv().expect("passed on").0, "drift");
        drop(second);
        let all = [turns.take(), turns.take(), turns.take()].map(|turn| turn.is_some());
        assert_eq!(all, [true, true, false], "as many as in the beginning");
    }

    #[test]
    fn more_turns_serve_those_who_wait_and_fewer_take_none_away() {
        let (turns, (sender, served)) = (Turns::new(1), mpsc::channel());
        let first = turns.take().expect("free");
        let tickets = ["a", "b", "c"].map(|name| wait(&turns, &sender, name, Urgency::Wanted));
        turns.set(3);
        let got: Vec<_> = served.try_iter().collect();
        assert_eq!(got.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a", "b"]);
        turns.set(1);
        drop(first);
        assert!(served.try_recv().is_err(), "two are under way, and one is allowed");
        let mut got = got.into_iter();
        drop(got.next());
        assert!(served.try_recv().is_err() && turns.are_taken());
        drop(got.next());
        assert_eq!(served.try_recv().expect("its turn has come").0, "c");
        assert!(turns.take().is_some() && !turns.are_taken());
        drop(tickets);
    }

    #[test]
    fn a_turn_that_nobody_can_receive_any_more_goes_on() {
        let (turns, (sender, served)) = (Turns::new(1), mpsc::channel());
        let only = turns.take().expect("free");
        let _ticket = wait(&turns, &sender, "ends", Urgency::Wanted);
        drop((served, sender));
        drop(only);
        assert!(turns.take().is_some());
    }

    #[test]
    fn whoever_waits_although_a_turn_is_free_is_served_at_once() {
        let (turns, (sender, served)) = (Turns::new(1), mpsc::channel());
        let _ticket = wait(&turns, &sender, "late", Urgency::Wanted);
        assert_eq!(served.try_recv().expect("served").0, "late");
    }
}
