//! OAuth 2.0 authorization servers: the generic ones, and Verify's.

use super::User;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The id of Verify's authorization server wherever the control API wants the id of a server.
pub const VERIFY: &str = "verify";

/// A generic OAuth 2.0 / OpenID Connect server to create. Its issuer is `<urls.oidc>/tenants/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcServerSeed {
    /// Last segment of the issuer; made up when empty.
    pub id: String,
    /// Clients that are there from the start.
    pub clients: Vec<OAuthClientSeed>,
    /// Users who can sign in by password.
    pub users: Vec<User>,
    /// Whose assertions the `jwt-bearer` grant takes.
    pub assertion_issuers: Vec<AssertionIssuer>,
    /// How it behaves.
    pub settings: OidcSettings,
}

/// A client to create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthClientSeed {
    /// Made up when empty.
    pub client_id: String,
    /// Must carry a mark of [`crate::canaries`]; made up when absent, unless there are public keys.
    pub secret: Option<String>,
    /// Its name.
    pub name: String,
    /// Keys that its assertions are signed with (`private_key_jwt`).
    pub public_keys: Vec<VerificationKey>,
    /// How it may authenticate; in any way when empty.
    pub authentication: BTreeSet<ClientAuthentication>,
    /// The `grant_type`s it may use; all when empty. An API client of Verify has `client_credentials` only, whatever stands here.
    pub grants: BTreeSet<String>,
    /// The scopes it may have, which it gets when it asks for none; any when empty.
    pub scopes: BTreeSet<String>,
    /// The values of `audience` and `resource` it may ask for; any when empty.
    pub targets: BTreeSet<String>,
    /// Life of its tokens in seconds, instead of the server's.
    pub expires_in: Option<i64>,
    /// Form of its access tokens, instead of the server's; Verify's are opaque.
    pub access_tokens: Option<TokenForm>,
    /// Whether it works.
    pub enabled: bool,
    /// Whether the `jti` of its assertions may be used once only.
    pub one_time_assertions: bool,
    /// What an API client of Verify may do.
    pub entitlements: BTreeSet<String>,
}

impl Default for OAuthClientSeed {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            secret: None,
            name: String::new(),
            public_keys: Vec::new(),
            authentication: BTreeSet::new(),
            grants: BTreeSet::new(),
            scopes: BTreeSet::new(),
            targets: BTreeSet::new(),
            expires_in: None,
            access_tokens: None,
            enabled: true,
            one_time_assertions: true,
            entitlements: BTreeSet::new(),
        }
    }
}

/// A client as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthClient {
    /// The OAuth client id.
    pub client_id: String,
    /// The client secret; none for one that only signs.
    pub secret: Option<String>,
    /// Its name.
    pub name: String,
    /// Keys that its assertions are signed with.
    pub public_keys: Vec<VerificationKey>,
    /// How it may authenticate; in any way when empty.
    pub authentication: BTreeSet<ClientAuthentication>,
    /// The `grant_type`s it may use; all when empty.
    pub grants: BTreeSet<String>,
    /// The scopes it may have; any when empty.
    pub scopes: BTreeSet<String>,
    /// The values of `audience` and `resource` it may ask for; any when empty.
    pub targets: BTreeSet<String>,
    /// Life of its tokens in seconds, instead of the server's.
    pub expires_in: Option<i64>,
    /// Form of its access tokens, instead of the server's; Verify's are opaque.
    pub access_tokens: Option<TokenForm>,
    /// Whether it works.
    pub enabled: bool,
    /// Whether the `jti` of its assertions may be used once only.
    pub one_time_assertions: bool,
    /// What an API client of Verify may do.
    pub entitlements: BTreeSet<String>,
}

