//! Everything that was ever said of the objects of a kind in a namespace, so that a passing state is not missed.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use cloud_identity_operator::api::AppIdApplication;
use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::JoinHandle};

use crate::PATIENCE;

type Seen<K> = Arc<Mutex<BTreeMap<String, Vec<K>>>>;

/// Every version of every object of a kind in a namespace since it was opened.
pub struct Chronicle<K = AppIdApplication> {
    seen: Seen<K>,
    news: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl<K> Chronicle<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    /// Opens it; what happens from now on is in it.
    pub(crate) async fn open(api: Api<K>) -> Self {
        let seen = Seen::<K>::default();
        let (tell, mut news) = watch::channel(());
        let (opened, mut is_open) = watch::channel(false);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut events = Box::pin(watcher(api, watcher::Config::default()));
                while let Some(event) = events.next().await {
                    match event {
                        Ok(Event::Apply(object) | Event::InitApply(object)) => {
                            let name = object.name_any();
                            seen.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().push(object);
                        }
                        Ok(Event::InitDone) => {
                            opened.send_replace(true);
                        }
                        _ => {}
                    }
                    if tell.send(()).is_err() {
                        return;
                    }
                }
            }
        });
        drop(is_open.wait_for(|open| *open).await);
        news.mark_unchanged();
        Self { seen, news, task }
    }

    /// All versions of an object, oldest first.
    #[must_use]
    pub fn of(&self, name: &str) -> Vec<K> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// The first version of an object that is as described, from the past or from the future.
    ///
    /// # Panics
    ///
    /// When there is none in time; with the last version.
    pub async fn first(&self, name: &str, what: &str, is: impl Fn(&K) -> bool) -> K {
        self.find(name, what, is).await.unwrap_or_else(|flaw| panic!("{flaw}"))
    }

    /// The same, for tests that go on.
    ///
    /// # Errors
    ///
    /// When there is none in time; with the last version.
    pub async fn find(&self, name: &str, what: &str, is: impl Fn(&K) -> bool) -> Result<K, String> {
        let mut news = self.news.clone();
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.of(name).into_iter().find(&is) {
                return Ok(found);
            }
            let in_time = tokio::time::timeout_at(until, news.changed()).await;
            if !matches!(in_time, Ok(Ok(()))) {
                let last = self.of(name).pop();
                let generation = last.as_ref().and_then(|object| object.meta().generation);
                let status = serde_json::to_value(&last).unwrap_or_default()["status"].take();
                return Err(format!(
                    "{} {name}: it was never so that it {what}; its generation is {generation:?}, its last status {status}",
                    K::kind(&())
                ));
            }
        }
    }
}

impl<K> Drop for Chronicle<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// When the status was last written, by the API server's clock, in whole seconds.
#[must_use]
pub fn status_written_at(object: &impl ResourceExt) -> Option<Timestamp> {
    let entries = object.managed_fields().iter();
    entries.filter(|entry| entry.subresource.as_deref() == Some("status")).filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max()
}
