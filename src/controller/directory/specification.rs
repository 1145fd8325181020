//! What either kind of provider specifies, in one form.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;

use super::super::{
    claims::ProviderKey,
    versions::{Namer, Who},
};
use crate::{
    api::{
        AllowedNamespaces, AppIdProvider, Budget as BudgetSpec, CaBundle, ClientAuthentication, ClusterIdentityProvider,
        ClusterIdentityProviderSpec, IamProvider, IdentityProvider, IdentityProviderSpec, NamespacesFrom, ObjectVersion, OidcProvider,
        PairSource, Permits as PermitsSpec, ProviderKind, ProviderStatus, SecureAuthProvider, VerifyProvider, mark,
    },
    model::TenantIdentity,
    plan::permit::Permits,
};

/// The specification of either kind of provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Specification {
    /// Which.
    pub key: ProviderKey,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Whether its status tells who we are at the service: it was found working before.
    pub has_worked: bool,
    /// The Secrets of its credential that were tried then.
    pub tried: (Option<ObjectVersion>, Option<ObjectVersion>),
    /// Whether its last check failed.
    pub has_failed: bool,
    /// Host of the token endpoint when it was last seen, and the one that a person accepts.
    pub(super) endpoints_host: (Option<String>, Option<String>),
    pub(super) service: ServiceSpec,
    pub(super) ca_bundle: Option<CaBundle>,
    pub(super) budget: Option<BudgetSpec>,
    pub(super) access: Option<(AllowedNamespaces, PermitsSpec)>,
}

/// The service of a provider.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ServiceSpec {
    /// None that this version knows.
    None,
    AppId(AppIdProvider),
    Iam(IamProvider),
    Verify(VerifyProvider),
    SecureAuth(SecureAuthProvider),
    Oidc(OidcProvider),
}

impl ServiceSpec {
    fn of(
        app_id: Option<AppIdProvider>,
        iam: Option<IamProvider>,
        verify: Option<VerifyProvider>,
        secure_auth: Option<SecureAuthProvider>,
        oidc: Option<OidcProvider>,
    ) -> Self {
        let app_id = app_id.map(Self::AppId).or(iam.map(Self::Iam));
        app_id.or(verify.map(Self::Verify)).or(secure_auth.map(Self::SecureAuth)).or(oidc.map(Self::Oidc)).unwrap_or(Self::None)
    }

    fn secret_names(&self) -> Vec<&str> {
        fn of_client<'a>(pair: Option<&'a PairSource>, authentication: Option<&'a ClientAuthentication>) -> Vec<&'a str> {
            let key = authentication.and_then(|authentication| authentication.private_key.as_ref());
            let pair = pair.map(|pair| pair.secret_ref.name.as_str());
            pair.into_iter().chain(key.map(|key| key.secret_ref.name.as_str())).collect()
        }
        match self {
            Self::None => Vec::new(),
            Self::AppId(app_id) => {
                let binding = app_id.binding.as_ref().map(|binding| binding.secret_ref.name.as_str());
                let key = app_id.iam.as_ref().and_then(|iam| iam.api_key.as_ref()).map(|key| key.secret_ref.name.as_str());
                binding.into_iter().chain(key).collect()
            }
            Self::Iam(iam) => iam.api_key.iter().map(|key| key.secret_ref.name.as_str()).collect(),
            Self::Verify(verify) => of_client(Some(&verify.credentials), verify.client_authentication.as_ref()),
            Self::SecureAuth(secure_auth) => of_client(Some(&secure_auth.credentials), None),
            Self::Oidc(oidc) => of_client(oidc.credentials.as_ref(), oidc.client_authentication.as_ref()),
        }
    }
}

