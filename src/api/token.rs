//! `AccessToken`: one access token, kept fresh in a Secret.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition, LocalReference, ObjectVersion, PairKeys, ProviderReference, ProviderVersion, SecretVersion, Span,
    secret::{annotation_values, key_names, label_values, rules, template_texts},
};

/// What a token is asked for with. Default: what the service uses for machines: for IAM whatever the provider has, else `ClientCredentials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrantType {
    /// An IBM Cloud API key.
    ApiKey,
    /// The trusted profile that a `ClusterIdentityProvider` for IAM names.
    TrustedProfile,
    /// The client's own credential (RFC 6749, section 4.4).
    ClientCredentials,
    /// A user's name and password (RFC 6749, section 4.3). Never a default: OAuth 2.1 removes it.
    Password,
    /// A signed assertion (RFC 7523, section 2.1).
    JwtBearer,
    /// A refresh token (RFC 6749, section 6) that somebody got by signing in.
    RefreshToken,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// The kinds of object whose client a token can be asked for with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientKind {
    /// An `AppIdApplication` of the same namespace.
    #[default]
    AppIdApplication,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Names a registered client of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClientReference {
    /// `AppIdApplication` (default).
    #[serde(default)]
    pub kind: ClientKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret of the same namespace with a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key with an API key (IAM). Default `apikey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
    /// Keys with client id and client secret. Default: `client_id` and `client_secret`, else `clientId` and `clientSecret`, else `clientId`
    /// and `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PairKeys>,
}

/// The credential that a token is asked for with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenCredentials {
    /// The Secret that holds it, in the object's own namespace. White space around values is ignored.
    pub secret_ref: CredentialSecretRef,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedSecret {
    /// The Secret.
    pub secret_ref: LocalReference,
}

/// Where an assertion comes from: exactly one of `secretRef` and `signed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.secretRef) != has(self.signed)", "set exactly one of secretRef and signed"))]
pub struct Assertion {
    /// The Secret and key that hold a signed JWT. Default key `assertion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<super::SecretKeyRef>,
    /// An assertion that the operator signs itself, a new one for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedAssertion>,
}

/// An assertion that is made anew for each request (RFC 7523, section 3), with a `jti` of its own and the times `iat` and `exp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.claims) || self.claims.all(k, !(k in ['iss', 'sub', 'aud', 'exp', 'nbf', 'iat', 'jti']))", "the claims iss, sub and aud have a place of their own beside claims; exp, nbf, iat and jti are the operator's"),
    validation = ("!has(self.claims) || self.claims.all(k, size(k) >= 1 && size(k) <= 128)", "the name of a claim has 1 to 128 characters"),
    validation = ("!has(self.lifetime) || (duration(self.lifetime) >= duration('10s') && duration(self.lifetime) <= duration('1h'))", "an assertion is valid for 10s to 1h"),
)]
pub struct SignedAssertion {
    /// The private key, in a Secret of the object's namespace: PEM (PKCS #8, PKCS #1 or SEC 1) or a JWK. RSA keys have 2048 bits or more. Default
    /// key `private_key`.
    pub private_key: super::KeySource,
    /// Id of the key (`kid`), by which the server finds its public half. Default: that of the JWK, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,
    /// `RS256` (default), `PS256` or `ES256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<super::SigningAlgorithm>,
    /// Who makes the assertion (`iss`). Default: the id of the client that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// Whom the token is to be for (`sub`). Default: `issuer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub subject: Option<String>,
    /// For whom the assertion is made (`aud`). Default: the server's issuer; where the provider names none, its token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// How long an assertion is valid, `10s` to `1h`. Default `60s`. It is presented at once: longer is seldom of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
    /// Further claims, at most 16, each a text of at most 1024 characters; not secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "claim_texts")]
    pub claims: BTreeMap<String, String>,
}

fn claim_texts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "maxProperties": 16, "additionalProperties": { "type": "string", "maxLength": 1024 } })
}

/// A refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshTokenSource {
    /// The Secret and key that hold the first refresh token. Default key `refresh_token`. It is used once; what the service gives in its place
    /// is kept in the Secret `<secret.name>-state`. Another value here begins anew with that one. The Secret has to stay.
    pub secret_ref: super::SecretKeyRef,
}

/// One more field of the form that is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "!(self.name in ['grant_type', 'client_id', 'client_secret', 'client_assertion', 'client_assertion_type', 'assertion', 'username', 'password', 'refresh_token', 'apikey', 'cr_token', 'profile_id', 'profile_name', 'profile_crn', 'bss_account', 'scope', 'audience', 'resource'])",
    "this field has a place of its own in the spec, or is the operator's"
))]
pub struct Parameter {
    /// Name of the field.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value; not secret.
    #[schemars(length(max = 2048))]
    pub value: String,
}

