//! The providers, ready to use: configuration and credentials read, connections shared by all providers of one tenant.
//!
//! The last connection that led to a tenant stays in memory while an object uses the provider, so that a deletion can
//! still reach the service when provider and credential went first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    claims::ProviderKey,
    cluster::{self, Abort},
    versions::{Key, Versions},
};
use crate::{
    api::{
        AllowedNamespaces, AppIdProvider, Budget as BudgetSpec, CaBundle, ClusterIdentityProvider, IamProvider, IdentityProvider,
        NamespacesFrom, ObjectVersion, Permits as PermitsSpec, ProviderKind, ProviderVersion, mark,
    },
    metrics::Metrics,
    model::{ExposeSecret, Failure, SecretText, TenantIdentity},
    plan::{Problem, application::ProviderView, permit::Permits},
    provider::{
        AppId, Gate, HttpSettings, Iam, Tenant,
        app_id::{self, SharedTenant},
        gate::Budget,
        http, iam,
    },
    reasons::Reason,
};

/// A service that a provider leads to.
#[derive(Clone, Debug)]
pub enum Service {
    /// An App ID tenant.
    AppId(Arc<AppId>),
    /// IAM.
    Iam(Arc<Iam>),
}

/// A provider, ready to use.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The service.
    pub service: Service,
    /// The tenant, where it is known without asking.
    pub tenant: Option<TenantIdentity>,
    /// Host of the service.
    pub host: String,
    /// The credential Secret it was made with.
    pub credentials: ObjectVersion,
    /// Decides how many passes over objects of this tenant run at once.
    pub admission: Arc<Gate>,
    fingerprint: [u8; 32],
    budget: Budget,
}

/// The specification of either kind of provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Specification {
    /// Which.
    pub key: ProviderKey,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Whether its status tells who we are at the service: it was found working before.
    pub has_worked: bool,
    /// Whether its last check failed.
    pub has_failed: bool,
    app_id: Option<AppIdProvider>,
    iam: Option<IamProvider>,
    ca_bundle: Option<CaBundle>,
    budget: Option<BudgetSpec>,
    access: Option<(AllowedNamespaces, PermitsSpec)>,
}

/// The texts of a ConfigMap.
type Bundle = Arc<BTreeMap<String, String>>;

/// The directory of providers.
pub struct Directory {
    http: HttpSettings,
    namespace: String,
    reads_cluster_providers: bool,
    metrics: Arc<Metrics>,
    entries: Mutex<HashMap<ProviderKey, Entry>>,
    credentials: Mutex<HashMap<Key, ReadCredential>>,
    bundles: Mutex<HashMap<Key, (ObjectVersion, Bundle)>>,
    shared: Mutex<Shared>,
}

#[derive(Clone)]
struct ReadCredential {
    version: ObjectVersion,
    data: Arc<BTreeMap<String, SecretText>>,
    /// When the Secret last changed, as far as the API server tells.
    changed_at: Option<Timestamp>,
}

struct Entry {
    specification: Option<Specification>,
    current: Result<Arc<Connection>, Problem>,
    former: Vec<Arc<Connection>>,
    /// Whether an object met a failure that speaks of the provider, since it was last found to work.
    is_doubted: bool,
    /// Whether an object met a success since, so that it is worth another look.
    is_reassured: bool,
    /// Whether it was found working with its tenant: only then its budget counts for others.
    has_worked: bool,
}

/// What providers of one tenant share. Weak: it lives as long as a connection does.
#[derive(Default)]
struct Shared {
    tenants: HashMap<(String, String), Weak<SharedTenant>>,
    admissions: HashMap<(String, String), Weak<Gate>>,
    iams: HashMap<[u8; 32], Weak<Iam>>,
}

/// So many passes over objects of one tenant run at once; the others wait in a small place. Each may hold a connection to the API server
/// and one to the service, whose buffers are most of the operator's memory. Twice the usual concurrency of a tenant keeps that busy.
const PASSES: Budget = Budget { requests_per_second: 100_000, concurrency: 8 };

impl Specification {
    /// The specification of an `IdentityProvider`.
    #[must_use]
    pub fn of_provider(object: &IdentityProvider) -> Self {
        let spec = object.spec.clone();
        Self {
            key: ProviderKey {
                kind: ProviderKind::IdentityProvider,
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            },
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            has_worked: object.status.as_ref().is_some_and(|status| status.identity.is_some()),
            has_failed: object.status.as_ref().is_some_and(|status| status.failures.is_some()),
            app_id: spec.app_id,
            iam: spec.iam,
            ca_bundle: spec.tls.map(|tls| tls.ca_bundle),
            budget: spec.budget,
            access: None,
        }
    }

