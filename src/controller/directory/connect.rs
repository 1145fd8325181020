//! From a specification to a connection: reads what it names, and puts it together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    super::{
        cluster::Abort,
        credentials::{ReadCredential, missing, pair},
        name::Name,
        turns::Turns,
        versions::Versions,
    },
    Bundle, Connection, Directory, Service, Specification,
    specification::ServiceSpec,
};
use crate::{
    api::{
        AppIdProvider, AssertionAudience, AuthenticationMethod, BasicEncoding, ClientAuthentication as ClientAuthenticationSpec,
        IamProvider, ObjectVersion, OidcProvider, PairSecretRef, PairSource, SecureAuthProvider, ServiceUrl, SigningAlgorithm, Span,
        TrustedProfile, VerifyProvider,
    },
    model::{Algorithm, Audience, ClientCredential, ExposeSecret, Failure, Proof, SecretText, SigningKey, TenantIdentity},
    plan::Problem,
    provider::{
        AppId, Gate, Iam, IamCredential, Oidc, SecureAuth, Tenant, Verify,
        app_id::{self, SharedTenant},
        assertion,
        gate::Budget,
        http, iam,
        oauth::ClientAuthentication,
        oidc::OidcSettings,
    },
    reasons::Reason,
};

/// So many passes over objects of one tenant run at once; the others wait in a small place. Each may hold a connection to the API server
/// and one to the service, whose buffers are most of the operator's memory. Twice the concurrency of a tenant keeps that busy.
pub(super) fn passes(budget: Budget) -> u32 {
    budget.concurrency.saturating_mul(2).max(PASSES_LEAST)
}

/// As the usual concurrency has it.
const PASSES_LEAST: u32 = 8;

/// How long an assertion of a client is valid where the spec says nothing, and the least and the most that it may say.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);
const ASSERTION_LEAST: Duration = Duration::from_secs(10);
const ASSERTION_MOST: Duration = Duration::from_secs(300);

/// The least time that a token is taken to live: it costs a call and two writes each time that half of it is over.
const TOKEN_LIFETIME_LEAST: Duration = Duration::from_secs(10);

/// The key of a Secret under which a private key lies where the spec says nothing.
pub(in crate::controller) const PRIVATE_KEY: &str = "private_key";

/// How long an assertion is valid.
pub(in crate::controller) fn assertion_lifetime(span: Option<&Span>, most: Duration) -> Duration {
    span.and_then(Span::duration).unwrap_or(ASSERTION_LIFETIME).clamp(ASSERTION_LEAST, most)
}

/// How long a token is taken to live where nothing tells. An object that was stored before there was a bound may say less.
fn token_lifetime(span: Option<&Span>) -> Option<Duration> {
    span.and_then(Span::duration).map(|lifetime| lifetime.max(TOKEN_LIFETIME_LEAST))
}

