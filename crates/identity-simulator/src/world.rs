//! Everything the simulator knows, and what may be done to it behind the services' backs.

mod profiles;
mod secure_auth;
mod servers;

use crate::canary;
use crate::fault::Faults;
use crate::journal::Journal;
use crate::limit::Meter;
use crate::model::{
    AccessRole, ApiKey, Application, ApplicationEdit, ApplicationKind, ApplicationSeed, CustomIdentityProvider, KeyEdit, KeySeed, Noted,
    OAuthServer, Profile, Role, RoleSeed, SecretKind, SecretValue, SecureAuth, Seed, Settings, StateReport, Tenant, TenantSeed,
    TokenConfiguration, TokenRequest, Urls, User, VERIFY, VerifyApplication,
};
use crate::signing::PublicKey;
use crate::switches::{DeletedApplicationInRoles, Switches};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Everything that changes. It lives behind one lock.
pub(crate) struct World {
    pub(crate) urls: Urls,
    /// Where a tenant lives whose seed names no region.
    first_region: String,
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) keys: BTreeMap<String, ApiKey>,
    /// Key ids by value, so that a token call does not search.
    key_ids: HashMap<String, String>,
    /// Rights by identity and tenant. They outlive keys, because tokens do.
    pub(crate) rights: BTreeMap<String, BTreeMap<String, AccessRole>>,
    /// Generic OAuth 2.0 servers by id, and Verify's.
    pub(crate) servers: BTreeMap<String, OAuthServer>,
    /// IAM trusted profiles.
    pub(crate) profiles: BTreeMap<String, Profile>,
    /// Identity stores.
    pub(crate) secure_auth: SecureAuth,
    /// Verify's applications.
    pub(crate) verify_applications: Vec<VerifyApplication>,
    /// The last token request of each client, by tenant and client.
    token_requests: BTreeMap<(String, String), TokenRequest>,
    pub(crate) switches: Switches,
    pub(crate) settings: Settings,
    pub(crate) secrets: Vec<SecretValue>,
    pub(crate) journal: Journal,
    pub(crate) faults: Faults,
    pub(crate) noted: Vec<Noted>,
    next_sequence: u64,
}

