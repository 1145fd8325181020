//! Which version of each Secret (or ConfigMap) that concerns us is there: from a metadata-only watch, reduced on arrival.
//!
//! Kept are those that we published and those that some object names; every other one is dropped at once, so that
//! other people's Secrets cost nothing.

use std::collections::{HashMap, HashSet};

use kube::{core::PartialObjectMeta, runtime::watcher::Event};
use parking_lot::Mutex;

use super::{
    claims::{Claimant, ProviderKey},
    name::Name,
};
use crate::api::{ObjectVersion, mark};

/// An object that names a Secret or a ConfigMap. Its UID goes with it, so that it can be woken before anything else knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namer {
    /// Which.
    pub who: Who,
    /// Its UID.
    pub uid: String,
}

/// Which object names something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A provider.
    Provider(ProviderKey),
    /// An object that uses a provider.
    Claimant(Claimant),
}

/// The index of one kind.
#[derive(Debug, Default)]
pub struct Versions {
    state: Mutex<State>,
    listed: tokio::sync::watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    versions: HashMap<Name, Seen>,
    named: HashMap<Name, HashSet<Namer>>,
    /// What each names, by its UID.
    names: HashMap<String, Vec<Name>>,
}

/// A version in one text: there are as many as objects.
#[derive(Debug)]
struct Seen {
    text: Box<str>,
    /// Whether a watch has brought it, so that all who name it have heard of it.
    is_told: bool,
}

impl Seen {
    fn of(version: &ObjectVersion, is_told: bool) -> Self {
        Self { text: format!("{} {}", version.uid, version.resource_version).into(), is_told }
    }

    fn version(&self) -> ObjectVersion {
        // Neither holds a space.
        let (uid, resource_version) = self.text.split_once(' ').unwrap_or_default();
        ObjectVersion { uid: uid.to_owned(), resource_version: resource_version.to_owned() }
    }
}

/// One watch's view, which tells what vanished while the watch was broken.
#[derive(Debug, Default)]
pub struct View {
    namespace: Option<String>,
    has_listed: bool,
    listed: HashSet<Name>,
}

impl View {
    /// The view of a watch over one namespace, or over all.
    #[must_use]
    pub fn new(namespace: Option<String>) -> Self {
        Self { namespace, has_listed: false, listed: HashSet::new() }
    }

    /// Whether it has listed everything once: before that, what it brings is news to nobody who remembers what was there.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.has_listed
    }
}

impl Versions {
    /// The version under a name, if it concerns us and is there.
    #[must_use]
    pub fn get(&self, key: &Name) -> Option<ObjectVersion> {
        self.state.lock().versions.get(key).map(Seen::version)
    }

    /// Notes a version that we wrote or read ourselves, which the watch will repeat later.
    pub fn note(&self, key: Name, version: ObjectVersion) {
        let mut state = self.state.lock();
        if state.versions.get(&key).is_none_or(|known| is_newer(&version, &known.version())) {
            state.versions.insert(key, Seen::of(&version, false));
        }
    }

    /// Declares which names an object refers to; replaces what it named before. Returns those that nobody refers to any more.
    #[must_use = "what was read under these names is to be forgotten"]
    pub fn name(&self, by: &Namer, keys: &[Name]) -> Vec<Name> {
        let mut state = self.state.lock();
        // So it is at nearly every event, and thousands may name the same Secret.
        if state.names.get(&by.uid).map_or(&[][..], Vec::as_slice) == keys {
            return Vec::new();
        }
        let before = if keys.is_empty() { state.names.remove(&by.uid) } else { state.names.insert(by.uid.clone(), keys.to_vec()) };
        let mut before = before.unwrap_or_default();
        for key in &before {
            if let Some(namers) = state.named.get_mut(key) {
                namers.retain(|namer| namer.uid != by.uid);
                if namers.is_empty() {
                    state.named.remove(key);
                }
            }
        }
        for key in keys {
            state.named.entry(key.clone()).or_default().insert(by.clone());
        }
        before.retain(|key| !state.named.contains_key(key));
        before
    }

    /// Whether anybody refers to a name.
    #[must_use]
    pub fn is_named(&self, key: &Name) -> bool {
        self.state.lock().named.contains_key(key)
    }

