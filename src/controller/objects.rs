//! All objects of a kind, as they were last seen.
//!
//! There are thousands of them, and a pass needs one. So they are kept packed, in a sixth of the place, and unpacked whenever one is looked at.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};

use super::{name::Name, report::is_true, token, uid::Uid};
use crate::api::{AccessToken, AppIdApplication, ClusterIdentityProvider, IdentityProvider};

/// What objects look like, so that only what is its own has to be kept of each. Any text would do: both ways use the same one, and neither is
/// ever stored.
const DICTIONARY: &str = concat!(
    r#"{"apiVersion":"cloudidentity.dev/v1alpha1","kind":"AppIdApplication","metadata":{"annotations":{"cloudidentity.dev/tenant":"app_id/"},"#,
    r#""creationTimestamp":"2026-11-28T13:00:00Z","finalizers":["cloudidentity.dev/cloud-identity-operator"],"generation":1,"labels":{},"#,
    r#""managedFields":[],"name":"","namespace":"","ownerReferences":[],"resourceVersion":"","uid":""},"spec":{"providerRef":{"#,
    r#""kind":"ClusterIdentityProvider","name":""},"displayName":"","type":"RegularWebApp","scopes":["],"roles":["],"redirectUris":["https://"],"#,
    r#""secret":{"name":"","layout":"AppId"},"deletionPolicy":"Delete","suspend":false},"status":{"adopted":false,"clientId":"","added":{"#,
    r#""scopes":[],"roles":[],"redirectUris":[]},"providerVersion":{"uid":"","generation":1},"#,
    r#"{"lastTransitionTime":"2026-11-28T13:00:00Z","message":"the client is registered and its Secret is published","#,
    r#""observedGeneration":1,"reason":"Registered","status":"True","type":"Registered"},"reason":"Published","status":"True","type":"#,
    r#""SecretPublished"},"reason":"Verified","status":"True","type":"Verified"}"#,
    r#"{"apiVersion":"cloudidentity.dev/v1alpha1","kind":"AccessToken","metadata":{"annotations":{},"creationTimestamp":"2026-11-28T13:00:00Z","#,
    r#""generation":1,"managedFields":[],"name":"","namespace":"","resourceVersion":"","uid":""},"spec":{"providerRef":{"kind":"IdentityProvider","#,
    r#""name":""},"grant":{},"refresh":{},"secret":{"layout":"BearerToken","identityToken":false},"suspend":false},"status":{"#,
    r#""observedGeneration":1,"conditions":[{"lastTransitionTime":"2026-11-28T13:00:00Z","message":"","observedGeneration":1,"reason":"Ready","#,
    r#""status":"True","type":"Ready"},{"lastTransitionTime":"2026-11-28T13:00:00Z","message":"","observedGeneration":1,"reason":"Published","#,
    r#""status":"True","type":"SecretPublished"},{"lastTransitionTime":"2026-11-28T13:00:00Z","message":"","observedGeneration":1,"#,
    r#""reason":"Refreshed","status":"True","type":"Fresh"}],"tenant":"","secretRef":{"name":""},"secretVersion":{"uid":"","#,
    r#""resourceVersion":""},"expiresAt":"2026-11-28T13:00:00Z","refreshAt":"2026-11-28T13:00:00Z","lastRefreshedAt":"2026-11-28T13:00:00Z","#,
    r#""issuedFor":{"generation":1,"provider":{"uid":"","generation":1},"providerCredentials":{"uid":"","resourceVersion":""}}}}"#,
);

/// A kind whose objects are kept.
pub trait Kept: Resource<DynamicType = ()> + Serialize + DeserializeOwned + PartialEq + Clone + Debug + Send + Sync + 'static {
    /// What is told of all of them now and then, without any being unpacked.
    type Summary: Debug + Send + Sync;

    /// What is said of it.
    fn conditions(&self) -> &[Condition];

    /// What is told of it.
    fn summary(&self) -> Self::Summary;
}