impl Specification {
    /// The specification of an `IdentityProvider`.
    #[must_use]
    pub fn of_provider(object: &IdentityProvider) -> Self {
        let IdentityProviderSpec { app_id, iam, verify, secure_auth, oidc, tls, budget } = object.spec.clone();
        let service = ServiceSpec::of(app_id, iam, verify, secure_auth, oidc);
        let ca_bundle = tls.map(|tls| tls.ca_bundle);
        Self { service, ca_bundle, budget, ..Self::bare(ProviderKind::IdentityProvider, &object.metadata, object.status.as_ref()) }
    }

    /// The specification of a `ClusterIdentityProvider`.
    #[must_use]
    pub fn of_cluster_provider(object: &ClusterIdentityProvider) -> Self {
        let ClusterIdentityProviderSpec { app_id, iam, verify, secure_auth, oidc, tls, budget, allowed_namespaces, permits } =
            object.spec.clone();
        let service = ServiceSpec::of(app_id, iam, verify, secure_auth, oidc);
        let (ca_bundle, access) = (tls.map(|tls| tls.ca_bundle), Some((allowed_namespaces, permits)));
        let bare = Self::bare(ProviderKind::ClusterIdentityProvider, &object.metadata, object.status.as_ref());
        Self { service, ca_bundle, budget, access, ..bare }
    }

    /// Which it is and what was found of it, without what it specifies.
    fn bare(kind: ProviderKind, metadata: &ObjectMeta, status: Option<&ProviderStatus>) -> Self {
        Self {
            key: ProviderKey {
                kind,
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
            },
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            has_worked: status.is_some_and(|status| status.identity.is_some() && status.observed_generation == metadata.generation),
            tried: status.map(|status| (status.credentials_version.clone(), status.private_key_version.clone())).unwrap_or_default(),
            has_failed: status.is_some_and(|status| status.failures.is_some()),
            endpoints_host: (
                status.and_then(|status| status.endpoints_host.clone()),
                metadata.annotations.as_ref().and_then(|annotations| annotations.get(mark::ACCEPT_ENDPOINTS).cloned()),
            ),
            service: ServiceSpec::None,
            ca_bundle: None,
            budget: None,
            access: None,
        }
    }

    /// What stands for it in the indexes of Secrets and ConfigMaps.
    #[must_use]
    pub fn namer(&self) -> Namer {
        Namer { who: Who::Provider(self.key.clone()), uid: self.uid.clone() }
    }

    pub(super) fn secret_names(&self) -> Vec<&str> {
        let mut names = self.service.secret_names();
        names.extend(self.ca_bundle.as_ref().and_then(|ca| ca.secret_ref.as_ref()).map(|reference| reference.name.as_str()));
        names
    }

    pub(super) fn config_map_name(&self) -> Option<&str> {
        Some(self.ca_bundle.as_ref()?.config_map_ref.as_ref()?.name.as_str())
    }
}

pub(super) fn is_allowed(allowed: &AllowedNamespaces, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    match allowed.from {
        NamespacesFrom::All => true,
        NamespacesFrom::Listed => allowed.names.iter().flatten().any(|name| name == namespace),
        NamespacesFrom::Selected => match (&allowed.selector, labels) {
            (Some(selector), Some(labels)) => {
                !selector.match_labels.is_empty() && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            }
            _ => false,
        },
        NamespacesFrom::None | NamespacesFrom::Unknown => false,
    }
}

pub(super) fn parsed(permits: &PermitsSpec) -> Permits {
    Permits {
        adoption: permits.adoption,
        access_tokens: permits.access_tokens,
        roles: permits.roles.iter().cloned().collect(),
        redirect_uri_prefixes: permits.redirect_uri_prefixes.iter().map(|prefix| prefix.0.clone()).collect(),
    }
}

/// The annotation that a registered object carries; here, so that nobody else spells it.
#[must_use]
pub fn recorded_tenant(annotations: &BTreeMap<String, String>) -> Option<TenantIdentity> {
    annotations.get(mark::TENANT).map(|text| TenantIdentity::recorded(text))
}
