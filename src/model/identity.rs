//! Names by which tenants and registrations are recognised.

use sha2::{Digest, Sha256};

/// The proven identity of a tenant, as it is recorded on every object that holds a registration there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantIdentity(String);

impl TenantIdentity {
    /// The identity of an App ID tenant: its tenant id, which no other instance shares.
    #[must_use]
    pub fn app_id(tenant_id: &str) -> Self {
        Self(tenant_id.to_owned())
    }

    /// The identity of an IAM account.
    #[must_use]
    pub fn iam_account(account: &str) -> Self {
        Self(account.to_owned())
    }

    /// An identity as it was recorded.
    #[must_use]
    pub fn recorded(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text that is recorded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TenantIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name under which an application is registered before it gets its display name: what bears it is ours beyond doubt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProvisionalName(String);

impl ProvisionalName {
    /// `cio-` and 26 base32 characters (130 bits) of a hash of cluster and object. 30 characters: App ID allows 50.
    #[must_use]
    pub fn of(cluster_uid: &str, object_uid: &str) -> Self {
        let digest = Sha256::new().chain_update(cluster_uid).chain_update([0]).chain_update(object_uid).finalize();
        let mut text = data_encoding::BASE32_NOPAD.encode(&digest).to_ascii_lowercase();
        text.truncate(26);
        Self(format!("cio-{text}"))
    }

    /// The name as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ProvisionalName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provisional_name_differs_by_cluster_and_object_and_fits_the_services_limit() {
        let name = ProvisionalName::of("cluster-a", "object-a");
        assert_eq!(name.as_str().len(), 30);
        assert!(name.as_str().starts_with("cio-"));
        assert_eq!(name, ProvisionalName::of("cluster-a", "object-a"));
        assert_ne!(name, ProvisionalName::of("cluster-b", "object-a"));
        assert_ne!(name, ProvisionalName::of("cluster-a", "object-b"));
        assert_ne!(ProvisionalName::of("ab", "c"), ProvisionalName::of("a", "bc"));
    }
}
