//! Reads and writes in the cluster. Every write is conditional: a writer whose picture is old can never win.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::{DynamicObject, PartialObjectMeta, Status},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::report::whole_seconds;
use crate::{
    api::{AppIdApplication, FIELD_MANAGER, FINALIZER, GROUP, ObjectVersion, mark},
    model::{Class, ExposeSecret, Failure, SecretText},
    plan::Problem,
    reasons::Reason,
};

/// Why a pass ends without a report.
#[derive(Debug, thiserror::Error)]
pub enum Abort {
    /// Our picture was old: there is, or will be, a newer one.
    #[error("the object has changed meanwhile")]
    Stale,
    /// The object is gone.
    #[error("the object is gone")]
    Gone,
    /// Another process leads.
    #[error("another process leads now")]
    LostLease,
    /// The API server did not do its part.
    #[error("{doing}: {source}")]
    Cluster {
        /// What we were doing.
        doing: &'static str,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

impl Abort {
    /// The outcome as a metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Gone => "gone",
            Self::LostLease => "lost_lease",
            Self::Cluster { .. } => "cluster_error",
        }
    }

    /// What a failed request to the API server means.
    pub fn of(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| match &error {
            kube::Error::Api(status) if status.is_conflict() => Self::Stale,
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            _ => Self::Cluster { doing, source: Box::new(error) },
        }
    }
}

/// The object that a pass works on, as it was last seen or written.
#[derive(Clone, Debug)]
pub struct Subject {
    /// API version and kind.
    pub kind: &'static str,
    /// Its namespace; empty for a cluster object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// Its generation.
    pub generation: i64,
}

/// What a Secret is to look like.
#[derive(Debug)]
pub struct SecretContent {
    /// Its keys.
    pub data: BTreeMap<String, SecretText>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether our object owns it.
    pub owned: bool,
}

impl Subject {
    /// The subject of a pass over `object`.
    #[must_use]
    pub fn of<K: Resource<DynamicType = ()>>(kind: &'static str, object: &K) -> Self {
        Self::of_metadata(kind, object.meta())
    }

    /// The same, when only metadata is known.
    #[must_use]
    pub fn of_metadata(kind: &'static str, metadata: &kube::api::ObjectMeta) -> Self {
        let metadata = metadata.clone();
        Self {
            kind,
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
        }
    }

    /// `Kind/namespace/name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }

    fn document(&self, metadata: Value) -> Value {
        let mut document = json!({ "apiVersion": format!("{GROUP}/v1alpha1"), "kind": self.kind, "metadata": metadata });
        document["metadata"]["name"] = json!(self.name);
        document["metadata"]["uid"] = json!(self.uid);
        document["metadata"]["resourceVersion"] = json!(self.resource_version);
        document
    }

    /// Whether it is this object, with the same spec.
    #[must_use]
    pub fn is<K: Resource>(&self, object: &K) -> bool {
        let meta = object.meta();
        meta.uid.as_deref() == Some(&self.uid) && meta.generation == Some(self.generation) && meta.deletion_timestamp.is_none()
    }

    /// It is like this now: what is written next is written over this version.
    pub fn saw<K: Resource>(&mut self, object: &K) {
        self.resource_version = object.resource_version().unwrap_or_default();
    }