/// Changes to a client; what is absent stays. Tokens that it has live on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthClientEdit {
    /// New secret; must carry a mark.
    pub secret: Option<String>,
    /// All its public keys from now on.
    pub public_keys: Option<Vec<VerificationKey>>,
    /// How it may authenticate from now on.
    pub authentication: Option<BTreeSet<ClientAuthentication>>,
    /// All its grants from now on.
    pub grants: Option<BTreeSet<String>>,
    /// All its scopes from now on.
    pub scopes: Option<BTreeSet<String>>,
    /// All its targets from now on.
    pub targets: Option<BTreeSet<String>>,
    /// Life of its tokens from now on.
    pub expires_in: Option<i64>,
    /// Form of its access tokens from now on.
    pub access_tokens: Option<TokenForm>,
    /// Whether it works.
    pub enabled: Option<bool>,
    /// Whether the `jti` of its assertions may be used once only.
    pub one_time_assertions: Option<bool>,
    /// What it may do from now on.
    pub entitlements: Option<BTreeSet<String>>,
}

/// How a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// HTTP Basic.
    ClientSecretBasic,
    /// `client_id` and `client_secret` in the form.
    ClientSecretPost,
    /// An assertion that it signed.
    PrivateKeyJwt,
}

/// A public key of somebody who signs assertions, as PEM or as an entry of a key set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerificationKey {
    /// The `kid` that assertions have to name; any, or none, when absent.
    pub key_id: Option<String>,
    /// `-----BEGIN PUBLIC KEY-----` …: RSA of 2048 bits and more, or P-256.
    pub pem: Option<String>,
    /// The key as a JWK, when there is no PEM.
    pub jwk: Option<Value>,
}

/// Somebody whose assertions the `jwt-bearer` grant takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AssertionIssuer {
    /// Its `iss`.
    pub issuer: String,
    /// What it signs with.
    pub public_keys: Vec<VerificationKey>,
    /// For whom it may speak (`sub`); for anybody when empty.
    pub subjects: BTreeSet<String>,
}

/// An authorization server as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthServer {
    /// Its id.
    pub id: String,
    /// Its issuer, without a trailing slash.
    pub issuer: String,
    /// By client id.
    pub clients: BTreeMap<String, OAuthClient>,
    /// By user name.
    pub users: BTreeMap<String, User>,
    /// Whose assertions the `jwt-bearer` grant takes.
    pub assertion_issuers: Vec<AssertionIssuer>,
    /// How a generic server behaves.
    pub settings: OidcSettings,
    /// What it issued and saw.
    #[serde(skip)]
    pub(crate) book: TokenBook,
}

/// What an authorization server issued and saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenBook {
    /// In the order of issue.
    pub(crate) tokens: Vec<OAuthToken>,
    /// Positions in `tokens`.
    pub(crate) by_text: HashMap<String, usize>,
    /// By the token itself.
    pub(crate) refresh_tokens: BTreeMap<String, OAuthRefreshToken>,
    /// When each `jti` that was used may be forgotten, by issuer and `jti`.
    pub(crate) assertions: HashMap<(String, String), i64>,
    /// How many of them there may be before those that are over are forgotten.
    assertions_kept: usize,
}

impl TokenBook {
    pub(crate) fn add(&mut self, token: OAuthToken) {
        self.by_text.insert(token.token.clone(), self.tokens.len());
        self.tokens.push(token);
    }

    /// A token that is neither over nor revoked.
    pub(crate) fn live(&self, token: &str, now: i64) -> Option<&OAuthToken> {
        let token = self.tokens.get(*self.by_text.get(token)?)?;
        (!token.revoked && token.expires > now).then_some(token)
    }

    /// Whether there was such a token.
    pub(crate) fn revoke(&mut self, token: &str) -> bool {
        let found = self.by_text.get(token).and_then(|index| self.tokens.get_mut(*index));
        found.map(|token| token.revoked = true).is_some()
    }

