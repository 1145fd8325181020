//! IBM Verify: what there is besides its authorization server.

use serde::{Deserialize, Serialize};

/// An application of Verify to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyApplicationSeed {
    /// A number of 64 bits in decimal, made up when empty.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it works.
    pub enabled: bool,
}

impl Default for VerifyApplicationSeed {
    fn default() -> Self {
        Self { id: String::new(), name: String::new(), description: String::new(), enabled: true }
    }
}

/// An application of Verify as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyApplication {
    /// A number of 64 bits in decimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it works.
    pub enabled: bool,
}
