//! What the simulator keeps, in the form in which the control API seeds and shows it.

mod oauth;
mod profile;
mod secure_auth;
mod verify;

pub(crate) use oauth::TokenBook;
pub use oauth::{
    AssertionIssuer, BasicSpelling, ClientAuthentication, DiscoveryPlace, LifetimeAnswer, MissingTarget, OAuthClient, OAuthClientEdit,
    OAuthClientSeed, OAuthRefreshToken, OAuthRefreshTokenSeed, OAuthServer, OAuthToken, OidcServerSeed, OidcSettings, SigningAlgorithm,
    TokenForm, TokenRequest, VERIFY, VerificationKey,
};
pub use profile::{Profile, ProfileEdit, ProfileSeed, ServiceAccount};
pub(crate) use secure_auth::SecureAuth;
pub use secure_auth::{SecureAuthCredential, SecureAuthToken, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed};
pub use verify::{VerifyApplication, VerifyApplicationSeed};

use crate::switches::Switches;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the simulator starts with, or is given later on top of what it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    /// App ID tenants.
    pub tenants: Vec<TenantSeed>,
    /// IAM API keys.
    pub keys: Vec<KeySeed>,
    /// IAM trusted profiles.
    pub profiles: Vec<ProfileSeed>,
    /// Generic OAuth 2.0 servers.
    pub oidc: Vec<OidcServerSeed>,
    /// API clients of Verify.
    pub verify_clients: Vec<OAuthClientSeed>,
    /// Users of SecureAuth identity stores.
    pub secure_auth: Vec<SecureAuthUserSeed>,
    /// Applications of Verify.
    pub verify_applications: Vec<VerifyApplicationSeed>,
    /// Replaces all switches when given.
    pub switches: Option<Switches>,
    /// Replaces all settings when given.
    pub settings: Option<Settings>,
}

/// A tenant to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSeed {
    /// GUID of the instance; made up when empty.
    pub id: String,
    /// The region it lives in; the first one when empty. Any other region answers 404 `Not Found`.
    pub region: String,
    /// Applications that are there from the start.
    pub applications: Vec<ApplicationSeed>,
    /// Roles that are there from the start. Their `access` may name applications of this seed by `client_id`.
    pub roles: Vec<RoleSeed>,
    /// Users who can sign in by password.
    pub users: Vec<User>,
    /// The redirect URI document; `{"redirectUris":[]}` when absent.
    pub redirect_uris: Option<Map<String, Value>>,
    /// The client that a service credential of the instance brings along (App ID 8.1).
    pub service_credential: Option<ApplicationSeed>,
    /// Whose assertions the `jwt-bearer` grant takes; nobody's when absent.
    pub custom_identity_provider: Option<CustomIdentityProvider>,
}

/// The custom identity provider of a tenant (App ID 5.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CustomIdentityProvider {
    /// Whether its assertions are taken.
    pub active: bool,
    /// Its public key as PEM: RSA of 2048 bits and more.
    pub public_key: String,
}

/// An application to create without a call of the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApplicationSeed {
    /// Made up when absent.
    pub client_id: Option<String>,
    /// Made up when absent; must carry a mark of [`crate::canaries`].
    pub secret: Option<String>,
    /// Its name; names are not unique.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ApplicationKind,
    /// Its scopes.
    pub scopes: BTreeSet<String>,
    /// Ids of its roles.
    pub roles: BTreeSet<String>,
}

/// Changes to an application behind everybody's back; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApplicationEdit {
    /// New name.
    pub name: Option<String>,
    /// New secret; must carry a mark.
    pub secret: Option<String>,
    /// All scopes from now on. Scopes that go are taken from roles, as the service does.
    pub scopes: Option<BTreeSet<String>>,
    /// Ids of all roles from now on.
    pub roles: Option<BTreeSet<String>>,
}

/// A role to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleSeed {
    /// Made up when absent.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Which scopes of which applications it grants.
    pub access: Vec<Access>,
}

