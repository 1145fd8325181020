//! What the objects of all kinds lay claim to: Secret names, registrations, redirect URIs, providers.
//!
//! Kept beside the watch, so that a pass never walks over all objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{name::Name, uid::Uid};
use crate::{
    api::{ProviderKind, ProviderReference},
    model::ClientId,
};

/// A provider: kind, namespace (empty for a cluster provider), name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderKey {
    /// The kind.
    pub kind: ProviderKind,
    /// Its namespace; empty for a cluster provider.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ProviderKey {
    /// The provider that an object of `namespace` refers to.
    #[must_use]
    pub fn referred(reference: &ProviderReference, namespace: &str) -> Self {
        let namespace = if reference.kind == ProviderKind::ClusterIdentityProvider { "" } else { namespace };
        Self { kind: reference.kind, namespace: namespace.to_owned(), name: reference.name.clone() }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claimant {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace and name.
    pub name: Name,
    /// Its UID.
    pub uid: Arc<str>,
}

impl Claimant {
    /// How others refer to it.
    #[must_use]
    pub fn reference(&self) -> Reference {
        (self.kind, self.name.clone())
    }
}

impl std::fmt::Display for Claimant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An object that another one refers to: its kind, and its name.
pub type Reference = (&'static str, Name);

/// What one object claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub claimant: Claimant,
    /// When it was created, in seconds: the oldest comes first.
    pub created: i64,
    /// The Secret it publishes.
    pub secret: Name,
    /// The Secret in which the operator keeps what it needs for it.
    pub state: Option<Name>,
    /// The refresh token that it uses up, by Secret and key, and whether it has begun to.
    pub spends: Option<(Name, bool)>,
    /// The provider it names.
    pub provider: Option<ProviderKey>,
    /// Objects of its own namespace that it refers to.
    pub refers_to: BTreeSet<Reference>,
    /// The tenant recorded on it.
    pub tenant: Option<String>,
    /// The registration it holds.
    pub client_id: Option<ClientId>,
    /// The redirect URIs its spec lists.
    pub redirect_uris: BTreeSet<String>,
    /// Whether entries at the service may pass to it.
    pub may_inherit: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Claim {
    /// Every Secret that is written for it.
    fn secrets(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.secret).chain(&self.state)
    }
}

/// All claims.
#[derive(Debug, Default)]
pub struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_uid: HashMap<Uid, Box<Claim>>,
    /// Who claims a name: the oldest first, then the smallest UID. Hardly ever more than one.
    by_secret: HashMap<Name, Vec<(i64, Arc<str>)>>,
    /// Who uses up a refresh token: who has begun to first, then as above.
    by_spent: HashMap<Name, Vec<(bool, i64, Arc<str>)>>,
    by_client: HashMap<(String, ClientId), BTreeSet<Uid>>,
    /// Registrations that were taken over in this process, before the status that says so has come back through the watch.
    reserved: HashMap<(String, ClientId), Uid>,
    by_uri: HashMap<(String, String), BTreeSet<Uid>>,
    by_provider: HashMap<ProviderKey, BTreeSet<Uid>>,
    by_reference: HashMap<Reference, BTreeSet<Uid>>,
    /// Who waits for a registration that another object holds.
    waiting: HashMap<(String, ClientId), BTreeSet<Uid>>,
}

impl Claims {
    /// Takes in an object as it is now. Returns who else has an eye on what it no longer claims.
    pub fn apply(&self, claim: Claim) -> Vec<Claimant> {
        let mut state = self.0.lock();
        let uid = Uid::of(&claim.claimant.uid);
        let before = state.by_uid.get(&uid).map(Box::as_ref);
        if before == Some(&claim) {
            return Vec::new();
        }
        let held = |claim: &Claim| claim.tenant.clone().zip(claim.client_id.clone());
        let kept = before.and_then(held).filter(|registration| Some(registration) == held(&claim).as_ref());
        let waiting_for_it = kept.and_then(|registration| state.waiting.remove_entry(&registration));
        let waiting = state.withdraw(uid);
        state.enter(uid, claim);
        state.waiting.extend(waiting_for_it);
        waiting
    }

    /// Takes out an object. Returns who had an eye on what it claimed.
    pub fn remove(&self, uid: &str) -> Vec<Claimant> {
        let (mut state, uid) = (self.0.lock(), Uid::of(uid));
        state.reserved.retain(|_, holder| *holder != uid);
        state.withdraw(uid)
    }

