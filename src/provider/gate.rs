//! Who may ask a tenant, and when: rate, concurrency, fairness between namespaces, pauses and the circuit breaker.
//!
//! One gate per tenant. Waiting requests are served in the order of [`Line`]. While the tenant is paused nobody waits: everybody is told when to come again, and says so in a status. A tenant that asked for a pause is asked less often afterwards, and
//! as often as its budget says again once it has answered for a while: other programs may use up the same limit.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::line::{Line, Urgency};
use crate::{
    model::{Class, Failure, RATE_LIMIT_UNKNOWN},
    reasons::Reason,
};

/// This many failures in a row open the circuit breaker; what the service answers to one and the same requester counts once.
const BREAKER_OPENS_AFTER: u32 = 5;
/// Longest pause of the breaker; then one request is let through.
const BREAKER_MOST: Duration = Duration::from_secs(30);
/// The smallest share of its budget that a tenant is left with after pause upon pause.
const SHARE_LEAST: f64 = 1.0 / 32.0;
/// The shortest pause: a service that asks for one wants no request at once, whatever it says.
const PAUSE_LEAST: Duration = Duration::from_secs(1);
/// So many requests tell how long one takes; later ones replace earlier ones little by little.
const CALLS_THAT_TELL: u32 = 8;
const CALLS_REMEMBERED: u32 = 32;
/// By so much of the budget grows the share with each answer: from a half back to the whole takes 250 answers.
const SHARE_GAINED: f64 = 1.0 / 500.0;

/// How much traffic a tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests a second.
    pub requests_per_second: u32,
    /// Requests in flight.
    pub concurrency: u32,
}

impl Budget {
    /// For App ID: its management API blocks a tenant for 30 s above 50 requests a second (App ID documentation, rate
    /// limits), and other programs use the tenant too. For IAM the same, for want of a published number.
    pub const DEFAULT: Self = Self { requests_per_second: 10, concurrency: 4 };

    /// How many requests a second it lets through where each takes so long, and whether that is for want of concurrency.
    #[must_use]
    pub fn rate(self, mean: Option<Duration>) -> (f64, bool) {
        let by_rate = f64::from(self.requests_per_second);
        let by_concurrency = mean.map(|mean| f64::from(self.concurrency) / mean.as_secs_f64());
        by_concurrency.filter(|rate| *rate < by_rate).map_or((by_rate, false), |rate| (rate, true))
    }

    /// The smaller of two budgets, each part by itself.
    #[must_use]
    pub fn at_most(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.min(other.requests_per_second),
            concurrency: self.concurrency.min(other.concurrency),
        }
    }
}

/// The gate of one tenant.
#[derive(Debug)]
pub struct Gate {
    itself: Weak<Gate>,
    state: Mutex<State>,
}

/// The right to have one request in flight; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct State {
    budget: Budget,
    /// When the next request may start; lags behind the present by at most a burst.
    next_start: Instant,
    in_flight: u32,
    waiting: Line<oneshot::Sender<Permit>>,
    timer_is_set: bool,
    pause: Option<Pause>,
    failures_in_a_row: u32,
    /// What became of the last one of them.
    failed_with: String,
    /// To whom the service answered with a failure of its own since it last answered as it should.
    failed_for: Vec<String>,
    has_answered: bool,
    /// How many requests were timed, as far as that matters, and how long one takes.
    timed: (u32, Duration),
    /// How much of the budgeted rate is used: all of it, until the service asks for less.
    share: f64,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    begun: Instant,
    until: Instant,
    asked_for: bool,
}

