//! `AppIdApplication`: one application in an App ID tenant.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{BindingReference, Condition, LocalReference, ProviderReference, ProviderVersion, SecretSpec, SecretVersion};

/// What kind of client App ID makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplicationType {
    /// A confidential client: it has a secret.
    #[default]
    RegularWebApp,
    /// A public client: it has none.
    SinglePageApp,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens when the object is deleted. `Delete`: registration and Secret go with it. `Retain`: both stay. Default: `Delete`, but `Retain` for
/// what was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The registration and the Secret go.
    Delete,
    /// Both stay; the Secret no longer belongs to the object.
    Retain,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// An existing application to take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// Client id of the application, as the App ID console shows it.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub client_id: String,
}

/// A redirect URI: `https`, or `http` on localhost; host in lower case; no wildcard, fragment, user info; at most 2048 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedirectUri(pub String);

/// The name of an App ID scope: lower-case letters, digits, `.` and `_`; fewer than 50 characters; not starting with `appid` or `openid`
/// (App ID documentation, access control).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScopeName(pub String);

impl JsonSchema for RedirectUri {
    fn schema_name() -> Cow<'static, str> {
        "RedirectUri".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "minLength": 8, "maxLength": 2048,
            "x-kubernetes-validations": [
                { "rule": "!self.contains('*')", "message": "a redirect URI may not contain a wildcard (*)" },
                { "rule": "self.matches('^[!-~]*$') && !self.contains('#') && !self.contains('\\\\')",
                  "message": "a redirect URI may not contain a fragment, a space, a backslash, or anything but visible ASCII characters" },
                { "rule": "self.startsWith('https://') || self.matches('^http://(localhost|127[.]0[.]0[.]1|[[]::1[]])(:[0-9]{1,5})?([/?].*)?$')",
                  "message": "a redirect URI begins with https://, or with http:// on localhost" },
                { "rule": "!self.startsWith('https://') || self.matches('^https://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|[[][0-9a-f:.]+[]])(:[0-9]{1,5})?([/?].*)?$')",
                  "message": "after https:// a redirect URI has a host in lower case, without user info, and at most a port" },
            ]
        })
    }
}

impl JsonSchema for ScopeName {
    fn schema_name() -> Cow<'static, str> {
        "ScopeName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "minLength": 1, "maxLength": 49,
            "x-kubernetes-validations": [
                { "rule": "self.matches('^[a-z0-9._]*$')", "message": "the name of a scope consists of lower-case letters, digits, . and _" },
                { "rule": "!self.startsWith('appid') && !self.startsWith('openid')", "message": "scopes that start with appid or openid belong to App ID" },
            ]
        })
    }
}

