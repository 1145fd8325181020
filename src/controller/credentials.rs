//! The Secrets that objects refer to: each is read once per version, and kept in memory that is wiped when it is given up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;

use super::{
    cluster::{self, Abort},
    name::Name,
    versions::Versions,
};
use crate::{
    api::{ObjectVersion, PairKeys, mark},
    model::{ExposeSecret, SecretText},
    plan::Problem,
    reasons::Reason,
};

/// A Secret that somebody refers to, as it was last read.
#[derive(Clone)]
pub struct ReadCredential {
    /// Its version.
    pub version: ObjectVersion,
    /// Its values that are text.
    pub data: Arc<BTreeMap<String, SecretText>>,
    /// When it last changed, as far as the API server tells.
    pub changed_at: Option<Timestamp>,
}

impl ReadCredential {
    /// How long it has said what it says, at `now` in the cluster's time; nothing, where that is not known.
    #[must_use]
    pub fn known_for(&self, now: Timestamp) -> Duration {
        self.changed_at.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default()
    }
}

/// What was read.
#[derive(Default)]
pub struct Credentials {
    kept: Mutex<HashMap<Name, ReadCredential>>,
}

impl Credentials {
    /// The Secret under a name: from memory when its version is the one that was read.
    ///
    /// # Errors
    ///
    /// When the API server does not answer; in the inner result: when there is no such Secret, or it may not be referred to.
    pub async fn read(&self, client: &Client, secrets: &Versions, key: &Name) -> Result<Result<ReadCredential, Problem>, Abort> {
        if let (Some(current), Some(kept)) = (secrets.get(key), self.kept.lock().get(key).cloned())
            && current == kept.version
        {
            return Ok(Ok(kept));
        }
        let (namespace, name) = (key.namespace(), key.name());
        let Some((metadata, data)) = cluster::read_secret(client, namespace, name).await? else {
            self.kept.lock().remove(key);
            return Ok(Err(missing("Secret", namespace, name, None)));
        };
        if metadata.labels.iter().flatten().any(|(label, _)| label == mark::STATE) {
            return Ok(Err(Problem::new(
                Reason::SecretReferenceRefused,
                format!("the Secret {name} holds the operator's own state and may not be referred to"),
            )));
        }
        let version = ObjectVersion::of(&metadata);
        secrets.note(key.clone(), version.clone());
        let changes = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref()).map(|time| time.0);
        let changed_at = changes.max().or(metadata.creation_timestamp.map(|time| time.0));
        let read = ReadCredential { version, data: Arc::new(data), changed_at };
        self.kept.lock().insert(key.clone(), read.clone());
        let is_ours = metadata.labels.iter().flatten().any(|(label, _)| label == mark::KIND);
        if !is_ours && !secrets.is_named(key) {
            // Whoever referred to it went meanwhile.
            self.forget(std::slice::from_ref(key));
        }
        Ok(Ok(read))
    }

    /// Nobody refers to these any more, or they are gone.
    pub fn forget(&self, keys: &[Name]) {
        let mut kept = self.kept.lock();
        for key in keys {
            kept.remove(key);
        }
    }
}

/// A pair of client id and client secret in a Secret, without white space around either. Without `keys`, the usual names are tried; the secret
/// may be missing where only the id is needed.
///
/// # Errors
///
/// When there is none.
pub fn pair(
    data: &BTreeMap<String, SecretText>,
    name: &str,
    keys: Option<&PairKeys>,
    needs_secret: bool,
) -> Result<(String, SecretText), Problem> {
    let pairs: Vec<(&str, &str)> = match keys {
        Some(keys) => vec![(&keys.client_id, &keys.client_secret)],
        None => vec![("client_id", "client_secret"), ("clientId", "clientSecret"), ("clientId", "secret")],
    };
    let text = |key: &str| data.get(key).map(|text| text.expose_secret().trim());
    let found = pairs.iter().find(|(id, secret)| text(id).is_some() && (!needs_secret || text(secret).is_some()));
    let Some((id, secret)) = found else {
        let names: Vec<String> = pairs.iter().map(|(id, secret)| format!("{id} and {secret}")).collect();
        return Err(Problem::new(
            Reason::CredentialsNotFound,
            format!("the Secret {name} holds no pair of a client: it needs the keys {}", names.join(", or ")),
        ));
    };
    let (id, secret) = (text(id).unwrap_or_default(), text(secret).unwrap_or_default());
    if id.is_empty() || (needs_secret && secret.is_empty()) {
        return Err(Problem::new(Reason::CredentialsInvalid, format!("the Secret {name} holds an empty client id or secret")));
    }
    Ok((id.to_owned(), secret.to_owned().into()))
}

/// A Secret or ConfigMap, or one of its keys, that is not there.
#[must_use]
pub fn missing(kind: &str, namespace: &str, name: &str, key: Option<&str>) -> Problem {
    let message = match key {
        Some(key) => format!("the {kind} {name} in the namespace {namespace} has no key {key:?} with text"),
        None => format!("the {kind} {name} does not exist in the namespace {namespace}: create it there"),
    };
    Problem::new(Reason::CredentialsNotFound, message)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::{
        api::ProviderKind,
        controller::{
            claims::ProviderKey,
            versions::{Namer, Who},
        },
    };

    #[tokio::test]
    async fn what_was_read_is_kept_no_longer_than_somebody_refers_to_it() {
        let metadata = serde_json::json!({ "name": "key", "namespace": "ns", "uid": "u", "resourceVersion": "7" });
        let secret = serde_json::json!({ "metadata": metadata, "data": { "apikey": "eA==" } });
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = Response::new(Body::from(secret.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(answer) }
        });
        let client = Client::new(service, "default");
        let (credentials, secrets, key) = (Credentials::default(), Versions::default(), Name::new("ns", "key"));
        let provider = ProviderKey { kind: ProviderKind::IdentityProvider, namespace: "ns".into(), name: "provider".into() };
        let namer = Namer { who: Who::Provider(provider), uid: "uid".into() };
        for (named, kept) in [(false, 0), (true, 1)] {
            drop(secrets.name(&namer, if named { std::slice::from_ref(&key) } else { &[] }));
            let read = credentials.read(&client, &secrets, &key).await.expect("answered").expect("there");
            assert_eq!(read.version.resource_version, "7");
            assert_eq!(credentials.kept.lock().len(), kept, "named: {named}");
        }
        credentials.forget(&secrets.name(&namer, &[]));
        assert!(credentials.kept.lock().is_empty());
    }
}
