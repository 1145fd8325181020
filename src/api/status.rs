//! Parts of `spec` and `status` that several kinds share.

use kube::api::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The kinds of provider an object can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ProviderKind {
    /// An `IdentityProvider` of the object's own namespace.
    #[default]
    IdentityProvider,
    /// A `ClusterIdentityProvider`, which must allow the object's namespace.
    ClusterIdentityProvider,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Names the provider that an object uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ProviderReference {
    /// `IdentityProvider` (default; of the same namespace) or `ClusterIdentityProvider`.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Name of the provider object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub name: String,
}

/// Names an object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The Secret as the Service Binding specification wants to find it (`status.binding.name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingReference {
    /// Name of the Secret.
    pub name: String,
}

/// Which version of an object was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectVersion {
    /// UID of the object.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

impl ObjectVersion {
    /// The version that an object's metadata tell.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { uid: text(&metadata.uid), resource_version: text(&metadata.resource_version) }
    }
}

/// Which version of the published Secret was last seen or written.
pub type SecretVersion = ObjectVersion;

/// Which version of the provider the last complete pass worked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderVersion {
    /// UID of the provider object.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
}