    /// Who refers to a name.
    #[must_use]
    pub fn named_by(&self, key: &Name) -> Vec<Namer> {
        self.state.lock().named.get(key).into_iter().flatten().cloned().collect()
    }

    /// Waits until `watches` watches have listed everything once.
    pub async fn wait_until_listed(&self, watches: usize) {
        let mut receiver = self.listed.subscribe();
        // The sender lives in `self`.
        drop(receiver.wait_for(|listed| *listed >= watches).await);
    }

    /// Takes in an event of a watch; returns the names whose version is another now.
    pub fn absorb<K>(&self, view: &mut View, event: Event<PartialObjectMeta<K>>) -> Vec<Name> {
        match event {
            Event::Init => {
                view.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let changed = self.apply(&object, true);
                if let Some(key) = key_of(&object).filter(|key| self.state.lock().versions.contains_key(key)) {
                    view.listed.insert(key);
                }
                changed.into_iter().collect()
            }
            Event::InitDone => {
                let gone = self.vanished(view);
                (view.listed, view.has_listed) = (HashSet::new(), true);
                self.listed.send_modify(|listed| *listed += 1);
                gone
            }
            Event::Apply(object) => self.apply(&object, false).into_iter().collect(),
            Event::Delete(object) => {
                let Some(key) = key_of(&object) else { return Vec::new() };
                let mut state = self.state.lock();
                let is_same = state.versions.get(&key).is_some_and(|known| Some(known.version().uid) == object.metadata.uid);
                if is_same { state.versions.remove(&key).map(|_| key).into_iter().collect() } else { Vec::new() }
            }
        }
    }

    fn apply<K>(&self, object: &PartialObjectMeta<K>, is_listed: bool) -> Option<Name> {
        let key = key_of(object)?;
        let version = ObjectVersion { uid: object.metadata.uid.clone()?, resource_version: object.metadata.resource_version.clone()? };
        let mut state = self.state.lock();
        let concerns_us = object.metadata.labels.iter().flatten().any(|(label, _)| label == mark::KIND)
            || state.named.contains_key(&key)
            || state.versions.contains_key(&key);
        if !concerns_us {
            return None;
        }
        let is_named = state.named.contains_key(&key);
        let is_news = match state.versions.get_mut(&key) {
            None => true,
            Some(known) if is_newer(&version, &known.version()) => true,
            // One of us wrote it, or read it first: the others who name it have not heard of it. A list is no event.
            Some(known) if known.version() == version => !std::mem::replace(&mut known.is_told, true) && is_named && !is_listed,
            Some(_) => false,
        };
        if is_news {
            state.versions.insert(key.clone(), Seen::of(&version, true));
        }
        is_news.then_some(key)
    }

    fn vanished(&self, view: &View) -> Vec<Name> {
        let mut state = self.state.lock();
        let gone: Vec<Name> = state
            .versions
            .keys()
            .filter(|key| view.namespace.as_ref().is_none_or(|namespace| namespace == key.namespace()) && !view.listed.contains(*key))
            .cloned()
            .collect();
        for key in &gone {
            state.versions.remove(key);
        }
        gone
    }
}

fn key_of<K>(object: &PartialObjectMeta<K>) -> Option<Name> {
    Some(Name::new(object.metadata.namespace.as_ref()?, object.metadata.name.as_ref()?))
}