/// Why something could not be seeded or changed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A secret value without a mark could leak unseen.
    #[error("a seeded {0} carries none of the marks that canaries() lists")]
    Unmarked(&'static str),
    /// The id is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// There is no such thing.
    #[error("there is no {0}")]
    Absent(String),
    /// Nobody could use it.
    #[error("a seeded {0} is unusable")]
    Unusable(&'static str),
}

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

fn or_uuid(text: &str) -> String {
    if text.is_empty() { uuid::Uuid::new_v4().to_string() } else { text.to_owned() }
}

fn marked(value: &str, what: &'static str) -> Result<String, SeedError> {
    if canary::is_marked(value) { Ok(value.to_owned()) } else { Err(SeedError::Unmarked(what)) }
}

fn check_provider(provider: &CustomIdentityProvider) -> Result<(), SeedError> {
    let is_usable = !provider.active || PublicKey::from_pem(&provider.public_key).is_some();
    if is_usable { Ok(()) } else { Err(SeedError::Unusable("public key")) }
}

impl World {
    pub(crate) fn new(urls: Urls, first_region: String) -> Self {
        let mut world = Self {
            urls,
            first_region,
            tenants: BTreeMap::new(),
            keys: BTreeMap::new(),
            key_ids: HashMap::new(),
            rights: BTreeMap::new(),
            servers: BTreeMap::new(),
            profiles: BTreeMap::new(),
            secure_auth: SecureAuth::default(),
            verify_applications: Vec::new(),
            token_requests: BTreeMap::new(),
            switches: Switches::default(),
            settings: Settings::default(),
            secrets: Vec::new(),
            journal: Journal::default(),
            faults: Faults::default(),
            noted: Vec::new(),
            next_sequence: 0,
        };
        world.add_verify_server();
        world
    }

    /// Back to the beginning. Secret values stay listed, because they may have leaked before.
    pub(crate) fn reset(&mut self) {
        self.tenants.clear();
        self.keys.clear();
        self.key_ids.clear();
        self.rights.clear();
        self.servers.clear();
        self.add_verify_server();
        self.profiles.clear();
        self.secure_auth = SecureAuth::default();
        self.verify_applications.clear();
        self.token_requests.clear();
        self.replace_switches(Switches::default());
        self.settings = Settings::default();
        self.journal.clear();
        self.faults.clear();
        self.noted.clear();
    }

    /// What was looked at so far stays known.
    pub(crate) fn replace_switches(&mut self, switches: Switches) {
        let consulted = self.switches.consulted.clone();
        self.switches = Switches { consulted, ..switches };
    }

    pub(crate) fn report(&self) -> StateReport {
        StateReport {
            tenants: self.tenants.clone(),
            keys: self.keys.clone(),
            profiles: self.profiles.clone(),
            rights: self.rights.clone(),
            servers: self.servers.clone(),
            verify_applications: self.verify_applications.clone(),
            secure_auth: self.secure_auth.users.clone(),
            switches: self.switches.clone(),
            settings: self.settings.clone(),
        }
    }

    /// The services' time, which may differ from ours.
    pub(crate) fn now(&self) -> i64 {
        Timestamp::now().as_second() + self.settings.clock_offset_seconds
    }

    pub(crate) fn note_secret(&mut self, kind: SecretKind, value: &str) {
        self.secrets.push(SecretValue { kind, value: value.to_owned() });
    }

    pub(crate) fn tenant_mut(&mut self, id: &str) -> Result<&mut Tenant, SeedError> {
        self.tenants.get_mut(id).ok_or_else(|| SeedError::Absent(format!("tenant {id}")))
    }

    pub(crate) fn seed(&mut self, seed: Seed) -> Result<(), SeedError> {
        if let Some(switches) = seed.switches {
            self.replace_switches(switches);
        }
        if let Some(settings) = seed.settings {
            self.settings = settings;
        }
        for tenant in seed.tenants {
            self.add_tenant(tenant)?;
        }
        for key in seed.keys {
            self.add_key(key)?;
        }
        for profile in seed.profiles {
            self.add_profile(profile)?;
        }
        for server in seed.oidc {
            self.add_oidc_server(server)?;
        }
        for client in seed.verify_clients {
            self.add_oauth_client(VERIFY, client)?;
        }
        for user in seed.secure_auth {
            self.add_secure_auth_user(user)?;
        }
        for application in seed.verify_applications {
            self.add_verify_application(application)?;
        }
        Ok(())
    }

    pub(crate) fn add_tenant(&mut self, seed: TenantSeed) -> Result<Tenant, SeedError> {
        let id = or_uuid(&seed.id);
        if self.tenants.contains_key(&id) {
            return Err(SeedError::Exists(format!("tenant {id}")));
        }
        let region = if seed.region.is_empty() { self.first_region.clone() } else { seed.region };
        if !self.urls.regions.contains_key(&region) {
            return Err(SeedError::Absent(format!("region {region}")));
        }
        let mut users = BTreeMap::new();
        for mut user in seed.users {
            user.password = marked(&user.password, "password")?;
            user.id = or_uuid(&user.id);
            self.note_secret(SecretKind::Password, &user.password);
            users.insert(user.username.clone(), user);
        }
        if let Some(provider) = &seed.custom_identity_provider {
            check_provider(provider)?;
        }
        let service_credential = seed.service_credential.map(|client| self.application(client)).transpose()?;
        let empty = || Map::from_iter([("redirectUris".to_owned(), json!([]))]);
        let tenant = Tenant {
            id: id.clone(),
            region,
            applications: BTreeMap::new(),
            roles: BTreeMap::new(),
            users,
            redirect_uris: seed.redirect_uris.unwrap_or_else(empty),
            tokens: TokenConfiguration::default(),
            service_credential,
            custom_identity_provider: seed.custom_identity_provider,
            sign_ins: BTreeMap::new(),
            refresh_tokens: BTreeMap::new(),
            management: Meter::default(),
            authorization: Meter::default(),
            changes: 0,
            created: Timestamp::now(),
        };
        self.tenants.insert(id.clone(), tenant);
        for application in seed.applications {
            self.add_application(&id, application)?;
        }
        for role in seed.roles {
            self.add_role(&id, role)?;
        }
        Ok(self.tenant_mut(&id)?.clone())
    }

    pub(crate) fn set_custom_identity_provider(&mut self, tenant: &str, provider: CustomIdentityProvider) -> Result<(), SeedError> {
        check_provider(&provider)?;
        self.tenant_mut(tenant)?.custom_identity_provider = Some(provider);
        Ok(())
    }

    pub(crate) fn remove_tenant(&mut self, id: &str) -> Result<(), SeedError> {
        self.tenants.remove(id).map(|_| ()).ok_or_else(|| SeedError::Absent(format!("tenant {id}")))
    }

    /// A complete application out of what is given, not yet registered anywhere.
    fn application(&mut self, seed: ApplicationSeed) -> Result<Application, SeedError> {
        let secret = match (seed.kind, seed.secret) {
            (ApplicationKind::SinglePageApp, _) => None,
            (ApplicationKind::RegularWebApp, Some(secret)) => Some(marked(&secret, "client secret")?),
            (ApplicationKind::RegularWebApp, None) => Some(canary::client_secret()),
        };
        if let Some(secret) = &secret {
            self.note_secret(SecretKind::ClientSecret, secret);
        }
        self.next_sequence += 1;
        Ok(Application {
            client_id: seed.client_id.unwrap_or_else(|| or_uuid("")),
            secret,
            name: seed.name,
            kind: seed.kind,
            scopes: seed.scopes,
            roles: seed.roles,
            sequence: self.next_sequence,
        })
    }

    pub(crate) fn add_application(&mut self, tenant: &str, seed: ApplicationSeed) -> Result<Application, SeedError> {
        let application = self.application(seed)?;
        let applications = &mut self.tenant_mut(tenant)?.applications;
        if applications.contains_key(&application.client_id) {
            return Err(SeedError::Exists(format!("application {}", application.client_id)));
        }
        applications.insert(application.client_id.clone(), application.clone());
        Ok(application)
    }

    pub(crate) fn edit_application(&mut self, tenant: &str, id: &str, edit: ApplicationEdit) -> Result<Application, SeedError> {
        if let Some(secret) = &edit.secret {
            marked(secret, "client secret")?;
            self.note_secret(SecretKind::ClientSecret, secret);
        }
        let tenant = self.tenant_mut(tenant)?;
        if let Some(scopes) = edit.scopes {
            tenant.set_scopes(id, scopes);
        }
        let application = tenant.applications.get_mut(id).ok_or_else(|| SeedError::Absent(format!("application {id}")))?;
        if let Some(name) = edit.name {
            application.name = name;
        }
        if let Some(secret) = edit.secret {
            application.secret = Some(secret);
        }
        if let Some(roles) = edit.roles {
            application.roles = roles;
        }
        Ok(application.clone())
    }

    pub(crate) fn remove_application(&mut self, tenant: &str, id: &str) -> Result<(), SeedError> {
        let in_roles = self.switches.deleted_application_in_roles();
        let removed = self.tenant_mut(tenant)?.remove_application(id, in_roles);
        if removed { Ok(()) } else { Err(SeedError::Absent(format!("application {id}"))) }
    }

    pub(crate) fn add_role(&mut self, tenant: &str, seed: RoleSeed) -> Result<Role, SeedError> {
        self.next_sequence += 1;
        let sequence = self.next_sequence;
        let id = seed.id.unwrap_or_else(|| or_uuid(""));
        let role = Role { id: id.clone(), name: seed.name, description: seed.description, access: seed.access, sequence };
        let roles = &mut self.tenant_mut(tenant)?.roles;
        if roles.contains_key(&id) {
            return Err(SeedError::Exists(format!("role {id}")));
        }
        roles.insert(id, role.clone());
        Ok(role)
    }

    pub(crate) fn remove_role(&mut self, tenant: &str, id: &str) -> Result<(), SeedError> {
        if self.tenant_mut(tenant)?.remove_role(id) { Ok(()) } else { Err(SeedError::Absent(format!("role {id}"))) }
    }

    pub(crate) fn add_user(&mut self, tenant: &str, mut user: User) -> Result<User, SeedError> {
        user.password = marked(&user.password, "password")?;
        user.id = or_uuid(&user.id);
        self.note_secret(SecretKind::Password, &user.password);
        self.tenant_mut(tenant)?.users.insert(user.username.clone(), user.clone());
        Ok(user)
    }

    pub(crate) fn add_key(&mut self, seed: KeySeed) -> Result<ApiKey, SeedError> {
        let prefixed = |prefix: &str, text: &str| {
            if text.is_empty() { format!("{prefix}{}", or_uuid("")) } else { text.to_owned() }
        };
        let key = ApiKey {
            id: prefixed("ApiKey-", &seed.id),
            value: if seed.value.is_empty() { canary::api_key() } else { marked(&seed.value, "API key")? },
            name: if seed.name.is_empty() { "simulated".to_owned() } else { seed.name },
            identity: prefixed("ServiceId-", &seed.identity),
            account: if seed.account.is_empty() { ACCOUNT.to_owned() } else { seed.account },
            enabled: seed.enabled,
            expires_at: seed.expires_at,
            visible_at: in_milliseconds(seed.visible_after_milliseconds),
            last_token: None,
        };
        if self.keys.contains_key(&key.id) || self.key_ids.contains_key(&key.value) {
            return Err(SeedError::Exists(format!("API key {}", key.id)));
        }
        self.note_secret(SecretKind::ApiKey, &key.value);
        self.rights.entry(key.identity.clone()).or_default().extend(seed.access);
        self.key_ids.insert(key.value.clone(), key.id.clone());
        self.keys.insert(key.id.clone(), key.clone());
        Ok(key)
    }

    pub(crate) fn edit_key(&mut self, id: &str, edit: KeyEdit) -> Result<ApiKey, SeedError> {
        let key = self.keys.get_mut(id).ok_or_else(|| SeedError::Absent(format!("API key {id}")))?;
        if let Some(enabled) = edit.enabled {
            key.enabled = enabled;
        }
        if let Some(expires_at) = edit.expires_at {
            key.expires_at = Some(expires_at);
        }
        if let Some(delay) = edit.visible_after_milliseconds {
            key.visible_at = in_milliseconds(delay);
        }
        if let Some(access) = edit.access {
            self.rights.insert(key.identity.clone(), access);
        }
        Ok(key.clone())
    }

    pub(crate) fn remove_key(&mut self, id: &str) -> Result<(), SeedError> {
        let key = self.keys.remove(id).ok_or_else(|| SeedError::Absent(format!("API key {id}")))?;
        self.key_ids.remove(&key.value);
        Ok(())
    }

    pub(crate) fn key_by_value(&mut self, value: &str) -> Option<&mut ApiKey> {
        self.keys.get_mut(self.key_ids.get(value)?)
    }
}

fn in_milliseconds(milliseconds: u64) -> Timestamp {
    let delay = SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX));
    Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX)
}