    /// Writes finalizer and tenant, in one patch.
    ///
    /// # Errors
    ///
    /// When the object has changed, or cannot be written.
    pub async fn claim<K>(&mut self, api: &Api<K>, tenant: &str) -> Result<(), Abort>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let document = self.document(json!({ "finalizers": [FINALIZER], "annotations": { mark::TENANT: tenant } }));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let object = api.patch(&self.name, &parameters, &Patch::Apply(&document)).await.map_err(Abort::of("writing the finalizer"))?;
        self.saw(&object);
        Ok(())
    }

    /// Lifts the finalizer, whoever wrote it (a restored object carries that of a backup program).
    ///
    /// # Errors
    ///
    /// When the object has changed, or cannot be written.
    pub async fn release<K>(&mut self, api: &Api<K>, finalizers: &[String]) -> Result<(), Abort>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let others: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let document = json!({ "metadata": { "uid": self.uid, "resourceVersion": self.resource_version, "finalizers": others } });
        match api
            .patch(
                &self.name,
                &PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() },
                &Patch::Merge(&document),
            )
            .await
        {
            Ok(object) => self.saw(&object),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(Abort::of("lifting the finalizer")(error)),
        }
        Ok(())
    }

    /// Writes the whole status. The one writer of status.
    ///
    /// # Errors
    ///
    /// When the object has changed, or cannot be written.
    pub async fn write_status<K>(&mut self, api: &Api<K>, status: &impl Serialize) -> Result<(), Abort>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let mut document = self.document(json!({}));
        document["status"] = serde_json::to_value(status)
            .map_err(|error| Abort::Cluster { doing: "writing status", source: Box::new(kube::Error::SerdeError(error)) })?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let object = api.patch_status(&self.name, &parameters, &Patch::Apply(&document)).await.map_err(Abort::of("writing status"))?;
        self.saw(&object);
        Ok(())
    }

    /// Publishes a Secret: `known` is what was last seen under the name, `None` when nothing was there.
    ///
    /// A first write is an apply with resourceVersion 1, which creates or conflicts; later ones carry UID and resourceVersion.
    ///
    /// # Errors
    ///
    /// [`Abort::Stale`] when something else is there than `known`; a [`Failure`] in the inner result when the Secret is refused.
    pub async fn publish(
        &self,
        client: &Client,
        name: &str,
        known: Option<&ObjectVersion>,
        content: &SecretContent,
    ) -> Result<Result<ObjectVersion, Failure>, Abort> {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), &self.namespace);
        let data: BTreeMap<&String, String> =
            content.data.iter().map(|(key, value)| (key, STANDARD.encode(value.expose_secret()))).collect();
        let mut document = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
            "metadata": { "name": name, "labels": content.labels, "annotations": content.annotations, "resourceVersion": "1" },
        });
        if content.owned {
            document["metadata"]["ownerReferences"] = json!([self.owner_reference()]);
        }
        if let Some(known) = known {
            document["metadata"]["uid"] = json!(known.uid);
            document["metadata"]["resourceVersion"] = json!(known.resource_version);
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch(name, &parameters, &Patch::Apply(&document)).await {
            Ok(written) => Ok(Ok(ObjectVersion::of(&written.metadata))),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => Ok(Err(refusal(&status))),
            Err(error) => Err(Abort::of("publishing the Secret")(error)),
        }
    }

    /// Changes owner and marks of a Secret without touching its data.
    ///
    /// # Errors
    ///
    /// When the Secret has changed, or cannot be written.
    pub async fn mark_secret(&self, client: &Client, name: &str, known: &ObjectVersion, metadata: Value) -> Result<ObjectVersion, Abort> {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), &self.namespace);
        let mut document = json!({ "metadata": metadata });
        document["metadata"]["uid"] = json!(known.uid);
        document["metadata"]["resourceVersion"] = json!(known.resource_version);
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let written = api.patch(name, &parameters, &Patch::Merge(&document)).await.map_err(Abort::of("changing the Secret's owner"))?;
        Ok(ObjectVersion::of(&written.metadata))
    }

    /// Our owner reference.
    #[must_use]
    pub fn owner_reference(&self) -> Value {
        json!({ "apiVersion": format!("{GROUP}/v1alpha1"), "kind": self.kind, "name": self.name, "uid": self.uid, "controller": true, "blockOwnerDeletion": false })
    }
}

/// A Secret that the API server refuses. Its words are shown for 403 (quotas, terminating namespaces); a validation error could quote values.
fn refusal(status: &Status) -> Failure {
    let fields: Vec<String> = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.field.clone()).collect();
    let immutable = status.code == 422 && status.message.contains("immutable");
    let message = match status.code {
        403 => format!("the API server refused the Secret: {}", status.message.chars().take(300).collect::<String>()),
        code => format!(
            "the API server refused the Secret ({code} {}{})",
            status.reason,
            if fields.is_empty() { String::new() } else { format!(", about {}", fields.join(", ")) }
        ),
    };
    // A namespace that is going away is no fault of anybody.
    let class = if status.code == 403 { Class::Transient } else { Class::Rejected };
    let is_ending = status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
    let reason = match (immutable, is_ending) {
        (true, _) => Reason::SecretImmutable,
        // The object is about to be deleted, too.
        (_, true) => Reason::Deleting,
        _ => Reason::SecretRejected,
    };
    Failure { status: Some(status.code), ..Failure::new("publishing the Secret", class, reason, message) }
}

/// Metadata of a Secret; `None` when there is none.
///
/// # Errors
///
/// When the API server does not answer.
pub async fn secret_metadata(client: &Client, namespace: &str, name: &str) -> Result<Option<PartialObjectMeta<Secret>>, Abort> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    api.get_metadata_opt(name).await.map_err(Abort::of("looking at the Secret"))
}

/// A Secret's metadata and its values that are text.
pub type ReadSecret = (kube::api::ObjectMeta, BTreeMap<String, SecretText>);

/// A whole Secret; `None` when there is none.
///
/// # Errors
///
/// When the API server does not answer.
pub async fn read_secret(client: &Client, namespace: &str, name: &str) -> Result<Option<ReadSecret>, Abort> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let Some(secret) = api.get_opt(name).await.map_err(Abort::of("reading the Secret"))? else { return Ok(None) };
    let data = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| Some((key, SecretText::from(String::from_utf8(value.0).ok()?))))
        .collect();
    Ok(Some((secret.metadata, data)))
}