    /// Revokes the refresh tokens of a family and the access tokens that came with them. Whether there was such a family.
    pub(crate) fn revoke_family(&mut self, family: &str) -> bool {
        let mut found = false;
        for token in self.refresh_tokens.values_mut().filter(|token| token.family == family) {
            token.revoked = true;
            found = true;
        }
        for token in self.tokens.iter_mut().filter(|token| token.family.as_deref() == Some(family)) {
            token.revoked = true;
        }
        found
    }

    /// Takes a `jti` in that nobody used before.
    pub(crate) fn use_assertion(&mut self, issuer: &str, id: &str, expires: i64, now: i64) -> bool {
        if self.assertions.len() >= self.assertions_kept {
            self.assertions.retain(|_, expires| *expires > now);
            self.assertions_kept = 2 * self.assertions.len() + 1024;
        }
        self.assertions.insert((issuer.to_owned(), id.to_owned()), expires).is_none()
    }
}

/// An access token that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthToken {
    /// The token.
    pub token: String,
    /// To whom it was issued.
    pub client_id: String,
    /// For whom it speaks.
    pub subject: String,
    /// The `grant_type` that brought it.
    pub grant: String,
    /// Its scopes, with spaces between.
    pub scope: String,
    /// The values of `audience` and `resource` that were asked for.
    pub targets: Vec<String>,
    /// Unix seconds.
    pub issued: i64,
    /// Unix seconds.
    pub expires: i64,
    /// Whether it was taken back.
    pub revoked: bool,
    /// The family of the refresh token that came with it.
    pub family: Option<String>,
}

/// A refresh token that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthRefreshToken {
    /// The token.
    pub token: String,
    /// The same for all that descend from one sign-in.
    pub family: String,
    /// To whom it was issued.
    pub client_id: String,
    /// For whom it speaks.
    pub subject: String,
    /// The scopes that were granted at the sign-in, with spaces between.
    pub scope: String,
    /// The values of `audience` and `resource` at the sign-in.
    pub targets: Vec<String>,
    /// Unix seconds.
    pub issued: i64,
    /// Unix seconds; none when it lives on.
    pub expires: Option<i64>,
    /// Whether it was used and replaced.
    pub spent: bool,
    /// How often it came again after that.
    pub reuses: u64,
    /// Whether it was taken back.
    pub revoked: bool,
    /// Position in the order of issue.
    pub sequence: u64,
}

/// A refresh token to issue without a sign-in: the first of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthRefreshTokenSeed {
    /// Must carry a mark of [`crate::canaries`]; made up when absent.
    pub token: Option<String>,
    /// The client that may use it.
    pub client_id: String,
    /// For whom it speaks: the id of a user, or any text.
    pub subject: String,
    /// Its scopes, with spaces between.
    pub scope: String,
    /// Its audiences and resources.
    pub targets: Vec<String>,
    /// Its life in seconds; none when it lives on.
    pub expires_in: Option<i64>,
}

/// The last token request that named a client, with its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// When it came.
    pub time: Timestamp,
    /// For instance `oidc.token`.
    pub operation: String,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// `Authorization`, as it came.
    pub authorization: Option<String>,
    /// Names and values of the form, decoded, in the order in which they came.
    pub fields: Vec<(String, String)>,
    /// How many requests named the client so far.
    pub count: u64,
}

