//! What every pass shares.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    core::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    claims::{Claimant, Claims, ProviderKey},
    clock::Clock,
    cluster::{self, Announcement, Subject},
    credentials::Credentials,
    directory::{Connection, Directory},
    flaws::Flaws,
    leadership::Leadership,
    name::Name,
    objects::Objects,
    token::{self, RefreshTokens, Schedules},
    turns::Turns,
    uid::Uid,
    versions::Versions,
};
use crate::{
    api::{AppIdApplication, ProviderKind},
    metrics::Metrics,
    provider::http::HttpSettings,
};

/// What was decided at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace.
    pub namespace: String,
    /// UID of `kube-system`, which tells clusters apart.
    pub cluster_uid: String,
    /// Namespaces to watch; empty: all.
    pub watch_namespaces: Vec<String>,
    /// How often everything at the services is looked at; zero: never.
    pub drift_interval: Duration,
    /// How long a failing deletion is tried.
    pub deletion_budget: Duration,
    /// What all HTTP has in common.
    pub http: HttpSettings,
    /// Name of this process in events.
    pub instance: String,
}

/// What every pass shares.
pub struct Context {
    /// For everything but watches and the lease: without retries, with a read timeout.
    pub client: Client,
    /// What was decided at the start.
    pub settings: Settings,
    /// Versions of Secrets.
    pub secrets: Versions,
    /// Versions of ConfigMaps.
    pub config_maps: Versions,
    /// The Secrets that objects refer to.
    pub credentials: Arc<Credentials>,
    /// Who claims what.
    pub claims: Claims,
    /// The providers, ready to use.
    pub directory: Directory,
    /// The applications, to which tokens refer.
    pub applications: Arc<Objects<AppIdApplication>>,
    /// What time it is in the cluster.
    pub clock: Arc<Clock>,
    /// Of published tokens: what is known more exactly than status says.
    pub schedules: Schedules,
    /// What is wrong with templates.
    pub flaws: Flaws,
    /// Of refresh tokens: what was last read, and what is still to be stored.
    pub refresh_tokens: RefreshTokens,
    /// Labels of namespaces; `None` where they may not be read.
    pub namespaces: Option<Store<PartialObjectMeta<Namespace>>>,
    /// Turns of passes that ask no service: a thousand of them at once would take the memory and the connections of all others.
    pub local_turns: Arc<Turns>,
    /// Whether this process leads.
    pub leadership: Arc<Leadership>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is remembered of objects between passes.
    pub memory: Memory,
    /// How passes are asked for.
    pub wake: Wake,
}

/// What is remembered of objects between passes; losing it costs nothing but time.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<HashMap<Uid, Remembered>>,
    /// Objects that are gone, oldest first: forgotten when no pass can hold a picture of them any more.
    gone: Mutex<VecDeque<(Instant, Uid)>>,
}

#[derive(Debug, Default)]
struct Remembered {
    wakes: u64,
    attended: u64,
    wrote: Option<(u64, Instant)>,
    more: Option<Box<More>>,
}

/// What most objects have nothing of.
#[derive(Debug, Default)]
struct More {
    checked_at: Option<Timestamp>,
    repairs: Vec<Timestamp>,
    damage: Option<String>,
    reports: Vec<Timestamp>,
    request: Option<String>,
    unanswered_since: Option<Timestamp>,
    claimed: bool,
    cluster_failures: u32,
}

/// A picture older than our own write is not acted upon; the watch brings the newer one, mostly within milliseconds. After this long the
/// numbers are no longer trusted: a cluster that was put back to a backup counts from an earlier one.
const PICTURE_OVERDUE: Duration = Duration::from_secs(30);

/// More repairs than this within [`CONTEST_WINDOW`] mean that somebody else writes the Secret too.
const CONTESTED_AFTER: usize = 5;
const CONTEST_WINDOW: Duration = Duration::from_secs(600);
/// First pause between repairs of a contested Secret that is there; doubles with each further one, to 8 minutes.
const CONTEST_PAUSE: Duration = Duration::from_secs(30);
/// The same for one that is gone: without it Pods cannot start. It ends at a minute.
const CONTEST_PAUSE_OF_ABSENCE: Duration = Duration::from_secs(4);
/// So often a pause doubles.
const CONTEST_DOUBLINGS: usize = 4;

