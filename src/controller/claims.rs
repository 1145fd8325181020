//! What the objects of all kinds lay claim to: Secret names, registrations, redirect URIs, providers.
//!
//! Kept beside the watch, so that a pass never walks over all objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;

use super::versions::Key;
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
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Claimant {
    /// How others refer to it.
    #[must_use]
    pub fn reference(&self) -> Reference {
        (self.kind, self.namespace.clone(), self.name.clone())
    }
}

impl std::fmt::Display for Claimant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object that another one refers to: kind, namespace, name.
pub type Reference = (&'static str, String, String);

/// What one object claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub claimant: Claimant,
    /// When it was created, in seconds: the oldest comes first.
    pub created: i64,
    /// The Secret it publishes.
    pub secret: Key,
    /// The Secret in which the operator keeps what it needs for it.
    pub state: Option<Key>,
    /// The Secret whose refresh token it uses up, and whether it has begun to.
    pub spends: Option<(Key, bool)>,
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
    fn secrets(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.secret).chain(&self.state)
    }
}

/// All claims.
#[derive(Debug, Default)]
pub struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_uid: HashMap<String, Claim>,
    by_secret: HashMap<Key, BTreeSet<(i64, String)>>,
    /// Who has begun comes first.
    by_spent: HashMap<Key, BTreeSet<(bool, i64, String)>>,
    by_client: HashMap<(String, ClientId), BTreeSet<String>>,
    /// Registrations that were taken over in this process, before the status that says so has come back through the watch.
    reserved: HashMap<(String, ClientId), String>,
    by_uri: HashMap<(String, String), BTreeSet<String>>,
    by_provider: HashMap<ProviderKey, BTreeSet<String>>,
    by_reference: HashMap<Reference, BTreeSet<String>>,
    /// Who waits for a registration that another object holds.
    waiting: HashMap<(String, ClientId), BTreeSet<String>>,
}

impl Claims {
    /// Takes in an object as it is now. Returns who else has an eye on what it no longer claims.
    pub fn apply(&self, claim: Claim) -> Vec<Claimant> {
        let mut state = self.0.lock();
        if state.by_uid.get(&claim.claimant.uid) == Some(&claim) {
            return Vec::new();
        }
        let held = |claim: &Claim| claim.tenant.clone().zip(claim.client_id.clone());
        let kept = state.by_uid.get(&claim.claimant.uid).and_then(held).filter(|registration| Some(registration) == held(&claim).as_ref());
        let waiting_for_it = kept.and_then(|registration| state.waiting.remove_entry(&registration));
        let waiting = state.withdraw(&claim.claimant.uid);
        state.enter(claim);
        state.waiting.extend(waiting_for_it);
        waiting
    }

    /// Takes out an object. Returns who had an eye on what it claimed.
    pub fn remove(&self, uid: &str) -> Vec<Claimant> {
        let mut state = self.0.lock();
        state.reserved.retain(|_, holder| holder != uid);
        state.withdraw(uid)
    }

    /// Everybody who claims a Secret name.
    #[must_use]
    pub fn of_secret(&self, secret: &Key) -> Vec<Claimant> {
        let state = self.0.lock();
        state.by_secret.get(secret).into_iter().flatten().filter_map(|(_, uid)| state.claimant(uid)).collect()
    }

    /// Who comes before `uid` in claiming a Secret name: the oldest, then the smallest UID.
    #[must_use]
    pub fn secret_rival(&self, secret: &Key, uid: &str) -> Option<Claimant> {
        let state = self.0.lock();
        let (_, first) = state.by_secret.get(secret)?.first()?;
        if first == uid { None } else { state.claimant(first) }
    }

    /// Who comes before `uid` in using up the refresh token of a Secret: who has begun to, then the oldest, then the smallest UID.
    #[must_use]
    pub fn rival_for_refresh_token(&self, secret: &Key, uid: &str) -> Option<Claimant> {
        let state = self.0.lock();
        let (_, _, first) = state.by_spent.get(secret)?.first()?;
        if first == uid { None } else { state.claimant(first) }
    }

    /// Who else than `uid` holds a registration on a tenant. When that one lets go of it, `uid` is among those who waited.
    #[must_use]
    pub fn holder(&self, tenant: &str, client_id: &ClientId, uid: &str) -> Option<Claimant> {
        let mut state = self.0.lock();
        let registration = (tenant.to_owned(), client_id.clone());
        let holder = state.holder(&registration, uid)?;
        state.waiting.entry(registration).or_default().insert(uid.to_owned());
        Some(holder)
    }

    /// Takes a registration for an object, unless another object holds it or was quicker.
    #[must_use]
    pub fn reserve(&self, tenant: &str, client_id: &ClientId, uid: &str) -> bool {
        let mut state = self.0.lock();
        let registration = (tenant.to_owned(), client_id.clone());
        if state.holder(&registration, uid).is_some() {
            return false;
        }
        state.reserved.retain(|_, holder| holder != uid);
        state.reserved.insert(registration, uid.to_owned());
        true
    }

