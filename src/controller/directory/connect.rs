//! From a specification to a connection: reads what it names, and puts it together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    super::{
        cluster::Abort,
        credentials::{ReadCredential, missing},
        versions::Versions,
    },
    Bundle, Connection, Directory, Service, Specification,
};
use crate::{
    api::{AppIdProvider, IamProvider, ObjectVersion},
    model::{ExposeSecret, Failure, SecretText, TenantIdentity},
    plan::Problem,
    provider::{
        AppId, Gate, Iam, Tenant,
        app_id::{self, SharedTenant},
        gate::Budget,
        http, iam,
    },
    reasons::Reason,
};

/// So many passes over objects of one tenant run at once; the others wait in a small place. Each may hold a connection to the API server
/// and one to the service, whose buffers are most of the operator's memory. Twice the usual concurrency of a tenant keeps that busy.
const PASSES: Budget = Budget { requests_per_second: 100_000, concurrency: 8 };

/// The Secrets that a provider names, by name, and the namespace they lie in.
struct Named<'a> {
    home: &'a str,
    secrets: HashMap<String, ReadCredential>,
}

impl Named<'_> {
    fn secret(&self, name: &str) -> Result<&ReadCredential, Problem> {
        self.secrets.get(name).ok_or_else(|| missing("Secret", self.home, name, None))
    }

    /// The text under a key of a Secret.
    fn text(&self, name: &str, key: &str) -> Result<&SecretText, Problem> {
        self.secret(name)?.data.get(key).ok_or_else(|| missing("Secret", self.home, name, Some(key)))
    }

    fn api_key(&self, name: &str, key: Option<&str>) -> Result<SecretText, Problem> {
        iam::api_key(self.text(name, key.unwrap_or("apikey"))?.expose_secret()).map_err(|failure| in_secret(self.home, name, &failure))
    }
}

