//! From a change in the cluster to a truthful status: gather → plan → perform → report, the same for every kind.

pub mod application;
pub mod asleep;
pub mod claims;
pub mod clock;
pub mod cluster;
pub mod context;
pub mod credentials;
pub mod directory;
pub mod flaws;
pub mod leadership;
pub mod name;
pub mod objects;
pub mod provider;
pub mod published;
pub mod queue;
mod reactions;
pub mod report;
pub mod run;
pub mod token;
pub mod turns;
pub mod uid;
pub mod versions;
pub mod watch;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::Resource;

pub use context::Context;

use cluster::Abort;
use name::Name;
use objects::{Kept, Objects};
use queue::{Look, Work};
use turns::Turns;

use crate::provider::Urgency;

/// Never look sooner than this, so that a time that has just passed makes no busy loop.
const SOONEST: Duration = Duration::from_millis(5);
/// A picture older than what we wrote is left for this long: the watch brings the newer one sooner.
const OUTDATED: Duration = Duration::from_secs(1);
/// Never sleep longer than this: timers do not follow steps of the clock.
const LATEST: Duration = Duration::from_secs(3600);

/// One kind of object, in the four words of a pass.
///
/// The second kind, and the second service, add an implementation of this; [`Passes`] stays as it is.
pub trait Kind: Send + Sync + 'static {
    /// The object.
    type Object: Kept;
    /// What is known of an object without reading anything.
    type Known: Send + 'static;
    /// Everything that one pass knows.
    type Pass: Send;
    /// One thing to do.
    type Step: std::fmt::Debug + Send + Sync;

    /// The kind's name, for metrics and logs.
    const NAME: &'static str;

    /// From memory alone: whether there may be something to do.
    fn look(context: &Context, object: &Self::Object, now: Timestamp) -> Found<Self::Known>;

    /// Gather: reads what the pass needs to know besides what is known.
    fn gather(
        context: &Arc<Context>,
        object: Arc<Self::Object>,
        known: Self::Known,
    ) -> impl Future<Output = Result<Self::Pass, Abort>> + Send;

    /// Plan: the next step, or none.
    fn plan(pass: &Self::Pass, now: Timestamp) -> Option<Self::Step>;

    /// Perform: one step; what comes of it is part of the pass from then on.
    fn perform(pass: &mut Self::Pass, step: Self::Step) -> impl Future<Output = Result<(), Abort>> + Send;

    /// Report: one status write if anything changed, and events. Says when to look again.
    fn report(pass: Self::Pass, now: Timestamp) -> impl Future<Output = Result<Option<Timestamp>, Abort>> + Send;
}

/// What a look from memory alone finds.
pub enum Found<Known> {
    /// Nothing to do; when to look again.
    Nothing(Option<Timestamp>),
    /// There may be something to do.
    Work {
        /// What is known already.
        known: Known,
        /// Whose turn a pass needs, and how urgently.
        turn: Option<(Arc<Turns>, Urgency)>,
        /// While it waits for its turn: when there is something to be said of it.
        meanwhile: Option<Timestamp>,
    },
}

/// Passes over all objects of a kind.
pub struct Passes<K: Kind> {
    /// What every pass shares.
    pub context: Arc<Context>,
    /// The objects.
    pub objects: Arc<Objects<K::Object>>,
}

/// What a pass begins with.
pub struct Ready<K: Kind> {
    object: Arc<K::Object>,
    known: K::Known,
    /// How often something the object depends on had changed before anything was looked at.
    wakes: u64,
}

impl<K: Kind> Work for Passes<K> {
    type Ready = Ready<K>;

    fn look(&self, name: &Name) -> Look<Ready<K>> {
        let Some(object) = self.objects.get(name) else { return Look::Rest(None) };
        let (uid, version) =
            (object.meta().uid.as_deref().unwrap_or_default(), object.meta().resource_version.as_deref().unwrap_or_default());
        if self.context.memory.is_outdated(uid, version) {
            return Look::Rest(Some(OUTDATED));
        }
        let wakes = self.context.memory.wakes(uid);
        match K::look(&self.context, &object, Timestamp::now()) {
            Found::Nothing(again) => Look::Rest(wait_until(again)),
            Found::Work { known, turn, meanwhile } => {
                Look::Pass { ready: Ready { object, known, wakes }, turn, meanwhile: wait_until(meanwhile) }
            }
        }
    }

    fn pass(&self, ready: Ready<K>) -> impl Future<Output = Option<Duration>> + Send + 'static {
        reconcile::<K>(ready, self.context.clone())
    }
}

/// One pass over one object. Says after what time to look again.
async fn reconcile<K: Kind>(ready: Ready<K>, context: Arc<Context>) -> Option<Duration> {
    let begun = Instant::now();
    let object = ready.object.clone();
    let result = work::<K>(ready, &context).await;
    let outcome = result.as_ref().map_or_else(Abort::as_str, |_| "done");
    context.metrics.reconciled(K::NAME, outcome, begun.elapsed());
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    if !context.claims.lives(uid) {
        // A pass that outlived its object noted things of it that nobody would forget any more.
        context.forget(uid);
    }
    match result {
        Ok(again) => {
            context.memory.cluster_answered(uid);
            wait_until(again)
        }
        Err(abort) => after_abort::<K>(&object, &abort, &context),
    }
}

async fn work<K: Kind>(Ready { object, known, wakes }: Ready<K>, context: &Arc<Context>) -> Result<Option<Timestamp>, Abort> {
    let uid = object.meta().uid.clone().unwrap_or_default();
    let name = Name::of(object.meta());
    let mut pass = K::gather(context, object, known).await?;
    while let Some(step) = K::plan(&pass, Timestamp::now()) {
        if !context.leadership.holds() {
            return Err(Abort::LostLease);
        }
        tracing::debug!(kind = K::NAME, object = %name, ?step, "performing");
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

/// After what time to look again when a pass ended without a report. `None`: a change will come, or nothing is to be done any more.
fn after_abort<K: Kind>(object: &K::Object, abort: &Abort, context: &Context) -> Option<Duration> {
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    match abort {
        // The watch brings the newer picture, mostly before this is over.
        Abort::Stale => {
            let again = context.memory.cluster_failed(uid).saturating_sub(1);
            Some(Duration::from_millis(250).saturating_mul(1 << again.min(5)))
        }
        Abort::Gone | Abort::LostLease => None,
        Abort::Cluster { .. } => {
            let failures = context.memory.cluster_failed(uid);
            let wait = Duration::from_millis(500).saturating_mul(1 << failures.min(7));
            tracing::warn!(kind = K::NAME, object = %object.meta().name.as_deref().unwrap_or_default(), error = %abort, ?wait, "a pass failed at the API server");
            Some(crate::plan::wait::spread(wait, uid, failures, 0.0, 0.3))
        }
    }
}

fn wait_until(again: Option<Timestamp>) -> Option<Duration> {
    let left = Duration::try_from(again?.duration_since(Timestamp::now())).unwrap_or_default();
    Some(left.clamp(SOONEST, LATEST))
}