macro_rules! kept {
    ($($kind:ty: $summary:ty = $make:expr),*) => {
        $(impl Kept for $kind {
            type Summary = $summary;

            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map(|status| &*status.conditions).unwrap_or_default()
            }

            fn summary(&self) -> Self::Summary {
                $make(self)
            }
        })*
    };
}
kept!(
    AccessToken: token::Summary = token::Summary::of,
    AppIdApplication: () = |_| (),
    ClusterIdentityProvider: () = |_| (),
    IdentityProvider: () = |_| ()
);

/// All objects of a kind.
#[derive(Debug)]
pub struct Objects<K: Kept> {
    entries: RwLock<HashMap<Name, Entry<K>>>,
    /// So many watches have not listed everything yet.
    unlisted: tokio::sync::watch::Sender<usize>,
}

#[derive(Debug)]
struct Entry<K: Kept> {
    uid: Uid,
    is_ready: bool,
    summary: K::Summary,
    object: Held<K>,
}

#[derive(Debug)]
enum Held<K> {
    Packed(Box<[u8]>),
    /// What would not come back as it is.
    Whole(Arc<K>),
}

impl<K: Kept> Held<K> {
    fn of(object: &Arc<K>) -> Self {
        let packed = serde_json::to_vec(&**object).ok().map(|text| compress_prepend_size_with_dict(&text, DICTIONARY.as_bytes()));
        match packed {
            Some(packed) if unpacked::<K>(&packed).as_ref() == Some(&**object) => Self::Packed(packed.into_boxed_slice()),
            _ => Self::Whole(object.clone()),
        }
    }

    /// Always there: it came back when it was packed.
    fn get(&self) -> Option<Arc<K>> {
        match self {
            Self::Packed(packed) => unpacked(packed).map(Arc::new),
            Self::Whole(object) => Some(object.clone()),
        }
    }
}

fn unpacked<K: Kept>(packed: &[u8]) -> Option<K> {
    let text = decompress_size_prepended_with_dict(packed, DICTIONARY.as_bytes()).ok()?;
    serde_json::from_slice(&text).ok()
}

impl<K: Kept> Objects<K> {
    /// None yet; complete when so many watches have listed everything.
    #[must_use]
    pub fn new(watches: usize) -> Arc<Self> {
        Arc::new(Self { entries: RwLock::default(), unlisted: tokio::sync::watch::Sender::new(watches) })
    }

