//! The identity services: one file each, which translates between the service's wire format and our words and holds no policy.
//!
//! What every service shares: [`gate`] (who may ask a tenant, and when; `line`: in which order), [`http`] (how a request is made, and what its answer means),
//! `discovery` (what a server says of itself, and for how long that counts), `inquiry` (one question that serves all who wait).

pub mod app_id;
pub mod assertion;
mod discovery;
pub mod gate;
pub mod http;
pub mod iam;
mod inquiry;
pub mod line;

pub mod oauth;
pub mod oidc;
pub mod secure_auth;
pub mod verify;

use std::{future::Future, sync::Arc};

pub use app_id::AppId;
pub use gate::Gate;
pub use http::{HttpSettings, Tenant};
pub use iam::{Iam, IamCredential};
pub use line::Urgency;
pub use oidc::Oidc;
pub use secure_auth::SecureAuth;
pub use verify::Verify;

use crate::model::{Application, ClientId, Failure, IssuedToken, SecretText, TokenRequest};

/// Says whether this process may still change things at the services.
pub trait Fence: Send + Sync {
    /// Whether it may, right now.
    fn holds(&self) -> bool;
}

/// On whose behalf a call is made: decides its place in the queue, and whether it may be made at all.
#[derive(Clone)]
pub struct Caller {
    /// Namespace of the object.
    pub namespace: String,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Whose request it is: a failure of the service may be about what this one sends.
    pub requester: String,
    /// Asked right before every call that changes something; `None` for the one call that a former leader may still make.
    pub fence: Option<Arc<dyn Fence>>,
}

/// A service at which clients are registered.
///
/// # Guarantees
///
/// Absence is `None` or `false`, never an error, and only a "not found" for the very registration counts as absence.
/// Each call is made at most once, but for one repetition after the credential was refused and read again: then the
/// first request was not carried out. A failure says whether the request may have been carried out nevertheless.
pub trait Registrar {
    /// Registers a client under a name. Not idempotent: the caller makes sure that there is none yet.
    fn register(
        &self,
        caller: &Caller,
        name: &str,
        kind: crate::model::ApplicationKind,
    ) -> impl Future<Output = Result<Application, Failure>> + Send;
    /// Reads a registration; `None` when the service does not know the id.
    fn look(&self, caller: &Caller, id: &ClientId) -> impl Future<Output = Result<Option<Application>, Failure>> + Send;
    /// Every registration of the tenant that bears the name, from a list that began after this call.
    fn find(&self, caller: &Caller, name: &str) -> impl Future<Output = Result<Vec<Application>, Failure>> + Send;
    /// Whether a list of the tenant that began after this call holds the id.
    fn is_listed(&self, caller: &Caller, id: &ClientId) -> impl Future<Output = Result<Option<Application>, Failure>> + Send;
    /// Gives a registration another name; the id stays.
    fn rename(&self, caller: &Caller, id: &ClientId, name: &str) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Deletes a registration; `false` when the service does not know the id.
    fn deregister(&self, caller: &Caller, id: &ClientId) -> impl Future<Output = Result<bool, Failure>> + Send;
}

/// A service whose token endpoint can say whether a credential works.
pub trait TokenEndpoint {
    /// Asks for a token with the credential and throws it away.
    fn try_credential(&self, caller: &Caller, id: &ClientId, secret: &SecretText) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A service that issues access tokens.
pub trait TokenIssuer {
    /// Asks for a token, once, or twice where the first request was certainly not carried out.
    fn issue(&self, caller: &Caller, request: &TokenRequest) -> impl Future<Output = Result<IssuedToken, Failure>> + Send;
}

/// Who a credential is at its service, and what it may do there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// IAM id of the credential's owner.
    pub iam_id: Option<String>,
    /// Account of the credential's owner.
    pub account: Option<String>,
    /// Whether it may register; `None` when the service cannot tell.
    pub can_register: Option<bool>,
    /// Host of the token endpoint, where that was found out.
    pub endpoints_host: Option<String>,
    /// Whether the service has a newer credential of the same user than the one that is used.
    pub has_newer_credential: bool,
}
