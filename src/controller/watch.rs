//! Watches: one task each, so that one that fails slows no other.

use std::{
    collections::HashSet,
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::{
    name::Name,
    objects::{Kept, Objects},
};

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

/// Feeds the store of a kind from one API, for ever. An object that this version cannot read is left out and handed to `on_unreadable`.
pub async fn feed<K: Kept>(
    objects: Arc<Objects<K>>,
    api: Api<DeserializeGuard<K>>,
    may_be_missing: bool,
    on_change: impl Fn(Change<K>) + Send + Sync,
    on_unreadable: impl Fn(kube::core::error_boundary::InvalidObject) + Send + Sync,
) {
    let mut view = View { objects, known: HashSet::new(), listed: HashSet::new(), is_listed: false };
    follow(api, OBJECT_PAGE, may_be_missing, |event| match event {
        Event::Init => view.listed.clear(),
        Event::InitApply(DeserializeGuard(Ok(object))) => {
            let name = view.apply(object, &on_change);
            view.listed.insert(name);
        }
        Event::InitDone => view.all_is_listed(&on_change),
        Event::Apply(DeserializeGuard(Ok(object))) => {
            let name = view.apply(object, &on_change);
            view.known.insert(name);
        }
        Event::Delete(DeserializeGuard(Ok(object))) => {
            let gone = Name::of(object.meta());
            view.known.remove(&gone);
            view.delete(&gone, &on_change);
        }
        // It is there: what was read of it before stays.
        Event::InitApply(DeserializeGuard(Err(invalid))) => {
            view.listed.insert(Name::of(&invalid.metadata));
            on_unreadable(invalid);
        }
        Event::Apply(DeserializeGuard(Err(invalid))) => on_unreadable(invalid),
        // It may have been readable once.
        Event::Delete(DeserializeGuard(Err(invalid))) => {
            let gone = Name::of(&invalid.metadata);
            view.known.remove(&gone);
            view.delete(&gone, &on_change);
        }
    })
    .await;
}

/// One watch's view of the store that it feeds with others.
struct View<K: Kept> {
    objects: Arc<Objects<K>>,
    /// What this watch has brought.
    known: HashSet<Name>,
    /// What it has brought since it began to list anew.
    listed: HashSet<Name>,
    is_listed: bool,
}

impl<K: Kept> View<K> {
    fn apply(&self, object: K, on_change: &impl Fn(Change<K>)) -> Name {
        let object = Arc::new(pruned(object));
        let (name, replaced) = self.objects.put(&object);
        if let Some(former) = replaced {
            // Its deletion fell into a gap of the watch.
            on_change(Change::Deleted(former));
        }
        on_change(Change::Applied(object));
        name
    }

    fn delete(&self, gone: &Name, on_change: &impl Fn(Change<K>)) {
        if let Some(object) = self.objects.remove(gone) {
            on_change(Change::Deleted(object));
        }
    }

    fn all_is_listed(&mut self, on_change: &impl Fn(Change<K>)) {
        let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listed));
        for gone in before.difference(&self.known) {
            self.delete(gone, on_change);
        }
        if !std::mem::replace(&mut self.is_listed, true) {
            self.objects.listed();
        }
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
    use parking_lot::Mutex;

    fn provider(namespace: &str) -> IdentityProvider {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "p", "namespace": namespace, "uid": namespace }, "spec": {} }))
            .expect("valid")
    }

    fn view(objects: &Arc<Objects<IdentityProvider>>) -> View<IdentityProvider> {
        View { objects: objects.clone(), known: HashSet::new(), listed: HashSet::new(), is_listed: false }
    }

    fn namespaces(objects: &Objects<IdentityProvider>) -> Vec<String> {
        let mut namespaces: Vec<_> = objects.all().iter().filter_map(|object| object.metadata.namespace.clone()).collect();
        namespaces.sort();
        namespaces
    }

    #[test]
    fn what_changes_in_one_namespace_while_another_is_still_listed_is_not_lost() {
        let objects = Objects::<IdentityProvider>::new(2);
        let (mut one, mut other) = (view(&objects), view(&objects));
        let ignore = |_| ();
        for namespace in ["kept", "deleted"] {
            let name = one.apply(provider(namespace), &ignore);
            one.listed.insert(name);
        }
        one.all_is_listed(&ignore);
        one.apply(provider("late"), &ignore);
        one.delete(&Name::new("deleted", "p"), &ignore);
        other.apply(provider("other"), &ignore);
        other.all_is_listed(&ignore);
        assert_eq!(namespaces(&objects), ["kept", "late", "other"]);
    }

    #[test]
    fn what_vanished_while_a_watch_was_broken_is_told_by_that_watch_alone() {
        let objects = Objects::<IdentityProvider>::new(2);
        let (mut one, mut other) = (view(&objects), view(&objects));
        let ignore = |_| ();
        for namespace in ["a", "b"] {
            let name = one.apply(provider(namespace), &ignore);
            one.known.insert(name);
        }
        let name = other.apply(provider("c"), &ignore);
        other.known.insert(name);
        let told = Mutex::new(Vec::new());
        let name = one.apply(provider("b"), &ignore);
        one.listed.insert(name);
        one.all_is_listed(&|change| {
            if let Change::Deleted(object) = change {
                told.lock().extend(object.metadata.namespace.clone());
            }
        });
        assert_eq!((namespaces(&objects), told.into_inner()), (vec!["b".to_owned(), "c".to_owned()], vec!["a".to_owned()]));
    }
}