    /// The specification of a `ClusterIdentityProvider`.
    #[must_use]
    pub fn of_cluster_provider(object: &ClusterIdentityProvider) -> Self {
        let spec = object.spec.clone();
        Self {
            key: ProviderKey { kind: ProviderKind::ClusterIdentityProvider, namespace: String::new(), name: object.name_any() },
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            has_worked: object.status.as_ref().is_some_and(|status| status.identity.is_some()),
            has_failed: object.status.as_ref().is_some_and(|status| status.failures.is_some()),
            app_id: spec.app_id,
            iam: spec.iam,
            ca_bundle: spec.tls.map(|tls| tls.ca_bundle),
            budget: spec.budget,
            access: Some((spec.allowed_namespaces, spec.permits)),
        }
    }

    fn secret_names(&self) -> Vec<&str> {
        let binding = self.app_id.as_ref().and_then(|app_id| app_id.binding.as_ref()).map(|binding| binding.secret_ref.name.as_str());
        let app_id_key = self
            .app_id
            .as_ref()
            .and_then(|app_id| app_id.iam.as_ref())
            .and_then(|iam| iam.api_key.as_ref())
            .map(|key| key.secret_ref.name.as_str());
        let iam_key = self.iam.as_ref().map(|iam| iam.api_key.secret_ref.name.as_str());
        let ca = self.ca_bundle.as_ref().and_then(|ca| ca.secret_ref.as_ref()).map(|reference| reference.name.as_str());
        [binding, app_id_key, iam_key, ca].into_iter().flatten().collect()
    }

    fn config_map_name(&self) -> Option<&str> {
        Some(self.ca_bundle.as_ref()?.config_map_ref.as_ref()?.name.as_str())
    }
}

/// How a provider is named in the indexes of Secrets and ConfigMaps.
#[must_use]
pub fn index_name(key: &ProviderKey) -> String {
    format!("{:?}/{}/{}", key.kind, key.namespace, key.name)
}

impl Directory {
    /// An empty directory. Cluster providers, where they may be read, read their Secrets in `namespace`.
    #[must_use]
    pub fn new(http: HttpSettings, namespace: String, reads_cluster_providers: bool, metrics: Arc<Metrics>) -> Self {
        Self {
            http,
            namespace,
            reads_cluster_providers,
            metrics,
            entries: Mutex::default(),
            credentials: Mutex::default(),
            bundles: Mutex::default(),
            shared: Mutex::default(),
        }
    }

    /// Reads what a provider names and makes it ready. Says whether it leads elsewhere, or with another credential, than before.
    ///
    /// # Errors
    ///
    /// When the API server does not answer; then everything stays as it is.
    pub async fn load(
        &self,
        client: &Client,
        secrets: &Versions,
        config_maps: &Versions,
        specification: &Specification,
    ) -> Result<bool, Abort> {
        let home = self.home(&specification.key);
        let name = index_name(&specification.key);
        // Named first, read second: whatever changes in between is reported by the watch.
        let keys: Vec<Key> = specification.secret_names().into_iter().map(|secret| (home.clone(), secret.to_owned())).collect();
        secrets.name(&name, &keys);
        config_maps.name(&name, &specification.config_map_name().map(|map| (home.clone(), map.to_owned())).into_iter().collect::<Vec<_>>());
        let connection = self.connect(client, secrets, config_maps, &home, specification).await?;
        Ok(self.enter(specification, connection))
    }

    fn home(&self, key: &ProviderKey) -> String {
        if key.kind == ProviderKind::ClusterIdentityProvider { self.namespace.clone() } else { key.namespace.clone() }
    }

    fn enter(&self, specification: &Specification, connection: Result<Connection, Problem>) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.entry(specification.key.clone()).or_insert_with(|| Entry {
            specification: None,
            current: Err(Problem::new(Reason::ProviderNotReady, "the provider was not looked at yet")),
            former: Vec::new(),
            is_doubted: specification.has_failed,
            is_reassured: false,
            has_worked: false,
        });
        let is_same = match (&entry.current, &connection) {
            (Ok(before), Ok(now)) => before.fingerprint == now.fingerprint,
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        let access_changed = entry.specification.as_ref().is_none_or(|before| before.access != specification.access);
        entry.specification = Some(specification.clone());
        entry.has_worked = specification.has_worked;
        if !is_same {
            let next = connection.map(Arc::new);
            entry.replace(next);
        }
        share_budgets(&entries);
        !is_same || access_changed
    }