/// How the token is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("(has(self.type) && self.type == 'Password') == has(self.password)", "type: Password needs password, and no other type has it"),
    validation = ("(has(self.type) && self.type == 'JwtBearer') == has(self.assertion)", "type: JwtBearer needs assertion, and no other type has it"),
    validation = ("(has(self.type) && self.type == 'RefreshToken') == has(self.refreshToken)", "type: RefreshToken needs refreshToken, and no other type has it"),
    validation = ("!has(self.audienceRef) || !has(self.audiences)", "set audiences or audienceRef, not both"),
)]
pub struct GrantSpec {
    /// `ApiKey`, `TrustedProfile`, `ClientCredentials`, `Password`, `JwtBearer` or `RefreshToken`. Default: what the service uses for machines (for IAM
    /// whatever the provider has, else `ClientCredentials`).
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub grant_type: Option<GrantType>,
    /// Scopes, at most 50. Left out: none is asked for, and the service gives what it gives then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 256), regex(pattern = r"^[!#-\[\]-~]+$")))]
    pub scopes: Option<Vec<String>>,
    /// For whom the token is (form field `audience`), at most 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 2048)))]
    pub audiences: Option<Vec<String>>,
    /// An `AppIdApplication` of the same namespace whose client id is the audience.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience_ref: Option<ClientReference>,
    /// For what the token is (form field `resource`, RFC 8707), at most 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 2048)))]
    pub resources: Option<Vec<String>>,
    /// Further fields of the form, at most 16. Fields that have a place of their own here are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub parameters: Vec<Parameter>,
    /// With `type: Password`: the Secret with the keys `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<NamedSecret>,
    /// With `type: JwtBearer`: where the assertion comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<Assertion>,
    /// With `type: RefreshToken`: where the first refresh token comes from. No other object may use the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<RefreshTokenSource>,
}

/// When the token is replaced. Whatever is set, it is replaced while it is still valid, and not sooner than after 10 s, or 45 % of its life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.maxInterval) || duration(self.maxInterval) >= duration('10s')", "maxInterval is 10s at least: leave it out for the default, 30m"),
)]
pub struct RefreshSpec {
    /// When so much of its lifetime is over, in per cent, 1 to 99. Default 66.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "per_cent")]
    pub at_percent: Option<i32>,
    /// After this long at the latest. Default `30m`; at least `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<Span>,
    /// So much of its lifetime must be left; half of it where the lifetime is shorter than twice that. Default `120s`: a Pod sees a changed
    /// Secret up to 90 s late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_remaining: Option<Span>,
}

fn per_cent(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 99 })
}

/// Which keys the Secret of a token has. The keys of each layout are frozen for this API version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenLayout {
    /// `token`, `authorization`, `token_type`, `expires_at`, `scope`.
    #[default]
    BearerToken,
    /// What IBM's SDKs read from their environment, or from the file `ibm-credentials.env`.
    IbmSdk,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Where the token is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::NAME_STAYS,
    validation = ("(self.layout == 'IbmSdk') == has(self.service)", "layout IbmSdk needs secret.service, and no other layout has it"),
    validation = ("!has(self.serviceUrl) || has(self.service)", "secret.serviceUrl goes with layout IbmSdk"),
    validation = rules::NEW_NAMES_DIFFER,
    validation = rules::NEW_NAMES_ARE_KEYS,
    validation = rules::TEMPLATES_ARE_KEYS,
    validation = rules::TEMPLATES_ARE_NEW,
    validation = rules::LABELS_ARE_NAMES,
    validation = rules::LABELS_ARE_FREE,
    validation = rules::ANNOTATIONS_ARE_NAMES,
    validation = rules::ANNOTATIONS_ARE_FREE,
)]
pub struct TokenSecretSpec {
    /// Name of the Secret. Default: the object's name. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub name: Option<String>,
    /// Which keys the Secret has: `BearerToken` (default) or `IbmSdk`.
    #[serde(default)]
    pub layout: TokenLayout,
    /// Renames keys of the layout: `layout key: key in the Secret`. At most 32. A key the layout does not have is reported, not ignored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "key_names")]
    pub keys: BTreeMap<String, String>,
    /// Further keys that you word yourself: `key in the Secret: text` in Jinja's language, at most 16 of 8192 characters. A text names the keys of
    /// the layout as they are called before `keys` renames them (`{{ token }}`, or `{{ values["KEY"] }}` where a key is no name), and
    /// `metadata.name` and `metadata.namespace`. It can read nothing else; a name that is not there is a mistake, which `Ready` tells before
    /// anything is asked of the service. What a text makes is at most 64 KiB long, and it
    /// follows every new token. Where the service tells no lifetime, `expires_at` is empty. docs/secret-layouts.md tells more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "template_texts")]
    pub template: BTreeMap<String, String>,
    /// Labels for the Secret, at most 64. The prefix `cloudidentity.dev/` is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_values")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the Secret, at most 64. The prefix `cloudidentity.dev/` is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_values")]
    pub annotations: BTreeMap<String, String>,
    /// Layout `IbmSdk`: the service as its SDK spells it, letters, digits and `_`, for example `key_protect`: the variables begin with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z][A-Za-z0-9_]*$"))]
    pub service: Option<String>,
    /// Layout `IbmSdk`: the service's address, for the variable `<SERVICE>_URL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_url: Option<super::ServiceUrl>,
    /// Adds the ID token that comes with grants of a user (`Password`, `JwtBearer`) under the key `id_token`. Default `false`.
    #[serde(default)]
    pub identity_token: bool,
}

