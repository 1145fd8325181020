//! Everything that one pass knows: what is wanted, what is recorded, and what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    super::{Problem, permit::Permits},
    Attention, Step, later,
};
use crate::{
    model::{Application, Class, ClientId, Desired, Failure, ProvisionalName, RoleCatalogue, SecretText, TenantIdentity},
    reasons::Reason,
};

/// After a lost answer, the service may still carry out the registration for this long.
pub const LATE_COMMIT: Duration = Duration::from_secs(60);

/// Two looks that find no application are this far apart before it counts as gone.
pub const ABSENCE_SPACING: Duration = Duration::from_secs(15);

/// Facts that survive the process: what status records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The registration.
    pub client_id: Option<ClientId>,
    /// The tenant it lives in; written before anything is sent there.
    pub tenant: Option<TenantIdentity>,
    /// Whether it was adopted.
    pub adopted: bool,
    /// What we added at the service.
    pub added: Added,
    /// Whether the token endpoint accepted the published credential.
    pub verified: bool,
    /// Since when something that was sent and not answered may still be carried out: a registration, or new redirect URIs.
    pub unclear_since: Option<Timestamp>,
    /// Since when the application is not found.
    pub missing_since: Option<Timestamp>,
}

/// What this object added at the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Scopes of the application.
    pub scopes: BTreeSet<String>,
    /// Names of roles of the application.
    pub roles: BTreeSet<String>,
    /// Entries in the tenant's redirect URIs.
    pub redirect_uris: BTreeSet<String>,
}

/// What the provider reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderView {
    /// It cannot be used, and why.
    Unusable(Problem),
    /// It can.
    Usable {
        /// The tenant it leads to.
        tenant: TenantIdentity,
        /// Whether the object's namespace may use it.
        namespace_is_allowed: bool,
        /// What a cluster provider permits; `None` for a provider of the namespace, which permits everything.
        permits: Option<Permits>,
    },
}

/// What stands under the Secret's name.
#[derive(Clone, Debug)]
pub enum SecretView {
    /// Nothing.
    Absent,
    /// Our object is its controller.
    Ours {
        /// The client id it names.
        client_id: Option<ClientId>,
        /// Whether it is exactly what was last applied, in today's shape.
        is_intact: bool,
        /// The client secret in it; read only while no client id is recorded.
        held: Option<SecretText>,
        /// Whether it says that its client was adopted.
        adopted: bool,
    },
    /// Published for an object of this cluster, kind, namespace and name that no longer exists.
    Leftover {
        /// The client id it names.
        client_id: Option<ClientId>,
        /// The client secret in it.
        held: Option<SecretText>,
        /// Whether its client had been adopted, or was registered by another cluster.
        adopted: bool,
        /// The tenant that it says its client lives in.
        tenant: Option<TenantIdentity>,
    },
    /// Somebody else's.
    Foreign {
        /// Whose, in words.
        whose: String,
    },
    /// Ours, but made immutable.
    Immutable,
}

/// Whether the finalizer, which is the intent to register, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It does not.
    Absent,
    /// It stands, but without the tenant: somebody took the mark away, or a backup brought it. A registration may have been sent.
    Unmarked,
    /// It was there when the pass began: a registration may have been sent before.
    Before,
    /// This pass wrote it: nothing was sent yet.
    Now,
}

/// What was seen of an application.
#[derive(Clone, Debug, Default)]
pub enum Sight {
    /// Not looked for yet.
    #[default]
    Unseen,
    /// There it is.
    Present(Application),
    /// Asking for it by id answered "not found".
    NotFound,
    /// And a list of the same tenant did not hold it either.
    Absent,
}

/// What was seen at the service in this pass.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// The application under the id in question.
    pub sight: Sight,
    /// Whether a registration was sent in this pass.
    pub registration_was_sent: bool,
    /// Everything that bears our provisional name.
    pub namesakes: Option<Vec<ClientId>>,
    /// Registrations deleted in this pass, or found deleted.
    pub deregistered: BTreeSet<ClientId>,
    /// Registrations whose deletion answered "not found", not yet confirmed by a list.
    pub deletion_not_found: BTreeSet<ClientId>,
    /// Scopes of the application.
    pub scopes: Option<BTreeSet<String>>,
    /// Roles of the application: id by name.
    pub roles: Option<BTreeMap<String, String>>,
    /// Roles of the tenant.
    pub catalogue: Option<RoleCatalogue>,
    /// The tenant's redirect URIs.
    pub redirect_uris: Option<BTreeSet<String>>,
    /// Whether a deletion took our redirect URIs away in this pass.
    pub redirect_uris_are_removed: bool,
}