impl Tenant {
    /// Replaces the scopes of an application. A scope that goes leaves every role that holds it, for good (App ID 3.7).
    pub(crate) fn set_scopes(&mut self, client_id: &str, scopes: BTreeSet<String>) {
        let Some(application) = self.applications.get_mut(client_id) else {
            return;
        };
        for access in self.roles.values_mut().flat_map(|role| &mut role.access) {
            if access.application_id == client_id {
                access.scopes.retain(|scope| scopes.contains(scope));
            }
        }
        application.scopes = scopes;
    }

    pub(crate) fn remove_application(&mut self, client_id: &str, in_roles: DeletedApplicationInRoles) -> bool {
        if in_roles == DeletedApplicationInRoles::Dropped {
            for role in self.roles.values_mut() {
                role.access.retain(|access| access.application_id != client_id);
            }
        }
        self.refresh_tokens.retain(|_, (_, client)| client != client_id);
        self.applications.remove(client_id).is_some()
    }

    /// Removes a role and takes it from all who hold it (App ID 4).
    pub(crate) fn remove_role(&mut self, id: &str) -> bool {
        for application in self.applications.values_mut() {
            application.roles.remove(id);
        }
        for user in self.users.values_mut() {
            user.roles.remove(id);
        }
        self.roles.remove(id).is_some()
    }

    /// An application or the client of the service credential.
    pub(crate) fn client(&self, client_id: &str) -> Option<&Application> {
        let credential = self.service_credential.as_ref().filter(|client| client.client_id == client_id);
        self.applications.get(client_id).or(credential)
    }
}
