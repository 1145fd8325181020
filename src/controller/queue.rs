//! When to look at which object, and one pass over it at a time.
//!
//! An object rests until its time has come or somebody asks for it, waits for its turn, or has a pass. Whenever it is asked for it is looked
//! at anew, also while it waits: what it waits for is always what it needs now, and a pass always begins with the newest picture. What is
//! asked for during a pass is done right after it. Whoever waits costs a place in a line, and nothing when others go on.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::{
    sync::CancellationToken,
    time::{DelayQueue, delay_queue},
};

use super::{
    name::Name,
    turns::{Ticket, Turn, Turns},
};
use crate::provider::Urgency;

/// What is to be done about an object now.
pub enum Look<R> {
    /// Nothing, before so much time is over or somebody asks.
    Rest(Option<Duration>),
    /// A pass.
    Pass {
        /// What it begins with.
        ready: R,
        /// Whose turn it needs, and how urgently.
        turn: Option<(Arc<Turns>, Urgency)>,
        /// While it waits for its turn: after what time it is looked at again.
        meanwhile: Option<Duration>,
    },
}

/// What a queue is about.
pub trait Work {
    /// What a pass begins with.
    type Ready;

    /// Looks at an object, from memory alone.
    fn look(&self, name: &Name) -> Look<Self::Ready>;

    /// A pass: says after what time to look again.
    fn pass(&self, ready: Self::Ready) -> impl Future<Output = Option<Duration>> + Send + 'static;
}

/// Runs until `halt`: then passes that run are finished, and nothing is begun.
pub async fn run<W: Work>(work: W, mut asked: UnboundedReceiver<Name>, halt: CancellationToken) {
    let (sender, mut turns) = unbounded_channel();
    let mut queue = Queue { work, objects: HashMap::new(), timers: DelayQueue::new(), passes: FuturesUnordered::new(), turns: sender };
    let halted = halt.cancelled();
    tokio::pin!(halted);
    loop {
        tokio::select! {
            () = &mut halted => break,
            Some(name) = asked.recv() => queue.attend(name, None),
            Some((name, turn)) = turns.recv() => queue.serve(name, turn),
            Some(name) = queue.timers.next(), if !queue.timers.is_empty() => queue.awaken(name.into_inner()),
            Some((name, again)) = queue.passes.next(), if !queue.passes.is_empty() => queue.passed(name, again),
        }
    }
    // With the places in lines; turns that are on their way go back when they cannot be received.
    queue.objects.clear();
    drop(turns);
    while queue.passes.next().await.is_some() {}
}

struct Queue<W> {
    work: W,
    /// Objects that nothing is planned for are not here.
    objects: HashMap<Name, State>,
    timers: DelayQueue<Name>,
    passes: FuturesUnordered<BoxFuture<'static, (Name, Option<Duration>)>>,
    turns: UnboundedSender<(Name, Turn)>,
}

enum State {
    Resting(delay_queue::Key),
    Waiting(Box<Ticket>, Option<delay_queue::Key>),
    Passing { is_asked_for: bool },
}

impl<W: Work> Queue<W> {
    /// An object is asked for, perhaps with a turn.
    fn attend(&mut self, name: Name, turn: Option<Turn>) {
        let ticket = match self.objects.remove(&name) {
            Some(State::Passing { .. }) => {
                self.objects.insert(name, State::Passing { is_asked_for: true });
                return;
            }
            Some(State::Waiting(ticket, timer)) => {
                timer.map(|timer| self.timers.try_remove(&timer));
                Some(ticket)
            }
            Some(State::Resting(timer)) => {
                self.timers.try_remove(&timer);
                None
            }
            None => None,
        };
        match self.work.look(&name) {
            Look::Rest(wait) => self.rest(name, wait),
            Look::Pass { ready, turn: None, .. } => self.begin(name, ready, None),
            Look::Pass { ready, turn: Some((turns, urgency)), meanwhile } => {
                let turn = turn.filter(|turn| turn.is_of(&turns)).or_else(|| turns.take());
                if turn.is_some() {
                    self.begin(name, ready, turn);
                } else {
                    let ticket = ticket.filter(|ticket| ticket.suits(&turns, urgency));
                    let ticket = ticket.unwrap_or_else(|| self.stand_in_line(&name, &turns, urgency));
                    let timer = meanwhile.map(|wait| self.timers.insert(name.clone(), wait));
                    self.objects.insert(name, State::Waiting(ticket, timer));
                }
            }
        }
    }

