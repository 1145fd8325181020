//! IAM trusted profiles.

use super::AccessRole;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A trusted profile to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileSeed {
    /// `Profile-<uuid>`; made up when empty.
    pub id: String,
    /// Its name, unique in its account; the id when empty.
    pub name: String,
    /// 32 hexadecimal digits; one account for all when empty.
    pub account: String,
    /// Who may assume it.
    pub subjects: BTreeSet<ServiceAccount>,
    /// The key set of the cluster whose tokens it takes (`{"keys":[…]}`). Signatures are not checked when absent.
    pub key_set: Option<Value>,
    /// Rights by tenant.
    pub access: BTreeMap<String, AccessRole>,
    /// Not to be assumed for so long.
    pub visible_after_milliseconds: u64,
    /// Life of its tokens, instead of the setting.
    pub expires_in: Option<i64>,
}

/// A service account of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A trusted profile as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// `Profile-<uuid>`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What `profile_crn` names it by.
    pub crn: String,
    /// 32 hexadecimal digits.
    pub account: String,
    /// Who may assume it.
    pub subjects: BTreeSet<ServiceAccount>,
    /// The key set of the cluster whose tokens it takes.
    pub key_set: Option<Value>,
    /// From when on it may be assumed.
    pub visible_at: Timestamp,
    /// Life of its tokens, instead of the setting.
    pub expires_in: Option<i64>,
}

/// Changes to a trusted profile; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileEdit {
    /// All who may assume it from now on.
    pub subjects: Option<BTreeSet<ServiceAccount>>,
    /// The key set from now on.
    pub key_set: Option<Value>,
    /// All its rights from now on, by tenant. Live tokens feel it at once.
    pub access: Option<BTreeMap<String, AccessRole>>,
    /// Not to be assumed for so long from now on.
    pub visible_after_milliseconds: Option<u64>,
    /// Life of its tokens from now on.
    pub expires_in: Option<i64>,
}
