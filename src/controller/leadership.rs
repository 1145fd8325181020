//! Which process may act: a Lease, held safely when two run at once.
//!
//! # Guarantees
//!
//! A candidate compares only *that* the record changed against its own monotonic clock, never another node's time. Every write
//! carries the resourceVersion that was read, so of two candidates one loses. The holder stops counting itself as leader
//! `RENEW_DEADLINE` after the start of its last good renewal, which is before anybody else may take over; a process that was
//! frozen finds that out by the same comparison, right before each call that cannot be repeated. Where the whole machine slept, its monotonic
//! clock stood still: the time of sleep counts all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::asleep::Sleepless;

/// Others may take over this long after the last renewal they saw.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// We count ourselves as leader this long after the start of the last good renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is renewed, or looked at.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Name of the Lease.
pub const LEASE_NAME: &str = "cloud-identity-operator";

/// Whether this process leads, and which creates are still unanswered.
#[derive(Debug)]
pub struct Leadership {
    /// `None`: leader election is off. Otherwise a moment of the clock that sleep does not stop.
    until: Option<(Sleepless, Mutex<Instant>)>,
    since: Mutex<Timestamp>,
    creates: AtomicUsize,
    creates_done: Notify,
}

/// A create whose answer is awaited; the process does not exit while one exists.
#[derive(Debug)]
pub struct CreateInFlight<'a>(&'a Leadership);

impl Leadership {
    /// For a single process on a laptop: always leads.
    #[must_use]
    pub fn unelected() -> Arc<Self> {
        Arc::new(Self { until: None, since: Mutex::new(Timestamp::now()), creates: AtomicUsize::new(0), creates_done: Notify::new() })
    }

    fn elected(clock: Sleepless, until: Instant) -> Arc<Self> {
        Arc::new(Self {
            until: Some((clock, Mutex::new(until))),
            since: Mutex::new(Timestamp::now()),
            creates: AtomicUsize::new(0),
            creates_done: Notify::new(),
        })
    }

    /// Whether this process leads right now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.until.as_ref().is_none_or(|(clock, until)| clock.now() < *until.lock())
    }

    /// When this process began to lead.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        *self.since.lock()
    }

    /// Marks a create whose answer must be awaited.
    #[must_use]
    pub fn begin_create(&self) -> CreateInFlight<'_> {
        self.creates.fetch_add(1, Ordering::SeqCst);
        CreateInFlight(self)
    }

    /// Waits until every create in flight is answered.
    pub async fn creates_answered(&self) {
        loop {
            let done = self.creates_done.notified();
            if self.creates.load(Ordering::SeqCst) == 0 {
                return;
            }
            done.await;
        }
    }

    fn extend(&self, until: Instant) {
        if let Some((_, current)) = &self.until {
            *current.lock() = until;
        }
    }

    fn give_up_at(&self) -> Instant {
        self.until.as_ref().map_or_else(Instant::now, |(_, until)| *until.lock())
    }
}

impl crate::provider::Fence for Leadership {
    fn holds(&self) -> bool {
        Self::holds(self)
    }
}

impl Drop for CreateInFlight<'_> {
    fn drop(&mut self) {
        if self.0.creates.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.creates_done.notify_waiters();
        }
    }
}

/// One process in the election.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    clock: Sleepless,
}