impl TokenRequest {
    /// The first value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values of a field.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The names of all fields, in the order in which they came.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// How a generic server behaves. The defaults are what the RFCs ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcSettings {
    /// Where its metadata are found; every other place answers 404.
    pub discovery: DiscoveryPlace,
    /// Whether its metadata and its tokens spell the issuer with a `/` at the end.
    pub slash_after_issuer: bool,
    /// Whether its endpoints are at `urls.oidc_elsewhere`, and only there.
    pub endpoints_elsewhere: bool,
    /// The `token_endpoint_auth_methods_supported` of its metadata; no such member when empty. All work, whatever is announced.
    pub announced_authentication: Vec<ClientAuthentication>,
    /// How id and secret are written in HTTP Basic.
    pub basic: BasicSpelling,
    /// Form of access tokens.
    pub access_tokens: TokenForm,
    /// Life of access tokens in seconds.
    pub expires_in: i64,
    /// What the answer says of it.
    pub lifetime: LifetimeAnswer,
    /// `token_type` of the answer.
    pub token_type: String,
    /// Whether the last scope that was asked for is left out.
    pub narrower_scope: bool,
    /// Whether who asks for the same again is answered the same token, until it is over.
    pub same_token: bool,
    /// Access tokens have so many characters at least.
    pub token_length: usize,
    /// Whether errors have status 200.
    pub errors_with_ok: bool,
    /// Status of `invalid_client`.
    pub invalid_client_status: u16,
    /// Whether `invalid_client` comes with `WWW-Authenticate`.
    pub invalid_client_challenge: bool,
    /// What a request without `audience` and `resource` is told.
    pub missing_target: MissingTarget,
    /// Whether the password grant brings a refresh token.
    pub refresh_tokens: bool,
    /// Life of refresh tokens in seconds, 0 for ever.
    pub refresh_expires_in: i64,
    /// Whether each use of a refresh token brings a new one and spends the old.
    pub rotation: bool,
    /// Whether the use of a spent refresh token revokes its whole family.
    pub reuse_revokes_family: bool,
    /// Whether ID tokens have `alg` none.
    pub unsigned_id_tokens: bool,
}

impl Default for OidcSettings {
    fn default() -> Self {
        use ClientAuthentication::{ClientSecretBasic, ClientSecretPost, PrivateKeyJwt};
        Self {
            discovery: DiscoveryPlace::OpenId,
            slash_after_issuer: false,
            endpoints_elsewhere: false,
            announced_authentication: vec![ClientSecretBasic, ClientSecretPost, PrivateKeyJwt],
            basic: BasicSpelling::FormEncoded,
            access_tokens: TokenForm::Jwt,
            expires_in: 3600,
            lifetime: LifetimeAnswer::Number,
            token_type: "Bearer".to_owned(),
            narrower_scope: false,
            same_token: false,
            token_length: 0,
            errors_with_ok: false,
            invalid_client_status: 401,
            invalid_client_challenge: true,
            missing_target: MissingTarget::Accepted,
            refresh_tokens: true,
            refresh_expires_in: 0,
            rotation: true,
            reuse_revokes_family: false,
            unsigned_id_tokens: false,
        }
    }
}

/// Where the metadata of a server are found (standards sheet, section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveryPlace {
    /// `<issuer>/.well-known/openid-configuration`.
    #[default]
    OpenId,
    /// `<origin>/.well-known/oauth-authorization-server/<path of the issuer>`.
    OAuth,
    /// `<origin>/.well-known/openid-configuration/<path of the issuer>`.
    OpenIdInserted,
    /// Nowhere.
    Nowhere,
}

/// How id and secret are written in HTTP Basic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BasicSpelling {
    /// Each half is form-encoded first (RFC 6749).
    #[default]
    FormEncoded,
    /// As they are. The id ends with the first colon.
    Raw,
}

/// What an access token looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenForm {
    /// A signed JWT.
    #[default]
    Jwt,
    /// A random text.
    Opaque,
}

/// `expires_in` of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifetimeAnswer {
    /// The truth, as a number.
    #[default]
    Number,
    /// The truth, as a string.
    Text,
    /// No such member.
    Absent,
    /// 0.
    Zero,
    /// -1.
    Negative,
    /// 2^40.
    Huge,
}

/// What a request without a target is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingTarget {
    /// A token.
    #[default]
    Accepted,
    /// 400 `invalid_target`.
    InvalidTarget,
    /// 403 `access_denied`.
    AccessDenied,
}

/// What the services sign their tokens with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigningAlgorithm {
    /// RSA, as the real services do.
    #[default]
    Rs256,
    /// A curve, which takes a small part of the time. The key sets then hold the ES256 key, too.
    Es256,
}
