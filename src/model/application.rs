//! One application (OAuth client): what is wanted, and what the service shows.

use std::collections::{BTreeMap, BTreeSet};

use super::SecretText;

/// The client id of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(String);

impl ClientId {
    /// A client id as the service or a record names it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationKind {
    /// Confidential: has a secret.
    RegularWebApp,
    /// Public: has none.
    SinglePageApp,
}

/// What the spec asks for, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The name at the service.
    pub display_name: String,
    /// Whether the spec says the name itself: only then is an adopted application renamed.
    pub display_name_is_explicit: bool,
    /// The kind of client.
    pub kind: ApplicationKind,
    /// Scopes, when they are managed.
    pub scopes: Option<BTreeSet<String>>,
    /// Names of roles, when they are managed.
    pub roles: Option<BTreeSet<String>>,
    /// Entries for the tenant's list of redirect URIs.
    pub redirect_uris: BTreeSet<String>,
    /// An existing application to take over while nothing is registered.
    pub adopt: Option<ClientId>,
    /// Whether the registration is kept on deletion, when the spec says so or not.
    pub retain: Option<bool>,
    /// Whether nothing may be done now.
    pub suspended: bool,
    /// Scopes that may be removed although roles hold them.
    pub removable_scopes: BTreeSet<String>,
}

/// An application as the service shows it.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its id.
    pub client_id: ClientId,
    /// Its name.
    pub name: String,
    /// Its kind; `None` where the answer leaves it out.
    pub kind: Option<ApplicationKind>,
    /// Its secret; `None` for a public client, or when it is not shown.
    pub secret: Option<SecretText>,
}

/// A role of the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRole {
    /// Its id.
    pub id: String,
    /// The scopes it holds, by application.
    pub scopes: BTreeMap<ClientId, BTreeSet<String>>,
}

/// The tenant's roles by name.
pub type RoleCatalogue = BTreeMap<String, TenantRole>;