/// With what an assertion is signed; none: only a newer version knows.
pub(in crate::controller) fn algorithm(spec: Option<SigningAlgorithm>) -> Option<Algorithm> {
    match spec.unwrap_or_default() {
        SigningAlgorithm::RS256 => Some(Algorithm::Rs256),
        SigningAlgorithm::PS256 => Some(Algorithm::Ps256),
        SigningAlgorithm::ES256 => Some(Algorithm::Es256),
        SigningAlgorithm::Unknown => None,
    }
}

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

    /// A client as its provider specifies it, and what stands for it.
    fn client(
        &self,
        source: &PairSource,
        authentication: Option<&ClientAuthenticationSpec>,
        usual: AssertionAudience,
    ) -> Result<(ClientCredential, Own), Problem> {
        let PairSecretRef { name, keys } = &source.secret_ref;
        let key = authentication.map(|spec| self.signing_key(spec, usual)).transpose()?.flatten();
        let (id, secret) = pair(&self.secret(name)?.data, name, keys.as_ref(), key.is_none())?;
        let of_key =
            authentication.and_then(|spec| spec.private_key.as_ref()).map(|source| self.secret(&source.secret_ref.name)).transpose()?;
        let mut parts: Vec<SecretText> = vec![id.clone().into()];
        let proof = match key {
            Some(key) => {
                parts.push(key.text.clone());
                parts.push(format!("{:?} {:?} {:?} {:?}", key.algorithm, key.key_id, key.audience, key.lifetime).into());
                Proof::Key(key)
            }
            None => {
                parts.push(secret.clone());
                Proof::Secret(secret)
            }
        };
        let (credentials, private_key) = (Some(self.secret(name)?.version.clone()), of_key.map(|secret| secret.version.clone()));
        Ok((ClientCredential { id, proof }, Own { credentials, private_key, parts }))
    }

    /// The key that a client signs with; for the `usual` audience, unless the spec names another.
    fn signing_key(&self, spec: &ClientAuthenticationSpec, usual: AssertionAudience) -> Result<Option<SigningKey>, Problem> {
        let unknown = |field: &str| Err(Problem::unknown_value(&format!("clientAuthentication.{field}")));
        let source = match (spec.method, &spec.private_key) {
            (AuthenticationMethod::PrivateKeyJwt, Some(source)) => &source.secret_ref,
            (AuthenticationMethod::PrivateKeyJwt, None) => {
                return Err(Problem::new(Reason::InvalidSpec, "privateKey goes with method: PrivateKeyJwt"));
            }
            (AuthenticationMethod::Unknown, _) => return unknown("method"),
            _ => return Ok(None),
        };
        let Some(algorithm) = algorithm(spec.algorithm) else { return unknown("algorithm") };
        let audience = match spec.audience.unwrap_or(usual) {
            AssertionAudience::Issuer => Audience::Issuer,
            AssertionAudience::TokenEndpoint => Audience::TokenEndpoint,
            AssertionAudience::Both => Audience::Both,
            AssertionAudience::Unknown => return unknown("audience"),
        };
        let lifetime = assertion_lifetime(spec.lifetime.as_ref(), ASSERTION_MOST);
        let text = self.text(&source.name, source.key.as_deref().unwrap_or(PRIVATE_KEY))?.clone();
        let key = SigningKey { text, algorithm, key_id: spec.key_id.clone(), audience, lifetime };
        assertion::check(&key).map_err(|failure| in_secret(self.home, &source.name, &failure))?;
        Ok(Some(key))
    }

    fn api_key(&self, name: &str, key: Option<&str>) -> Result<SecretText, Problem> {
        iam::api_key(self.text(name, key.unwrap_or("apikey"))?.expose_secret()).map_err(|failure| in_secret(self.home, name, &failure))
    }
}

/// The provider's own credential: the Secrets that it lies in, and what stands for it in a fingerprint.
#[derive(Default)]
struct Own {
    credentials: Option<ObjectVersion>,
    private_key: Option<ObjectVersion>,
    parts: Vec<SecretText>,
}

/// What [`Directory::common`] makes.
struct Common {
    tenant: Tenant,
    connection: Draft,
}

/// A connection without its service.
struct Draft {
    admission: Arc<Turns>,
    budget: Budget,
}

impl Draft {
    /// `configuration` stands for everything of the spec that decides how a token is asked for, but for budget and credential.
    fn with(
        self,
        service: Service,
        tenant: Option<TenantIdentity>,
        host: String,
        own: Own,
        configuration: String,
        ca: Option<&[u8]>,
    ) -> Connection {
        let Self { admission, budget } = self;
        let Own { credentials, private_key, parts } = own;
        let identity = tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut all = vec![host.as_bytes(), identity.as_bytes(), configuration.as_bytes(), ca.unwrap_or_default()];
        all.extend(parts.iter().map(|part| part.expose_secret().as_bytes()));
        let fingerprint = fingerprint(&all);
        Connection { service, tenant, host, credentials, private_key, configuration, admission, fingerprint, budget }
    }
}