/// Whether our finalizer stands on an object.
#[must_use]
pub fn holds_finalizer(metadata: &kube::api::ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Where an object is read and written that has to be taken as it is.
fn unread(client: &Client, subject: &Subject) -> Api<DynamicObject> {
    let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(GROUP, "v1alpha1", subject.kind));
    match subject.namespace.as_str() {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

/// Says on an object that cannot be parsed that it cannot, and touches nothing else of it. Whether that is news.
///
/// # Errors
///
/// When the object has changed, or cannot be read or written.
pub async fn report_unreadable(client: &Client, subject: &Subject, problem: &Problem, now: Timestamp) -> Result<bool, Abort> {
    let api = unread(client, subject);
    let object = api.get(&subject.name).await.map_err(Abort::of("reading an object that cannot be parsed"))?;
    let generation = object.metadata.generation.unwrap_or_default();
    let former = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (ready, mut conditions): (Vec<Value>, Vec<Value>) = former.into_iter().partition(|condition| condition["type"] == "Ready");
    let since = ready.iter().find(|former| former["status"] == "False").map(|former| former["lastTransitionTime"].clone());
    let condition = json!({
        "type": "Ready", "status": "False", "reason": problem.reason.as_str(), "message": problem.message,
        "observedGeneration": generation, "lastTransitionTime": since.unwrap_or_else(|| json!(Time(whole_seconds(now)))),
    });
    if ready.first() == Some(&condition) {
        return Ok(false);
    }
    conditions.push(condition);
    // A merge patch: what else stands in the status are facts that only a version that can read them may take away. Nothing counts as
    // observed, so that whoever can read the object looks at all of it.
    let document = json!({
        "metadata": { "uid": subject.uid, "resourceVersion": object.metadata.resource_version },
        "status": { "conditions": conditions, "observedGeneration": -1 },
    });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch_status(&subject.name, &parameters, &Patch::Merge(&document)).await.map_err(Abort::of("writing status"))?;
    Ok(true)
}

/// Lifts the finalizer from an object that is being deleted and cannot be parsed. What it leaves at the service, in words; `None` when there is
/// nothing to do any more, or it can be parsed by now.
///
/// # Errors
///
/// When the object has changed, or cannot be read or written.
pub async fn let_go_unread(client: &Client, subject: &Subject) -> Result<Option<String>, Abort> {
    let api = unread(client, subject);
    let found = api.get_opt(&subject.name).await.map_err(Abort::of("reading an object that cannot be parsed"))?;
    let is_due = |object: &DynamicObject| {
        let meta = &object.metadata;
        meta.uid.as_deref() == Some(subject.uid.as_str()) && meta.deletion_timestamp.is_some() && holds_finalizer(meta)
    };
    let Some(object) = found.filter(is_due) else { return Ok(None) };
    let is_readable = serde_json::to_value(&object).is_ok_and(|value| serde_json::from_value::<AppIdApplication>(value).is_ok());
    if is_readable {
        return Ok(None);
    }
    let tenant = object.annotations().get(mark::TENANT).cloned().unwrap_or_default();
    let registration = match object.data.pointer("/status/clientId").and_then(Value::as_str) {
        Some(id) => format!("the application {id} of tenant {tenant}"),
        None => format!("what it may have registered in tenant {tenant}"),
    };
    let mut current = Subject { resource_version: object.resource_version().unwrap_or_default(), ..subject.clone() };
    current.release(&api, object.finalizers()).await?;
    Ok(Some(registration))
}

/// An event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Why.
    pub reason: Reason,
    /// The note.
    pub note: String,
    /// Whether a person should look.
    pub is_warning: bool,
}

/// What the name of an event begins with: only letters and digits may stand before the dash (tried).
fn event_name(subject: &str) -> String {
    let beginning: String = subject.chars().take(200).collect();
    format!("{}-", beginning.trim_end_matches(['.', '-']))
}

/// Writes an event. Where the object's namespace takes none any more, it goes to the operator's. A failure is logged: an event is a courtesy.
pub async fn announce(client: &Client, subject: &Subject, operator_namespace: &str, instance: &str, announcement: &Announcement) {
    // An event about a cluster object is accepted in `default` only (tried).
    let namespaces = if subject.namespace.is_empty() { vec!["default"] } else { vec![subject.namespace.as_str(), operator_namespace] };
    for namespace in namespaces {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &kube::core::ApiResource::erase::<k8s_openapi::api::events::v1::Event>(&()));
        let mut note = announcement.note.clone();
        note.truncate(note.floor_char_boundary(1000));
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": { "generateName": event_name(&subject.name), "namespace": namespace },
            "eventTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now()),
            "type": if announcement.is_warning { "Warning" } else { "Normal" },
            "reason": announcement.reason.as_str(), "action": "Reconcile", "note": note,
            "reportingController": FIELD_MANAGER, "reportingInstance": instance,
            "regarding": { "apiVersion": format!("{GROUP}/v1alpha1"), "kind": subject.kind, "namespace": subject.namespace, "name": subject.name, "uid": subject.uid },
        });
        let Ok(event) = serde_json::from_value::<DynamicObject>(event) else { return };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => return,
            // The namespace is terminating, or gone.
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_not_found() => {}
            Err(error) => {
                tracing::warn!(object = %subject.path(), reason = %announcement.reason, %error, "an event could not be written");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_event_is_valid_wherever_a_long_name_is_cut() {
        assert_eq!(event_name("storefront"), "storefront-");
        assert_eq!(event_name(&format!("{}.example", "a".repeat(199))), format!("{}-", "a".repeat(199)));
    }
}
