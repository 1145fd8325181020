//! `IdentityProvider` and `ClusterIdentityProvider`: one tenant of one identity service, and how to authenticate to it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Condition, ObjectVersion, Span};

/// The base address of a service: `https`, without user info, query or fragment; at most 2048 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceUrl(pub String);

impl JsonSchema for ServiceUrl {
    fn schema_name() -> Cow<'static, str> {
        "ServiceUrl".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "minLength": 9, "maxLength": 2048,
            "x-kubernetes-validations": [
                { "rule": "self.startsWith('https://')", "message": "the address must start with https://" },
                { "rule": "!self.contains('@') && !self.contains('?') && !self.contains('#') && self.matches('^[!-~]*$')",
                  "message": "the address may not contain user info, a query, a fragment, a space, or anything but visible ASCII characters" },
                { "rule": "!self.startsWith('https://') || self.matches('^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|[[][0-9A-Fa-f:.]+[]])(:[0-9]{1,5})?(/.*)?$')",
                  "message": "after https:// the address has the name of a host, and at most a port and a path" },
            ]
        })
    }
}

/// One key of a Secret. A provider reads Secrets of its own namespace, a cluster provider those of the operator's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret. Default `apikey` for an API key, `ca.crt` for a CA bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// One key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the ConfigMap. Default `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// Where a credential is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySource {
    /// The Secret and key that hold it. An API key is the raw key or the JSON file IBM Cloud offers for download.
    pub secret_ref: SecretKeyRef,
}

/// The Secret that holds an App ID service credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key with the JSON text. Default `binding`; when the Secret has no such key its flat keys are read (`apikey`, `managementUrl`, `tenantId`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// A service credential of the App ID instance, as IBM's cluster service binding or a service key holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppIdBinding {
    /// The Secret with the credential: the object itself, `{"credentials": …}`, `[{"credentials": …}]`, or flat keys.
    pub secret_ref: BindingKeyRef,
}

/// How to get the IAM token that the management API wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppIdIam {
    /// Address of IAM. Default `https://iam.cloud.ibm.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<ServiceUrl>,
    /// An API key with the role Writer on the App ID instance. Not with `binding`, which brings its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<KeySource>,
}

/// An IBM Cloud App ID tenant: either `binding`, or `url`, `tenantId` and `iam.apiKey`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.binding) || (has(self.url) && has(self.tenantId) && has(self.iam) && has(self.iam.apiKey))", "set either binding, or url, tenantId and iam.apiKey"),
    validation = ("!has(self.binding) || (!has(self.url) && !has(self.tenantId) && !(has(self.iam) && has(self.iam.apiKey)))", "binding brings url, tenantId and API key: leave those out"),
    validation = ("!has(self.url) || self.url.matches('^https://[^/]+/?$')", "appId.url is the address of a region without a path, like https://us-south.appid.cloud.ibm.com"),
    validation = ("!has(self.tenantId) || self.tenantId.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')", "appId.tenantId is the GUID of the App ID instance, in lower case"),
    validation = ("has(self.tenantId) == has(oldSelf.tenantId) && (!has(self.tenantId) || self.tenantId == oldSelf.tenantId)", "appId.tenantId is immutable: create a new provider for another tenant"),
)]
pub struct AppIdProvider {
    /// Service credential of the instance, as IBM's service binding stores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<AppIdBinding>,
    /// Address of the region, for example `https://us-south.appid.cloud.ibm.com`; no path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<ServiceUrl>,
    /// Tenant id: the GUID of the service instance, in lower case. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub tenant_id: Option<String>,
    /// How to get the IAM token for the management API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam: Option<AppIdIam>,
}

/// A trusted profile of IAM, by exactly one of `id`, `name` and `crn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("[has(self.id), has(self.name), has(self.crn)].filter(x, x).size() == 1", "set exactly one of id, name and crn"))]
pub struct TrustedProfile {
    /// Its id, as the console shows it: `Profile-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub id: Option<String>,
    /// Its name, in the account of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// Its CRN (cloud resource name), at most 512 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub crn: Option<String>,
}

