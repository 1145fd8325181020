//! What follows from a change that a watch brings: indexes are kept, and whoever it concerns is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    ResourceExt,
    core::{PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        reflector::{ObjectRef, store},
        watcher::Event,
    },
};

use super::{
    Context,
    application::claim_of,
    claims::ProviderKey,
    cluster::{self, Announcement, Subject},
    name::Name,
    provider::ProviderObject,
    token,
    versions::{Versions, Who},
    watch::Change,
};
use crate::{
    api::{AccessToken, AppIdApplication},
    plan::Problem,
    reasons::Reason,
};

/// So long after a failure the API server is asked again to let go of an object that cannot be read.
const UNREAD_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn on_application(context: &Arc<Context>) -> impl Fn(Change<AppIdApplication>) + Send + Sync + 'static {
    let context = context.clone();
    move |change| match change {
        Change::Applied(object) => {
            let claim = claim_of(&object);
            // Tokens look at its client id and its Secret.
            context.claims.referring_to(&claim.claimant.reference()).iter().for_each(|token| context.wake.claimant(token));
            let waiting = context.claims.apply(claim);
            context.wake_all(waiting.into_iter().filter(|claimant| Some(&*claimant.uid) != object.metadata.uid.as_deref()));
            drop(context.wake.applications.send(Name::of(&object.metadata)));
        }
        Change::Deleted(object) => {
            let uid = object.uid().unwrap_or_default();
            context.wake_all(context.claims.remove(&uid));
            context.memory.forget(&uid);
            context.forget(&uid);
            let claim = claim_of(&object);
            context.wake_all(context.claims.referring_to(&claim.claimant.reference()));
            forget_unused(&context, claim.provider.as_ref());
        }
    }
}

pub(super) fn on_token(context: &Arc<Context>) -> impl Fn(Change<AccessToken>) + Send + Sync + 'static {
    let context = context.clone();
    move |change| match change {
        Change::Applied(object) => {
            context.credentials.forget(&context.secrets.name(&token::namer(&object), &token::watched_secrets(&object)));
            let waiting = context.claims.apply(token::claim_of(&object));
            context.wake_all(waiting.into_iter().filter(|claimant| Some(&*claimant.uid) != object.metadata.uid.as_deref()));
            drop(context.wake.tokens.send(Name::of(&object.metadata)));
        }
        Change::Deleted(object) => {
            let uid = object.uid().unwrap_or_default();
            context.credentials.forget(&context.secrets.name(&token::namer(&object), &[]));
            context.wake_all(context.claims.remove(&uid));
            context.memory.forget(&uid);
            context.forget(&uid);
            forget_unused(&context, token::claim_of(&object).provider.as_ref());
        }
    }
}

/// A provider that nobody uses any more needs no connection to where it led before.
fn forget_unused(context: &Context, provider: Option<&ProviderKey>) {
    if let Some(provider) = provider.filter(|provider| context.claims.of_provider(provider).is_empty()) {
        context.directory.forget(provider);
    }
}

pub(super) fn on_provider<P: ProviderObject>(
    context: &Arc<Context>,
    wake: impl Fn(&Context, Name) + Send + Sync + 'static,
) -> impl Fn(Change<P>) + Send + Sync + 'static {
    let context = context.clone();
    move |change| match change {
        Change::Applied(object) => wake(&context, Name::of(object.meta())),
        Change::Deleted(object) => {
            let specification = object.specification();
            let namer = specification.namer();
            context.credentials.forget(&context.secrets.name(&namer, &[]));
            context.directory.forget_bundles(&context.config_maps.name(&namer, &[]));
            let key = specification.key;
            context.directory.remove(&key);
            context.memory.forget(&specification.uid);
            let users = context.claims.of_provider(&key);
            if users.is_empty() {
                context.directory.forget(&key);
            }
            context.wake_all(users);
        }
    }
}