/// A tenant as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// GUID of the instance.
    pub id: String,
    /// The region it lives in.
    pub region: String,
    /// By client id.
    pub applications: BTreeMap<String, Application>,
    /// By role id.
    pub roles: BTreeMap<String, Role>,
    /// By user name.
    pub users: BTreeMap<String, User>,
    /// The redirect URI document, with whatever was written into it.
    pub redirect_uris: Map<String, Value>,
    /// The token configuration.
    pub tokens: TokenConfiguration,
    /// The client of the service credential.
    pub service_credential: Option<Application>,
    /// Whose assertions the `jwt-bearer` grant takes.
    pub custom_identity_provider: Option<CustomIdentityProvider>,
    /// When each user tried to sign in, for the limit of App ID 7.2.
    #[serde(skip)]
    pub(crate) sign_ins: BTreeMap<String, Vec<std::time::Instant>>,
    /// User and client by refresh token.
    #[serde(skip)]
    pub(crate) refresh_tokens: BTreeMap<String, (String, String)>,
    /// Calls of the management API.
    #[serde(skip)]
    pub(crate) management: crate::limit::Meter,
    /// Calls of the authorization server.
    #[serde(skip)]
    pub(crate) authorization: crate::limit::Meter,
    /// Changes since the start, for the limit of 24 hours.
    pub changes: u32,
    /// When it was made; part of the signing key's id.
    pub created: Timestamp,
}

/// An application (App ID 3.2) and what hangs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// The OAuth client id.
    pub client_id: String,
    /// The client secret; none for a single-page app.
    pub secret: Option<String>,
    /// Its name; names are not unique.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ApplicationKind,
    /// Its scopes.
    pub scopes: BTreeSet<String>,
    /// Ids of its roles.
    pub roles: BTreeSet<String>,
    /// Position in the order of registration, which is the order of the list.
    pub sequence: u64,
}

/// The type of an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplicationKind {
    /// Holds a secret.
    #[default]
    RegularWebApp,
    /// Has none.
    SinglePageApp,
}

/// A role (App ID 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Which scopes of which applications it grants.
    pub access: Vec<Access>,
    /// Position in the order of creation.
    #[serde(skip_serializing, default)]
    pub sequence: u64,
}

/// What a role grants at one application; snake case on the wire (App ID 7.3, quirk 3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Client id of the application.
    pub application_id: String,
    /// Names of its scopes. `null` counts as none: Terraform sends it for an empty set.
    #[serde(deserialize_with = "null_as_empty")]
    pub scopes: BTreeSet<String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A user of the tenant's directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// The name to sign in with.
    pub username: String,
    /// The password; must carry a mark of [`crate::canaries`].
    pub password: String,
    /// The subject; made up when empty.
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Full name.
    pub name: String,
    /// Whether the e-mail address still has to be verified: sign-in answers 403.
    pub verification_pending: bool,
    /// Whether the password is over: sign-in answers `Password expired`.
    pub password_expired: bool,
    /// Ids of roles.
    pub roles: BTreeSet<String>,
}

/// The tenant's token configuration (App ID 5.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenConfiguration {
    /// Access and ID tokens.
    pub access: Lifetime,
    /// Refresh tokens.
    pub refresh: OptionalLifetime,
    /// Anonymous tokens.
    pub anonymous_access: OptionalLifetime,
    /// Claims to put into access tokens.
    pub access_token_claims: Vec<Value>,
    /// Claims to put into ID tokens.
    pub id_token_claims: Vec<Value>,
}

/// How long something lives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifetime {
    /// Seconds.
    pub expires_in: i64,
}

/// How long something lives that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptionalLifetime {
    /// Seconds.
    pub expires_in: i64,
    /// Whether it is issued at all.
    pub enabled: bool,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { expires_in: 3600 }
    }
}

impl Default for OptionalLifetime {
    fn default() -> Self {
        Self { expires_in: 2_592_000, enabled: false }
    }
}

impl Default for TokenConfiguration {
    fn default() -> Self {
        Self {
            access: Lifetime::default(),
            refresh: OptionalLifetime::default(),
            anonymous_access: OptionalLifetime { enabled: true, ..OptionalLifetime::default() },
            access_token_claims: Vec::new(),
            id_token_claims: Vec::new(),
        }
    }
}