/// IBM Cloud IAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.apiKey) != has(self.trustedProfile)", "set exactly one of apiKey and trustedProfile"), validation = ("has(self.accountId) == has(oldSelf.accountId) && (!has(self.accountId) || self.accountId == oldSelf.accountId)", "iam.accountId is immutable: create a new provider for another account"))]
pub struct IamProvider {
    /// Address of IAM. Default `https://iam.cloud.ibm.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<ServiceUrl>,
    /// The account that the API key must belong to. Default: whichever it belongs to. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9]+$"))]
    pub account_id: Option<String>,
    /// The API key of a user or service ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<KeySource>,
    /// A trusted profile that the operator's own ServiceAccount may assume. Only for a `ClusterIdentityProvider`, on a cluster whose tokens IAM
    /// trusts (IBM Cloud Kubernetes Service, Red Hat OpenShift on IBM Cloud), with the chart's `iamToken.enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_profile: Option<TrustedProfile>,
}

/// Which keys of a Secret hold a pair of client id and client secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairKeys {
    /// Key with the client id.
    #[schemars(length(min = 1, max = 253))]
    pub client_id: String,
    /// Key with the client secret.
    #[schemars(length(min = 1, max = 253))]
    pub client_secret: String,
}

/// A Secret with a pair of client id and client secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PairSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Keys with client id and client secret. Default: `client_id` and `client_secret`, else `clientId` and `clientSecret`, else `clientId`
    /// and `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PairKeys>,
}

/// Where a client's own credential is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairSource {
    /// The Secret that holds it. White space around values is ignored. With `PrivateKeyJwt` the client id is enough.
    pub secret_ref: PairSecretRef,
}

/// How a client proves who it is at a token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthenticationMethod {
    /// HTTP Basic (RFC 6749, section 2.3.1).
    ClientSecretBasic,
    /// In the form.
    ClientSecretPost,
    /// A signed assertion (RFC 7523, section 2.2).
    PrivateKeyJwt,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// How the two halves of HTTP Basic are encoded: `FormEncoded` (default) first, as the standard says, or `Raw`, as they are, as several servers
/// want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BasicEncoding {
    /// Form-encoded first, as the standard says.
    #[default]
    FormEncoded,
    /// As they are, as several servers want it.
    Raw,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// With what an assertion is signed: `RS256` (default), `PS256` (both RSA, 2048 bits at least) or `ES256` (the curve P-256).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    #[default]
    RS256,
    /// RSA, PSS, SHA-256.
    PS256,
    /// The curve P-256, SHA-256.
    ES256,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// For whom an assertion is made (`aud`): `Issuer` (default for `oidc`), `TokenEndpoint`, or `Both` as a list (default for `verify`, as IBM's own
/// clients do it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AssertionAudience {
    /// The issuer.
    #[default]
    Issuer,
    /// The token endpoint.
    TokenEndpoint,
    /// Both, as a list.
    Both,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// How the client authenticates at the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("(self.method == 'PrivateKeyJwt') == has(self.privateKey)", "method: PrivateKeyJwt needs privateKey, and no other method has it"),
    validation = ("self.method == 'ClientSecretBasic' || !has(self.basicEncoding)", "basicEncoding goes with method: ClientSecretBasic"),
)]
pub struct ClientAuthentication {
    /// `ClientSecretBasic`, `ClientSecretPost` or `PrivateKeyJwt`.
    pub method: AuthenticationMethod,
    /// The private key of `PrivateKeyJwt`: PEM (PKCS #8, PKCS #1 or SEC 1) or a JWK. RSA keys have 2048 bits or more. Default key `private_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<KeySource>,
    /// Id of the key (`kid`), by which the server finds its public half. Default: that of the JWK, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,
    /// `RS256` (default), `PS256` or `ES256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<SigningAlgorithm>,
    /// `Issuer` (default for `oidc`), `TokenEndpoint` or `Both` (default for `verify`, as IBM's own clients do it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<AssertionAudience>,
    /// How long an assertion is valid, up to `5m`. Default `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
    /// `FormEncoded` (default) or `Raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_encoding: Option<BasicEncoding>,
}

/// IBM Verify (formerly IBM Cloud Identity).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.url.matches('^https://[^/]+/?$')", "verify.url is the address of a tenant without a path, like https://example.verify.ibm.com"))]
pub struct VerifyProvider {
    /// Address of the tenant, for example `https://example.verify.ibm.com`; no path.
    pub url: ServiceUrl,
    /// The API client to ask with.
    pub credentials: PairSource,
    /// How the API client authenticates. Default `ClientSecretPost`, as IBM's own tools do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authentication: Option<ClientAuthentication>,
}