fn authentication(spec: Option<&ClientAuthenticationSpec>, default: ClientAuthentication) -> ClientAuthentication {
    match spec.map(|spec| (spec.method, spec.basic_encoding.unwrap_or_default())) {
        Some((AuthenticationMethod::ClientSecretBasic, BasicEncoding::Raw)) => ClientAuthentication::BasicRaw,
        Some((AuthenticationMethod::ClientSecretBasic, _)) => ClientAuthentication::Basic,
        Some((AuthenticationMethod::ClientSecretPost, _)) => ClientAuthentication::Post,
        Some((AuthenticationMethod::PrivateKeyJwt | AuthenticationMethod::Unknown, _)) | None => default,
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
            match self.credentials.read(client, secrets, &Name::new(home, name)).await? {
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
        let key = Name::new(home, name);
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
        let version = ObjectVersion::of(&map.metadata);
        config_maps.note(key.clone(), version.clone());
        let data = Arc::new(map.data.unwrap_or_default());
        self.bundles.lock().insert(key.clone(), (version, data.clone()));
        if !config_maps.is_named(&key) {
            // The provider went meanwhile.
            self.forget_bundles(&[key]);
        }
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
        let ca = ca.as_deref();
        match &specification.service {
            ServiceSpec::AppId(app_id) => self.app_id(app_id, read, ca, budget),
            ServiceSpec::Iam(iam) => self.iam_service(iam, specification.access.is_some(), read, ca, budget),
            ServiceSpec::Verify(verify) => self.verify(verify, read, ca, budget),
            ServiceSpec::SecureAuth(secure_auth) => self.secure_auth(secure_auth, read, ca, budget),
            ServiceSpec::Oidc(oidc) => self.oidc(oidc, &specification.endpoints_host, read, ca, budget),
            ServiceSpec::None => {
                Err(Problem::new(Reason::InvalidSpec, "this version of the operator does not support the service of this provider"))
            }
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
        let (iam, iam_fingerprint) = self.iam(&iam_url, IamCredential::ApiKey(api_key), Some(source), ca, budget)?;
        let host = origin.origin().ascii_serialization();
        let place = (host.clone(), tenant_id.clone());
        let (shared, admission) = {
            let mut known = self.shared.lock();
            (
                revived(&mut known.tenants, &place, || SharedTenant::new(Gate::new(budget))),
                revived(&mut known.admissions, &place, || Turns::new(passes(budget))),
            )
        };
        let tenant =
            Tenant::new("app_id", shared.gate.clone(), &self.http, ca, self.metrics.clone()).map_err(|failure| Problem::of(&failure))?;
        let fingerprint = fingerprint(&[host.as_bytes(), tenant_id.as_bytes(), &iam_fingerprint]);
        let identity = TenantIdentity::app_id(&tenant_id);
        Ok(Connection {
            service: Service::AppId(Arc::new(AppId::new(tenant, origin, tenant_id, iam, shared))),
            tenant: Some(identity),
            host,
            credentials: Some(source.version.clone()),
            private_key: None,
            configuration: String::new(),
            admission,
            fingerprint,
            budget,
        })
    }

    fn iam_service(
        &self,
        spec: &IamProvider,
        is_of_the_cluster: bool,
        read: &Named<'_>,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<Connection, Problem> {
        let url = self.origin("checking the address of IAM", spec.url.as_ref().map_or(iam::DEFAULT_URL, |url| url.0.as_str()))?;
        let (credential, source) = match (&spec.api_key, &spec.trusted_profile) {
            (Some(key), _) => {
                let source = read.secret(&key.secret_ref.name)?;
                (IamCredential::ApiKey(read.api_key(&key.secret_ref.name, key.secret_ref.key.as_deref())?), Some(source))
            }
            (None, Some(profile)) if is_of_the_cluster => (self.trusted_profile(profile, &url)?, None),
            (None, Some(_)) => return Err(Problem::new(Reason::InvalidSpec, "only a ClusterIdentityProvider may name a trusted profile")),
            (None, None) => return Err(Problem::new(Reason::InvalidSpec, "set exactly one of apiKey and trustedProfile")),
        };
        let (iam, fingerprint) = self.iam(&url, credential, source, ca, budget)?;
        Ok(Connection {
            service: Service::Iam(iam),
            tenant: spec.account_id.as_deref().map(TenantIdentity::iam_account),
            host: url.origin().ascii_serialization(),
            credentials: source.map(|source| source.version.clone()),
            private_key: None,
            configuration: url.to_string(),
            admission: Turns::new(passes(budget)),
            fingerprint,
            budget,
        })
    }

    fn verify(&self, spec: &VerifyProvider, read: &Named<'_>, ca: Option<&[u8]>, budget: Budget) -> Result<Connection, Problem> {
        let origin = self.origin("checking the address of Verify", &spec.url.0)?;
        let (client, own) = read.client(&spec.credentials, spec.client_authentication.as_ref(), AssertionAudience::Both)?;
        let authentication = authentication(spec.client_authentication.as_ref(), ClientAuthentication::Post);
        let host = origin.origin().ascii_serialization();
        let identity = origin.host_str().unwrap_or_default().to_owned();
        let common = self.common("verify", &host, &identity, ca, budget)?;
        let configuration = format!("{authentication:?}");
        let service = Service::Verify(Arc::new(Verify::new(common.tenant, origin, authentication, client)));
        Ok(common.connection.with(service, Some(TenantIdentity::recorded(&identity)), host, own, configuration, ca))
    }

    fn secure_auth(&self, spec: &SecureAuthProvider, read: &Named<'_>, ca: Option<&[u8]>, budget: Budget) -> Result<Connection, Problem> {
        let origin = self.origin("checking the address of SecureAuth", &spec.url.0)?;
        let (client, own) = read.client(&spec.credentials, None, AssertionAudience::Issuer)?;
        let host = origin.origin().ascii_serialization();
        let identity = format!("{}/{}", origin.host_str().unwrap_or_default(), spec.ids_id);
        let common = self.common("secure_auth", &host, &identity, ca, budget)?;
        let lifetime = token_lifetime(spec.lifetime.as_ref());
        let configuration = format!("{lifetime:?}");
        let service = Service::SecureAuth(Arc::new(SecureAuth::new(common.tenant, origin, spec.ids_id.clone(), client, lifetime)));
        Ok(common.connection.with(service, Some(TenantIdentity::recorded(&identity)), host, own, configuration, ca))
    }

    fn oidc(
        &self,
        spec: &OidcProvider,
        (known_host, accepted_host): &(Option<String>, Option<String>),
        read: &Named<'_>,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<Connection, Problem> {
        let address =
            |url: &Option<ServiceUrl>| url.as_ref().map(|url| self.origin("checking the address of the server", &url.0)).transpose();
        let (issuer, token_endpoint) = (address(&spec.issuer)?, address(&spec.token_endpoint)?);
        let Some(place) = issuer.as_ref().or(token_endpoint.as_ref()) else {
            return Err(Problem::new(Reason::InvalidSpec, "set issuer, or tokenEndpoint"));
        };
        let host = place.origin().ascii_serialization();
        let identity = spec.issuer.as_ref().map_or_else(|| host.clone(), |issuer| issuer.0.clone());
        let client = spec.credentials.as_ref();
        let client = client
            .map(|credentials| read.client(credentials, spec.client_authentication.as_ref(), AssertionAudience::Issuer))
            .transpose()?;
        let (client, mut own) = client.map_or_else(|| (None, Own::default()), |(client, own)| (Some(client), own));
        // Whoever names somebody else's issuer beside a token endpoint of their own shares nothing with it.
        let called = token_endpoint.as_ref().map_or_else(|| host.clone(), Url::to_string);
        let common = self.common("oidc", &called, &identity, ca, budget)?;
        let settings = OidcSettings {
            issuer,
            issuer_text: spec.issuer.as_ref().map(|issuer| issuer.0.clone()).unwrap_or_default(),
            expected_issuer: spec.expected_issuer.clone(),
            token_endpoint,
            authentication: authentication(spec.client_authentication.as_ref(), ClientAuthentication::Basic),
            client,
            lifetime: token_lifetime(spec.lifetime.as_ref()),
            known_host: known_host.clone(),
            accepted_host: accepted_host.clone(),
        };
        let OidcSettings { expected_issuer, token_endpoint, authentication, lifetime, .. } = &settings;
        let configuration = format!("{expected_issuer:?} {token_endpoint:?} {authentication:?} {lifetime:?}");
        own.parts.push(format!("{accepted_host:?}").into());
        let service = Service::Oidc(Arc::new(Oidc::new(common.tenant, settings, self.http.clone())));
        Ok(common.connection.with(service, Some(TenantIdentity::recorded(&identity)), host, own, configuration, ca))
    }

    /// What every service but IBM's two needs of the directory: its gates, shared by all providers of the tenant, and connections.
    fn common(&self, service: &'static str, host: &str, identity: &str, ca: Option<&[u8]>, budget: Budget) -> Result<Common, Problem> {
        let place = (host.to_owned(), identity.to_owned());
        let (gate, admission) = {
            let mut known = self.shared.lock();
            (revived(&mut known.gates, &place, || Gate::new(budget)), revived(&mut known.admissions, &place, || Turns::new(passes(budget))))
        };
        let tenant = Tenant::new(service, gate, &self.http, ca, self.metrics.clone()).map_err(|failure| Problem::of(&failure))?;
        Ok(Common { tenant, connection: Draft { admission, budget } })
    }

    fn iam(
        &self,
        url: &Url,
        credential: IamCredential,
        source: Option<&ReadCredential>,
        ca: Option<&[u8]>,
        budget: Budget,
    ) -> Result<(Arc<Iam>, [u8; 32]), Problem> {
        let text = match &credential {
            IamCredential::ApiKey(key) => key.clone(),
            IamCredential::TrustedProfile { field, value, .. } => format!("{field} {value}").into(),
        };
        let fingerprint = fingerprint(&[url.as_str().as_bytes(), text.expose_secret().as_bytes(), ca.unwrap_or_default()]);
        let mut shared = self.shared.lock();
        if let Some(iam) = shared.iams.get(&fingerprint).and_then(Weak::upgrade) {
            return Ok((iam, fingerprint));
        }
        let known_for = source.map(|source| source.known_for(self.clock.now())).unwrap_or_default();
        let tenant =
            Tenant::new("iam", Gate::new(budget), &self.http, ca, self.metrics.clone()).map_err(|failure| Problem::of(&failure))?;
        let iam = Arc::new(Iam::new(tenant, url, credential, known_for));
        shared.iams.retain(|_, known| known.strong_count() > 0);
        shared.iams.insert(fingerprint, Arc::downgrade(&iam));
        Ok((iam, fingerprint))
    }

    /// The operator's own identity goes to IBM's IAM, and to hosts that the operator's flags name, and to nobody else.
    fn trusted_profile(&self, profile: &TrustedProfile, url: &Url) -> Result<IamCredential, Problem> {
        let host = url.host_str().unwrap_or_default();
        if !iam::is_ibms(host) && !self.http.iam_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
            let message = format!("the operator's own token is sent to IBM's IAM only, and {host} is not among its --iam-hosts");
            return Err(Problem::new(Reason::AddressNotAllowed, message));
        }
        let (field, value) = match (&profile.id, &profile.name, &profile.crn) {
            (Some(id), ..) => ("profile_id", id),
            (None, Some(name), _) => ("profile_name", name),
            (None, None, Some(crn)) => ("profile_crn", crn),
            _ => return Err(Problem::new(Reason::InvalidSpec, "set exactly one of id, name and crn")),
        };
        Ok(IamCredential::TrustedProfile { field, value: value.clone(), token_file: self.http.iam_token_file.clone() })
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
pub(in crate::controller) fn in_secret(home: &str, name: &str, failure: &Failure) -> Problem {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_taken_to_live_for_less_than_ten_seconds() {
        let read = |text: &str| token_lifetime(Some(&Span(text.into()))).map(|lifetime| lifetime.as_secs());
        for (text, seconds) in [("0s", Some(10)), ("9s", Some(10)), ("10s", Some(10)), ("10m", Some(600)), ("soon", None)] {
            assert_eq!(read(text), seconds, "{text}");
        }
        assert_eq!(token_lifetime(None), None);
    }
}