    /// For each entry: another live object on the tenant that lists it, if there is one.
    #[must_use]
    pub fn heirs<'a>(&self, tenant: &str, entries: impl Iterator<Item = &'a String>, except: &str) -> BTreeMap<String, Claimant> {
        let state = self.0.lock();
        entries
            .filter_map(|entry| {
                let lists = state.by_uri.get(&(tenant.to_owned(), entry.clone()))?;
                let heir = lists
                    .iter()
                    .filter(|uid| *uid != except)
                    .find_map(|uid| state.by_uid.get(uid).filter(|claim| claim.may_inherit && !claim.deleting))?;
                Some((entry.clone(), heir.claimant.clone()))
            })
            .collect()
    }

    /// Who uses a provider: names it, or refers to an object that does.
    #[must_use]
    pub fn of_provider(&self, provider: &ProviderKey) -> Vec<Claimant> {
        let state = self.0.lock();
        let mut users: Vec<_> = state.by_provider.get(provider).into_iter().flatten().filter_map(|uid| state.claimant(uid)).collect();
        let followers: Vec<_> = users.iter().flat_map(|user| state.referring_to(&user.reference())).collect();
        users.extend(followers);
        users
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
            .filter_map(|uid| state.claimant(uid))
            .filter(|claimant| claimant.namespace == namespace)
            .collect()
    }

    /// Whether an object of that UID lives.
    #[must_use]
    pub fn lives(&self, uid: &str) -> bool {
        self.0.lock().by_uid.contains_key(uid)
    }
}

impl State {
    fn referring_to(&self, reference: &Reference) -> Vec<Claimant> {
        self.by_reference.get(reference).into_iter().flatten().filter_map(|uid| self.claimant(uid)).collect()
    }

    fn claimant(&self, uid: &str) -> Option<Claimant> {
        self.by_uid.get(uid).map(|claim| claim.claimant.clone())
    }

    fn holder(&self, registration: &(String, ClientId), except: &str) -> Option<Claimant> {
        let recorded = self.by_client.get(registration).into_iter().flatten();
        recorded.chain(self.reserved.get(registration)).filter(|uid| *uid != except).find_map(|uid| self.claimant(uid))
    }

    fn enter(&mut self, claim: Claim) {
        let uid = claim.claimant.uid.clone();
        for secret in claim.secrets() {
            self.by_secret.entry(secret.clone()).or_default().insert((claim.created, uid.clone()));
        }
        if let Some((spent, has_begun)) = &claim.spends {
            self.by_spent.entry(spent.clone()).or_default().insert((!has_begun, claim.created, uid.clone()));
        }
        if let Some(provider) = &claim.provider {
            self.by_provider.entry(provider.clone()).or_default().insert(uid.clone());
        }
        for reference in &claim.refers_to {
            self.by_reference.entry(reference.clone()).or_default().insert(uid.clone());
        }
        if let Some(tenant) = &claim.tenant {
            if let Some(client_id) = &claim.client_id {
                self.by_client.entry((tenant.clone(), client_id.clone())).or_default().insert(uid.clone());
            }
            for uri in &claim.redirect_uris {
                self.by_uri.entry((tenant.clone(), uri.clone())).or_default().insert(uid.clone());
            }
        }
        self.by_uid.insert(uid, claim);
    }

    fn withdraw(&mut self, uid: &str) -> Vec<Claimant> {
        let Some(claim) = self.by_uid.remove(uid) else { return Vec::new() };
        let place = (claim.created, uid.to_owned());
        for secret in claim.secrets() {
            prune(&mut self.by_secret, secret, &place);
        }
        if let Some((spent, has_begun)) = &claim.spends {
            prune(&mut self.by_spent, spent, &(!has_begun, claim.created, uid.to_owned()));
        }
        if let Some(provider) = &claim.provider {
            prune(&mut self.by_provider, provider, &uid.to_owned());
        }
        for reference in &claim.refers_to {
            prune(&mut self.by_reference, reference, &uid.to_owned());
        }
        if let Some(tenant) = &claim.tenant {
            if let Some(client_id) = &claim.client_id {
                prune(&mut self.by_client, &(tenant.clone(), client_id.clone()), &uid.to_owned());
            }
            for uri in &claim.redirect_uris {
                prune(&mut self.by_uri, &(tenant.clone(), uri.clone()), &uid.to_owned());
            }
        }
        let claim_the_same = claim.secrets().filter_map(|secret| self.by_secret.get(secret)).flatten().map(|(_, other)| other.clone());
        let mut waiting: BTreeSet<String> = claim_the_same.collect();
        let spend_the_same = claim.spends.as_ref().and_then(|(spent, _)| self.by_spent.get(spent));
        waiting.extend(spend_the_same.into_iter().flatten().map(|(_, _, other)| other.clone()));
        if let (Some(tenant), Some(client_id)) = (claim.tenant, claim.client_id) {
            waiting.extend(self.waiting.remove(&(tenant, client_id)).into_iter().flatten());
        }
        waiting.iter().filter_map(|other| self.claimant(other)).collect()
    }
}

fn prune<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