impl Candidate {
    /// A candidate. The client should be its own, with a read timeout and without retries, so that it neither queues nor repeats.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String, clock: Sleepless) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, clock }
    }

    /// Waits until this process leads. `None` when `stop` came first.
    pub async fn acquire(&self, stop: &CancellationToken) -> Option<(Lease, Arc<Leadership>)> {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            let started = self.clock.now();
            match self.try_acquire(&mut seen).await {
                Ok(Some(lease)) => return Some((lease, Leadership::elected(self.clock.clone(), started + RENEW_DEADLINE))),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be read or written"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
        }
    }

    async fn try_acquire(&self, seen: &mut Option<(String, Instant)>) -> kube::Result<Option<Lease>> {
        let parameters = PostParams::default();
        let Some(mut lease) = self.api.get_opt(LEASE_NAME).await? else {
            let lease =
                Lease { metadata: ObjectMeta { name: Some(LEASE_NAME.into()), ..ObjectMeta::default() }, spec: Some(self.spec(None)) };
            return lost_race(self.api.create(&parameters, &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if seen.as_ref().is_none_or(|(known, _)| *known != version) {
            *seen = Some((version, Instant::now()));
        }
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration =
            spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LEASE_DURATION, Duration::from_secs);
        let is_stale = seen.as_ref().is_some_and(|(_, at)| at.elapsed() > duration);
        if !holder.is_empty() && holder != self.identity && !is_stale {
            return Ok(None);
        }
        lease.spec = Some(self.spec(Some(&spec)));
        lost_race(self.api.replace(LEASE_NAME, &parameters, &lease).await)
    }

    fn spec(&self, former: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let stays = former.filter(|former| former.holder_identity.as_deref() == Some(self.identity.as_str()));
        let transitions = former.and_then(|former| former.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(15)),
            acquire_time: stays.and_then(|former| former.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if stays.is_some() { transitions } else { transitions + i32::from(former.is_some()) }),
            ..LeaseSpec::default()
        }
    }

    /// Renews until the lease is lost (then `lost` is cancelled) or `drained` says that it may be given back.
    pub async fn hold(&self, mut lease: Lease, leadership: Arc<Leadership>, lost: CancellationToken, drained: CancellationToken) {
        let parameters = PostParams::default();
        loop {
            let give_up = leadership.give_up_at();
            let left = |now: Instant| give_up.saturating_duration_since(now);
            tokio::select! {
                () = drained.cancelled() => return self.give_back(lease).await,
                () = sleep(RETRY_PERIOD.min(left(self.clock.now()))) => {}
            }
            let started = self.clock.now();
            if started >= give_up {
                tracing::error!("the lease could not be renewed in time");
                return lost.cancel();
            }
            lease.spec = Some(self.spec(lease.spec.as_ref()));
            match timeout(left(started), self.api.replace(LEASE_NAME, &parameters, &lease)).await {
                Ok(Ok(renewed)) => {
                    lease = renewed;
                    leadership.extend(started + RENEW_DEADLINE);
                }
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() => match self.api.get(LEASE_NAME).await {
                    Ok(current)
                        if current.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(self.identity.as_str()) =>
                    {
                        lease = current
                    }
                    Ok(_) => {
                        tracing::error!("another process took the lease");
                        leadership.extend(started);
                        return lost.cancel();
                    }
                    Err(error) => tracing::warn!(%error, "the lease cannot be read"),
                },
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => {}
            }
        }
    }

    /// An empty holder and a short duration: the next process need not wait.
    async fn give_back(&self, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await {
            tracing::warn!(%error, "the lease could not be given back");
        }
    }
}

