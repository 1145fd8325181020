//! The providers, ready to use: configuration and credentials read, connections shared by all providers of one tenant.
//!
//! The last connection that led to a tenant stays in memory while an object uses the provider, so that a deletion can
//! still reach the service when provider and credential went first.

mod connect;
mod specification;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use kube::Client;
use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) use self::connect::{PRIVATE_KEY, algorithm, assertion_lifetime, in_secret};
pub use self::specification::{Specification, recorded_tenant};
use self::specification::{is_allowed, parsed};
use super::{claims::ProviderKey, clock::Clock, cluster::Abort, credentials::Credentials, name::Name, turns::Turns, versions::Versions};
use crate::{
    api::{ObjectVersion, ProviderKind, ProviderVersion},
    metrics::Metrics,
    model::{Failure, IssuedToken, TenantIdentity, TokenRequest},
    plan::{Problem, application::ProviderView, permit::Permits},
    provider::{
        AppId, Caller, Gate, HttpSettings, Iam, Oidc, SecureAuth, Standing, TokenIssuer, Verify, app_id::SharedTenant, gate::Budget, iam,
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
    /// IBM Verify.
    Verify(Arc<Verify>),
    /// A SecureAuth Identity Store.
    SecureAuth(Arc<SecureAuth>),
    /// Any OAuth 2.0 or OpenID Connect server.
    Oidc(Arc<Oidc>),
}

impl Service {
    /// The gate of its tenant.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        match self {
            Self::AppId(app_id) => app_id.tenant().gate(),
            Self::Iam(iam) => iam.tenant().gate(),
            Self::Verify(verify) => verify.tenant().gate(),
            Self::SecureAuth(secure_auth) => secure_auth.tenant().gate(),
            Self::Oidc(oidc) => oidc.tenant().gate(),
        }
    }

    /// The service, as metrics name it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AppId(_) => "app_id",
            Self::Iam(_) => "iam",
            Self::Verify(_) => "verify",
            Self::SecureAuth(_) => "secure_auth",
            Self::Oidc(_) => "oidc",
        }
    }

    /// Whether it answered the last call that anybody made.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        match self {
            Self::AppId(app_id) => app_id.is_answering(),
            other => other.gate().is_answering(),
        }
    }

    /// Whether it works with the provider's own credential, and who that is there.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        match self {
            Self::AppId(app_id) => app_id.probe(caller).await,
            Self::Iam(iam) => iam.probe(caller).await,
            Self::Verify(verify) => verify.probe(caller).await,
            Self::SecureAuth(secure_auth) => secure_auth.probe(caller).await,
            Self::Oidc(oidc) => oidc.probe(caller).await,
        }
    }

    /// How long a token is taken to live where nothing tells, if the provider says so.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        match self {
            Self::AppId(_) | Self::Iam(_) | Self::Verify(_) => None,
            Self::SecureAuth(secure_auth) => secure_auth.lifetime(),
            Self::Oidc(oidc) => oidc.lifetime(),
        }
    }
}

impl TokenIssuer for Service {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        match self {
            Self::AppId(app_id) => app_id.issue(caller, request).await,
            Self::Iam(iam) => iam.issue(caller, request).await,
            Self::Verify(verify) => verify.issue(caller, request).await,
            Self::SecureAuth(secure_auth) => secure_auth.issue(caller, request).await,
            Self::Oidc(oidc) => oidc.issue(caller, request).await,
        }
    }
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
    /// The credential Secret it was made with, where the provider has one.
    pub credentials: Option<ObjectVersion>,
    /// The Secret of its private key, where it signs.
    pub private_key: Option<ObjectVersion>,
    /// Stands for how tokens are asked for, but for budget and credential: another one is another source.
    pub configuration: String,
    /// Decides how many passes over objects of this tenant run at once.
    pub admission: Arc<Turns>,
    fingerprint: [u8; 32],
    budget: Budget,
}