/// Whether `version` is later than `known`. Resource versions are numbers of one counter (Kubernetes API concepts, since 1.35); where they
/// are not, whatever comes last counts.
fn is_newer(version: &ObjectVersion, known: &ObjectVersion) -> bool {
    match (version.resource_version.parse::<u64>(), known.resource_version.parse::<u64>()) {
        (Ok(version), Ok(known)) => version > known,
        _ => version != known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ProviderKind;
    use k8s_openapi::api::core::v1::Secret;

    fn secret(name: &str, version: u64, ours: bool) -> PartialObjectMeta<Secret> {
        let labels = if ours { serde_json::json!({ mark::KIND: "AppIdApplication" }) } else { serde_json::json!({}) };
        serde_json::from_value(serde_json::json!({ "metadata": { "namespace": "ns", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(), "labels": labels } }))
            .expect("valid metadata")
    }

    fn key(name: &str) -> Name {
        Name::new("ns", name)
    }

    #[test]
    fn only_our_own_and_named_secrets_are_kept() {
        let (versions, mut view) = (Versions::default(), View::new(None));
        let key_of_provider = ProviderKey { kind: ProviderKind::IdentityProvider, namespace: "shop".into(), name: "provider".into() };
        let namer = Namer { who: Who::Provider(key_of_provider), uid: "uid".into() };
        let another = Namer { uid: "another".into(), ..namer.clone() };
        assert_eq!(versions.name(&another, &[key("credential")]), []);
        assert_eq!(versions.name(&namer, &[key("former"), key("credential")]), []);
        assert_eq!(versions.name(&another, &[]), [], "the other one names it still");
        assert_eq!(versions.name(&namer, &[key("credential")]), [key("former")]);
        for object in [secret("ours", 5, true), secret("credential", 6, false), secret("foreign", 7, false), secret("former", 8, false)] {
            versions.absorb(&mut view, Event::Apply(object));
        }
        assert!(versions.get(&key("ours")).is_some() && versions.get(&key("credential")).is_some());
        assert!(versions.get(&key("foreign")).is_none() && versions.get(&key("former")).is_none());
        assert_eq!(versions.named_by(&key("credential")), [namer]);
    }

    #[test]
    fn our_own_write_is_not_news_when_the_watch_repeats_it_and_an_older_event_does_not_turn_it_back() {
        let (versions, mut view) = (Versions::default(), View::new(None));
        versions.note(key("ours"), ObjectVersion { uid: "uid-ours".into(), resource_version: "9".into() });
        assert!(versions.absorb(&mut view, Event::Apply(secret("ours", 8, true))).is_empty());
        assert!(versions.absorb(&mut view, Event::Apply(secret("ours", 9, true))).is_empty());
        assert_eq!(versions.absorb(&mut view, Event::Apply(secret("ours", 10, true))), [key("ours")]);
    }

    #[test]
    fn a_version_that_one_of_us_wrote_or_read_first_is_news_once_to_all_who_name_it() {
        let (versions, mut view) = (Versions::default(), View::new(None));
        let provider = ProviderKey { kind: ProviderKind::IdentityProvider, namespace: "shop".into(), name: "provider".into() };
        let namer = Namer { who: Who::Provider(provider), uid: "uid".into() };
        assert_eq!(versions.name(&namer, &[key("named")]), []);
        let read = |version: u64| ObjectVersion { uid: "uid-named".into(), resource_version: version.to_string() };
        versions.note(key("named"), read(9));
        assert!(versions.absorb(&mut view, Event::Apply(secret("named", 8, false))).is_empty());
        assert_eq!(versions.absorb(&mut view, Event::Apply(secret("named", 9, false))), [key("named")]);
        assert!(versions.absorb(&mut view, Event::Apply(secret("named", 9, false))).is_empty(), "once");
        versions.note(key("named"), read(10));
        assert!(versions.absorb(&mut view, Event::InitApply(secret("named", 10, false))).is_empty(), "a list is no event");
        versions.note(key("named"), read(10));
        assert!(versions.absorb(&mut view, Event::Apply(secret("named", 10, false))).is_empty(), "it is told already");
    }

    #[test]
    fn what_vanished_while_the_watch_was_broken_is_noticed_in_its_own_namespace_only() {
        let (versions, mut view) = (Versions::default(), View::new(Some("ns".into())));
        versions.note(Name::new("other", "x"), ObjectVersion { uid: "u".into(), resource_version: "1".into() });
        versions.absorb(&mut view, Event::Apply(secret("a", 1, true)));
        versions.absorb(&mut view, Event::Apply(secret("b", 2, true)));
        versions.absorb::<Secret>(&mut view, Event::Init);
        versions.absorb(&mut view, Event::InitApply(secret("b", 2, true)));
        assert_eq!(versions.absorb::<Secret>(&mut view, Event::InitDone), [key("a")]);
        assert!(versions.get(&Name::new("other", "x")).is_some());
    }

    #[test]
    fn the_deletion_of_a_former_secret_of_that_name_does_not_hide_the_new_one() {
        let (versions, mut view) = (Versions::default(), View::new(None));
        versions.note(key("ours"), ObjectVersion { uid: "uid-new".into(), resource_version: "9".into() });
        assert!(versions.absorb(&mut view, Event::Delete(secret("ours", 8, true))).is_empty());
        assert!(versions.get(&key("ours")).is_some());
    }
}