/// What an identity may do at one App ID instance (App ID 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccessRole {
    /// Reads, secrets included.
    Reader,
    /// Registers and changes.
    Writer,
    /// Exports and imports, too.
    Manager,
}

/// An API key to create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeySeed {
    /// `ApiKey-<uuid>`; made up when empty.
    pub id: String,
    /// The key itself; made up when empty; must carry a mark of [`crate::canaries`].
    pub value: String,
    /// Its name.
    pub name: String,
    /// `ServiceId-<uuid>`; made up when empty. Several keys may share an identity, and rights belong to the identity.
    pub identity: String,
    /// 32 hexadecimal digits; one account for all when empty.
    pub account: String,
    /// Rights of the identity, by tenant; added to what the identity has.
    pub access: BTreeMap<String, AccessRole>,
    /// Whether it works.
    pub enabled: bool,
    /// When it is over.
    pub expires_at: Option<Timestamp>,
    /// Unknown to the token endpoint for so long (IAM 9.1).
    pub visible_after_milliseconds: u64,
}

impl Default for KeySeed {
    fn default() -> Self {
        Self {
            id: String::new(),
            value: String::new(),
            name: String::new(),
            identity: String::new(),
            account: String::new(),
            access: BTreeMap::new(),
            enabled: true,
            expires_at: None,
            visible_after_milliseconds: 0,
        }
    }
}

/// An API key as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// `ApiKey-<uuid>`.
    pub id: String,
    /// The key itself.
    pub value: String,
    /// Its name.
    pub name: String,
    /// `ServiceId-<uuid>`.
    pub identity: String,
    /// 32 hexadecimal digits.
    pub account: String,
    /// Whether it works.
    pub enabled: bool,
    /// When it is over.
    pub expires_at: Option<Timestamp>,
    /// From when on the token endpoint knows it.
    pub visible_at: Timestamp,
    /// The last token issued, for [`crate::switches::IamTokenReuse`].
    #[serde(skip)]
    pub(crate) last_token: Option<IssuedToken>,
}

/// A token issued before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IssuedToken {
    pub(crate) text: String,
    pub(crate) issued: i64,
    pub(crate) expires: i64,
}

/// Changes to an API key; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyEdit {
    /// Whether it works.
    pub enabled: Option<bool>,
    /// When it is over.
    pub expires_at: Option<Timestamp>,
    /// Unknown to the token endpoint for so long from now on.
    pub visible_after_milliseconds: Option<u64>,
    /// All rights of its identity from now on, by tenant. Live tokens feel it at once (IAM 2.5).
    pub access: Option<BTreeMap<String, AccessRole>>,
}

/// Numbers that are no open question: limits, lifetimes, speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Added to each call, before it is handled.
    pub latency_milliseconds: u64,
    /// Calls of the management API a second and tenant, 0 for no limit (App ID 7.2: 50).
    pub management_calls_per_second: u32,
    /// Calls of the authorization server a second and tenant, 0 for no limit (App ID 7.2: 200).
    pub authorization_calls_per_second: u32,
    /// How long a tenant is blocked that exceeded a limit (App ID 7.2: 30 s).
    pub block_milliseconds: u64,
    /// Sign-ins of one user a minute, 0 for no limit (App ID 7.2: 11).
    pub sign_ins_per_minute: u32,
    /// Applications of a tenant (App ID 7.2: 200).
    pub applications_per_tenant: usize,
    /// Roles of a tenant (App ID 7.2: 50).
    pub roles_per_tenant: usize,
    /// Scopes of an application (App ID 7.2: 50).
    pub scopes_per_application: usize,
    /// Redirect URIs of a tenant, 0 for no limit (undocumented).
    pub redirect_uris_per_tenant: usize,
    /// Changes of a tenant, 0 for no limit (App ID 7.2: 10,000 in 24 hours).
    pub changes_per_tenant: u32,
    /// Life of IAM's tokens (IAM 2.4: 3600; an account may have 900; shorter ones exist only in tests).
    pub iam_expires_in: i64,
    /// Life of App ID's tokens instead of the tenant's configuration, which knows 300 s and more (open point 6); 0 for the configuration.
    pub app_id_expires_in: i64,
    /// How far the services' clocks are ahead of ours, in `iat`, `exp`, the `Date` of answers and in checks.
    pub clock_offset_seconds: i64,
    /// What the services sign their tokens with.
    pub signing: SigningAlgorithm,
    /// Life of the identity store's tokens (SecureAuth 2: unknown).
    pub secure_auth_expires_in: i64,
    /// How long a regenerated credential goes on working where a switch says that it does for a time.
    pub secure_auth_grace_milliseconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency_milliseconds: 0,
            management_calls_per_second: 50,
            authorization_calls_per_second: 200,
            block_milliseconds: 30_000,
            sign_ins_per_minute: 11,
            applications_per_tenant: 200,
            roles_per_tenant: 50,
            scopes_per_application: 50,
            redirect_uris_per_tenant: 0,
            changes_per_tenant: 10_000,
            iam_expires_in: 3600,
            app_id_expires_in: 0,
            clock_offset_seconds: 0,
            signing: SigningAlgorithm::Rs256,
            secure_auth_expires_in: 3600,
            secure_auth_grace_milliseconds: 60_000,
        }
    }
}

