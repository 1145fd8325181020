//! What either kind of provider specifies, in one form.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::super::{claims::ProviderKey, versions::Namer};
use crate::{
    api::{
        AllowedNamespaces, AppIdProvider, Budget as BudgetSpec, CaBundle, ClusterIdentityProvider, IamProvider, IdentityProvider,
        NamespacesFrom, Permits as PermitsSpec, ProviderKind, mark,
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
    /// Whether its last check failed.
    pub has_failed: bool,
    pub(super) app_id: Option<AppIdProvider>,
    pub(super) iam: Option<IamProvider>,
    pub(super) ca_bundle: Option<CaBundle>,
    pub(super) budget: Option<BudgetSpec>,
    pub(super) access: Option<(AllowedNamespaces, PermitsSpec)>,
}

impl Specification {
    /// The specification of an `IdentityProvider`.
    #[must_use]
    pub fn of_provider(object: &IdentityProvider) -> Self {
        let spec = object.spec.clone();
        Self {
            key: ProviderKey {
                kind: ProviderKind::IdentityProvider,
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            },
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            has_worked: object.status.as_ref().is_some_and(|status| status.identity.is_some()),
            has_failed: object.status.as_ref().is_some_and(|status| status.failures.is_some()),
            app_id: spec.app_id,
            iam: spec.iam,
            ca_bundle: spec.tls.map(|tls| tls.ca_bundle),
            budget: spec.budget,
            access: None,
        }
    }

    /// The specification of a `ClusterIdentityProvider`.
    #[must_use]
    pub fn of_cluster_provider(object: &ClusterIdentityProvider) -> Self {
        let spec = object.spec.clone();
        Self {
            key: ProviderKey { kind: ProviderKind::ClusterIdentityProvider, namespace: String::new(), name: object.name_any() },
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            has_worked: object.status.as_ref().is_some_and(|status| status.identity.is_some()),
            has_failed: object.status.as_ref().is_some_and(|status| status.failures.is_some()),
            app_id: spec.app_id,
            iam: spec.iam,
            ca_bundle: spec.tls.map(|tls| tls.ca_bundle),
            budget: spec.budget,
            access: Some((spec.allowed_namespaces, spec.permits)),
        }
    }

    /// What stands for it in the indexes of Secrets and ConfigMaps.
    #[must_use]
    pub fn namer(&self) -> Namer {
        Namer { key: self.key.clone(), uid: self.uid.clone() }
    }

    pub(super) fn secret_names(&self) -> Vec<&str> {
        let binding = self.app_id.as_ref().and_then(|app_id| app_id.binding.as_ref()).map(|binding| binding.secret_ref.name.as_str());
        let app_id_key = self
            .app_id
            .as_ref()
            .and_then(|app_id| app_id.iam.as_ref())
            .and_then(|iam| iam.api_key.as_ref())
            .map(|key| key.secret_ref.name.as_str());
        let iam_key = self.iam.as_ref().map(|iam| iam.api_key.secret_ref.name.as_str());
        let ca = self.ca_bundle.as_ref().and_then(|ca| ca.secret_ref.as_ref()).map(|reference| reference.name.as_str());
        [binding, app_id_key, iam_key, ca].into_iter().flatten().collect()
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
        roles: permits.roles.iter().cloned().collect(),
        redirect_uri_prefixes: permits.redirect_uri_prefixes.iter().map(|prefix| prefix.0.clone()).collect(),
    }
}

/// The annotation that a registered object carries; here, so that nobody else spells it.
#[must_use]
pub fn recorded_tenant(annotations: &BTreeMap<String, String>) -> Option<TenantIdentity> {
    annotations.get(mark::TENANT).map(|text| TenantIdentity::recorded(text))
}