impl Directory {
    pub(super) async fn connect(
        &self,
        client: &Client,
        secrets: &Versions,
        config_maps: &Versions,
        home: &str,
        specification: &Specification,
    ) -> Result<Result<Connection, Problem>, Abort> {
        let mut read = Named { home, secrets: HashMap::new() };
        for name in specification.secret_names() {
            match self.credentials.read(client, secrets, &(home.to_owned(), name.to_owned())).await? {
                Ok(credential) => {
                    read.secrets.insert(name.to_owned(), credential);
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let ca_from_map = match specification.config_map_name() {
            None => None,
            Some(name) => match self.read_config_map(client, config_maps, home, name).await? {
                Some(data) => Some(data),
                None => return Ok(Err(missing("ConfigMap", home, name, None))),
            },
        };
        Ok(self.assemble(specification, &read, ca_from_map.as_deref()))
    }

    async fn read_config_map(&self, client: &Client, config_maps: &Versions, home: &str, name: &str) -> Result<Option<Bundle>, Abort> {
        let key = (home.to_owned(), name.to_owned());
        if let (Some(current), Some((version, kept))) = (config_maps.get(&key), self.bundles.lock().get(&key).cloned())
            && current == version
        {
            return Ok(Some(kept));
        }
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), home);
        let Some(map) = api.get_opt(name).await.map_err(Abort::of("reading the ConfigMap"))? else {
            self.bundles.lock().remove(&key);
            return Ok(None);
        };
        let version = ObjectVersion { uid: map.uid().unwrap_or_default(), resource_version: map.resource_version().unwrap_or_default() };
        config_maps.note(key.clone(), version.clone());
        let data = Arc::new(map.data.unwrap_or_default());
        self.bundles.lock().insert(key, (version, data.clone()));
        Ok(Some(data))
    }

    fn assemble(
        &self,
        specification: &Specification,
        read: &Named<'_>,
        ca_from_map: Option<&BTreeMap<String, String>>,
    ) -> Result<Connection, Problem> {
        let ca = ca_bundle(specification, read, ca_from_map)?;
        let budget = specification.budget.as_ref().map_or(Budget::DEFAULT, |spec| Budget {
            requests_per_second: spec
                .requests_per_second
                .and_then(|rate| u32::try_from(rate).ok())
                .unwrap_or(Budget::DEFAULT.requests_per_second),
            concurrency: spec.concurrency.and_then(|in_flight| u32::try_from(in_flight).ok()).unwrap_or(Budget::DEFAULT.concurrency),
        });
        match (&specification.app_id, &specification.iam) {
            (Some(app_id), None) => self.app_id(app_id, read, ca.as_deref(), budget),
            (None, Some(iam)) => self.iam_service(iam, read, ca.as_deref(), budget),
            _ => Err(Problem::new(Reason::InvalidSpec, "this version of the operator does not support the service of this provider")),
        }
    }

    fn app_id(&self, spec: &AppIdProvider, read: &Named<'_>, ca: Option<&[u8]>, budget: Budget) -> Result<Connection, Problem> {
        let (origin, tenant_id, api_key, source) = if let Some(binding) = &spec.binding {
            let source = read.secret(&binding.secret_ref.name)?;
            let key = binding.secret_ref.key.as_deref().unwrap_or("binding");
            let parsed = match source.data.get(key) {
                Some(text) => app_id::service_credential(text.expose_secret()),
                None => app_id::service_credential_from(|name| source.data.get(name).map(|text| text.expose_secret().trim())),
            };
            let parsed = parsed.map_err(|failure| in_secret(read.home, &binding.secret_ref.name, &failure))?;
            (parsed.origin, parsed.tenant_id, parsed.api_key, source)
        } else {
            let (Some(url), Some(tenant_id), Some(key)) =
                (&spec.url, &spec.tenant_id, spec.iam.as_ref().and_then(|iam| iam.api_key.as_ref()))
            else {
                return Err(Problem::new(Reason::InvalidSpec, "set either binding, or url, tenantId and iam.apiKey"));
            };
            let source = read.secret(&key.secret_ref.name)?;
            (url.0.clone(), tenant_id.clone(), read.api_key(&key.secret_ref.name, key.secret_ref.key.as_deref())?, source)
        };
        let origin = self.origin("checking the address of App ID", &origin)?;
        let iam_url = spec.iam.as_ref().and_then(|iam| iam.url.as_ref()).map_or(iam::DEFAULT_URL, |url| url.0.as_str());
        let iam_url = self.origin("checking the address of IAM", iam_url)?;
        let (iam, iam_fingerprint) = self.iam(&iam_url, api_key, source, ca, budget)?;
        let host = origin.origin().ascii_serialization();
        let place = (host.clone(), tenant_id.clone());
        let (shared, admission) = {
            let mut known = self.shared.lock();
            (
                revived(&mut known.tenants, &place, || SharedTenant::new(Gate::new(budget))),
                revived(&mut known.admissions, &place, || Gate::new(PASSES)),
            )
        };
        let tenant =
            Tenant::new("app_id", shared.gate.clone(), &self.http, ca, self.metrics.clone()).map_err(|failure| Problem::of(&failure))?;
        let fingerprint = fingerprint(&[
            host.as_bytes(),
            tenant_id.as_bytes(),
            &iam_fingerprint,
            &budget.requests_per_second.to_be_bytes(),
            &budget.concurrency.to_be_bytes(),
        ]);
        let identity = TenantIdentity::app_id(&tenant_id);
        Ok(Connection {
            service: Service::AppId(Arc::new(AppId::new(tenant, origin, tenant_id, iam, shared))),
            tenant: Some(identity),
            host,
            credentials: source.version.clone(),
            admission,
            fingerprint,
            budget,
        })
    }

    fn iam_service(&self, spec: &IamProvider, read: &Named<'_>, ca: Option<&[u8]>, budget: Budget) -> Result<Connection, Problem> {
        let source = read.secret(&spec.api_key.secret_ref.name)?;
        let key = read.api_key(&spec.api_key.secret_ref.name, spec.api_key.secret_ref.key.as_deref())?;
        let url = self.origin("checking the address of IAM", spec.url.as_ref().map_or(iam::DEFAULT_URL, |url| url.0.as_str()))?;
        let (iam, fingerprint) = self.iam(&url, key, source, ca, budget)?;
        Ok(Connection {
            service: Service::Iam(iam),
            tenant: spec.account_id.as_deref().map(TenantIdentity::iam_account),
            host: url.origin().ascii_serialization(),
            credentials: source.version.clone(),
            admission: Gate::new(PASSES),
            fingerprint,
            budget,
        })
    }

    fn iam(
        &self,
        url: &Url,
        api_key: SecretText,
        source: &ReadCredential,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<(Arc<Iam>, [u8; 32]), Problem> {
        let fingerprint = fingerprint(&[url.as_str().as_bytes(), api_key.expose_secret().as_bytes(), ca.unwrap_or_default()]);
        let mut shared = self.shared.lock();
        if let Some(iam) = shared.iams.get(&fingerprint).and_then(Weak::upgrade) {
            return Ok((iam, fingerprint));
        }
        let known_for = source.changed_at.and_then(|at| Duration::try_from(Timestamp::now().duration_since(at)).ok()).unwrap_or_default();
        let tenant =
            Tenant::new("iam", Gate::new(budget), &self.http, ca, self.metrics.clone()).map_err(|failure| Problem::of(&failure))?;
        let iam = Arc::new(Iam::new(tenant, url, api_key, known_for));
        shared.iams.retain(|_, known| known.strong_count() > 0);
        shared.iams.insert(fingerprint, Arc::downgrade(&iam));
        Ok((iam, fingerprint))
    }

    fn origin(&self, doing: &'static str, text: &str) -> Result<Url, Problem> {
        http::checked_origin(doing, text, &self.http).map_err(|failure| Problem::of(&failure))
    }
}

fn ca_bundle(
    specification: &Specification,
    read: &Named<'_>,
    ca_from_map: Option<&BTreeMap<String, String>>,
) -> Result<Option<Vec<u8>>, Problem> {
    let Some(bundle) = &specification.ca_bundle else { return Ok(None) };
    let text = match (&bundle.config_map_ref, &bundle.secret_ref) {
        (Some(reference), _) => {
            let key = reference.key.as_deref().unwrap_or("ca.crt");
            ca_from_map
                .and_then(|data| data.get(key))
                .cloned()
                .ok_or_else(|| missing("ConfigMap", read.home, &reference.name, Some(key)))?
        }
        (None, Some(reference)) => read.text(&reference.name, reference.key.as_deref().unwrap_or("ca.crt"))?.expose_secret().to_owned(),
        (None, None) => return Err(Problem::new(Reason::InvalidSpec, "tls.caBundle names neither a ConfigMap nor a Secret")),
    };
    Ok(Some(text.into_bytes()))
}

/// What is wrong with the content of a Secret.
fn in_secret(home: &str, name: &str, failure: &Failure) -> Problem {
    Problem::new(failure.reason, format!("the Secret {name} in the namespace {home} cannot be used; {failure}"))
}

fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn revived<K: std::hash::Hash + Eq + Clone, V>(known: &mut HashMap<K, Weak<V>>, key: &K, make: impl FnOnce() -> Arc<V>) -> Arc<V> {
    known.retain(|_, value| value.strong_count() > 0);
    if let Some(value) = known.get(key).and_then(Weak::upgrade) {
        return value;
    }
    let value = make();
    known.insert(key.clone(), Arc::downgrade(&value));
    value
}