impl Settings {
    /// How long a tenant is blocked.
    #[must_use]
    pub fn block(&self) -> Duration {
        Duration::from_millis(self.block_milliseconds)
    }
}

/// Everything seeded and changed so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateReport {
    /// By tenant id.
    pub tenants: BTreeMap<String, Tenant>,
    /// By key id.
    pub keys: BTreeMap<String, ApiKey>,
    /// Trusted profiles by id.
    pub profiles: BTreeMap<String, Profile>,
    /// Rights by identity and tenant.
    pub rights: BTreeMap<String, BTreeMap<String, AccessRole>>,
    /// Authorization servers by id; Verify's is [`VERIFY`].
    pub servers: BTreeMap<String, OAuthServer>,
    /// Verify's applications, in the order in which they were made.
    pub verify_applications: Vec<VerifyApplication>,
    /// Users of SecureAuth identity stores, by id.
    pub secure_auth: BTreeMap<String, SecureAuthUser>,
    /// Positions of the open questions.
    pub switches: Switches,
    /// Limits, lifetimes, speed.
    pub settings: Settings,
}

/// A secret value that was issued or seeded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretValue {
    /// What it is.
    pub kind: SecretKind,
    /// The value, as it was issued.
    pub value: String,
}

/// What a secret value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretKind {
    /// Of an application.
    ClientSecret,
    /// Of IAM.
    ApiKey,
    /// Access or ID token.
    Token,
    /// Opaque refresh token.
    RefreshToken,
    /// Of a user.
    Password,
}

/// Where the listeners are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urls {
    /// IBM Cloud IAM.
    pub iam: String,
    /// App ID, by region.
    pub regions: BTreeMap<String, String>,
    /// The control API (plain HTTP).
    pub control: String,
    /// Notes whatever credentials reach it: the target for redirects.
    pub noted: String,
    /// The same without TLS.
    pub noted_plain: String,
    /// IAM and the first region's App ID behind a certificate of another authority.
    pub other_authority: String,
    /// The same behind an expired certificate.
    pub expired: String,
    /// The same behind a certificate for another host name.
    pub wrong_host: String,
    /// The generic OAuth 2.0 servers.
    pub oidc: String,
    /// Where a generic server's endpoints are that are not at the host of its issuer: another host name, where the simulator has two.
    pub oidc_elsewhere: String,
    /// IBM Verify.
    pub verify: String,
    /// SecureAuth Identity Store.
    pub secure_auth: String,
}

/// A request that reached a noting listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names of headers that carry credentials: `authorization`, `cookie`, and any whose value holds a secret.
    pub credential_headers: Vec<String>,
    /// How many issued or seeded secret values stood in the path, the headers or the body.
    pub secrets: usize,
    /// Length of the body.
    pub body_length: usize,
}
