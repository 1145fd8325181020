//! From a change in the cluster to a truthful status: gather → plan → perform → report, the same for every kind.

pub mod application;
pub mod claims;
pub mod clock;
pub mod cluster;
pub mod context;
pub mod credentials;
pub mod directory;
pub mod leadership;
pub mod provider;
pub mod published;
pub mod report;
pub mod run;
pub mod token;
pub mod versions;
pub mod watch;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Resource, runtime::controller::Action};

pub use context::Context;

use cluster::Abort;

/// Never look sooner than this, so that a time that has just passed makes no busy loop.
const SOONEST: Duration = Duration::from_millis(50);
/// A picture older than what we wrote is left for this long: the watch brings the newer one sooner.
const OUTDATED: Duration = Duration::from_secs(1);
/// Never sleep longer than this: timers do not follow steps of the clock.
const LATEST: Duration = Duration::from_secs(3600);

/// One kind of object, in the four words of a pass.
///
/// The second kind, and the second service, add an implementation of this; [`reconcile`] stays as it is.
pub trait Kind: Send + Sync + 'static {
    /// The object.
    type Object: Resource<DynamicType = ()> + Clone + Send + Sync + 'static;
    /// Everything that one pass knows.
    type Pass: Send;
    /// One thing to do.
    type Step: std::fmt::Debug + Send + Sync;

    /// The kind's name, for metrics and logs.
    const NAME: &'static str;

    /// From memory alone: when to look again, if there is nothing to do now. `None`: there may be something to do.
    fn settled(context: &Context, object: &Self::Object, now: Timestamp) -> Option<Option<Timestamp>>;

    /// Waits until it is this object's turn with its tenant. What is returned is held for the whole pass.
    fn admitted(context: &Arc<Context>, object: &Self::Object) -> impl Future<Output = Option<crate::provider::gate::Permit>> + Send;

    /// Gather: reads what the pass needs to know.
    fn gather(context: &Arc<Context>, object: Arc<Self::Object>) -> impl Future<Output = Result<Self::Pass, Abort>> + Send;

    /// Plan: the next step, or none.
    fn plan(pass: &Self::Pass, now: Timestamp) -> Option<Self::Step>;

    /// Perform: one step; what comes of it is part of the pass from then on.
    fn perform(pass: &mut Self::Pass, step: Self::Step) -> impl Future<Output = Result<(), Abort>> + Send;

    /// Report: one status write if anything changed, and events. Says when to look again.
    fn report(pass: Self::Pass, now: Timestamp) -> impl Future<Output = Result<Option<Timestamp>, Abort>> + Send;
}

/// One pass over one object.
///
/// # Errors
///
/// When the pass ended without a report; [`after_abort`] says what then.
pub async fn reconcile<K: Kind>(object: Arc<K::Object>, context: Arc<Context>) -> Result<Action, Abort> {
    let (uid, version) = (object.meta().uid.as_deref().unwrap_or_default(), object.meta().resource_version.as_deref().unwrap_or_default());
    if context.memory.is_outdated(uid, version) {
        return Ok(Action::requeue(OUTDATED));
    }
    if let Some(again) = K::settled(&context, &object, Timestamp::now()) {
        return Ok(wait_until(again));
    }
    let begun = Instant::now();
    let _turn = K::admitted(&context, &object).await;
    // Boxed: a thousand objects that wait for their turn must not hold a thousand whole passes.
    let result = Box::pin(work::<K>(object.clone(), context.clone())).await;
    let outcome = result.as_ref().map_or_else(Abort::as_str, |_| "done");
    context.metrics.reconciled(K::NAME, outcome, begun.elapsed());
    context.memory.cluster_answered_if(uid, result.is_ok());
    result.map(wait_until)
}

async fn work<K: Kind>(object: Arc<K::Object>, context: Arc<Context>) -> Result<Option<Timestamp>, Abort> {
    let uid = object.meta().uid.clone().unwrap_or_default();
    let wakes = context.memory.wakes(&uid);
    let mut pass = K::gather(&context, object).await?;
    while let Some(step) = K::plan(&pass, Timestamp::now()) {
        if !context.leadership.holds() {
            return Err(Abort::LostLease);
        }
        tracing::debug!(kind = K::NAME, ?step, "performing");
        K::perform(&mut pass, step).await?;
    }
    if !context.leadership.holds() {
        return Err(Abort::LostLease);
    }
    let again = K::report(pass, Timestamp::now()).await?;
    // Only now: what woke an object whose pass was cut short is still to be dealt with.
    context.memory.attended(&uid, wakes);
    Ok(again)
}

/// What follows a pass that ended without a report.
pub fn after_abort<K: Kind>(object: Arc<K::Object>, abort: &Abort, context: Arc<Context>) -> Action {
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    match abort {
        // The watch brings the newer picture, mostly before this is over.
        Abort::Stale => Action::requeue(Duration::from_millis(250)),
        Abort::Gone | Abort::LostLease => Action::await_change(),
        Abort::Cluster { .. } => {
            let failures = context.memory.cluster_failed(uid);
            let wait = Duration::from_millis(500).saturating_mul(1 << failures.min(7));
            tracing::warn!(kind = K::NAME, object = %object.meta().name.as_deref().unwrap_or_default(), error = %abort, ?wait, "a pass failed at the API server");
            Action::requeue(crate::plan::wait::spread(wait, uid, failures, 0.0, 0.3))
        }
    }
}

fn wait_until(again: Option<Timestamp>) -> Action {
    let Some(at) = again else { return Action::await_change() };
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    Action::requeue(left.clamp(SOONEST, LATEST))
}
