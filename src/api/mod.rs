//! The kinds that users write, as Rust types; `crds/` is generated from them.
//!
//! Schema rules: every string, list and map is bounded (an unbounded one makes its CEL rules too expensive for
//! the API server), unions are structs of optional members with a rule that counts them, and every enum has a
//! catch-all outside the schema, so that a value written by a newer version is reported on its object
//! instead of stopping the watch for all of them.

mod application;
#[expect(clippy::duplicated_attributes, reason = "kube's derive repeats printcolumn, and two columns share a type")]
mod provider;
mod secret;
mod span;
mod status;
#[expect(clippy::duplicated_attributes, reason = "kube's derive repeats printcolumn, and columns share a type")]
mod token;

pub use application::{
    AddedAtService, Adopt, AppIdApplication, AppIdApplicationSpec, AppIdApplicationStatus, ApplicationType, DeletionPolicy,
    DeletionProgress, RedirectUri, ScopeName,
};
pub use provider::{
    AllowedNamespaces, AppIdBinding, AppIdIam, AppIdProvider, AssertionAudience, AuthenticationMethod, BasicEncoding, BindingKeyRef,
    Budget, CaBundle, ClientAuthentication, ClusterIdentityProvider, ClusterIdentityProviderSpec, ConfigMapKeyRef, From as NamespacesFrom,
    IamProvider, IdentityProvider, IdentityProviderSpec, KeySource, NamespaceSelector, OidcProvider, PairKeys, PairSecretRef, PairSource,
    Permits, ProviderIdentity, ProviderStatus, REQUESTS_MOST, SecretKeyRef, SecureAuthProvider, ServiceUrl, SigningAlgorithm, Tls,
    TrustedProfile, VerifyProvider,
};
pub use secret::{Layout, SecretSpec};
pub use span::Span;
pub use status::{
    BindingReference, Condition, LocalReference, ObjectVersion, ProviderKind, ProviderReference, ProviderVersion, SecretVersion,
};

pub use token::{
    AccessToken, AccessTokenSpec, AccessTokenStatus, Assertion, ClientKind, ClientReference, CredentialSecretRef, GrantSpec, GrantType,
    IssuedFor, NamedSecret, Parameter, RefreshSpec, RefreshTokenSource, RefreshTokenStatus, SignedAssertion, TokenCredentials, TokenLayout,
    TokenSecretSpec,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

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
    /// On a Secret: a hash of what the spec says about its looks and of the service's address, never of a value from the service.
    pub const SHAPE: &str = "cloudidentity.dev/shape";
    /// On a Secret: `true` when its client was adopted and not registered by us.
    pub const ADOPTED: &str = "cloudidentity.dev/adopted";
    /// On a Secret that outlived its object by `deletionPolicy: Retain`: `Kind/namespace/name` it came from.
    pub const RETAINED_FROM: &str = "cloudidentity.dev/retained-from";
    /// On a Secret (label): it holds the operator's own state and may not be referred to.
    pub const STATE: &str = "cloudidentity.dev/state";
    /// The value of [`SHAPE`] on a Secret that holds the operator's own state.
    pub const STATE_SHAPE: &str = "state";
    /// On an `AccessToken`, by a person: any value that was not there before asks for a new token.
    pub const REFRESH: &str = "cloudidentity.dev/refresh";
    /// On a provider, by a person: the host of a token endpoint that may be used although it was another one before.
    pub const ACCEPT_ENDPOINTS: &str = "cloudidentity.dev/accept-endpoints";
    /// On an object, by a person: the App ID scope that may be taken away although roles hold it.
    pub const REMOVE_SCOPE: &str = "cloudidentity.dev/remove-scope";
    /// Every label and annotation key that belongs to the operator starts with this.
    pub const PREFIX: &str = "cloudidentity.dev/";
}

/// The CRDs of every kind, in the order in which they are installed.
#[must_use]
pub fn custom_resource_definitions() -> Vec<CustomResourceDefinition> {
    vec![
        finished(IdentityProvider::crd()),
        finished(ClusterIdentityProvider::crd()),
        finished(AppIdApplication::crd()),
        finished(AccessToken::crd()),
    ]
}

/// The files of the directory `crds`: name and text.
///
/// # Errors
///
/// When a CRD cannot be written as YAML.
pub fn generated_files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    custom_resource_definitions()
        .iter()
        .map(|crd| {
            let text = serde_saphyr::to_string(crd)?;
            let note = "# Generated by `make generate` from src/api. Do not edit.\n";
            Ok((format!("{}.yaml", crd.spec.names.plural), format!("{note}{text}")))
        })
        .collect()
}

/// What the derive cannot say.
fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    // Deleting a CRD deletes every object of it and with them the registrations: helm leaves a CRD with this annotation alone.
    crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = schema.and_then(|schema| schema.properties.as_mut()).and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            // A new object reads as "in progress" (kstatus) before anybody has written a status.
            status.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
        }
    }
    crd
}