    fn stand_in_line(&self, name: &Name, turns: &Arc<Turns>, urgency: Urgency) -> Box<Ticket> {
        let (sender, waiting) = (self.turns.clone(), name.clone());
        // Where the queue has ended, the turn comes back with the error, and goes on.
        Box::new(turns.wait(name.namespace(), urgency, move |turn| drop(sender.send((waiting, turn)))))
    }

    /// A turn has come. Whoever needs none any more passes it on.
    fn serve(&mut self, name: Name, turn: Turn) {
        if matches!(self.objects.get(&name), Some(State::Waiting(..))) {
            self.attend(name, Some(turn));
        }
    }

    /// The time of an object has come.
    fn awaken(&mut self, name: Name) {
        // Its timer is no more.
        match self.objects.get_mut(&name) {
            Some(State::Waiting(_, timer)) => *timer = None,
            _ => drop(self.objects.remove(&name)),
        }
        self.attend(name, None);
    }

    fn begin(&mut self, name: Name, ready: W::Ready, turn: Option<Turn>) {
        let pass = self.work.pass(ready);
        self.objects.insert(name.clone(), State::Passing { is_asked_for: false });
        self.passes.push(Box::pin(async move {
            let again = pass.await;
            drop(turn);
            (name, again)
        }));
    }

    fn passed(&mut self, name: Name, again: Option<Duration>) {
        match self.objects.remove(&name) {
            Some(State::Passing { is_asked_for: true }) => self.attend(name, None),
            _ => self.rest(name, again),
        }
    }

