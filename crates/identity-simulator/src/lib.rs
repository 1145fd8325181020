//! Speaks the wire formats of the identity services, for tests and the demo.
//!
//! [`Simulator::start`] opens one HTTPS listener for each host of the real world (IAM, App ID once per region, Verify, the SecureAuth
//! identity store, generic OAuth 2.0 servers and a second host of theirs), a few with bad certificates, two that note credentials which
//! should not have come, and the control API. State is in memory. What the services'
//! documents leave open is a position of [`Switches`]; what goes wrong in networks is a [`Rule`] with an [`Action`]; everything that was
//! called stands in the journal; every secret value carries a mark ([`canaries`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use identity_simulator::{Action, KeySeed, Options, Rule, Simulator, TenantSeed, When};
//!
//! let simulator = Simulator::start(Options::default()).await?;
//! let control = simulator.control();
//! let tenant = control.add_tenant(&TenantSeed::default()).await?;
//! let key = control.add_key(&KeySeed::default()).await?;
//! let lost = Rule::next("app_id.applications.create", Action::Drop { when: When::AfterCommit });
//! let fault = control.inject(&lost).await?;
//! // … the client registers an application and hears nothing …
//! control.wait_for_fault(fault.id).await?;
//! assert_eq!(control.applications(&tenant.id).await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! To be read in this order: `model` (what there is), `services` (what it says), `exchange` (one call and what may happen to it),
//! `control` and `client` (how tests steer it), `simulator` (how it starts).

mod authority;
mod bodies;
mod canary;
mod client;
mod control;
mod exchange;
mod fault;
mod journal;
mod limit;
mod listener;
mod model;
mod services;
mod shared;
mod signing;
mod simulator;
pub mod switches;
mod world;

pub use authority::CertificateError;
pub use canary::{CLIENT_SECRET as CLIENT_SECRET_MARK, PLAIN as PLAIN_MARK, TOKEN as TOKEN_MARK, canaries, is_marked, spellings};
pub use client::{Control, ControlError};
pub use control::{CallStage, CallWait, FaultStage, FaultWait};
pub use fault::{Action, FaultReport, Framing, LateAnswer, Rule, Until, When};
pub use journal::{Call, Count, Counts};
pub use model::{
    Access, AccessRole, ApiKey, Application, ApplicationEdit, ApplicationKind, ApplicationSeed, AssertionIssuer, BasicSpelling,
    ClientAuthentication, CustomIdentityProvider, DiscoveryPlace, KeyEdit, KeySeed, Lifetime, LifetimeAnswer, MissingTarget, Noted,
    OAuthClient, OAuthClientEdit, OAuthClientSeed, OAuthRefreshToken, OAuthRefreshTokenSeed, OAuthServer, OAuthToken, OidcServerSeed,
    OidcSettings, OptionalLifetime, Profile, ProfileEdit, ProfileSeed, Role, RoleSeed, SecretKind, SecretValue, SecureAuthCredential,
    SecureAuthToken, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed, Seed, ServiceAccount, Settings, SigningAlgorithm, StateReport,
    Tenant, TenantSeed, TokenConfiguration, TokenForm, TokenRequest, Urls, User, VERIFY, VerificationKey, VerifyApplication,
    VerifyApplicationSeed,
};
pub use signing::SigningError;
pub use simulator::{Options, Simulator, StartError};
pub use switches::Switches;
pub use world::SeedError;