/// SecureAuth Identity Store. Its interface is thinly documented: what is built here was not tried with the live service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.url.matches('^https://[^/]+/?$')", "secureAuth.url is the address of a tenant without a path, like https://example.ids.secureauth.com"),
    validation = ("self.idsId == oldSelf.idsId", "secureAuth.idsId is immutable: create a new provider for another store"),
    validation = ("!has(self.lifetime) || duration(self.lifetime) >= duration('10s')", "a token is taken to live for 10s at least"),
)]
pub struct SecureAuthProvider {
    /// Address of the tenant, for example `https://example.ids.secureauth.com`; no path.
    pub url: ServiceUrl,
    /// The identity store. Default `default`. Immutable.
    #[serde(default = "default_store")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub ids_id: String,
    /// The API credential of a user with the developer privilege: client id and client secret as the profile page shows them.
    pub credentials: PairSource,
    /// How long a token is taken to live, since the service tells none; at least `10s`. Default `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
}

fn default_store() -> String {
    "default".to_owned()
}

/// Any OAuth 2.0 or OpenID Connect server: `issuer`, from which the rest is discovered, or `tokenEndpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.issuer) || has(self.tokenEndpoint)", "set issuer, or tokenEndpoint"),
    validation = ("!has(self.expectedIssuer) || has(self.issuer)", "expectedIssuer goes with issuer"),
    validation = ("has(self.issuer) == has(oldSelf.issuer) && (!has(self.issuer) || self.issuer == oldSelf.issuer)", "oidc.issuer is immutable: create a new provider for another server"),
    validation = ("!has(self.lifetime) || duration(self.lifetime) >= duration('10s')", "a token is taken to live for 10s at least"),
)]
pub struct OidcProvider {
    /// The issuer: its discovery document names the endpoints, and must name this very issuer, character for character. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<ServiceUrl>,
    /// What the discovery document names as issuer, where that is another text than the address it is read at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub expected_issuer: Option<String>,
    /// The token endpoint, instead of the one that is discovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<ServiceUrl>,
    /// The client to ask with; objects may bring their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PairSource>,
    /// How a client authenticates. Default `ClientSecretBasic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authentication: Option<ClientAuthentication>,
    /// How long a token is taken to live where neither the reply nor the token tells; at least `10s`. Default `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
}

/// Certificates to trust besides the built-in roots. Verification cannot be turned off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// PEM certificates that are trusted besides the built-in roots.
    pub ca_bundle: CaBundle,
}

/// Where PEM certificates are read: exactly one of `configMapRef` and `secretRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.configMapRef) != has(self.secretRef)", "set exactly one of configMapRef and secretRef"))]
pub struct CaBundle {
    /// A ConfigMap with the certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapKeyRef>,
    /// A Secret with the certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

/// How much traffic the tenant may get from this operator. Where several providers lead to one tenant, the smallest counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Requests a second, 1 to 1000. Default for App ID 10 (its management API blocks a tenant for 30 s above 50 a second), for IAM 10
    /// (IBM publishes no number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rate")]
    pub requests_per_second: Option<i32>,
    /// Requests in flight, 1 to 64. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "in_flight")]
    pub concurrency: Option<i32>,
}

/// The largest `budget.requestsPerSecond`.
pub const REQUESTS_MOST: u32 = 1000;

fn rate(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": REQUESTS_MOST })
}

fn in_flight(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 64 })
}

/// One tenant of one identity service, for objects of the same namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloudidentity.dev",
    version = "v1alpha1",
    kind = "IdentityProvider",
    plural = "identityproviders",
    namespaced,
    doc = "One tenant of one identity service, and how to authenticate to it, for objects of the same namespace.",
    status = "ProviderStatus",
    derive = "PartialEq",
    shortname = "idp",
    category = "cloudidentity",
    printcolumn(name = "Tenant", type_ = "string", json_path = ".status.tenant"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.iam) || !has(self.iam.trustedProfile)", "a trusted profile is assumed by the operator's own identity: only a ClusterIdentityProvider may name one"),
    validation = ("[has(self.appId), has(self.iam), has(self.verify), has(self.secureAuth), has(self.oidc)].filter(x, x).size() == 1", "set exactly one of appId, iam, verify, secureAuth and oidc"),
    validation = ("has(self.appId) == has(oldSelf.appId) && has(self.iam) == has(oldSelf.iam) && has(self.verify) == has(oldSelf.verify) && has(self.secureAuth) == has(oldSelf.secureAuth)", "the service of a provider is immutable: create a new provider"),
)]
pub struct IdentityProviderSpec {
    /// An IBM Cloud App ID tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppIdProvider>,
    /// IBM Cloud IAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam: Option<IamProvider>,
    /// An IBM Verify (formerly IBM Cloud Identity) tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyProvider>,
    /// A SecureAuth Identity Store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_auth: Option<SecureAuthProvider>,
    /// Any OAuth 2.0 or OpenID Connect server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcProvider>,
    /// Certificates to trust besides the built-in roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How much traffic the tenant may get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Which namespaces a `From` speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum From {
    /// No namespace.
    #[default]
    None,
    /// Every namespace.
    All,
    /// Those in `names`.
    Listed,
    /// Those whose labels match `selector`.
    Selected,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Labels that a namespace must all have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels and their values, at most 16; a namespace must have all of them.
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "minProperties": 1, "maxProperties": 16, "additionalProperties": { "type": "string", "maxLength": 63 } })
}