fn lost_race(result: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    //! Candidates as they are, a Lease in memory, and a clock that jumps to whatever happens next.

    use std::convert::Infallible;

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use stage::Dice;

    use super::*;
    use crate::controller::asleep::tests::sleeper;

    /// Mostly quick, sometimes slow, and sometimes as long as a frozen process or a cut network takes.
    fn delay(dice: &mut Dice, is_calm: bool) -> Duration {
        let milliseconds = match dice.roll(10) {
            _ if is_calm => dice.roll(50),
            0 => 5_000 + dice.roll(40_000),
            1 | 2 => dice.roll(6_000),
            _ => dice.roll(50),
        };
        Duration::from_millis(milliseconds as u64)
    }

    /// An API server that knows one Lease.
    struct Server {
        dice: Mutex<Dice>,
        lease: Mutex<Option<Lease>>,
        version: AtomicUsize,
        is_calm: std::sync::atomic::AtomicBool,
    }

    impl Server {
        fn client(self: &Arc<Self>) -> Client {
            let server = self.clone();
            Client::new(
                tower::service_fn(move |request: Request<Body>| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                }),
                "default",
            )
        }

        /// What was sent is carried out also when nobody waits for the answer any more.
        async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
            let is_calm = self.is_calm.load(Ordering::SeqCst);
            let (before, after, is_lost) = {
                let mut dice = self.dice.lock();
                (delay(&mut dice, is_calm), delay(&mut dice, is_calm), !is_calm && dice.roll(20) == 0)
            };
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let carried_out = tokio::spawn(async move {
                tokio::time::sleep(before).await;
                let answer = self.carry_out(&parts.method, &body);
                tokio::time::sleep(after).await;
                answer
            });
            let answer = carried_out.await.expect("no panic");
            if is_lost { failure(StatusCode::SERVICE_UNAVAILABLE) } else { answer }
        }

        fn carry_out(&self, method: &Method, body: &[u8]) -> Response<Body> {
            let mut stored = self.lease.lock();
            if method == Method::GET {
                return stored.as_ref().map_or_else(|| failure(StatusCode::NOT_FOUND), answer_with);
            }
            let mut lease: Lease = serde_json::from_slice(body).expect("a Lease");
            let is_current = stored.as_ref().map(|stored| &stored.metadata.resource_version) == Some(&lease.metadata.resource_version);
            if (method == Method::POST && stored.is_some()) || (method == Method::PUT && !is_current) {
                return failure(StatusCode::CONFLICT);
            }
            lease.metadata.resource_version = Some(self.version.fetch_add(1, Ordering::SeqCst).to_string());
            *stored = Some(lease.clone());
            answer_with(&lease)
        }
    }

    fn answer_with(lease: &Lease) -> Response<Body> {
        Response::new(Body::from(serde_json::to_vec(lease).expect("serialisable")))
    }

    fn failure(code: StatusCode) -> Response<Body> {
        let reason = match code {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::CONFLICT => "Conflict",
            _ => "InternalError",
        };
        let status = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason });
        let mut response = Response::new(Body::from(status.to_string().into_bytes()));
        *response.status_mut() = code;
        response
    }

    type Leaders = Arc<Mutex<Vec<Option<Arc<Leadership>>>>>;

    /// Leads whenever it can, and sometimes gives the lease back.
    async fn campaign(server: Arc<Server>, leaders: Leaders, index: usize) {
        let candidate = Candidate::new(server.client(), "operators", format!("candidate-{index}"), Sleepless::new(|| None));
        loop {
            let Some((lease, leadership)) = candidate.acquire(&CancellationToken::new()).await else { return };
            leaders.lock()[index] = Some(leadership.clone());
            let (lost, drained) = (CancellationToken::new(), CancellationToken::new());
            let term = Duration::from_secs(20 + server.dice.lock().roll(200) as u64);
            let resigns = drained.clone();
            let resignation = {
                let (leaders, lost) = (leaders.clone(), lost.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(term) => {}
                        () = lost.cancelled() => {}
                    }
                    // It acts no more before it gives the lease back.
                    leaders.lock()[index] = None;
                    resigns.cancel();
                })
            };
            candidate.hold(lease, leadership, lost.clone(), drained).await;
            lost.cancel();
            resignation.await.expect("no panic");
        }
    }

    /// Two candidates, answers that come late, get lost or outlive the one who asked: at no moment do both count themselves as leader, and
    /// when the API server is well again, one does.
    ///
    /// Traps: T33.
    #[test]
    fn of_two_candidates_at_most_one_leads_whatever_the_api_server_does_and_one_does_when_it_is_well() {
        for seed in 0..20 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
            runtime.block_on(async {
                let server = Arc::new(Server {
                    dice: Mutex::new(Dice(seed)),
                    lease: Mutex::default(),
                    version: AtomicUsize::new(1),
                    is_calm: false.into(),
                });
                let leaders: Leaders = Arc::new(Mutex::new(vec![None, None]));
                let mut candidates = tokio::task::JoinSet::new();
                for index in 0..2 {
                    candidates.spawn(campaign(server.clone(), leaders.clone(), index));
                }
                let leading = || leaders.lock().iter().flatten().filter(|leadership| leadership.holds()).count();
                let (mut terms, mut was_leading) = (0, 0);
                for _ in 0..18_000 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let now = leading();
                    assert!(now <= 1, "two lead (seed {seed})");
                    terms += usize::from(now > was_leading);
                    was_leading = now;
                }
                assert!(terms > 3, "the lease changes hands: {terms} times in half an hour (seed {seed})");
                server.is_calm.store(true, Ordering::SeqCst);
                let begun = Instant::now();
                // A request that is under way, the lease that nobody renews, and the next look at it.
                while leading() == 0 {
                    assert!(begun.elapsed() < Duration::from_secs(90), "nobody leads (seed {seed})");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    }

    /// A machine that slept so long that others may lead: nothing more is done here, from the very moment on at which it wakes.
    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_machine_slept_leads_no_longer_although_its_own_clock_stood_still() {
        let server =
            Arc::new(Server { dice: Mutex::new(Dice(1)), lease: Mutex::default(), version: AtomicUsize::new(1), is_calm: true.into() });
        let (clock, slept) = sleeper();
        let candidate = Candidate::new(server.client(), "operators", "candidate".into(), clock);
        let (lease, leadership) = candidate.acquire(&CancellationToken::new()).await.expect("nobody else wants it");
        let lost = CancellationToken::new();
        let holds = {
            let (leadership, lost) = (leadership.clone(), lost.clone());
            tokio::spawn(async move { candidate.hold(lease, leadership, lost, CancellationToken::new()).await })
        };
        for (seconds, leads) in [(3, true), (3, true), (30, false)] {
            *slept.lock() += Duration::from_secs(seconds);
            assert_eq!(leadership.holds(), leads, "{seconds} s asleep");
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!((leadership.holds(), lost.is_cancelled()), (leads, !leads), "{seconds} s asleep, and a while after");
        }
        holds.await.expect("no panic");
    }
}
