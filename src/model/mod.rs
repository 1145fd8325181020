//! Plain values that every other module speaks of. Nothing here knows Kubernetes or HTTP.

mod application;
mod failure;
mod identity;
mod token;

pub use application::{Application, ApplicationKind, ClientId, Desired, RoleCatalogue, TenantRole};
pub use failure::{Class, Failure, RATE_LIMIT_UNKNOWN};
pub use identity::{ProvisionalName, TenantIdentity};
pub use secrecy::{ExposeSecret, SecretString as SecretText};
pub use token::{Algorithm, Audience, ClientCredential, Grant, IssuedToken, Life, Proof, SignedAssertion, SigningKey, TokenRequest, Told};
