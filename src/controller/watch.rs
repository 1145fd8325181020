//! Watches: one task each, so that one that fails slows no other.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, reflector::ObjectRef, watcher},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, hash::Hash};

/// What a watch over all watched namespaces says.
#[derive(Debug)]
pub enum Change<K> {
    /// An object is there, or has changed.
    Applied(K),
    /// An object is gone. After a gap in the watch this is concluded from a list.
    Deleted(K),
    /// Everything that existed at the start has been applied.
    Complete,
}

/// Watches an API and hands every change to `on_change`, in order. Never returns.
///
/// The API server's own repetition of what is already known is passed on as `Applied`; receivers compare versions.
pub async fn follow<K>(api: Api<K>, config: watcher::Config, mut on_change: impl FnMut(Change<K>) + Send)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let mut known: HashSet<ObjectRef<K>> = HashSet::new();
    let mut relisted: HashSet<ObjectRef<K>> = HashSet::new();
    let stream = watcher(api, config)
        .inspect_err(|error| tracing::warn!(kind = %K::kind(&K::DynamicType::default()), %error, "a watch failed; it is started again"))
        .default_backoff();
    let mut stream = Box::pin(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => relisted.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                relisted.insert(ObjectRef::from_obj(&object));
                on_change(Change::Applied(pruned(object)));
            }
            Ok(watcher::Event::InitDone) => {
                for gone in known.difference(&relisted) {
                    if let Some(tombstone) = tombstone(gone) {
                        on_change(Change::Deleted(tombstone));
                    }
                }
                known = std::mem::take(&mut relisted);
                on_change(Change::Complete);
            }
            Ok(watcher::Event::Apply(object)) => {
                known.insert(ObjectRef::from_obj(&object));
                on_change(Change::Applied(pruned(object)));
            }
            Ok(watcher::Event::Delete(object)) => {
                known.remove(&ObjectRef::from_obj(&object));
                on_change(Change::Deleted(pruned(object)));
            }
            Err(_) => {}
        }
    }
}

/// What nobody here reads would only fill memory.
fn pruned<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    object
}

/// An object of which only the name is known any more.
fn tombstone<K: Resource + DeserializeOwned>(gone: &ObjectRef<K>) -> Option<K>
where
    K::DynamicType: Default,
{
    let blank = serde_json::json!({
        "apiVersion": K::api_version(&K::DynamicType::default()), "kind": K::kind(&K::DynamicType::default()),
        "metadata": { "name": gone.name, "namespace": gone.namespace }, "spec": { "providerRef": { "name": "gone" } }
    });
    serde_json::from_value(blank).ok()
}