impl Connection {
    /// Whether a token of IAM says that it is of another account than the one that the provider names.
    #[must_use]
    pub fn is_of_another_account(&self, issued: &IssuedToken) -> bool {
        let Some(expected) = self.tenant.as_ref().filter(|_| matches!(self.service, Service::Iam(_))) else { return false };
        iam::account_of(&issued.access_token).is_some_and(|account| account != expected.as_str())
    }

    /// Stands for the tenant whose budget requests over it come out of: whatever shares a gate shares one. Each API key of IAM has its own,
    /// whichever providers use it.
    #[must_use]
    pub fn place(&self) -> usize {
        std::ptr::from_ref(self.service.gate()).addr()
    }

    /// Whether it has a credential of its own: without one everybody can have it, and that it works proves nothing.
    fn has_credential(&self) -> bool {
        !matches!(&self.service, Service::Oidc(oidc) if oidc.client().is_none())
    }
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
    credentials: Arc<Credentials>,
    clock: Arc<Clock>,
    bundles: Mutex<HashMap<Name, (ObjectVersion, Bundle)>>,
    shared: Mutex<Shared>,
}

struct Entry {
    specification: Option<Specification>,
    current: Result<Arc<Connection>, Problem>,
    former: Vec<Arc<Connection>>,
    /// Whether an object met a failure that speaks of the provider, since it was last found to work.
    is_doubted: bool,
    /// Whether an object met a success since, so that it is worth another look.
    is_reassured: bool,
    /// Whether it was found working where it leads now.
    has_worked: bool,
    /// Whether an object got a token where it leads now: of the provider's credential, or of its own.
    has_given: bool,
}

/// What providers of one tenant share. Weak: it lives as long as a connection does.
#[derive(Default)]
struct Shared {
    tenants: HashMap<(String, String), Weak<SharedTenant>>,
    gates: HashMap<(String, String), Weak<Gate>>,
    admissions: HashMap<(String, String), Weak<Turns>>,
    iams: HashMap<[u8; 32], Weak<Iam>>,
}

impl Directory {
    /// An empty directory. Cluster providers, where they may be read, read their Secrets in `namespace`.
    #[must_use]
    pub fn new(
        http: HttpSettings,
        namespace: String,
        reads_cluster_providers: bool,
        metrics: Arc<Metrics>,
        credentials: Arc<Credentials>,
        clock: Arc<Clock>,
    ) -> Self {
        Self {
            http,
            namespace,
            reads_cluster_providers,
            metrics,
            entries: Mutex::default(),
            credentials,
            clock,
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
        let namer = specification.namer();
        // Named first, read second: whatever changes in between is reported by the watch.
        let keys: Vec<Name> = specification.secret_names().into_iter().map(|secret| Name::new(&home, secret)).collect();
        let map: Vec<Name> = specification.config_map_name().map(|map| Name::new(&home, map)).into_iter().collect();
        self.credentials.forget(&secrets.name(&namer, &keys));
        self.forget_bundles(&config_maps.name(&namer, &map));
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
            has_worked: specification.has_worked,
            has_given: false,
        });
        // What worked elsewhere, or with another credential, proves nothing here.
        let leads_as_before = match (&entry.current, &connection) {
            (Ok(before), Ok(now)) => before.fingerprint == now.fingerprint,
            (Err(_), Ok(now)) => entry.specification.is_none() && specification.tried == (now.credentials.clone(), now.private_key.clone()),
            (_, Err(_)) => false,
        };
        entry.has_worked &= leads_as_before;
        entry.has_given &= leads_as_before;
        let is_same = match (&entry.current, &connection) {
            (Ok(before), Ok(now)) => before.fingerprint == now.fingerprint && before.budget == now.budget,
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        let access_changed = entry.specification.as_ref().is_none_or(|before| before.access != specification.access);
        entry.specification = Some(specification.clone());
        if !is_same {
            let next = connection.map(Arc::new);
            entry.replace(next);
        }
        share_budgets(&entries);
        !is_same || access_changed
    }