/// Which namespaces may use a cluster provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = ("self.from == 'Listed' ? has(self.names) : !has(self.names)", "names goes with from: Listed"),
    validation = ("self.from == 'Selected' ? has(self.selector) : !has(self.selector)", "selector goes with from: Selected"),
)]
pub struct AllowedNamespaces {
    /// `None` (default), `All`, `Listed` or `Selected`.
    #[serde(default)]
    pub from: From,
    /// Names of namespaces, with `from: Listed`; at most 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500), inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")))]
    pub names: Option<Vec<String>>,
    /// Labels of namespaces, with `from: Selected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<NamespaceSelector>,
}

/// What the allowed namespaces may ask for. Everything is closed by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Permits {
    /// Whether existing registrations may be adopted. Default `false`.
    #[serde(default)]
    pub adoption: bool,
    /// Whether access tokens of the provider's own credential may be handed out, and its private key may sign for clients of the namespaces.
    /// Default `false`.
    #[serde(default)]
    pub access_tokens: bool,
    /// Names of App ID roles that may be assigned. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 128)))]
    pub roles: Vec<String>,
    /// Beginnings of redirect URIs that may be added; scheme, host and port must be equal, the path must begin with the given one. URIs with `http` on localhost cannot be permitted. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub redirect_uri_prefixes: Vec<ServiceUrl>,
}

/// One tenant of one identity service, for objects of many namespaces.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloudidentity.dev",
    version = "v1alpha1",
    kind = "ClusterIdentityProvider",
    plural = "clusteridentityproviders",
    doc = "One tenant of one identity service for the namespaces it allows. Its Secrets are read from the operator's own namespace.",
    status = "ProviderStatus",
    derive = "PartialEq",
    shortname = "cidp",
    category = "cloudidentity",
    printcolumn(name = "Tenant", type_ = "string", json_path = ".status.tenant"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("[has(self.appId), has(self.iam), has(self.verify), has(self.secureAuth), has(self.oidc)].filter(x, x).size() == 1", "set exactly one of appId, iam, verify, secureAuth and oidc"),
    validation = ("has(self.appId) == has(oldSelf.appId) && has(self.iam) == has(oldSelf.iam) && has(self.verify) == has(oldSelf.verify) && has(self.secureAuth) == has(oldSelf.secureAuth)", "the service of a provider is immutable: create a new provider"),
)]
pub struct ClusterIdentityProviderSpec {
    /// An IBM Cloud App ID tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppIdProvider>,
    /// IBM Cloud IAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam: Option<IamProvider>,
    /// An IBM Verify (formerly IBM Cloud Identity) tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyProvider>,
    /// A SecureAuth Identity Store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_auth: Option<SecureAuthProvider>,
    /// Any OAuth 2.0 or OpenID Connect server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcProvider>,
    /// Certificates to trust besides the built-in roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How much traffic the tenant may get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Which namespaces may use this provider. Default: none.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// What those namespaces may ask for. Everything is closed by default.
    #[serde(default)]
    pub permits: Permits,
}

/// Who the operator is at the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderIdentity {
    /// IAM id of the API key's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_id: Option<String>,
    /// IBM Cloud account of the API key's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// What is known of the tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// The generation of the spec that this status speaks of; -1 before the first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` and `CanRegister`; `Reconciling` and `Stalled` only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The proven identity of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Host of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Host of the token endpoint, where a discovery document names another one than that of the issuer. When it changes later it is not used
    /// (`EndpointsChanged`) until the provider is annotated `cloudidentity.dev/accept-endpoints: <host>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_host: Option<String>,
    /// Who the operator is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ProviderIdentity>,
    /// Which version of the credential Secret was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_version: Option<ObjectVersion>,
    /// Which version of the Secret with the private key was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_version: Option<ObjectVersion>,
    /// Consecutive failed checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// When the next check is made, while something is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_action_at: Option<Time>,
}
