//! Everything that was ever said of the applications of a namespace, so that a passing state is not missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use cloud_identity_operator::api::AppIdApplication;
use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{sync::watch, task::JoinHandle};

use crate::PATIENCE;

type Seen = Arc<Mutex<BTreeMap<String, Vec<AppIdApplication>>>>;

/// Every version of every application of a namespace since it was opened.
pub struct Chronicle {
    seen: Seen,
    news: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Chronicle {
    /// Opens it; what happens from now on is in it.
    pub(crate) async fn open(api: Api<AppIdApplication>) -> Self {
        let seen = Seen::default();
        let (tell, mut news) = watch::channel(());
        let (opened, mut is_open) = watch::channel(false);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut events = Box::pin(watcher(api, watcher::Config::default()));
                while let Some(event) = events.next().await {
                    match event {
                        Ok(Event::Apply(object) | Event::InitApply(object)) => {
                            let name = object.metadata.name.clone().unwrap_or_default();
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

    /// All versions of an application, oldest first.
    #[must_use]
    pub fn of(&self, name: &str) -> Vec<AppIdApplication> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// The first version of an application that is as described, from the past or from the future.
    ///
    /// # Panics
    ///
    /// When there is none in time; with the last version.
    pub async fn first(&self, name: &str, what: &str, is: impl Fn(&AppIdApplication) -> bool) -> AppIdApplication {
        self.find(name, what, is).await.unwrap_or_else(|flaw| panic!("{flaw}"))
    }

    /// The same, for tests that go on.
    ///
    /// # Errors
    ///
    /// When there is none in time; with the last version.
    pub async fn find(&self, name: &str, what: &str, is: impl Fn(&AppIdApplication) -> bool) -> Result<AppIdApplication, String> {
        let mut news = self.news.clone();
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.of(name).into_iter().find(&is) {
                return Ok(found);
            }
            let in_time = tokio::time::timeout_at(until, news.changed()).await;
            if !matches!(in_time, Ok(Ok(()))) {
                let last = self.of(name).pop();
                let (generation, status) =
                    (last.as_ref().and_then(|object| object.metadata.generation), last.and_then(|object| object.status));
                let status = serde_json::to_string(&status).unwrap_or_default();
                return Err(format!(
                    "application {name}: it was never so that it {what}; its generation is {generation:?}, its last status {status}"
                ));
            }
        }
    }
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// When the status was last written, by the API server's clock, in whole seconds.
#[must_use]
pub fn status_written_at(object: &AppIdApplication) -> Option<Timestamp> {
    let entries = object.metadata.managed_fields.iter().flatten();
    entries.filter(|entry| entry.subresource.as_deref() == Some("status")).filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max()
}