/// More reports than this within [`REPORTS_WINDOW`], with nothing new to say, mean that another operator looks after the same object.
const REPORTS_MOST: usize = 5;
const REPORTS_WINDOW: Duration = Duration::from_secs(60);

impl Memory {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Remembered) -> T) -> T {
        change(self.objects.lock().entry(Uid::of(uid)).or_default())
    }

    fn with_more<T>(&self, uid: &str, change: impl FnOnce(&mut More) -> T) -> T {
        self.with(uid, |remembered| change(remembered.more.get_or_insert_default()))
    }

    /// What `look` sees, if there is anything to see.
    fn more<T>(&self, uid: &str, look: impl FnOnce(&More) -> Option<T>) -> Option<T> {
        look(self.objects.lock().get(&Uid::of(uid))?.more.as_deref()?)
    }

    /// When the service was last looked at for this object, if that was in this process.
    #[must_use]
    pub fn checked_at(&self, uid: &str) -> Option<Timestamp> {
        self.more(uid, |more| more.checked_at)
    }

    /// The service was looked at.
    pub fn checked(&self, uid: &str, now: Timestamp) {
        self.with_more(uid, |more| more.checked_at = Some(now));
    }

    /// Something the object depends on has changed.
    pub fn wake(&self, uid: &str) {
        self.with(uid, |remembered| remembered.wakes += 1);
    }

    /// Whether a person's request on the object was taken up in this process.
    #[must_use]
    pub fn is_taken_up(&self, uid: &str, request: &str) -> bool {
        self.more(uid, |more| Some(more.request.as_deref() == Some(request))).unwrap_or(false)
    }

    /// A person's request on the object, if there is one, is taken up now.
    pub fn take_up(&self, uid: &str, request: Option<&str>) {
        if request.is_some() {
            self.with_more(uid, |more| more.request = request.map(ToOwned::to_owned));
        }
    }

    /// How often something the object depends on has changed so far.
    #[must_use]
    pub fn wakes(&self, uid: &str) -> u64 {
        self.objects.lock().get(&Uid::of(uid)).map_or(0, |remembered| remembered.wakes)
    }

    /// A pass that began after so many changes has reported: they are dealt with.
    pub fn attended(&self, uid: &str, wakes: u64) {
        if let Some(remembered) = self.objects.lock().get_mut(&Uid::of(uid)) {
            remembered.attended = remembered.attended.max(wakes);
        }
    }

    /// Whether something the object depends on has changed since the last pass that reported began.
    #[must_use]
    pub fn is_woken(&self, uid: &str) -> bool {
        self.objects.lock().get(&Uid::of(uid)).is_some_and(|remembered| remembered.wakes > remembered.attended)
    }

    /// Whether this damage of the Secret was seen before by a pass that could not mend it.
    #[must_use]
    pub fn knows_damage(&self, uid: &str, version: &str) -> bool {
        self.more(uid, |more| Some(more.damage.as_deref() == Some(version))).unwrap_or(false)
    }

    /// How a pass leaves the Secret: damaged in this version, or in order.
    pub fn leaves_damage(&self, uid: &str, version: Option<String>) {
        if version.is_some() || self.more(uid, |more| more.damage.as_ref().map(|_| ())).is_some() {
            self.with_more(uid, |more| more.damage = version);
        }
    }

    /// The status of an object was written.
    pub fn reported(&self, uid: &str, now: Timestamp) {
        self.with_more(uid, |more| {
            more.reports.retain(|at| now.duration_since(*at).unsigned_abs() < REPORTS_WINDOW);
            more.reports.push(now);
        });
    }

    /// Until when nothing more is reported of an object whose status somebody else writes, too.
    #[must_use]
    pub fn reports_again_at(&self, uid: &str, now: Timestamp) -> Option<Timestamp> {
        self.more(uid, |more| {
            let recent = more.reports.iter().filter(|at| now.duration_since(**at).unsigned_abs() < REPORTS_WINDOW);
            let last = recent.clone().next_back()?;
            let until = last.checked_add(REPORTS_WINDOW).ok()?;
            (recent.count() > REPORTS_MOST).then_some(until)
        })
    }

    /// This process wrote the finalizer onto the object, which had none: no predecessor has sent anything for it.
    pub fn claimed(&self, uid: &str) {
        self.with_more(uid, |more| more.claimed = true);
    }

    /// Whether this process was the first to claim the object.
    #[must_use]
    pub fn is_claimed_here(&self, uid: &str) -> bool {
        self.more(uid, |more| Some(more.claimed)).unwrap_or(false)
    }

    /// Something was sent for the object and not answered: it may still be carried out.
    pub fn unanswered(&self, uid: &str, now: Timestamp) {
        self.with_more(uid, |more| more.unanswered_since = Some(now));
    }

    /// Since when, while its status does not say so.
    #[must_use]
    pub fn unanswered_since(&self, uid: &str) -> Option<Timestamp> {
        self.more(uid, |more| more.unanswered_since)
    }

    /// The object's status stands as the pass wants it; if `it_tells`, it alone tells from now on what is unanswered.
    pub fn told(&self, uid: &str, it_tells: bool) {
        if it_tells && self.unanswered_since(uid).is_some() {
            self.with_more(uid, |more| more.unanswered_since = None);
        }
    }

    /// We wrote the object; `resource_version` is what the API server made of it.
    pub fn wrote(&self, uid: &str, resource_version: &str) {
        // Where versions are not numbers, a conflict tells what this would have told.
        if let Ok(version) = resource_version.parse() {
            self.with(uid, |remembered| remembered.wrote = Some((version, Instant::now())));
        }
    }

    /// We lifted our finalizer from what was pictured as `resource_version`. The API server may have removed the object without making a
    /// version of that: the picture itself is outdated from now on.
    pub fn released(&self, uid: &str, resource_version: &str) {
        if let Ok(version) = resource_version.parse::<u64>() {
            self.with(uid, |remembered| remembered.wrote = Some((version.saturating_add(1), Instant::now())));
        }
    }

    /// Whether a picture of the object is older than what we wrote.
    #[must_use]
    pub fn is_outdated(&self, uid: &str, resource_version: &str) -> bool {
        let memory = self.objects.lock();
        let Some((wrote, at)) = memory.get(&Uid::of(uid)).and_then(|remembered| remembered.wrote) else { return false };
        at.elapsed() < PICTURE_OVERDUE && resource_version.parse::<u64>().is_ok_and(|seen| seen < wrote)
    }

    /// The Secret was put back.
    pub fn repaired(&self, uid: &str, now: Timestamp) {
        self.with_more(uid, |more| {
            more.repairs.retain(|at| now.duration_since(*at).unsigned_abs() < CONTEST_WINDOW);
            more.repairs.push(now);
        });
    }

    /// Until when a Secret that is changed, or deleted, again and again is left as it is.
    #[must_use]
    pub fn contested_until(&self, uid: &str, is_gone: bool, now: Timestamp) -> Option<Timestamp> {
        self.more(uid, |more| {
            let recent: Vec<_> = more.repairs.iter().filter(|at| now.duration_since(**at).unsigned_abs() < CONTEST_WINDOW).collect();
            let beyond = recent.len().checked_sub(CONTESTED_AFTER)?;
            let first = if is_gone { CONTEST_PAUSE_OF_ABSENCE } else { CONTEST_PAUSE };
            let pause = first.saturating_mul(1 << beyond.min(CONTEST_DOUBLINGS));
            recent.last()?.checked_add(pause).ok().filter(|until| *until > now)
        })
    }

    /// Counts a pass that failed at the API server; says how many in a row.
    pub fn cluster_failed(&self, uid: &str) -> u32 {
        self.with_more(uid, |more| {
            more.cluster_failures = more.cluster_failures.saturating_add(1);
            more.cluster_failures
        })
    }

    /// A pass did not fail at the API server.
    pub fn cluster_answered(&self, uid: &str) {
        if self.more(uid, |more| (more.cluster_failures > 0).then_some(())).is_some() {
            self.with_more(uid, |more| more.cluster_failures = 0);
        }
    }

    /// The object is gone. A pass that was asked for before may still hold a picture of it: every such picture is outdated.
    pub fn forget(&self, uid: &str) {
        let uid = Uid::of(uid);
        self.objects.lock().insert(uid, Remembered { wrote: Some((u64::MAX, Instant::now())), ..Remembered::default() });
        let mut gone = self.gone.lock();
        gone.push_back((Instant::now(), uid));
        while gone.front().is_some_and(|(at, _)| at.elapsed() >= PICTURE_OVERDUE) {
            let forgotten = gone.pop_front();
            forgotten.and_then(|(_, uid)| self.objects.lock().remove(&uid));
        }
    }
}