/// One access token, kept fresh in a Secret.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloudidentity.dev",
    version = "v1alpha1",
    kind = "AccessToken",
    plural = "accesstokens",
    namespaced,
    doc = "One access token, kept fresh in a Secret: it is replaced in time, by its real lifetime.",
    status = "AccessTokenStatus",
    derive = "PartialEq",
    shortname = "atok",
    category = "cloudidentity",
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Refresh", type_ = "string", json_path = ".status.refreshAt"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Fresh", type_ = "string", json_path = ".status.conditions[?(@.type==\"Fresh\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.providerRef) != has(self.clientRef)", "set exactly one of providerRef and clientRef"),
    validation = ("!has(self.credentials) || has(self.providerRef)", "credentials goes with providerRef: clientRef brings its own"),
    validation = ("!has(self.grant.refreshToken) || !has(self.secret.name) || size(self.secret.name) <= 247", "with a refresh token secret.name has at most 247 characters"),
    validation = ("!self.secret.identityToken || (has(self.grant.type) && self.grant.type in ['Password', 'JwtBearer'])", "secret.identityToken goes with the grants Password and JwtBearer: a machine has no ID token"),
)]
pub struct AccessTokenSpec {
    /// The service: an `IdentityProvider` of this namespace (default) or a `ClusterIdentityProvider` that allows it. Exactly one of
    /// `providerRef` and `clientRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<ProviderReference>,
    /// The credential to ask with. Default: the provider's own, where it is one for tokens (an App ID provider's is a management key), and for
    /// a `ClusterIdentityProvider` only with `permits.accessTokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<TokenCredentials>,
    /// A client that this operator registered: its credential is used, whatever layout its Secret has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ref: Option<ClientReference>,
    /// How the token is asked for.
    #[serde(default)]
    pub grant: GrantSpec,
    /// When the token is replaced.
    #[serde(default)]
    pub refresh: RefreshSpec,
    /// Where and how the token is published.
    #[serde(default)]
    pub secret: TokenSecretSpec,
    /// `true`: no call to the service and no write of the Secret until it is `false` again. `Ready` keeps its value until the token expires.
    /// Default `false`.
    #[serde(default)]
    pub suspend: bool,
}

/// What the published token was issued for: when any of it is another, a new token is asked for at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedFor {
    /// Generation of this object.
    pub generation: i64,
    /// The provider.
    pub provider: ProviderVersion,
    /// The Secret of the provider's own credential, where that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_credentials: Option<ObjectVersion>,
    /// The Secret of the provider's private key, where that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_private_key: Option<ObjectVersion>,
    /// The Secrets that were used, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, ObjectVersion>,
    /// The audience that another object brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The annotation `cloudidentity.dev/refresh` as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What became of the refresh token. Never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshTokenStatus {
    /// The Secret with the first refresh token, as it was when that was used.
    pub seed: ObjectVersion,
    /// Tells one first refresh token from another; nothing of it can be found out from this.
    pub fingerprint: String,
    /// The last use to which an answer came, as the Secret `<secret.name>-state` counts them.
    pub answered: i64,
    /// Whether that answer was that the service does not take the token any more.
    #[serde(default)]
    pub refused: bool,
}

/// What is known of the token. Never the token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessTokenStatus {
    /// The generation of the spec that this status speaks of; -1 before the first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` (the Secret holds a valid token for this spec), `SecretPublished`, `Fresh` (the last attempt to replace it went well);
    /// `Reconciling` and `Stalled` only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The tenant that issued the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The Secret with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Which version of the Secret was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_version: Option<SecretVersion>,
    /// When the published token ends, in the API server's time. Where the service tells no lifetime (`LifetimeUnknown`), when it is taken to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When it is to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_at: Option<Time>,
    /// When it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refreshed_at: Option<Time>,
    /// Whether the service told no lifetime, so that one is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_unknown: Option<bool>,
    /// What the published token was issued for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_for: Option<IssuedFor>,
    /// With `grant.type: RefreshToken`: what became of the refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<RefreshTokenStatus>,
    /// What the last failed attempt was made for: the same is not tried again before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_for: Option<IssuedFor>,
    /// Consecutive failed attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// When the next attempt is made, while something is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_action_at: Option<Time>,
}