    /// An object met a failure over a connection that speaks of the provider. Says the provider's UID when that is news.
    pub fn doubt(&self, key: &ProviderKey, over: &Arc<Connection>) -> Option<String> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(|entry| entry.leads_over(over))?;
        entry.is_reassured = false;
        let is_news = !std::mem::replace(&mut entry.is_doubted, true);
        entry.specification.as_ref().filter(|_| is_news).map(|specification| specification.uid.clone())
    }

    /// An object met a success over a connection. Says the provider's UID when that is news about a provider that was doubted. What the provider
    /// led to before tells nothing of where it leads now.
    pub fn reassure(&self, key: &ProviderKey, over: &Arc<Connection>) -> Option<String> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(|entry| entry.leads_over(over))?;
        let is_news = entry.is_doubted && !std::mem::replace(&mut entry.is_reassured, true);
        entry.specification.as_ref().filter(|_| is_news).map(|specification| specification.uid.clone())
    }

    /// An object got a token over a connection: from now on the budget of the provider counts for others.
    pub fn gave(&self, key: &ProviderKey, over: &Arc<Connection>) {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(|entry| entry.leads_over(over));
        if entry.is_some_and(|entry| !std::mem::replace(&mut entry.has_given, true)) {
            share_budgets(&entries);
        }
    }

    /// The provider was found to work over a connection.
    pub fn trust(&self, key: &ProviderKey, over: &Arc<Connection>) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(key).filter(|entry| entry.leads_over(over)) {
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
            (entry.has_worked, entry.has_given) = (false, false);
            share_budgets(&entries);
        }
    }

    /// Nobody refers to these ConfigMaps any more.
    pub fn forget_bundles(&self, keys: &[Name]) {
        self.bundles.lock().retain(|key, _| !keys.contains(key));
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

    /// Whether the provider was found working, no object met anything else since, and the service answered the last call that anybody made.
    #[must_use]
    pub fn is_answering(&self, key: &ProviderKey) -> bool {
        let entries = self.entries.lock();
        entries.get(key).is_some_and(|entry| {
            let answers = |connection: &Arc<Connection>| connection.service.is_answering();
            entry.has_worked && !entry.is_doubted && entry.current.as_ref().is_ok_and(answers)
        })
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
        connections.filter(|connection| connection.service.gate().is_paused()).count()
    }

    /// The machine slept so long, last awake at `awake` before it: the pauses of all tenants went on meanwhile.
    pub fn slept(&self, span: Duration, awake: Instant) {
        let shared = self.shared.lock();
        shared.tenants.values().filter_map(Weak::upgrade).for_each(|tenant| tenant.gate.slept(span, awake));
        shared.gates.values().filter_map(Weak::upgrade).for_each(|gate| gate.slept(span, awake));
        shared.iams.values().filter_map(Weak::upgrade).for_each(|iam| iam.tenant().gate().slept(span, awake));
    }

    /// Whether this version of a provider object, with what a person accepts of it, is in use.
    #[must_use]
    pub fn has_loaded(&self, specification: &Specification) -> bool {
        let entries = self.entries.lock();
        let loaded = entries.get(&specification.key).and_then(|entry| entry.specification.as_ref());
        loaded.is_some_and(|loaded| {
            let version = |it: &Specification| (it.uid.clone(), it.generation, it.endpoints_host.1.clone());
            version(loaded) == version(specification)
        })
    }

    /// Which version of the provider object is in use.
    #[must_use]
    pub fn version(&self, key: &ProviderKey) -> Option<ProviderVersion> {
        let entries = self.entries.lock();
        let specification = entries.get(key)?.specification.as_ref()?;
        Some(ProviderVersion { uid: specification.uid.clone(), generation: specification.generation })
    }

    /// What an object of `namespace` may make of the provider. `labels` are those of the namespace.
    ///
    /// # Errors
    ///
    /// What keeps it from being used.
    pub fn usable(&self, key: &ProviderKey, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Result<Usable, Problem> {
        if key.kind == ProviderKind::Unknown {
            return Err(Problem::new(Reason::InvalidSpec, "this version does not know the kind in providerRef"));
        }
        if key.kind == ProviderKind::ClusterIdentityProvider && !self.reads_cluster_providers {
            return Err(Problem::new(Reason::ClusterProviderDisabled, Reason::ClusterProviderDisabled.advice()));
        }
        let connection = self.connection(key)?;
        let entries = self.entries.lock();
        let access =
            entries.get(key).and_then(|entry| entry.specification.as_ref()).and_then(|specification| specification.access.as_ref());
        Ok(Usable {
            connection,
            namespace_is_allowed: access.is_none_or(|(allowed, _)| is_allowed(allowed, namespace, labels)),
            permits: access.map(|(_, permits)| parsed(permits)),
        })
    }

    /// How an application of `namespace` sees the provider. `labels` are those of the namespace.
    #[must_use]
    pub fn view_for_application(&self, key: &ProviderKey, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> ProviderView {
        match self.usable(key, namespace, labels) {
            Err(problem) => ProviderView::Unusable(problem),
            Ok(Usable { connection, namespace_is_allowed, permits }) => match (&connection.service, &connection.tenant) {
                (Service::AppId(_), Some(tenant)) => ProviderView::Usable { tenant: tenant.clone(), namespace_is_allowed, permits },
                _ => ProviderView::Unusable(Problem::new(
                    Reason::ProviderServiceMismatch,
                    "the provider is for another service; an AppIdApplication needs one with appId",
                )),
            },
        }
    }
}

/// What an object may make of a provider.
#[derive(Clone, Debug)]
pub struct Usable {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Whether the object's namespace may use it.
    pub namespace_is_allowed: bool,
    /// What a cluster provider permits; `None` for a provider of the namespace, which permits everything.
    pub permits: Option<Permits>,
}

/// Providers of one tenant keep to the smallest of their budgets. One whose credential, or that of whose objects, was never found good there is
/// not asked where another was: whoever may create a provider could slow down a tenant that is not theirs.
fn share_budgets(entries: &HashMap<ProviderKey, Entry>) {
    let connected = || {
        entries.values().filter_map(|entry| {
            let connection = entry.current.as_ref().ok()?;
            Some((connection, entry.has_given || (entry.has_worked && connection.has_credential())))
        })
    };
    let mut shared: HashMap<usize, (bool, Budget)> = HashMap::new();
    for (connection, counts) in connected() {
        let budget = shared.entry(connection.place()).or_insert((counts, connection.budget));
        *budget = match counts.cmp(&budget.0) {
            Ordering::Less => *budget,
            Ordering::Equal => (counts, budget.1.at_most(connection.budget)),
            Ordering::Greater => (counts, connection.budget),
        };
    }
    for (connection, _) in connected() {
        let Some((_, budget)) = shared.get(&connection.place()).copied() else { continue };
        if connection.service.gate().budget() != budget {
            connection.service.gate().set_budget(budget);
        }
        connection.admission.set(connect::passes(budget));
    }
}

impl Entry {
    fn leads_over(&self, connection: &Arc<Connection>) -> bool {
        self.current.as_ref().is_ok_and(|current| Arc::ptr_eq(current, connection))
    }

    fn replace(&mut self, next: Result<Arc<Connection>, Problem>) {
        if let Ok(before) = std::mem::replace(&mut self.current, next) {
            self.former.retain(|former| former.tenant != before.tenant);
            self.former.push(before);
        }
    }
}

fn not_found(key: &ProviderKey) -> Problem {
    Problem::new(Reason::ProviderNotFound, format!("the {:?} {:?} does not exist", key.kind, key.name))
}