/// How passes are asked for.
#[derive(Clone, Debug)]
pub struct Wake {
    /// Queue of applications.
    pub applications: UnboundedSender<Name>,
    /// Queue of tokens.
    pub tokens: UnboundedSender<Name>,
    /// Queue of providers.
    pub providers: UnboundedSender<Name>,
    /// Queue of cluster providers.
    pub cluster_providers: UnboundedSender<Name>,
}

impl Wake {
    /// Asks for a pass over a provider.
    pub fn provider(&self, key: &ProviderKey) {
        let queue = match key.kind {
            ProviderKind::IdentityProvider => &self.providers,
            ProviderKind::ClusterIdentityProvider | ProviderKind::Unknown => &self.cluster_providers,
        };
        drop(queue.send(Name::new(&key.namespace, &key.name)));
    }

    /// Asks for a pass over a claimant. A queue that is closed belongs to a process that ends.
    pub fn claimant(&self, claimant: &Claimant) {
        let queue = if claimant.kind == token::KIND { &self.tokens } else { &self.applications };
        drop(queue.send(claimant.name.clone()));
    }
}

impl Context {
    /// Labels of a namespace, where they may be read.
    #[must_use]
    pub fn labels_of(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.as_ref()?.get(&ObjectRef::new(namespace))?.metadata.labels.clone()
    }