    /// The object of that name.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Arc<K>> {
        self.entries.read().get(name)?.object.get()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.entries.read().values().filter_map(|entry| entry.object.get()).collect()
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        self.entries.read().keys().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.read().len()
    }

    /// How many are ready.
    #[must_use]
    pub fn count_ready(&self) -> usize {
        self.entries.read().values().filter(|entry| entry.is_ready).count()
    }

    /// Looks at the summary of each.
    pub fn for_each_summary(&self, mut look: impl FnMut(Uid, &K::Summary)) {
        self.entries.read().values().for_each(|entry| look(entry.uid, &entry.summary));
    }

    /// Takes in an object as it is now. Returns the name to know it by, and the former object of that name if it was another one.
    pub fn put(&self, object: &Arc<K>) -> (Name, Option<Arc<K>>) {
        let uid = Uid::of(object.meta().uid.as_deref().unwrap_or_default());
        let entry = Entry { uid, is_ready: is_true(object.conditions(), "Ready"), summary: object.summary(), object: Held::of(object) };
        let name = Name::of(object.meta());
        let mut entries = self.entries.write();
        // The text of the name is there once, however often the object changes.
        let name = entries.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        let former = entries.insert(name.clone(), entry).filter(|former| former.uid != uid);
        (name, former.and_then(|former| former.object.get()))
    }

    /// Takes out an object.
    pub fn remove(&self, name: &Name) -> Option<Arc<K>> {
        self.entries.write().remove(name)?.object.get()
    }

    /// A watch has listed everything for the first time.
    pub fn listed(&self) {
        self.unlisted.send_modify(|unlisted| *unlisted = unlisted.saturating_sub(1));
    }

    /// Waits until every watch has listed everything once.
    pub async fn wait_until_listed(&self) {
        // The sender lives in `self`.
        drop(self.unlisted.subscribe().wait_for(|unlisted| *unlisted == 0).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn token(name: &str, change: impl FnOnce(&mut Value)) -> Arc<AccessToken> {
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({ "type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
                "lastTransitionTime": "2026-11-28T11:02:03Z" })
        };
        let mut document = json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AccessToken",
            "metadata": { "name": name, "namespace": "shop", "uid": "0f2dcb3a-6c5e-4c35-9f3b-5f6ad0d5c7aa", "resourceVersion": "1048576",
                "generation": 1, "creationTimestamp": "2026-11-28T11:02:01Z" },
            "spec": { "providerRef": { "name": "ibm-3" } },
            "status": {
                "observedGeneration": 1,
                "conditions": [
                    condition("Ready", "Ready", "the Secret holds a valid token"),
                    condition("SecretPublished", "Published", "the Secret is published"),
                    condition("Fresh", "Refreshed", "the token is replaced in time"),
                ],
                "tenant": "iam/7f3c9a0d4be94b5e8d0f7a9c1e2b3d4f", "secretRef": { "name": name },
                "secretVersion": { "uid": "a3c1e5f7-1b2d-4e6f-8a9b-0c1d2e3f4a5b", "resourceVersion": "1048570" },
                "expiresAt": "2026-11-28T12:02:03Z", "refreshAt": "2026-11-28T11:31:11Z", "lastRefreshedAt": "2026-11-28T11:02:03Z",
                "issuedFor": {
                    "generation": 1, "provider": { "uid": "5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9", "generation": 2 },
                    "providerCredentials": { "uid": "9b8a7c6d-5e4f-4a3b-9c2d-1e0f9a8b7c6d", "resourceVersion": "1000123" },
                },
            },
        });
        change(&mut document);
        Arc::new(serde_json::from_value(document).expect("valid"))
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was_from_little_room() {
        let objects = Objects::<AccessToken>::new(1);
        let plain = token("plain", |_| ());
        let rich = token("rich", |document| {
            document["metadata"]["annotations"] = json!({ "cloudidentity.dev/refresh": "2026", "other": "\u{1f511} \"quoted\"\n" });
            document["spec"]["grant"] =
                json!({ "type": "ClientCredentials", "scopes": ["openid"], "parameters": [{ "name": "a", "value": "b" }] });
            document["spec"]["refresh"] = json!({ "maxInterval": "1h30m" });
            document["status"]["failures"] = json!(3);
        });
        let newer = token("newer", |document| document["spec"]["grant"] = json!({ "type": "OfAVersionToCome" }));
        for object in [&plain, &rich, &newer] {
            let (name, former) = objects.put(object);
            assert!(former.is_none());
            assert_eq!(objects.get(&name).as_deref(), Some(&**object));
            let entries = objects.entries.read();
            let Held::Packed(packed) = &entries[&name].object else { panic!("{name} is not packed") };
            assert!(packed.len() < 700, "{name} takes {} bytes", packed.len());
        }
        assert_eq!((objects.count(), objects.count_ready()), (3, 3));
    }

    #[test]
    fn an_object_that_was_made_again_under_its_name_is_another_one() {
        let objects = Objects::<AccessToken>::new(1);
        let (first, changed) = (token("a", |_| ()), token("a", |document| document["status"] = Value::Null));
        let again = token("a", |document| document["metadata"]["uid"] = json!("1c2d3e4f-0000-4000-8000-000000000000"));
        objects.put(&first);
        assert!(objects.put(&changed).1.is_none(), "the same one, changed");
        assert_eq!(objects.count_ready(), 0);
        assert_eq!(objects.put(&again).1, Some(changed));
        let name = Name::new("shop", "a");
        assert_eq!(objects.remove(&name), Some(again));
        assert_eq!((objects.get(&name), objects.count()), (None, 0));
    }
}