impl Gate {
    /// A gate with a budget.
    #[must_use]
    pub fn new(budget: Budget) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            state: Mutex::new(State {
                budget,
                next_start: Instant::now(),
                in_flight: 0,
                waiting: Line::default(),
                timer_is_set: false,
                pause: None,
                failures_in_a_row: 0,
                failed_with: String::new(),
                failed_for: Vec::new(),
                has_answered: false,
                timed: (0, Duration::ZERO),
                share: 1.0,
            }),
        })
    }

    /// Changes the budget; requests in flight go on.
    pub fn set_budget(&self, budget: Budget) {
        self.state.lock().budget = budget;
        self.dispatch();
    }

    /// Waits for a turn.
    ///
    /// # Errors
    ///
    /// At once, when the tenant is paused: with the time that is left.
    pub async fn enter(&self, doing: &'static str, namespace: &str, urgency: Urgency) -> Result<Permit, Failure> {
        let receiver = {
            let mut state = self.state.lock();
            if let Some(pause) = state.current_pause() {
                return Err(state.failure(pause, doing));
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.join(namespace, urgency, sender);
            receiver
        };
        self.dispatch();
        match receiver.await {
            Ok(permit) => Ok(permit),
            // The sender was dropped: a pause began while we waited.
            Err(_) => {
                let state = self.state.lock();
                // It may be over by now.
                let now = Instant::now();
                let pause = state.pause.unwrap_or(Pause { begun: now, until: now, asked_for: true });
                Err(state.failure(pause, doing))
            }
        }
    }

    /// The service answered as it should: the breaker closes.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.failures_in_a_row = 0;
        state.failed_for.clear();
        state.has_answered = true;
        state.share = (state.share + SHARE_GAINED).min(1.0);
    }

    /// The service did not answer: what became of the request, in words.
    pub fn failed(&self, with: &str) {
        self.state.lock().fail(with);
    }

    /// The service answered with a failure of its own. That may be about what this requester sends, and nothing that others do: a few such
    /// requesters, however often they come, stop nobody.
    pub fn failed_for(&self, requester: &str, with: &str) {
        let mut state = self.state.lock();
        if state.failures_in_a_row < BREAKER_OPENS_AFTER {
            if state.failed_for.iter().any(|known| known == requester) {
                return;
            }
            state.failed_for.push(requester.to_owned());
        }
        state.fail(with);
    }

    /// A request was answered after so long.
    pub fn took(&self, time: Duration) {
        let mut state = self.state.lock();
        let (calls, mean) = state.timed;
        let calls = (calls + 1).min(CALLS_REMEMBERED);
        state.timed = (calls, (mean * (calls - 1) + time) / calls);
    }

    /// How long a request takes on average; `None` while too few were made.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let (calls, mean) = self.state.lock().timed;
        (calls >= CALLS_THAT_TELL && !mean.is_zero()).then_some(mean)
    }

    /// The service asked for a pause; without a number, App ID's documented block.
    pub fn rate_limited(&self, told: Option<Duration>) {
        let mut state = self.state.lock();
        // What was in flight when the pause began says the same once more.
        if state.current_pause().is_none_or(|pause| !pause.asked_for) {
            state.share = (state.share / 2.0).max(SHARE_LEAST);
        }
        state.pause_until(Instant::now() + told.unwrap_or(RATE_LIMIT_UNKNOWN).max(PAUSE_LEAST), true);
    }

    /// How much traffic the tenant gets.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.state.lock().budget
    }

    /// Whether the service answered the last request, and is not paused.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        let state = self.state.lock();
        state.has_answered && state.failures_in_a_row == 0 && state.current_pause().is_none()
    }

    /// What everybody who asks is told while the tenant is paused; `None` while it is not.
    #[must_use]
    pub fn pause(&self, doing: &'static str) -> Option<Failure> {
        let state = self.state.lock();
        state.current_pause().map(|pause| state.failure(pause, doing))
    }

    /// The machine slept so long, last awake at `awake` before it, and the clock stood still: a pause went on meanwhile.
    pub fn slept(&self, span: Duration, awake: Instant) {
        let mut state = self.state.lock();
        if let Some(pause) = state.pause.as_mut().filter(|pause| pause.begun <= awake) {
            pause.until = pause.until.checked_sub(span).unwrap_or(pause.begun);
        }
    }

    /// Whether the tenant is paused now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state.lock().current_pause().is_some()
    }

    fn dispatch(&self) {
        let Some(gate) = self.itself.upgrade() else {
            return;
        };
        let mut granted = Vec::new();
        let mut alarm = None;
        {
            let mut state = self.state.lock();
            loop {
                if state.waiting.is_empty() || state.in_flight >= state.concurrency() {
                    break;
                }
                let now = Instant::now();
                let start = state.start_no_earlier_than_burst(now);
                if start > now {
                    if !state.timer_is_set {
                        state.timer_is_set = true;
                        alarm = Some(start);
                    }
                    break;
                }
                if let Some(sender) = state.waiting.serve(now) {
                    state.in_flight += 1;
                    state.next_start = start + state.interval();
                    granted.push((sender, Permit { gate: gate.clone() }));
                }
            }
        }
        // Outside the lock: a permit nobody receives any more is dropped here, and takes the lock to give itself back.
        for (sender, permit) in granted {
            drop(sender.send(permit));
        }
        if let Some(start) = alarm {
            tokio::spawn(async move {
                tokio::time::sleep_until(start).await;
                gate.state.lock().timer_is_set = false;
                gate.dispatch();
            });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.state.lock().in_flight -= 1;
        self.gate.dispatch();
    }
}

impl State {
    fn fail(&mut self, with: &str) {
        with.clone_into(&mut self.failed_with);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.failures_in_a_row >= BREAKER_OPENS_AFTER {
            let beyond = self.failures_in_a_row - BREAKER_OPENS_AFTER;
            let rest = Duration::from_secs(1).saturating_mul(1 << beyond.min(6)).min(BREAKER_MOST);
            self.pause_until(Instant::now() + rest, false);
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1).div_f64(f64::from(self.budget.requests_per_second.max(1)) * self.share)
    }

    /// An idle tenant may start as many requests at once as it may have in flight.
    fn start_no_earlier_than_burst(&self, now: Instant) -> Instant {
        let burst = self.interval() * self.budget.concurrency.saturating_sub(1);
        now.checked_sub(burst).map_or(self.next_start, |earliest| self.next_start.max(earliest))
    }

    /// While the service fails, one request at a time finds out whether it is back.
    fn concurrency(&self) -> u32 {
        if self.failures_in_a_row >= BREAKER_OPENS_AFTER { 1 } else { self.budget.concurrency.max(1) }
    }

    fn current_pause(&self) -> Option<Pause> {
        self.pause.filter(|pause| pause.until > Instant::now())
    }

    fn pause_until(&mut self, until: Instant, asked_for: bool) {
        if self.pause.is_none_or(|pause| pause.until < until) {
            self.pause = Some(Pause { begun: Instant::now(), until, asked_for });
        }
        self.waiting.clear();
    }

    /// What somebody is told who asks during a pause.
    fn failure(&self, pause: Pause, doing: &'static str) -> Failure {
        let rest = pause.until.saturating_duration_since(Instant::now());
        let (class, reason, message) = if pause.asked_for {
            (Class::RateLimited, Reason::RateLimited, "the service asked for a pause; nothing was sent".to_owned())
        } else {
            let message = format!("the last requests all failed ({}); nothing was sent", self.failed_with);
            (Class::Transient, Reason::ServiceUnavailable, message)
        };
        Failure { retry_after: Some(rest), ..Failure::new(doing, class, reason, message) }
    }
}

#[cfg(test)]
mod tests;