    fn rest(&mut self, name: Name, wait: Option<Duration>) {
        if let Some(wait) = wait {
            let timer = self.timers.insert(name.clone(), wait);
            self.objects.insert(name, State::Resting(timer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::{sync::Semaphore, time::Instant};

    /// What each object needs, and what became of it.
    #[derive(Clone, Default)]
    struct World(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        needs: HashMap<String, Need>,
        begun: Vec<(String, Duration)>,
        running: HashMap<String, u32>,
        finished: usize,
    }

    #[derive(Clone)]
    struct Need {
        rest: Option<Duration>,
        turns: Option<Arc<Turns>>,
        urgency: Urgency,
        again: Option<Duration>,
        meanwhile: Option<Duration>,
        /// A pass ends when it finds one here.
        end: Arc<Semaphore>,
    }

    impl Need {
        fn new(turns: Option<&Arc<Turns>>) -> Self {
            Self {
                rest: None,
                turns: turns.cloned(),
                urgency: Urgency::Wanted,
                again: None,
                meanwhile: None,
                end: Arc::new(Semaphore::new(0)),
            }
        }
    }

    struct Fake(World, Instant);

    impl Work for Fake {
        type Ready = (String, Need);

        fn look(&self, name: &Name) -> Look<Self::Ready> {
            let state = self.0.0.lock();
            let Some(need) = state.needs.get(name.name()) else { return Look::Rest(None) };
            match need.rest {
                Some(rest) => Look::Rest(Some(rest)),
                None => Look::Pass {
                    ready: (name.name().to_owned(), need.clone()),
                    turn: need.turns.clone().map(|turns| (turns, need.urgency)),
                    meanwhile: need.meanwhile,
                },
            }
        }

        fn pass(&self, (name, need): Self::Ready) -> impl Future<Output = Option<Duration>> + Send + 'static {
            let world = self.0.clone();
            {
                let mut state = world.0.lock();
                state.begun.push((name.clone(), self.1.elapsed()));
                let running = state.running.entry(name.clone()).or_default();
                *running += 1;
                assert_eq!(*running, 1, "one pass at a time");
            }
            async move {
                let ended = need.end.acquire().await;
                ended.expect("never closed").forget();
                let mut state = world.0.lock();
                state.running.remove(&name);
                state.finished += 1;
                need.again
            }
        }
    }

    struct Harness {
        world: World,
        ask: UnboundedSender<Name>,
        halt: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Harness {
        fn new() -> Self {
            let (world, (ask, asked), halt) = (World::default(), unbounded_channel(), CancellationToken::new());
            let task = tokio::spawn(run(Fake(world.clone(), Instant::now()), asked, halt.clone()));
            Self { world, ask, halt, task }
        }

        fn need(&self, name: &str, need: Need) -> Arc<Semaphore> {
            let end = need.end.clone();
            self.world.0.lock().needs.insert(name.to_owned(), need);
            end
        }

        async fn ask(&self, name: &str) {
            self.ask.send(Name::new("ns", name)).expect("the queue runs");
            settle().await;
        }

        fn begun(&self) -> Vec<String> {
            self.world.0.lock().begun.iter().map(|(name, _)| name.clone()).collect()
        }
    }

    /// Everything that can happen without time has happened: time stands still, and whoever can run does.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_during_a_pass_is_done_after_it_and_only_once() {
        let harness = Harness::new();
        let end = harness.need("a", Need::new(None));
        for _ in 0..5 {
            harness.ask("a").await;
        }
        assert_eq!(harness.begun(), ["a"]);
        end.add_permits(1);
        settle().await;
        assert_eq!(harness.begun(), ["a", "a"]);
        end.add_permits(1);
        settle().await;
        assert_eq!(harness.begun(), ["a", "a"], "nobody asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_looked_at_when_its_time_has_come_and_another_request_only_brings_that_forward() {
        let harness = Harness::new();
        let end = harness.need("a", Need { again: Some(Duration::from_secs(10)), ..Need::new(None) });
        end.add_permits(100);
        harness.ask("a").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        harness.ask("a").await;
        tokio::time::sleep(Duration::from_secs(11)).await;
        let at: Vec<u128> = harness.world.0.lock().begun.iter().map(|(_, at)| (at.as_millis() + 500) / 1000).collect();
        assert_eq!(at, [0, 4, 14], "ten seconds after the last pass, and not ten after the first one as well");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_object_that_rests_is_the_one_that_was_found_last() {
        let harness = Harness::new();
        harness.need("a", Need { rest: Some(Duration::from_secs(60)), ..Need::new(None) });
        harness.ask("a").await;
        harness.need("a", Need { rest: Some(Duration::from_secs(1)), ..Need::new(None) });
        harness.ask("a").await;
        harness.need("a", Need::new(None));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(harness.begun(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_to_the_most_urgent_and_whoever_needs_none_any_more_costs_none() {
        let harness = Harness::new();
        let turns = Turns::new(1);
        let ends: HashMap<&str, _> = ["a", "b", "c", "d", "e"].map(|name| (name, harness.need(name, Need::new(Some(&turns))))).into();
        for name in ["a", "b", "c", "d", "e"] {
            harness.ask(name).await;
        }
        assert_eq!(harness.begun(), ["a"]);
        // `b` is gone, `c` is settled, and nobody said so; `e` has become urgent.
        harness.world.0.lock().needs.remove("b");
        harness.need("c", Need { rest: Some(Duration::from_secs(3600)), ..Need::new(Some(&turns)) });
        let end_of_e = harness.need("e", Need { urgency: Urgency::Expiring(Instant::now()), ..Need::new(Some(&turns)) });
        harness.ask("e").await;
        ends["a"].add_permits(1);
        settle().await;
        assert_eq!(harness.begun(), ["a", "e"]);
        end_of_e.add_permits(1);
        settle().await;
        assert_eq!(harness.begun(), ["a", "e", "d"]);
        ends["d"].add_permits(1);
        settle().await;
        assert!(turns.take().is_some(), "the turn is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_tenant_that_it_has_left_waits_for_its_new_one() {
        let harness = Harness::new();
        let (former, present) = (Turns::new(1), Turns::new(1));
        let held = former.take().expect("free");
        let busy = present.take().expect("free");
        harness.need("a", Need::new(Some(&former)));
        harness.ask("a").await;
        // The provider leads elsewhere now; nobody asks for the object.
        let first = harness.need("a", Need::new(Some(&present)));
        drop(held);
        settle().await;
        assert!(harness.begun().is_empty(), "the former tenant's turn is none of the new one's");
        assert!(former.take().is_some(), "and goes back");
        drop(busy);
        settle().await;
        assert_eq!(harness.begun(), ["a"]);
        // A connection that was replaced: its turns are known to nobody but those who wait.
        let end = harness.need("b", Need::new(Some(&present)));
        harness.ask("b").await;
        let alone = Arc::downgrade(&present);
        drop(present);
        harness.world.0.lock().needs.remove("a");
        first.add_permits(1);
        settle().await;
        assert_eq!(harness.begun(), ["a", "b"]);
        harness.world.0.lock().needs.clear();
        end.add_permits(1);
        settle().await;
        assert!(alone.upgrade().is_none(), "and nobody keeps them any longer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_looked_at_when_there_is_something_to_be_said_of_it_and_keeps_its_place() {
        let harness = Harness::new();
        let turns = Turns::new(1);
        let held = turns.take().expect("free");
        let waits = || Need { meanwhile: Some(Duration::from_secs(5)), ..Need::new(Some(&turns)) };
        let ends: Vec<_> = ["speaks", "first", "second"].map(|name| harness.need(name, waits())).into();
        for name in ["speaks", "first", "second"] {
            harness.ask(name).await;
        }
        // What is to be said needs no turn of that line.
        harness.need("speaks", Need { again: None, ..Need::new(None) }).add_permits(1);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(harness.begun().is_empty());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(harness.begun(), ["speaks"]);
        ends[1].add_permits(1);
        drop(held);
        settle().await;
        assert_eq!(harness.begun(), ["speaks", "first", "second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_passes_that_run_are_finished_and_nothing_is_begun() {
        let harness = Harness::new();
        let turns = Turns::new(1);
        let end = harness.need("runs", Need { again: Some(Duration::from_millis(1)), ..Need::new(Some(&turns)) });
        harness.need("waits", Need::new(Some(&turns)));
        harness.need("rests", Need { rest: Some(Duration::from_secs(1)), ..Need::new(None) });
        for name in ["runs", "waits", "rests", "runs"] {
            harness.ask(name).await;
        }
        harness.halt.cancel();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!harness.task.is_finished(), "a pass runs");
        end.add_permits(5);
        harness.task.await.expect("no panic");
        assert_eq!(harness.world.0.lock().finished, 1);
        assert_eq!(harness.world.0.lock().begun.len(), 1);
        assert!(turns.take().is_some());
    }

    /// Every request is followed by a look that begins after it, whatever happens meanwhile.
    #[tokio::test(start_paused = true)]
    async fn no_request_is_lost_among_thousands() {
        let harness = Harness::new();
        let turns = Turns::new(3);
        for n in 0..500 {
            harness.need(&format!("o{n}"), Need::new(Some(&turns))).add_permits(1000);
        }
        for round in 1..=4 {
            for n in 0..500 {
                harness.ask.send(Name::new(&format!("ns{}", n % 7), &format!("o{n}"))).expect("the queue runs");
            }
            while harness.world.0.lock().begun.len() < round * 500 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        settle().await;
        assert_eq!(harness.begun().len(), 2000);
    }
}