    /// An object that uses a provider is gone: what was noted of it goes, too.
    pub fn forget(&self, uid: &str) {
        self.flaws.forget(uid);
        self.schedules.forget(uid);
        self.refresh_tokens.forget(uid);
    }

    /// Writes an event about an object, in this process's name.
    pub async fn announce(&self, subject: &Subject, announcement: &Announcement) {
        cluster::announce(&self.client, subject, &self.settings.namespace, &self.settings.instance, announcement).await;
    }

    /// An object met a failure that speaks of its provider: the provider is looked at, once, so that its own status says so too.
    pub fn doubt(&self, provider: &ProviderKey, over: &Arc<Connection>) {
        if let Some(uid) = self.directory.doubt(provider, over) {
            self.memory.wake(&uid);
            self.wake.provider(provider);
        }
    }

    /// An object met a success at the service: a provider that was doubted is looked at again, once.
    pub fn reassure(&self, provider: &ProviderKey, over: &Arc<Connection>) {
        if let Some(uid) = self.directory.reassure(provider, over) {
            self.memory.wake(&uid);
            self.wake.provider(provider);
        }
    }

    /// Asks for a pass over each, which looks at everything anew.
    pub fn wake_all(&self, claimants: impl IntoIterator<Item = Claimant>) {
        let mut seen = HashSet::new();
        for claimant in claimants {
            if seen.insert(claimant.uid.clone()) {
                self.memory.wake(&claimant.uid);
                self.wake.claimant(&claimant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a deletion would begin anew with an object that was let go: what is retained would be deleted.
    #[test]
    fn a_picture_from_before_an_object_was_let_go_is_outdated_also_when_the_object_is_gone() {
        let memory = Memory::default();
        assert!(!memory.is_outdated("uid", "41"));
        memory.released("uid", "41");
        assert!(memory.is_outdated("uid", "41"), "the API server made no version of the removal");
        assert!(!memory.is_outdated("uid", "42"), "others' finalizers keep it");
        memory.forget("uid");
        assert!(memory.is_outdated("uid", "41") && memory.is_outdated("uid", "42"));
        assert!(!memory.is_outdated("another", "41"));
    }

    #[test]
    fn pauses_between_repairs_grow_to_a_bound_and_are_short_for_a_secret_that_is_gone() {
        let memory = Memory::default();
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        let pauses = |memory: &Memory, now: i64| {
            [true, false].map(|is_gone| memory.contested_until("uid", is_gone, at(now)).map(|until| until.as_second() - now))
        };
        for repair in 0..4 {
            memory.repaired("uid", at(repair));
            assert_eq!(pauses(&memory, repair), [None, None], "{repair}");
        }
        let mut seen = Vec::new();
        for repair in 4..12 {
            memory.repaired("uid", at(repair));
            seen.push(pauses(&memory, repair).map(Option::unwrap_or_default));
        }
        assert_eq!(seen, [[4, 30], [8, 60], [16, 120], [32, 240], [64, 480], [64, 480], [64, 480], [64, 480]]);
        assert_eq!(pauses(&memory, 1000), [None, None], "what is long ago does not count");
    }
}
