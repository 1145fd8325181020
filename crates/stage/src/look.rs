//! A closer look at a stage: events, Secrets as they are stored, what was written, and changes as a user makes them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use cloud_identity_operator::api::AppIdApplication;
use futures::StreamExt;
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    core::{PartialObjectMeta, WatchEvent},
};
use serde_json::{Value, json};

use crate::{PROVIDER, SERVICE_ACCOUNT, SYSTEM, Stage, TENANT, eventually};

/// What became of one Secret name since the watch began.
pub struct SecretWatch {
    seen: Arc<Mutex<Vec<&'static str>>>,
    task: tokio::task::JoinHandle<()>,
}

impl SecretWatch {
    /// How many `ADDED`, `MODIFIED` or `DELETED` events there were.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|seen| **seen == kind).count()
    }
}

impl Drop for SecretWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    /// Merges a change into an application, as `kubectl patch` does.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn patch(&self, name: &str, change: Value) -> AppIdApplication {
        self.applications().patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.expect("the change is accepted")
    }

    /// Merges a change into a Secret, as `kubectl patch` does.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn patch_secret(&self, name: &str, change: Value) -> Secret {
        self.secrets().patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.expect("the change is accepted")
    }

    /// A Secret as it is stored, with its managed fields.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn stored_secret(&self, name: &str) -> Secret {
        self.secrets().get(name).await.expect("there is such a Secret")
    }

    /// The keys of a Secret.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn secret_keys(&self, name: &str) -> BTreeSet<String> {
        self.secret_values(name).await.expect("there is such a Secret").into_keys().collect()
    }

    /// Watches one Secret from now on.
    ///
    /// # Panics
    ///
    /// When the API server refuses the watch.
    pub async fn watch_secret(&self, name: &str) -> SecretWatch {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = format!("metadata.name={name}");
        let begin =
            api.list_metadata(&ListParams::default().fields(&selector)).await.expect("the Secrets are listed").metadata.resource_version;
        let parameters = kube::api::WatchParams::default().fields(&selector).timeout(290);
        let stream = api.watch_metadata(&parameters, &begin.unwrap_or_default()).await.expect("the Secret is watched");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        let task = tokio::spawn(async move {
            let mut stream = Box::pin(stream);
            while let Some(event) = stream.next().await {
                let kind = match event {
                    Ok(WatchEvent::Added(_)) => "ADDED",
                    Ok(WatchEvent::Modified(_)) => "MODIFIED",
                    Ok(WatchEvent::Deleted(_)) => "DELETED",
                    Ok(WatchEvent::Bookmark(_) | WatchEvent::Error(_)) | Err(_) => "OTHER",
                };
                notes.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
            }
        });
        SecretWatch { seen, task }
    }

    /// Reason and note of every event about an object of this stage, in whichever namespace it was written.
    ///
    /// # Panics
    ///
    /// When the API server does not answer.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<(String, String)> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let events = api.list(&ListParams::default()).await.expect("the events are listed");
        let about = |event: &Event| {
            event.regarding.as_ref().is_some_and(|regarding| {
                regarding.name.as_deref() == Some(name) && regarding.namespace.as_deref().is_none_or(|at| at.starts_with(&self.namespace))
            })
        };
        let text = |event: Event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default());
        events.items.into_iter().filter(about).map(text).collect()
    }

    /// Waits for an event about an object of this stage, and returns its note.
    ///
    /// # Panics
    ///
    /// When there is none in time.
    pub async fn event(&self, name: &str, reason: &str) -> String {
        let mut note = String::new();
        eventually(&format!("an event {reason} speaks of {name}"), async || {
            let found = self.events(&self.namespace, name).await.into_iter().find(|(is, _)| is == reason);
            found.map(|(_, text)| note = text).is_some()
        })
        .await;
        note
    }

    /// Every call that reached the services so far.
    ///
    /// # Panics
    ///
    /// When the simulator does not answer.
    pub async fn all_calls(&self) -> u64 {
        self.control.calls().await.expect("the simulator answers").total.received
    }

    /// How many calls changed something at the services so far.
    ///
    /// # Panics
    ///
    /// When the simulator does not answer.
    pub async fn remote_changes(&self) -> u64 {
        self.control.calls().await.expect("the simulator answers").of("app_id").committed
    }

    /// The tenant's redirect URIs, in their order.
    ///
    /// # Panics
    ///
    /// When the simulator does not answer.
    pub async fn redirect_uris(&self) -> Vec<String> {
        let document = self.control.redirect_uris(TENANT).await.expect("the simulator answers");
        serde_json::from_value(document.get("redirectUris").cloned().unwrap_or(json!([]))).expect("a list of texts")
    }

    /// What operators wrote in this stage's namespace since a mark of the audit log.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    #[must_use]
    pub fn writes_since(&self, mark: control_plane::Mark, resource: &str) -> usize {
        let events = self.control_plane.audit().since(mark).expect("the audit log is read");
        events.by_service_account(SYSTEM, SERVICE_ACCOUNT).in_namespace(&self.namespace).of_resource(resource).writes().len()
    }

    /// A present mark of the audit log.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    #[must_use]
    pub fn mark(&self) -> control_plane::Mark {
        self.control_plane.audit().mark().expect("the audit log is read")
    }

    /// Waits until the provider of the stage works.
    pub async fn provider_ready(&self) {
        self.ready_provider(PROVIDER).await;
    }
}