    /// An object met a failure that speaks of the provider. Says the provider's UID when that is news.
    pub fn doubt(&self, key: &ProviderKey) -> Option<String> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key)?;
        entry.is_reassured = false;
        let is_news = !std::mem::replace(&mut entry.is_doubted, true);
        entry.specification.as_ref().filter(|_| is_news).map(|specification| specification.uid.clone())
    }

    /// An object met a success at the service. Says the provider's UID when that is news about a provider that was doubted.
    pub fn reassure(&self, key: &ProviderKey) -> Option<String> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(|entry| entry.is_doubted)?;
        let is_news = !std::mem::replace(&mut entry.is_reassured, true);
        entry.specification.as_ref().filter(|_| is_news).map(|specification| specification.uid.clone())
    }

    /// The provider was found to work.
    pub fn trust(&self, key: &ProviderKey) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.is_doubted = false;
            entry.is_reassured = false;
            if !std::mem::replace(&mut entry.has_worked, true) {
                share_budgets(&entries);
            }
        }
    }

    /// The provider object is gone.
    pub fn remove(&self, key: &ProviderKey) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.specification = None;
            entry.replace(Err(not_found(key)));
            entry.has_worked = false;
            share_budgets(&entries);
        }
    }

    /// Nobody uses the provider any more.
    pub fn forget(&self, key: &ProviderKey) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.former.clear();
            if entry.specification.is_none() {
                entries.remove(key);
            }
        }
    }

    /// Whether objects meet failures with a provider that was not found working since.
    #[must_use]
    pub fn is_doubted(&self, key: &ProviderKey) -> bool {
        self.entries.lock().get(key).is_some_and(|entry| entry.is_doubted)
    }

    /// The connection that is in use.
    ///
    /// # Errors
    ///
    /// What keeps it from being usable.
    pub fn connection(&self, key: &ProviderKey) -> Result<Arc<Connection>, Problem> {
        self.entries.lock().get(key).map_or_else(|| Err(not_found(key)), |entry| entry.current.clone())
    }

    /// The last connection through this provider that led to a tenant, also when the provider leads elsewhere or is gone by now.
    #[must_use]
    pub fn connection_to(&self, key: &ProviderKey, tenant: &TenantIdentity) -> Option<Arc<Connection>> {
        let entries = self.entries.lock();
        let entry = entries.get(key)?;
        entry.current.iter().chain(entry.former.iter().rev()).find(|connection| connection.tenant.as_ref() == Some(tenant)).cloned()
    }

    /// How many providers lead to a tenant that is paused now: asked to, or because it failed too often.
    #[must_use]
    pub fn paused(&self) -> usize {
        let entries = self.entries.lock();
        let connections = entries.values().filter_map(|entry| entry.current.as_ref().ok());
        connections.filter(|connection| matches!(&connection.service, Service::AppId(app_id) if app_id.tenant().gate().is_paused())).count()
    }

    /// Which version of the provider object is in use.
    #[must_use]
    pub fn version(&self, key: &ProviderKey) -> Option<ProviderVersion> {
        let entries = self.entries.lock();
        let specification = entries.get(key)?.specification.as_ref()?;
        Some(ProviderVersion { uid: specification.uid.clone(), generation: specification.generation })
    }

    /// How an application of `namespace` sees the provider. `labels` are those of the namespace.
    #[must_use]
    pub fn view_for_application(&self, key: &ProviderKey, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> ProviderView {
        if key.kind == ProviderKind::Unknown {
            return ProviderView::Unusable(Problem::new(Reason::InvalidSpec, "this version does not know the kind in providerRef"));
        }
        if key.kind == ProviderKind::ClusterIdentityProvider && !self.reads_cluster_providers {
            return ProviderView::Unusable(Problem::new(Reason::ClusterProviderDisabled, Reason::ClusterProviderDisabled.advice()));
        }
        let connection = match self.connection(key) {
            Ok(connection) => connection,
            Err(problem) => return ProviderView::Unusable(problem),
        };
        let (Service::AppId(_), Some(tenant)) = (&connection.service, &connection.tenant) else {
            return ProviderView::Unusable(Problem::new(
                Reason::ProviderServiceMismatch,
                "the provider is for IAM; an AppIdApplication needs one with appId",
            ));
        };
        let entries = self.entries.lock();
        let access =
            entries.get(key).and_then(|entry| entry.specification.as_ref()).and_then(|specification| specification.access.as_ref());
        ProviderView::Usable {
            tenant: tenant.clone(),
            namespace_is_allowed: access.is_none_or(|(allowed, _)| is_allowed(allowed, namespace, labels)),
            permits: access.map(|(_, permits)| parsed(permits)),
        }
    }

    async fn connect(
        &self,
        client: &Client,
        secrets: &Versions,
        config_maps: &Versions,
        home: &str,
        specification: &Specification,
    ) -> Result<Result<Connection, Problem>, Abort> {
        let mut read: HashMap<String, ReadCredential> = HashMap::new();
        for name in specification.secret_names() {
            match self.read_secret(client, secrets, home, name).await? {
                Ok(credential) => {
                    read.insert(name.to_owned(), credential);
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let ca_from_map = match specification.config_map_name() {
            None => None,
            Some(name) => match self.read_config_map(client, config_maps, home, name).await? {
                Some(data) => Some(data),
                None => return Ok(Err(missing("ConfigMap", name, None))),
            },
        };
        Ok(self.assemble(specification, &read, ca_from_map.as_deref()))
    }

    async fn read_secret(
        &self,
        client: &Client,
        secrets: &Versions,
        home: &str,
        name: &str,
    ) -> Result<Result<ReadCredential, Problem>, Abort> {
        let key = (home.to_owned(), name.to_owned());
        if let (Some(current), Some(kept)) = (secrets.get(&key), self.credentials.lock().get(&key).cloned())
            && current == kept.version
        {
            return Ok(Ok(kept));
        }
        let Some((metadata, data)) = cluster::read_secret(client, home, name).await? else {
            self.credentials.lock().remove(&key);
            return Ok(Err(missing("Secret", name, None)));
        };
        if metadata.labels.iter().flatten().any(|(label, _)| label == "cloudidentity.dev/state") {
            return Ok(Err(Problem::new(
                Reason::SecretReferenceRefused,
                format!("the Secret {name} holds the operator's own state and may not be referred to"),
            )));
        }
        let version =
            ObjectVersion { uid: metadata.uid.unwrap_or_default(), resource_version: metadata.resource_version.unwrap_or_default() };
        secrets.note(key.clone(), version.clone());
        let changes = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref()).map(|time| time.0);
        let changed_at = changes.max().or(metadata.creation_timestamp.map(|time| time.0));
        let read = ReadCredential { version, data: Arc::new(data), changed_at };
        self.credentials.lock().insert(key, read.clone());
        Ok(Ok(read))
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
        read: &HashMap<String, ReadCredential>,
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

    fn app_id(
        &self,
        spec: &AppIdProvider,
        read: &HashMap<String, ReadCredential>,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<Connection, Problem> {
        let (origin, tenant_id, api_key, source) = if let Some(binding) = &spec.binding {
            let source = credential(read, &binding.secret_ref.name)?;
            let key = binding.secret_ref.key.as_deref().unwrap_or("binding");
            let parsed = match source.data.get(key) {
                Some(text) => app_id::service_credential(text.expose_secret()),
                None => app_id::service_credential_from(|name| source.data.get(name).map(|text| text.expose_secret().trim())),
            };
            let parsed = parsed.map_err(|failure| problem_of(&failure))?;
            (parsed.origin, parsed.tenant_id, parsed.api_key, source)
        } else {
            let (Some(url), Some(tenant_id), Some(key)) =
                (&spec.url, &spec.tenant_id, spec.iam.as_ref().and_then(|iam| iam.api_key.as_ref()))
            else {
                return Err(Problem::new(Reason::InvalidSpec, "set either binding, or url, tenantId and iam.apiKey"));
            };
            let source = credential(read, &key.secret_ref.name)?;
            (url.0.clone(), tenant_id.clone(), api_key(source, key.secret_ref.key.as_deref(), &key.secret_ref.name)?, source)
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
            Tenant::new("app_id", shared.gate.clone(), &self.http, ca, self.metrics.clone()).map_err(|failure| problem_of(&failure))?;
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

    fn iam_service(
        &self,
        spec: &IamProvider,
        read: &HashMap<String, ReadCredential>,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<Connection, Problem> {
        let source = credential(read, &spec.api_key.secret_ref.name)?;
        let key = api_key(source, spec.api_key.secret_ref.key.as_deref(), &spec.api_key.secret_ref.name)?;
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
        let tenant = Tenant::new("iam", Gate::new(budget), &self.http, ca, self.metrics.clone()).map_err(|failure| problem_of(&failure))?;
        let iam = Arc::new(Iam::new(tenant, url, api_key, known_for));
        shared.iams.retain(|_, known| known.strong_count() > 0);
        shared.iams.insert(fingerprint, Arc::downgrade(&iam));
        Ok((iam, fingerprint))
    }

    fn origin(&self, doing: &'static str, text: &str) -> Result<Url, Problem> {
        http::checked_origin(doing, text, &self.http).map_err(|failure| problem_of(&failure))
    }
}

/// Providers of one tenant keep to the smallest of their budgets. One that was never found working is not asked: whoever may create a
/// provider could slow down a tenant that is not theirs.
fn share_budgets(entries: &HashMap<ProviderKey, Entry>) {
    let connected = || entries.values().filter_map(|entry| Some((entry.current.as_ref().ok()?, entry.has_worked)));
    for (connection, _) in connected() {
        let Service::AppId(app_id) = &connection.service else { continue };
        let is_alike = |other: &Arc<Connection>| other.host == connection.host && other.tenant == connection.tenant;
        let alike = connected().filter(|(other, has_worked)| *has_worked && is_alike(other)).map(|(other, _)| other.budget);
        app_id.tenant().gate().set_budget(alike.reduce(Budget::at_most).unwrap_or(connection.budget));
    }
}

impl Entry {
    fn replace(&mut self, next: Result<Arc<Connection>, Problem>) {
        if let Ok(before) = std::mem::replace(&mut self.current, next) {
            self.former.retain(|former| former.tenant != before.tenant);
            self.former.push(before);
        }
    }
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

fn ca_bundle(
    specification: &Specification,
    read: &HashMap<String, ReadCredential>,
    ca_from_map: Option<&BTreeMap<String, String>>,
) -> Result<Option<Vec<u8>>, Problem> {
    let Some(bundle) = &specification.ca_bundle else { return Ok(None) };
    let text = match (&bundle.config_map_ref, &bundle.secret_ref) {
        (Some(reference), _) => {
            let key = reference.key.as_deref().unwrap_or("ca.crt");
            ca_from_map.and_then(|data| data.get(key)).cloned().ok_or_else(|| missing("ConfigMap", &reference.name, Some(key)))?
        }
        (None, Some(reference)) => {
            let key = reference.key.as_deref().unwrap_or("ca.crt");
            let data = &credential(read, &reference.name)?.data;
            data.get(key).map(|text| text.expose_secret().to_owned()).ok_or_else(|| missing("Secret", &reference.name, Some(key)))?
        }
        (None, None) => return Err(Problem::new(Reason::InvalidSpec, "tls.caBundle names neither a ConfigMap nor a Secret")),
    };
    Ok(Some(text.into_bytes()))
}

fn credential<'a>(read: &'a HashMap<String, ReadCredential>, name: &str) -> Result<&'a ReadCredential, Problem> {
    read.get(name).ok_or_else(|| missing("Secret", name, None))
}

fn api_key(source: &ReadCredential, key: Option<&str>, name: &str) -> Result<SecretText, Problem> {
    let key = key.unwrap_or("apikey");
    let text = source.data.get(key).ok_or_else(|| missing("Secret", name, Some(key)))?;
    iam::api_key(text.expose_secret()).map_err(|failure| problem_of(&failure))
}

fn missing(kind: &str, name: &str, key: Option<&str>) -> Problem {
    let message = match key {
        Some(key) => format!("the {kind} {name} has no key {key:?} with text"),
        None => format!("the {kind} {name} does not exist"),
    };
    Problem::new(Reason::CredentialsNotFound, message)
}

fn not_found(key: &ProviderKey) -> Problem {
    Problem::new(Reason::ProviderNotFound, format!("the {:?} {:?} does not exist", key.kind, key.name))
}

fn problem_of(failure: &Failure) -> Problem {
    Problem::new(failure.reason, failure.to_string())
}

fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn is_allowed(allowed: &AllowedNamespaces, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    match allowed.from {
        NamespacesFrom::All => true,
        NamespacesFrom::Listed => allowed.names.iter().flatten().any(|name| name == namespace),
        NamespacesFrom::Selected => match (&allowed.selector, labels) {
            (Some(selector), Some(labels)) => {
                !selector.match_labels.is_empty() && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            }
            _ => false,
        },
        NamespacesFrom::None | NamespacesFrom::Unknown => false,
    }
}

fn parsed(permits: &PermitsSpec) -> Permits {
    Permits {
        adoption: permits.adoption,
        roles: permits.roles.iter().cloned().collect(),
        redirect_uri_prefixes: permits.redirect_uri_prefixes.iter().map(|prefix| prefix.0.clone()).collect(),
    }
}

/// The annotation that a registered object carries; here, so that nobody else spells it.
#[must_use]
pub fn recorded_tenant(annotations: &BTreeMap<String, String>) -> Option<TenantIdentity> {
    annotations.get(mark::TENANT).map(|text| TenantIdentity::recorded(text))
}
