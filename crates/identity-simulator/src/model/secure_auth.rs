//! SecureAuth Identity Store: users who hold API credentials.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A user of an identity store to create. An API credential is made for it, in the form of the documented example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecureAuthUserSeed {
    /// The identity store; `default` when empty.
    pub store: String,
    /// A UUID that begins with a mark of [`crate::canaries`], because the credential shows it; made up when empty.
    pub id: String,
    /// Its name.
    pub user_name: String,
    /// Whether it has the developer privilege.
    pub developer: bool,
}

impl Default for SecureAuthUserSeed {
    fn default() -> Self {
        Self { store: String::new(), id: String::new(), user_name: "Simulated User".to_owned(), developer: true }
    }
}

/// A user as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureAuthUser {
    /// The identity store.
    pub store: String,
    /// A UUID.
    pub id: String,
    /// Its name.
    pub user_name: String,
    /// Whether it has the developer privilege.
    pub developer: bool,
    /// Its API credentials, the newest last; those that ended, too.
    pub credentials: Vec<SecureAuthCredential>,
}

impl SecureAuthUser {
    /// The newest credential.
    #[must_use]
    pub fn newest(&self) -> Option<&SecureAuthCredential> {
        self.credentials.last()
    }
}

/// Changes to a user; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecureAuthUserEdit {
    /// Whether it has the developer privilege.
    pub developer: Option<bool>,
    /// Takes its tokens back.
    pub revoke_tokens: bool,
    /// Ends all its credentials.
    pub end_credentials: bool,
}

/// An API credential. Both halves are secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureAuthCredential {
    /// Unix nanoseconds, later than those of older credentials.
    pub date: u64,
    /// Base64 that shows the user's id.
    pub client_id: String,
    /// Base64 that shows the client id.
    pub client_secret: String,
    /// Whether GET Me shows it.
    pub listed: bool,
    /// When it ends or ended.
    pub ends_at: Option<Timestamp>,
}

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureAuthToken {
    /// The token.
    pub token: String,
    /// To whom it was issued.
    pub user: String,
    /// Client id of the credential that brought it.
    pub client_id: String,
    /// Unix seconds.
    pub issued: i64,
    /// Unix seconds.
    pub expires: i64,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// All identity stores.
#[derive(Debug, Default)]
pub(crate) struct SecureAuth {
    pub(crate) users: BTreeMap<String, SecureAuthUser>,
    pub(crate) tokens: Vec<SecureAuthToken>,
    pub(crate) last_date: u64,
}
