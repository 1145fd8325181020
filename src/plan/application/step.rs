//! What can be done in a pass, and what can come of it.

use std::collections::{BTreeMap, BTreeSet};

use super::Stage;
use crate::model::{Application, ClientId, RoleCatalogue};

/// How an existing registration became ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// It bears our provisional name, and our Secret names it.
    Recovered,
    /// The Secret of a former object proved it.
    Readopted,
    /// The spec asked for it.
    Adopted,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for something harmless, shared by all who need that answer.
    SeeThatItAnswers,
    /// Write finalizer and tenant annotation, in one patch.
    Claim,
    /// Read the tenant's roles.
    ReadCatalogue,
    /// List what bears our provisional name.
    FindNamesakes,
    /// Register under the provisional name.
    Register,
    /// Read an application by id.
    Look(ClientId),
    /// List the tenant and see whether an application that was not found is in it.
    ConfirmAbsence(ClientId),
    /// Count an existing registration as ours. No call.
    Hold(ClientId, Holding),
    /// Forget a registration that is gone. No call.
    Forget(ClientId),
    /// Become the owner of a former object's Secret, and with it of the registration that it names.
    TakeOverSecret(ClientId, Holding),
    /// Write the Secret.
    Publish,
    /// Write status: what is held and what is about to be added.
    Record,
    /// Delete a surplus registration that bears our provisional name.
    RemoveSurplus(ClientId),
    /// Read the application's scopes.
    ReadScopes,
    /// Replace the application's scopes.
    SetScopes(BTreeSet<String>),
    /// Read the application's roles.
    ReadRoles,
    /// Replace the application's roles: id by name.
    SetRoles(BTreeMap<String, String>),
    /// Read the tenant's redirect URIs.
    ReadRedirectUris,
    /// Hand entries over to another object that lists them: its status first.
    Bequeath(String, BTreeSet<String>),
    /// Merge into the tenant's redirect URIs.
    MergeRedirectUris {
        /// Entries to add.
        add: BTreeSet<String>,
        /// Entries to remove.
        remove: BTreeSet<String>,
    },
    /// Give the application its display name.
    Rename(String),
    /// Ask the token endpoint for a token with the published credential.
    Try,
    /// Delete the registration.
    Deregister(ClientId),
    /// Take owner reference and label from the Secret, or write it again without them.
    ReleaseSecret,
    /// Give the registration up and say so.
    Abandon,
    /// Lift the finalizer.
    Release,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This.
    Perform(Step),
    /// Nothing more in this pass.
    Rest,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// An application: registered or seen.
    Application(Application),
    /// It has its display name.
    Renamed,
    /// Asked by id: not found.
    NotFound,
    /// The list holds these with our provisional name.
    Namesakes(Vec<Application>),
    /// The list holds the application after all (`Some`), or does not (`None`).
    Listed(Option<Application>),
    /// Names.
    Names(BTreeSet<String>),
    /// Roles: id by name.
    Roles(BTreeMap<String, String>),
    /// The tenant's roles.
    Catalogue(RoleCatalogue),
    /// Redirect URIs after the merge, and those of `add` that somebody else had added in the meantime.
    Merged {
        /// The whole list.
        list: BTreeSet<String>,
        /// Entries that were there already.
        already: BTreeSet<String>,
        /// Entries of `remove` that were not there, and nobody knows why.
        absent: BTreeSet<String>,
    },
}

impl Step {
    /// Whether it is a call to the service, made with the provider's credential.
    #[must_use]
    pub fn asks_the_service(&self) -> bool {
        !matches!(
            self,
            Self::Claim
                | Self::Hold(..)
                | Self::Forget(_)
                | Self::TakeOverSecret(..)
                | Self::Publish
                | Self::Record
                | Self::Bequeath(..)
                | Self::Try
                | Self::ReleaseSecret
                | Self::Abandon
                | Self::Release
        )
    }

    /// Whether it leaves something behind that nobody would look for, if the service carries it out after its answer was given up.
    #[must_use]
    pub fn may_come_late(&self) -> bool {
        match self {
            Self::Register => true,
            Self::MergeRedirectUris { add, .. } => !add.is_empty(),
            _ => false,
        }
    }

    /// The part of the work this step belongs to.
    #[must_use]
    pub fn stage(&self, deleting: bool) -> Stage {
        if deleting {
            return Stage::Deletion;
        }
        match self {
            Self::Claim
            | Self::SeeThatItAnswers
            | Self::FindNamesakes
            | Self::Register
            | Self::Look(_)
            | Self::ConfirmAbsence(_)
            | Self::Hold(..)
            | Self::Forget(_)
            | Self::Record => Stage::Registration,
            Self::TakeOverSecret(..) | Self::Publish => Stage::Secret,
            Self::ReadScopes | Self::SetScopes(_) => Stage::Scopes,
            Self::ReadCatalogue | Self::ReadRoles | Self::SetRoles(_) => Stage::Roles,
            Self::ReadRedirectUris | Self::Bequeath(..) | Self::MergeRedirectUris { .. } => Stage::RedirectUris,
            Self::RemoveSurplus(_) => Stage::Surplus,
            Self::Rename(_) => Stage::Name,
            Self::Try => Stage::Verification,
            Self::Deregister(_) | Self::ReleaseSecret | Self::Abandon | Self::Release => Stage::Deletion,
        }
    }
}