    /// Everybody who claims a Secret name.
    #[must_use]
    pub fn of_secret(&self, secret: &Name) -> Vec<Claimant> {
        let state = self.0.lock();
        state.by_secret.get(secret).into_iter().flatten().filter_map(|(_, uid)| state.claimant(Uid::of(uid))).collect()
    }

    /// Who comes before `uid` in claiming a Secret name: the oldest, then the smallest UID.
    #[must_use]
    pub fn secret_rival(&self, secret: &Name, uid: &str) -> Option<Claimant> {
        let state = self.0.lock();
        let (_, first) = state.by_secret.get(secret)?.first()?;
        if **first == *uid { None } else { state.claimant(Uid::of(first)) }
    }

    /// Who comes before `uid` in using up the refresh token under a key of a Secret: who has begun to, then the oldest, then the smallest UID.
    #[must_use]
    pub fn rival_for_refresh_token(&self, key: &Name, uid: &str) -> Option<Claimant> {
        let state = self.0.lock();
        let (_, _, first) = state.by_spent.get(key)?.first()?;
        if **first == *uid { None } else { state.claimant(Uid::of(first)) }
    }

    /// Who else than `uid` holds a registration on a tenant. When that one lets go of it, `uid` is among those who waited.
    #[must_use]
    pub fn holder(&self, tenant: &str, client_id: &ClientId, uid: &str) -> Option<Claimant> {
        let (mut state, uid) = (self.0.lock(), Uid::of(uid));
        let registration = (tenant.to_owned(), client_id.clone());
        let holder = state.holder(&registration, uid)?;
        state.waiting.entry(registration).or_default().insert(uid);
        Some(holder)
    }

    /// Takes a registration for an object, unless another object holds it or was quicker.
    #[must_use]
    pub fn reserve(&self, tenant: &str, client_id: &ClientId, uid: &str) -> bool {
        let (mut state, uid) = (self.0.lock(), Uid::of(uid));
        let registration = (tenant.to_owned(), client_id.clone());
        if state.holder(&registration, uid).is_some() {
            return false;
        }
        state.reserved.retain(|_, holder| *holder != uid);
        state.reserved.insert(registration, uid);
        true
    }

    /// For each entry: another live object on the tenant that lists it, if there is one.
    #[must_use]
    pub fn heirs<'a>(&self, tenant: &str, entries: impl Iterator<Item = &'a String>, except: &str) -> BTreeMap<String, Claimant> {
        let (state, except) = (self.0.lock(), Uid::of(except));
        entries
            .filter_map(|entry| {
                let lists = state.by_uri.get(&(tenant.to_owned(), entry.clone()))?;
                let heir = lists
                    .iter()
                    .filter(|uid| **uid != except)
                    .find_map(|uid| state.by_uid.get(uid).filter(|claim| claim.may_inherit && !claim.deleting))?;
                Some((entry.clone(), heir.claimant.clone()))
            })
            .collect()
    }

    /// Who uses a provider: names it, or refers to an object that does.
    #[must_use]
    pub fn of_provider(&self, provider: &ProviderKey) -> Vec<Claimant> {
        let state = self.0.lock();
        let mut users: Vec<_> = state.by_provider.get(provider).into_iter().flatten().filter_map(|uid| state.claimant(*uid)).collect();
        let followers: Vec<_> = users.iter().flat_map(|user| state.referring_to(&user.reference())).collect();
        users.extend(followers);
        users
    }

    /// The provider that an object names.
    #[must_use]
    pub fn provider_of(&self, uid: Uid) -> Option<ProviderKey> {
        self.0.lock().by_uid.get(&uid)?.provider.clone()
    }

    /// Who refers to an object.
    #[must_use]
    pub fn referring_to(&self, reference: &Reference) -> Vec<Claimant> {
        self.0.lock().referring_to(reference)
    }

    /// Who in a namespace uses a cluster provider.
    #[must_use]
    pub fn of_cluster_providers_in(&self, namespace: &str) -> Vec<Claimant> {
        let state = self.0.lock();
        let cluster_wide = state.by_provider.iter().filter(|(provider, _)| provider.kind == ProviderKind::ClusterIdentityProvider);
        cluster_wide
            .flat_map(|(_, uids)| uids)
            .filter_map(|uid| state.claimant(*uid))
            .filter(|claimant| claimant.name.namespace() == namespace)
            .collect()
    }

    /// Whether an object of that UID lives.
    #[must_use]
    pub fn lives(&self, uid: &str) -> bool {
        self.0.lock().by_uid.contains_key(&Uid::of(uid))
    }
}

