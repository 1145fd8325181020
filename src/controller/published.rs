//! Whose a Secret is, and whether it is as we left it: from metadata alone, the same for every kind that publishes one.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};
use kube::{ResourceExt, api::ObjectMeta, core::PartialObjectMeta};

use super::{Context, cluster::Subject};
use crate::{
    api::{FIELD_MANAGER, ObjectVersion, mark},
    plan::field_ownership::{AppliedFields, string_data},
};

/// Whose a Secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The object's own.
    Ours {
        /// Whether it holds exactly what was last applied.
        is_untouched: bool,
        /// Whether somebody made it immutable.
        is_immutable: bool,
    },
    /// It was published for an object of this kind, namespace and name that no longer exists.
    Former {
        /// Whether that lived in this cluster.
        from_this_cluster: bool,
        /// Whose it is for who does not want it, in words.
        whose: String,
    },
    /// Somebody else's, in words.
    Others(String),
}

/// Whose a Secret is for `subject`. `stored` is what its status last saw, `expected` what it last applied.
#[must_use]
pub fn whose(
    metadata: &PartialObjectMeta<Secret>,
    context: &Context,
    subject: &Subject,
    stored: Option<&ObjectVersion>,
    expected: &AppliedFields,
) -> Whose {
    let meta = &metadata.metadata;
    let annotation = |name: &str| metadata.annotations().get(name).map(String::as_str);
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let is_the_one_we_wrote = stored.is_some_and(|stored| Some(&stored.uid) == meta.uid.as_ref());
    if controller.map_or(is_the_one_we_wrote, |owner| owner.uid == subject.uid) {
        let is_untouched = applied_fields(meta).is_some_and(|applied| applied == *expected) && !is_written_over(meta, expected);
        let names_immutable =
            |entry: &ManagedFieldsEntry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:immutable").is_some());
        let is_immutable = meta.managed_fields.iter().flatten().any(names_immutable);
        return Whose::Ours { is_untouched, is_immutable };
    }
    if let Some(owner) = controller {
        return Whose::Others(format!("{} {}", owner.kind, owner.name));
    }
    let from_this_cluster = annotation(mark::CLUSTER) == Some(context.settings.cluster_uid.as_str());
    let whose = match annotation(mark::OBJECT) {
        Some(other) if from_this_cluster => format!("{other}, another object of this operator"),
        Some(other) => format!("{other} of another cluster"),
        None => "nobody this operator knows".to_owned(),
    };
    let is_of_this_name = annotation(mark::OBJECT) == Some(subject.path().as_str());
    let former_is_gone = annotation(mark::OBJECT_UID).is_some_and(|uid| !context.claims.lives(uid) || uid == subject.uid);
    if is_of_this_name && former_is_gone { Whose::Former { from_this_cluster, whose } } else { Whose::Others(whose) }
}

/// The fields that an object applies to its Secret: `data`, what its spec puts there, and the operator's own marks, `more` among them.
#[must_use]
pub fn expected_fields<'a>(
    subject: &Subject,
    data: BTreeSet<String>,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    more: impl IntoIterator<Item = &'a str>,
) -> AppliedFields {
    let marks = [mark::CLUSTER, mark::OBJECT, mark::OBJECT_UID, mark::TENANT, mark::SHAPE];
    AppliedFields {
        data,
        labels: labels.keys().cloned().chain([mark::KIND.to_owned()]).collect(),
        annotations: annotations.keys().cloned().chain(marks.into_iter().chain(more).map(ToOwned::to_owned)).collect(),
        owners: BTreeSet::from([subject.uid.clone()]),
    }
}

/// The annotations of a Secret: those of the spec, and the operator's marks, by which it is known again.
#[must_use]
pub fn annotations(
    context: &Context,
    subject: &Subject,
    of_the_spec: &BTreeMap<String, String>,
    tenant: String,
    shape: String,
) -> BTreeMap<String, String> {
    let marks = [
        (mark::CLUSTER, context.settings.cluster_uid.clone()),
        (mark::OBJECT, subject.path()),
        (mark::OBJECT_UID, subject.uid.clone()),
        (mark::TENANT, tenant),
        (mark::SHAPE, shape),
    ];
    let mut annotations = of_the_spec.clone();
    annotations.extend(marks.map(|(name, value)| (name.to_owned(), value)));
    annotations
}

fn is_our_entry(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
}

fn applied_fields(meta: &ObjectMeta) -> Option<AppliedFields> {
    let entry = meta.managed_fields.iter().flatten().find(|entry| is_our_entry(entry))?;
    Some(AppliedFields::read(&entry.fields_v1.as_ref()?.0))
}

/// Whether somebody applied one of our keys as `stringData` since our own apply: the API server copies that into `data`, and leaves the
/// key under `data` in our name (tried). Times are whole seconds; this is asked only of a version that we did not write.
fn is_written_over(meta: &ObjectMeta, expected: &AppliedFields) -> bool {
    let entries = || meta.managed_fields.iter().flatten();
    let ours = entries().find(|entry| is_our_entry(entry)).and_then(|entry| entry.time.as_ref());
    entries().filter(|entry| entry.time.as_ref() >= ours).any(|entry| {
        let texts = entry.fields_v1.as_ref().map(|fields| string_data(&fields.0)).unwrap_or_default();
        !texts.is_disjoint(&expected.data)
    })
}
