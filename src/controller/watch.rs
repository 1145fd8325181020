//! Watches: one task each, so that one that fails slows no other.

use std::{collections::HashSet, fmt::Debug, hash::Hash, sync::Arc};

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

/// Watches an API and hands every event to `on_event`, in order. Never returns: what fails is logged and started again.
pub async fn follow<K>(api: Api<K>, mut on_event: impl FnMut(Event<K>) + Send)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let stream = watcher(api, watcher::Config::default())
        .inspect_err(|error| tracing::warn!(kind, error = %first_line(error), "a watch failed; it is started again"))
        .default_backoff();
    let mut stream = Box::pin(stream);
    while let Some(event) = stream.next().await {
        if let Ok(event) = event {
            on_event(event);
        }
    }
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
        Arc::new(Self { store, writer: Mutex::new(writer), unlisted: Mutex::new(watches) })
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
        on_change: impl Fn(Change<K>) + Send + Sync,
        on_unreadable: impl Fn(kube::core::error_boundary::InvalidObject) + Send + Sync,
    ) {
        let mut known: HashSet<ObjectRef<K>> = HashSet::new();
        let mut listed: HashSet<ObjectRef<K>> = HashSet::new();
        follow(api, |event| match event {
            Event::Init => listed.clear(),
            Event::InitApply(DeserializeGuard(Ok(object))) => {
                listed.insert(ObjectRef::from_obj(&object));
                self.apply(object, true, &on_change);
            }
            Event::InitDone => {
                for gone in known.difference(&listed) {
                    self.delete(gone, &on_change);
                }
                known = std::mem::take(&mut listed);
                self.listed();
            }
            Event::Apply(DeserializeGuard(Ok(object))) => {
                known.insert(ObjectRef::from_obj(&object));
                self.apply(object, false, &on_change);
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

    fn apply(&self, object: K, from_list: bool, on_change: &impl Fn(Change<K>)) {
        let object = pruned(object);
        let event = if from_list && !self.is_complete() { Event::InitApply(object.clone()) } else { Event::Apply(object.clone()) };
        self.writer.lock().apply_watcher_event(&event);
        on_change(Change::Applied(Arc::new(object)));
    }

    fn delete(&self, gone: &ObjectRef<K>, on_change: &impl Fn(Change<K>)) {
        let Some(object) = self.store.get(gone) else { return };
        self.writer.lock().apply_watcher_event(&Event::Delete((*object).clone()));
        on_change(Change::Deleted(object));
    }

    fn listed(&self) {
        let mut unlisted = self.unlisted.lock();
        if *unlisted > 0 {
            *unlisted -= 1;
            if *unlisted == 0 {
                self.writer.lock().apply_watcher_event(&Event::InitDone);
            }
        }
    }
}

/// What nobody here reads would only fill memory.
fn pruned<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    object
}