impl State {
    fn referring_to(&self, reference: &Reference) -> Vec<Claimant> {
        self.by_reference.get(reference).into_iter().flatten().filter_map(|uid| self.claimant(*uid)).collect()
    }

    fn claimant(&self, uid: Uid) -> Option<Claimant> {
        self.by_uid.get(&uid).map(|claim| claim.claimant.clone())
    }

    fn holder(&self, registration: &(String, ClientId), except: Uid) -> Option<Claimant> {
        let recorded = self.by_client.get(registration).into_iter().flatten();
        recorded.chain(self.reserved.get(registration)).filter(|uid| **uid != except).find_map(|uid| self.claimant(*uid))
    }

    fn enter(&mut self, uid: Uid, claim: Claim) {
        for secret in claim.secrets() {
            queue_up(&mut self.by_secret, secret, (claim.created, claim.claimant.uid.clone()));
        }
        if let Some((spent, has_begun)) = &claim.spends {
            queue_up(&mut self.by_spent, spent, (!has_begun, claim.created, claim.claimant.uid.clone()));
        }
        if let Some(provider) = &claim.provider {
            self.by_provider.entry(provider.clone()).or_default().insert(uid);
        }
        for reference in &claim.refers_to {
            self.by_reference.entry(reference.clone()).or_default().insert(uid);
        }
        if let Some(tenant) = &claim.tenant {
            if let Some(client_id) = &claim.client_id {
                self.by_client.entry((tenant.clone(), client_id.clone())).or_default().insert(uid);
            }
            for uri in &claim.redirect_uris {
                self.by_uri.entry((tenant.clone(), uri.clone())).or_default().insert(uid);
            }
        }
        self.by_uid.insert(uid, Box::new(claim));
    }

    fn withdraw(&mut self, uid: Uid) -> Vec<Claimant> {
        let Some(claim) = self.by_uid.remove(&uid) else { return Vec::new() };
        let mut waiting: BTreeSet<Uid> = BTreeSet::new();
        for secret in claim.secrets() {
            let others = leave(&mut self.by_secret, secret, |(_, other)| *other == claim.claimant.uid);
            waiting.extend(others.iter().map(|(_, other)| Uid::of(other)));
        }
        if let Some((spent, _)) = &claim.spends {
            let others = leave(&mut self.by_spent, spent, |(_, _, other)| *other == claim.claimant.uid);
            waiting.extend(others.iter().map(|(_, _, other)| Uid::of(other)));
        }
        if let Some(provider) = &claim.provider {
            prune(&mut self.by_provider, provider, &uid);
        }
        for reference in &claim.refers_to {
            prune(&mut self.by_reference, reference, &uid);
        }
        if let Some(tenant) = &claim.tenant {
            if let Some(client_id) = &claim.client_id {
                prune(&mut self.by_client, &(tenant.clone(), client_id.clone()), &uid);
            }
            for uri in &claim.redirect_uris {
                prune(&mut self.by_uri, &(tenant.clone(), uri.clone()), &uid);
            }
        }
        if let (Some(tenant), Some(client_id)) = (claim.tenant, claim.client_id) {
            waiting.extend(self.waiting.remove(&(tenant, client_id)).into_iter().flatten());
        }
        waiting.iter().filter_map(|other| self.claimant(*other)).collect()
    }
}

/// Takes a place in the queue for a name. Hardly ever is there more than one.
fn queue_up<T: Ord>(queues: &mut HashMap<Name, Vec<T>>, name: &Name, place: T) {
    match queues.get_mut(name) {
        Some(queue) => {
            queue.push(place);
            queue.sort_unstable();
        }
        None => drop(queues.insert(name.clone(), vec![place])),
    }
}

/// Leaves the queue for a name. Returns who is still in it.
fn leave<'a, T>(queues: &'a mut HashMap<Name, Vec<T>>, name: &Name, is: impl Fn(&T) -> bool) -> &'a [T] {
    if let Some(queue) = queues.get_mut(name) {
        queue.retain(|place| !is(place));
        if queue.is_empty() {
            queues.remove(name);
        }
    }
    queues.get(name).map(Vec::as_slice).unwrap_or_default()
}

fn prune<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
