//! The kinds that users write, as Rust types; `crds/` is generated from them.
//!
//! Schema rules: every string, list and map is bounded (an unbounded one makes its CEL rules too expensive for
//! the API server), unions are structs of optional members with a rule that counts them, and every enum has a
//! catch-all outside the schema, so that a value written by a newer version is reported on its object
//! instead of stopping the watch for all of them.

mod application;
mod provider;
mod secret;
mod status;

pub use application::{
    AddedAtService, Adopt, AppIdApplication, AppIdApplicationSpec, AppIdApplicationStatus, ApplicationType, DeletionPolicy,
    DeletionProgress, RedirectUri, ScopeName,
};
pub use provider::{
    AllowedNamespaces, AppIdBinding, AppIdIam, AppIdProvider, BindingKeyRef, Budget, CaBundle, ClusterIdentityProvider,
    ClusterIdentityProviderSpec, ConfigMapKeyRef, From as NamespacesFrom, IamProvider, IdentityProvider, IdentityProviderSpec, KeySource,
    NamespaceSelector, Permits, ProviderIdentity, ProviderStatus, SecretKeyRef, ServiceUrl, Tls,
};
pub use secret::{Layout, SecretSpec};
pub use status::{
    BindingReference, Condition, LocalReference, ObjectVersion, ProviderKind, ProviderReference, ProviderVersion, SecretVersion,
};

/// The API group of every kind.
pub const GROUP: &str = "cloudidentity.dev";
/// Field manager of everything the operator writes.
pub const FIELD_MANAGER: &str = "cloud-identity-operator";
/// Holds an object until its registration is gone or given up.
pub const FINALIZER: &str = "cloudidentity.dev/registration";

/// Annotations and labels the operator writes or reads.
pub mod mark {
    /// On an object: the proven identity of its tenant, written with the finalizer. On its Secret: the same.
    pub const TENANT: &str = "cloudidentity.dev/tenant";
    /// On a Secret (label): the kind it was published for.
    pub const KIND: &str = "cloudidentity.dev/kind";
    /// On a Secret: the client id its credential belongs to.
    pub const CLIENT_ID: &str = "cloudidentity.dev/client-id";
    /// On a Secret: UID of the `kube-system` namespace of the cluster that published it.
    pub const CLUSTER: &str = "cloudidentity.dev/cluster";
    /// On a Secret: `Kind/namespace/name` of the object it was published for.
    pub const OBJECT: &str = "cloudidentity.dev/object";
    /// On a Secret: UID of the object it was published for.
    pub const OBJECT_UID: &str = "cloudidentity.dev/object-uid";
    /// On a Secret: `true` when its client was adopted and not registered by us.
    pub const ADOPTED: &str = "cloudidentity.dev/adopted";
    /// On a Secret that outlived its object by `deletionPolicy: Retain`: `Kind/namespace/name` it came from.
    pub const RETAINED_FROM: &str = "cloudidentity.dev/retained-from";
    /// On an object, by a person: the App ID scope that may be taken away although roles hold it.
    pub const REMOVE_SCOPE: &str = "cloudidentity.dev/remove-scope";
    /// Every label and annotation key that belongs to the operator starts with this.
    pub const PREFIX: &str = "cloudidentity.dev/";
}

/// The CRDs of every kind, in the order in which they are installed.
#[must_use]
pub fn custom_resource_definitions() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    use kube::CustomResourceExt;
    vec![IdentityProvider::crd(), ClusterIdentityProvider::crd(), AppIdApplication::crd()].into_iter().map(kept_on_uninstall).collect()
}

/// Deleting a CRD deletes every object of it and with them the registrations: helm leaves a CRD with this annotation alone.
fn kept_on_uninstall(
    mut crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition {
    crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    crd
}