/// One application in an IBM Cloud App ID tenant, and the Secret with its credential.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cloudidentity.dev",
    version = "v1alpha1",
    kind = "AppIdApplication",
    plural = "appidapplications",
    namespaced,
    doc = "One application in an IBM Cloud App ID tenant, and the Secret with its credential.",
    status = "AppIdApplicationStatus",
    derive = "PartialEq",
    shortname = "appidapp",
    category = "cloudidentity",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.providerRef.name"),
    printcolumn(name = "Client ID", type_ = "string", json_path = ".status.clientId"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("has(self.spec.displayName) || size(self.metadata.name) <= 50", "spec.displayName is required when the name is longer than 50 characters (App ID's limit)"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.type != 'SinglePageApp' || self.secret.layout in ['AppId', 'OAuth', 'IbmBinding']", "a SinglePageApp has no client secret: use layout AppId, OAuth or IbmBinding"),
    validation = ("!has(self.secret.redirectUri) || (has(self.redirectUris) && self.secret.redirectUri in self.redirectUris)", "secret.redirectUri must be one of redirectUris"),
    validation = ("!has(self.secret.redirectUri) || self.secret.layout in ['AppId', 'ServiceBinding']", "this layout names no redirect URI: secret.redirectUri goes with layout AppId or ServiceBinding"),
)]
pub struct AppIdApplicationSpec {
    /// The App ID tenant: an `IdentityProvider` of this namespace (default) or a `ClusterIdentityProvider` that allows it. Immutable.
    #[x_kube(validation = ("self == oldSelf", "providerRef is immutable: create a new object for another tenant"))]
    pub provider_ref: ProviderReference,
    /// The application's name at App ID, 1 to 50 characters. Default: the object's name. An adopted application is renamed only when this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    pub display_name: Option<String>,
    /// `RegularWebApp` (default; has a secret) or `SinglePageApp` (has none). Immutable.
    #[serde(default, rename = "type")]
    #[x_kube(validation = ("self == oldSelf", "type is immutable: App ID cannot change it"))]
    pub application_type: ApplicationType,
    /// Scopes of the application, at most 50. Left out: not managed. Missing ones are added; removed are only those that this object added.
    /// App ID takes a removed scope away from every role, for good: while a role holds it nothing is removed (`ScopeInUse`), unless the object
    /// is annotated `cloudidentity.dev/remove-scope: <name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    #[x_kube(validation = ("self.all(x, self.exists_one(other, other == x))", "no scope may stand there twice"))]
    pub scopes: Option<Vec<ScopeName>>,
    /// Names of roles that exist in the tenant, at most 50, assigned to the application (they count in the client-credentials flow).
    /// Left out: not managed. Missing ones are added; removed are only those that this object added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 128)))]
    #[x_kube(validation = ("self.all(x, self.exists_one(other, other == x))", "no role may stand there twice"))]
    pub roles: Option<Vec<String>>,
    /// Redirect URIs, at most 100: `https`, or `http` on localhost; host in lower case; no wildcard. App ID keeps one list for the whole tenant: entries are
    /// merged into it, and only what this object added is removed again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = ("self.all(x, self.exists_one(other, other == x))", "no redirect URI may stand there twice"))]
    pub redirect_uris: Vec<RedirectUri>,
    /// Where and how the credential is published.
    #[serde(default)]
    pub secret: SecretSpec,
    /// `Delete`: registration and Secret go with the object. `Retain`: both stay. Default: `Delete`, but `Retain` for what was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Take over an existing application instead of registering one. Read only while nothing is registered, later ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
    /// `true`: no call to App ID and no write of the Secret until it is `false` again. `Ready` keeps its value, unless the Secret is deleted
    /// meanwhile. Deletion still runs. Default `false`.
    #[serde(default)]
    pub suspend: bool,
}

/// What this object, and nobody else, added at the service: the only things it will ever take away again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddedAtService {
    /// Scopes of the application.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<String>,
    /// Names of roles assigned to the application.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<String>,
    /// Entries in the tenant's list of redirect URIs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub redirect_uris: BTreeSet<String>,
}

impl AddedAtService {
    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.roles.is_empty() && self.redirect_uris.is_empty()
    }
}

/// How far a deletion came that did not succeed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionProgress {
    /// The first failed attempt; the deletion budget runs from here.
    pub first_failed_at: Time,
}

/// What is known of the registration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppIdApplicationStatus {
    /// The generation of the spec that this status speaks of; -1 before the first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Registered`, `SecretPublished`, `Verified`; `Reconciling` and `Stalled` only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The application's client id at App ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The tenant in which the application was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether the application was adopted and not registered by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<bool>,
    /// The Secret with the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// The same Secret, where the Service Binding specification looks for it (layout `ServiceBinding`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingReference>,
    /// Which version of the Secret was last written or checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_version: Option<SecretVersion>,
    /// Which version of the provider the last complete pass worked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_version: Option<ProviderVersion>,
    /// What this object added at the service.
    #[serde(default, skip_serializing_if = "AddedAtService::is_empty")]
    pub added: AddedAtService,
    /// When the published credential was last accepted by the token endpoint for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
    /// Since when something that was sent to the service and not answered may still be carried out: a registration, or new redirect URIs.
    /// A minute later what it may have left behind is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclear_since: Option<Time>,
    /// Since when the application is not found at the service; acted upon only when a second look says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Time>,
    /// Consecutive failed passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// When the next attempt is made, while something is wrong or unfinished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_action_at: Option<Time>,
    /// How far a deletion came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DeletionProgress>,
}