/// The part of the work in which something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Finding or making the registration.
    Registration,
    /// Publishing the Secret.
    Secret,
    /// Scopes.
    Scopes,
    /// Roles.
    Roles,
    /// Redirect URIs.
    RedirectUris,
    /// Removing a surplus registration.
    Surplus,
    /// The display name.
    Name,
    /// Trying the credential.
    Verification,
    /// Deregistering.
    Deletion,
}

/// A failure, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Where.
    pub stage: Stage,
    /// What.
    pub failure: Failure,
}

/// Something a person would want to know, for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The reason of the event.
    pub reason: Reason,
    /// Its note.
    pub note: String,
}

/// A deletion under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleting {
    /// The first failed attempt.
    pub first_failed_at: Option<Timestamp>,
    /// How long after that the registration is given up.
    pub budget: Duration,
    /// Whether the registration was given up in this pass.
    pub abandoned: bool,
    /// Whether the Secret was already made independent of the object.
    pub secret_is_released: bool,
    /// Whether the finalizer is gone.
    pub released: bool,
}

/// Everything that one pass knows.
#[derive(Clone, Debug)]
pub struct World {
    /// What the spec asks for.
    pub desired: Desired,
    /// Our provisional name.
    pub provisional: ProvisionalName,
    /// How much may be looked at.
    pub attention: Attention,
    /// When this process became leader: what an earlier one sent may still be carried out for a while after that.
    pub leader_since: Timestamp,
    /// What is to be recorded.
    pub recorded: Recorded,
    /// What is recorded.
    pub stored: Recorded,
    /// The provider.
    pub provider: ProviderView,
    /// Whether the service answered the last call that anybody made.
    pub service_answers: bool,
    /// The Secret.
    pub secret: SecretView,
    /// A flaw of the spec that the API server could not see.
    pub flaw: Option<Problem>,
    /// Another object that claims the same Secret and comes first.
    pub secret_rival: Option<String>,
    /// Registrations on the tenant that other live objects hold, and which.
    pub held_elsewhere: BTreeMap<ClientId, String>,
    /// Redirect URIs that other live objects on the tenant list, and which object would inherit them.
    pub heirs: BTreeMap<String, String>,
    /// The intent.
    pub claim: Claim,
    /// The service.
    pub remote: Remote,
    /// What failed in this pass.
    pub troubles: Vec<Trouble>,
    /// Steps that failed in this pass: none is done twice in one pass, whatever the rules say.
    pub failed_steps: Vec<Step>,
    /// What a person would want to know.
    pub news: Vec<News>,
    /// Whether everything was as asked for when it was last looked at: what has to be put right now was changed by somebody.
    pub was_in_order: bool,
    /// Whether the token endpoint did not take what the Secret holds, when it was last tried.
    pub was_refused: bool,
    /// Until when a Secret that somebody else keeps changing is left as it is.
    pub contested_until: Option<Timestamp>,
    /// The deletion, when there is one.
    pub deleting: Option<Deleting>,
}

impl World {
    /// Whether the registration outlives the object: as the spec says, else only what was adopted.
    #[must_use]
    pub fn retains(&self) -> bool {
        self.desired.retain.unwrap_or_else(|| self.is_adopted())
    }

    /// Whether the registration was adopted: as recorded, or as our own Secret says while nothing is recorded yet.
    fn is_adopted(&self) -> bool {
        let says_so = |id: &ClientId, adopted: bool| adopted || self.desired.adopt.as_ref() == Some(id);
        self.recorded.adopted
            || (self.recorded.client_id.is_none()
                && matches!(&self.secret, SecretView::Ours { client_id: Some(id), adopted, .. } if says_so(id, *adopted)))
    }

    /// From when on nothing that was sent before and not answered is carried out any more: what is not there by then will not come.
    /// What a predecessor sent in its last moment left no mark, so that this leader's beginning counts too.
    pub(super) fn absence_is_certain_at(&self) -> Timestamp {
        later(self.recorded.unclear_since.unwrap_or(self.leader_since).max(self.leader_since), LATE_COMMIT)
    }

    /// Whether something that was sent and not answered may still be carried out.
    pub(super) fn may_come_late(&self, now: Timestamp) -> bool {
        self.recorded.unclear_since.is_some() && now < self.absence_is_certain_at()
    }

    pub(super) fn has_trouble(&self, stage: Stage) -> bool {
        self.troubles.iter().any(|trouble| trouble.stage == stage)
    }

    /// Whether a failure ends the pass: without a registration or a Secret nothing else makes sense, and a service that
    /// does not answer, or does not want to, is not asked for more.
    pub(super) fn is_stopped(&self) -> bool {
        self.troubles.iter().any(|Trouble { stage, failure }| {
            matches!(stage, Stage::Registration | Stage::Secret)
                || matches!(failure.class, Class::RateLimited | Class::Unauthorized)
                || (failure.class == Class::Transient && failure.status.is_none())
        })
    }
}