/// An object that this version cannot read: said on the object itself, as far as its metadata allows, and no other is held up.
pub(super) fn on_unreadable(context: &Arc<Context>, kind: &'static str) -> impl Fn(InvalidObject) + Send + Sync + 'static {
    let context = context.clone();
    move |invalid| {
        let object = PartialObjectMeta::<Secret> { metadata: invalid.metadata, ..PartialObjectMeta::default() };
        tracing::error!(
            kind,
            namespace = object.namespace().unwrap_or_default(),
            name = object.name_any(),
            "an object cannot be read by this version; it is left alone"
        );
        let subject = Subject::of_metadata(kind, &object.metadata);
        let context = context.clone();
        if let Some(asked) = object.metadata.deletion_timestamp.as_ref().filter(|_| cluster::holds_finalizer(&object.metadata)) {
            tokio::spawn(let_go_unread(context.clone(), subject.clone(), asked.0));
        }
        tokio::spawn(async move {
            let note =
                "this version of the operator cannot read the object: correct what is not as its schema says, or update the operator";
            let problem = Problem::new(Reason::InvalidSpec, note);
            match cluster::report_unreadable(&context.client, &subject, &problem, Timestamp::now()).await {
                Ok(true) => {
                    let announcement = Announcement { reason: problem.reason, note: problem.message, is_warning: true };
                    context.announce(&subject, &announcement).await;
                }
                Ok(false) => {}
                // The watch brings the newer picture, if there is one.
                Err(error) => tracing::warn!(object = %subject.path(), %error, "could not say that an object cannot be read"),
            }
        });
    }
}

/// Deletion always ends: an object that still cannot be read when its budget is used up is let go, and what it leaves behind is named as far
/// as it can be.
async fn let_go_unread(context: Arc<Context>, subject: Subject, asked: Timestamp) {
    let left = asked.checked_add(context.settings.deletion_budget).unwrap_or(Timestamp::MAX).duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    while context.leadership.holds() {
        match cluster::let_go_unread(&context.client, &subject).await {
            Ok(None) => return,
            Ok(Some(left_behind)) => {
                let note =
                    format!("the object could not be read, so that nothing was deleted at the service: remove {left_behind} by hand");
                tracing::error!(object = %subject.path(), %note, "a registration was given up");
                context.announce(&subject, &Announcement { reason: Reason::Orphaned, note, is_warning: true }).await;
                context.metrics.orphaned(subject.kind);
                return;
            }
            Err(error) => {
                tracing::warn!(object = %subject.path(), %error, "could not let go of an object that cannot be read");
                tokio::time::sleep(UNREAD_AGAIN).await;
            }
        }
    }
}

pub(super) fn on_namespace(
    context: &Arc<Context>,
    writer: &mut store::Writer<PartialObjectMeta<Namespace>>,
    event: &Event<PartialObjectMeta<Namespace>>,
) {
    for namespace in relabelled(writer, event) {
        context.wake_all(context.claims.of_cluster_providers_in(&namespace));
    }
}

/// Takes in an event of the watch over namespaces; returns those whose labels are others now: nothing else of them decides anything. At the
/// first listing that is none, because nobody here knows what they were before.
fn relabelled(writer: &mut store::Writer<PartialObjectMeta<Namespace>>, event: &Event<PartialObjectMeta<Namespace>>) -> BTreeSet<String> {
    let namespaces = writer.as_reader();
    let has_listed = namespaces.wait_until_ready().now_or_never().is_some();
    let labels = |name: &str| namespaces.get(&ObjectRef::new(name)).and_then(|namespace| namespace.metadata.labels.clone());
    let all = || namespaces.state().into_iter().map(|namespace| namespace.name_any()).collect::<BTreeSet<_>>();
    let former: BTreeMap<String, _> = match event {
        Event::Apply(object) | Event::Delete(object) => [(object.name_any(), labels(&object.name_any()))].into(),
        Event::InitDone => all().into_iter().map(|name| (name.clone(), labels(&name))).collect(),
        Event::Init | Event::InitApply(_) => BTreeMap::new(),
    };
    writer.apply_watcher_event(event);
    let listed = if matches!(event, Event::InitDone) { all() } else { BTreeSet::new() };
    let seen = former.keys().cloned().chain(listed).filter(|_| has_listed);
    seen.filter(|name| labels(name) != former.get(name).cloned().flatten()).collect()
}

pub(super) fn on_secrets(context: &Arc<Context>, changed: Vec<Name>, is_first: bool) {
    for key in changed {
        wake_namers(context, &context.secrets, &key, is_first);
        let claimants = context.claims.of_secret(&key);
        if context.secrets.get(&key).is_none() {
            context.credentials.forget(std::slice::from_ref(&key));
            // A name that is free may be all that somebody waits for.
            context.wake_all(claimants);
        } else {
            claimants.iter().for_each(|claimant| context.wake.claimant(claimant));
        }
    }
}

/// Wakes who names something that is another now. At the first listing that is only who reads it before: a provider. For everybody else there
/// is no former picture in this process, and what they waited for at the last one's end they wait for still.
pub(super) fn wake_namers(context: &Context, versions: &Versions, key: &Name, is_first: bool) {
    for namer in versions.named_by(key) {
        match &namer.who {
            Who::Provider(provider) => {
                context.memory.wake(&namer.uid);
                context.wake.provider(provider);
            }
            Who::Claimant(claimant) if !is_first => {
                context.memory.wake(&namer.uid);
                context.wake.claimant(claimant);
            }
            Who::Claimant(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, version: u64, team: Option<&str>) -> PartialObjectMeta<Namespace> {
        let labels = team.map(|team| serde_json::json!({ "team": team }));
        let metadata = serde_json::json!({ "name": name, "resourceVersion": version.to_string(), "labels": labels, "annotations": { "counter": version.to_string() } });
        serde_json::from_value(serde_json::json!({ "metadata": metadata })).expect("valid metadata")
    }

    #[test]
    fn only_a_namespace_whose_labels_changed_concerns_anybody_also_where_the_watch_was_broken_meanwhile() {
        let (_, mut writer) = store::<PartialObjectMeta<Namespace>>();
        let mut after = |event| relabelled(&mut writer, &event).into_iter().collect::<Vec<_>>();
        let first = [("shop", Some("a")), ("bank", None), ("gone", Some("a"))];
        let mut heard = after(Event::Init);
        first.iter().for_each(|(name, team)| heard.extend(after(Event::InitApply(namespace(name, 1, *team)))));
        heard.extend(after(Event::InitDone));
        assert!(heard.is_empty(), "the first listing: {heard:?}");
        for (event, expected) in [
            (Event::Apply(namespace("shop", 2, Some("a"))), vec![]),
            (Event::Apply(namespace("shop", 3, Some("b"))), vec!["shop"]),
            (Event::Apply(namespace("shop", 4, None)), vec!["shop"]),
            (Event::Apply(namespace("shop", 5, Some("b"))), vec!["shop"]),
            (Event::Apply(namespace("new", 6, Some("b"))), vec!["new"]),
            (Event::Delete(namespace("new", 7, Some("b"))), vec!["new"]),
            (Event::Delete(namespace("bank", 8, None)), vec![]),
            // A watch that was broken, meanwhile.
            (Event::Init, vec![]),
            (Event::InitApply(namespace("shop", 9, Some("c"))), vec![]),
            (Event::InitApply(namespace("bank", 9, Some("c"))), vec![]),
            (Event::InitDone, vec!["bank", "gone", "shop"]),
            (Event::Init, vec![]),
            (Event::InitApply(namespace("shop", 11, Some("c"))), vec![]),
            (Event::InitApply(namespace("bank", 12, Some("c"))), vec![]),
            (Event::InitDone, vec![]),
        ] {
            assert_eq!(after(event.clone()), expected, "{event:?}");
        }
    }
}
