//! Watches: one task each, so that one that fails slows no other.

use std::{
    collections::HashSet,
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

/// So many objects, of which metadata is all that is asked for, are listed at a time.
pub const METADATA_PAGE: u32 = 250;
/// So many whole objects are listed at a time. An object as it arrives, with everything that is dropped at once, takes ten times the memory
/// of what is kept of it: the first list is the peak of the whole process.
const OBJECT_PAGE: u32 = 100;
/// A namespace that may not be read, or does not exist, for this long at the start counts as empty: others must not wait for it.
const UNREADABLE_FOR: Duration = Duration::from_secs(15);

/// Watches an API, listing `page` objects at a time, and hands every event to `on_event`, in order. Never returns: what fails is logged and started again.
///
/// With `may_be_missing`, what is forbidden or not found from the start is handed over as an empty list after a while. It is asked for
/// all the same, and listed when it can be.
pub async fn follow<K>(api: Api<K>, page: u32, may_be_missing: bool, mut on_event: impl FnMut(Event<K>) + Send)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let stream = watcher(api, watcher::Config::default().page_size(page))
        .inspect_err(|error| tracing::warn!(kind, error = %first_line(error), "a watch failed; it is started again"))
        .default_backoff();
    let mut stream = Box::pin(stream);
    let begun = Instant::now();
    let mut is_listed = !may_be_missing;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                is_listed |= matches!(event, Event::InitDone);
                on_event(event);
            }
            Err(error) if !is_listed && is_denied(&error) && begun.elapsed() >= UNREADABLE_FOR => {
                tracing::error!(kind, error = %first_line(&error), "a watched namespace cannot be read; it counts as empty until it can");
                is_listed = true;
                on_event(Event::Init);
                on_event(Event::InitDone);
            }
            Err(_) => {}
        }
    }
}

fn is_denied(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.is_forbidden() || status.is_not_found()
}

fn first_line(error: &watcher::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What became of an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is there, or has changed.
    Applied(Arc<K>),
    /// It is gone.
    Deleted(Arc<K>),
}

/// A store of all objects of a kind, fed by one watch per watched namespace.
pub struct Feed<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone + Default,
{
    store: Store<K>,
    writer: Mutex<Writer<K>>,
    unlisted: Mutex<usize>,
    /// Objects that went while other namespaces were still being listed: the writer can remove them only afterwards.
    gone_early: Mutex<HashSet<ObjectRef<K>>>,
}

impl<K> Feed<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Default,
{
    /// A store that is complete when `watches` watches have listed everything.
    #[must_use]
    pub fn new(watches: usize) -> Arc<Self> {
        let mut writer = Writer::<K>::new(K::DynamicType::default());
        let store = writer.as_reader();
        writer.apply_watcher_event(&Event::Init);
        if watches == 0 {
            // Nobody will say that everything was listed: there is nothing.
            writer.apply_watcher_event(&Event::InitDone);
        }
        Arc::new(Self { store, writer: Mutex::new(writer), unlisted: Mutex::new(watches), gone_early: Mutex::default() })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Feeds the store from one API, for ever. An object that this version cannot read is left out and handed to `on_unreadable`.
    pub async fn run(
        self: Arc<Self>,
        api: Api<DeserializeGuard<K>>,
        may_be_missing: bool,
        on_change: impl Fn(Change<K>) + Send + Sync,
        on_unreadable: impl Fn(kube::core::error_boundary::InvalidObject) + Send + Sync,
    ) {
        let mut known: HashSet<ObjectRef<K>> = HashSet::new();
        let mut listed: HashSet<ObjectRef<K>> = HashSet::new();
        follow(api, OBJECT_PAGE, may_be_missing, |event| match event {
            Event::Init => listed.clear(),
            Event::InitApply(DeserializeGuard(Ok(object))) => {
                listed.insert(ObjectRef::from_obj(&object));
                self.apply(object, &on_change);
            }
            Event::InitDone => {
                for gone in known.difference(&listed) {
                    self.delete(gone, &on_change);
                }
                known = std::mem::take(&mut listed);
                self.listed(&on_change);
            }
            Event::Apply(DeserializeGuard(Ok(object))) => {
                known.insert(ObjectRef::from_obj(&object));
                self.apply(object, &on_change);
            }
            Event::Delete(DeserializeGuard(Ok(object))) => {
                let gone = ObjectRef::from_obj(&object);
                known.remove(&gone);
                self.delete(&gone, &on_change);
            }
            Event::InitApply(DeserializeGuard(Err(invalid)))
            | Event::Apply(DeserializeGuard(Err(invalid)))
            | Event::Delete(DeserializeGuard(Err(invalid))) => {
                on_unreadable(invalid);
            }
        })
        .await;
    }

    fn is_complete(&self) -> bool {
        *self.unlisted.lock() == 0
    }

    fn apply(&self, object: K, on_change: &impl Fn(Change<K>)) {
        let object = pruned(object);
        let replaced = self.store.get(&ObjectRef::from_obj(&object)).filter(|former| former.uid() != object.uid());
        if let Some(former) = replaced {
            // Its deletion fell into a gap of the watch.
            on_change(Change::Deleted(former));
        }
        // Until everything is listed the writer collects; what is applied beside the collection would be lost with it.
        let event = if self.is_complete() {
            Event::Apply(object.clone())
        } else {
            self.gone_early.lock().remove(&ObjectRef::from_obj(&object));
            Event::InitApply(object.clone())
        };
        self.writer.lock().apply_watcher_event(&event);
        on_change(Change::Applied(Arc::new(object)));
    }

    fn delete(&self, gone: &ObjectRef<K>, on_change: &impl Fn(Change<K>)) {
        if !self.is_complete() {
            self.gone_early.lock().insert(gone.clone());
            return;
        }
        let Some(object) = self.store.get(gone) else { return };
        self.writer.lock().apply_watcher_event(&Event::Delete((*object).clone()));
        on_change(Change::Deleted(object));
    }

    fn listed(&self, on_change: &impl Fn(Change<K>)) {
        {
            let mut unlisted = self.unlisted.lock();
            if *unlisted == 0 {
                return;
            }
            *unlisted -= 1;
            if *unlisted > 0 {
                return;
            }
            self.writer.lock().apply_watcher_event(&Event::InitDone);
        }
        let gone = std::mem::take(&mut *self.gone_early.lock());
        gone.iter().for_each(|gone| self.delete(gone, on_change));
    }
}

/// What nobody here reads would only fill memory.
fn pruned<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::IdentityProvider;

    fn provider(namespace: &str) -> IdentityProvider {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "p", "namespace": namespace, "uid": namespace }, "spec": {} }))
            .expect("valid")
    }

    #[test]
    fn what_changes_in_one_namespace_while_another_is_still_listed_is_not_lost() {
        let feed = Feed::<IdentityProvider>::new(2);
        let ignore = |_| ();
        for namespace in ["kept", "deleted"] {
            feed.apply(provider(namespace), &ignore);
        }
        feed.listed(&ignore);
        feed.apply(provider("late"), &ignore);
        feed.delete(&ObjectRef::new("p").within("deleted"), &ignore);
        feed.apply(provider("other"), &ignore);
        feed.listed(&ignore);
        let mut namespaces: Vec<_> = feed.store().state().iter().filter_map(|object| object.namespace()).collect();
        namespaces.sort();
        assert_eq!(namespaces, ["kept", "late", "other"]);
    }
}
