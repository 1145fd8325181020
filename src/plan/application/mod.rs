//! The rules for one application: from what is wanted and what is known to the next step.
//!
//! [`next`] looks at a [`World`] and names one step, or says that there is nothing more to do in this pass. The caller
//! performs the step and hands the outcome to [`World::absorb`]; then it asks again. A crash between any two steps
//! loses the `World`, and only what steps stored survives: the tests here stop after every step and start again.
//!
//! # Guarantees
//!
//! * Nothing is POSTed unless this pass wrote the finalizer itself, or a list taken in this pass shows no namesake.
//! * What is added at the service is recorded before it is added; only what is recorded is ever taken away. What is neither wanted
//!   nor there any more is struck from the record: if it comes back, somebody else added it.
//! * The Secret names the registration before the status does, and the status before the display name hides which one is ours.
//! * An unanswered or refused call never leads to a registration, a deletion or an overwrite.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{Problem, permit, permit::Permits, wait};
use crate::{
    model::{
        Application, ApplicationKind, Class, ClientId, Desired, ExposeSecret, Failure, ProvisionalName, RoleCatalogue, SecretText,
        TenantIdentity,
    },
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
    /// Since when a second registration is possible.
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
    },
    /// Published for an object of this cluster, kind, namespace and name that no longer exists.
    Leftover {
        /// The client id it names.
        client_id: Option<ClientId>,
        /// The client secret in it.
        held: Option<SecretText>,
        /// Whether its client had been adopted.
        adopted: bool,
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
    /// When this process became leader.
    pub leader_since: Timestamp,
    /// Whether the registration was given up in this pass.
    pub abandoned: bool,
    /// Whether the Secret was already made independent of the object.
    pub secret_is_released: bool,
    /// Whether the finalizer is gone.
    pub released: bool,
}

/// How much attention an object needs in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attention {
    /// Everything is as it was left.
    Nothing,
    /// Only what can be seen in the cluster is looked at.
    Local,
    /// The service is asked too.
    Full,
}

/// What could call for attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// The object is being deleted.
    pub deleting: bool,
    /// The spec is newer than the status.
    pub spec_changed: bool,
    /// The provider object is another, or its spec is newer, than at the last complete pass.
    pub provider_changed: bool,
    /// A dependency changed while the process ran (credential, provider, heir).
    pub woken: bool,
    /// A drift check is due.
    pub drift_check_due: bool,
    /// The Secret is not the version that was last seen.
    pub secret_changed: bool,
    /// And it no longer is what was applied.
    pub secret_damaged: bool,
    /// The last pass failed at the service.
    pub failed: bool,
    /// The last pass left something to do later, and when.
    pub next_action_at: Option<Timestamp>,
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
    /// What is to be recorded.
    pub recorded: Recorded,
    /// What is recorded.
    pub stored: Recorded,
    /// The provider.
    pub provider: ProviderView,
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
    /// Until when a Secret that somebody else keeps changing is left as it is.
    pub contested_until: Option<Timestamp>,
    /// The deletion, when there is one.
    pub deleting: Option<Deleting>,
}

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
    },
}

/// The state of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// True, for this reason.
    Yes(Reason),
    /// False, for this problem.
    No(Problem),
    /// Not known, for this reason.
    Unknown(Problem),
}

/// What a pass came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the registration stands.
    pub registered: State,
    /// Whether the Secret holds its credential.
    pub published: State,
    /// Whether the token endpoint accepts it.
    pub verified: State,
    /// What keeps the object from being ready.
    pub problem: Option<Problem>,
    /// Whether the last attempt at the service failed.
    pub failed: bool,
    /// When to try again; `None`: only when something changes.
    pub again: Option<Timestamp>,
}

/// How much attention an object needs.
#[must_use]
pub fn attention(triggers: &Triggers, has_obstacle: bool, now: Timestamp) -> Attention {
    let due = triggers.next_action_at.is_some_and(|at| at <= now);
    if triggers.deleting || triggers.spec_changed || triggers.provider_changed || triggers.woken {
        return Attention::Full;
    }
    if triggers.failed && !due {
        return if triggers.secret_changed && !triggers.secret_damaged { Attention::Local } else { Attention::Nothing };
    }
    // A local obstacle leaves `next_action_at` without a failure: as soon as the obstacle is gone, all is looked at.
    let obstacle_cleared = triggers.next_action_at.is_some() && !triggers.failed && !has_obstacle;
    if due || obstacle_cleared || triggers.drift_check_due || triggers.secret_damaged {
        Attention::Full
    } else if triggers.secret_changed || has_obstacle {
        Attention::Local
    } else {
        Attention::Nothing
    }
}

/// What keeps the object from being worked on, seen from the cluster alone.
#[must_use]
pub fn obstacle(world: &World) -> Option<Problem> {
    let desired = &world.desired;
    if desired.suspended {
        return Some(Problem::new(Reason::Suspended, "the object is suspended (spec.suspend)"));
    }
    if let Some(flaw) = &world.flaw {
        return Some(flaw.clone());
    }
    let (tenant, allowed, permits) = match &world.provider {
        ProviderView::Unusable(problem) => return Some(problem.clone()),
        ProviderView::Usable { tenant, namespace_is_allowed, permits } => (tenant, *namespace_is_allowed, permits),
    };
    if !allowed {
        return Some(Problem::new(
            Reason::NamespaceNotAllowed,
            "the ClusterIdentityProvider does not allow this namespace (allowedNamespaces)",
        ));
    }
    if let Some(recorded) = world.recorded.tenant.as_ref().filter(|recorded| *recorded != tenant) {
        return Some(Problem::new(
            Reason::ProviderIdentityChanged,
            format!(
                "the registration lives in tenant {recorded}, but the provider now leads to {tenant}: lead it back, or delete this object"
            ),
        ));
    }
    if let Some(violation) = permits.as_ref().and_then(|permits| permit::violation(desired, world.recorded.client_id.is_none(), permits)) {
        return Some(violation);
    }
    if let Some(rival) = &world.secret_rival {
        return Some(Problem::new(
            Reason::SecretConflict,
            format!("the Secret's name is also claimed by {rival}, which comes first: choose another secret.name"),
        ));
    }
    match &world.secret {
        SecretView::Ours { is_intact: false, .. } if world.contested_until.is_some() => {
            Some(Problem::new(Reason::Contested, "something else keeps changing the Secret; it is put back at growing intervals"))
        }
        SecretView::Foreign { whose } => Some(Problem::new(
            Reason::SecretConflict,
            format!("a Secret of that name exists and belongs to {whose}; it is left as it is: choose another secret.name, or remove it"),
        )),
        SecretView::Immutable => {
            Some(Problem::new(Reason::SecretImmutable, "the Secret was made immutable; it is never deleted and re-created by the operator"))
        }
        _ => None,
    }
}

/// The next step of a pass, or rest.
#[must_use]
pub fn next(world: &World, now: Timestamp) -> Next {
    if let Some(deleting) = &world.deleting {
        return deletion(world, deleting, now);
    }
    if world.is_stopped() || world.attention < Attention::Full || obstacle(world).is_some() {
        return Next::Rest;
    }
    let step = match &world.recorded.client_id {
        Some(id) => maintain(world, id, now),
        None => register(world, now),
    };
    step.filter(|step| !world.failed_steps.contains(step)).map_or(Next::Rest, Next::Perform)
}

/// No registration is recorded: find the one that is ours, or make it.
fn register(world: &World, now: Timestamp) -> Option<Step> {
    match &world.secret {
        SecretView::Ours { client_id: Some(id), .. } if !world.remote.deregistered.contains(id) => {
            let wants_it = world.desired.adopt.as_ref() == Some(id) && !world.held_elsewhere.contains_key(id);
            return match &world.remote.sight {
                Sight::Present(application) if is_proven(world, application) => Some(Step::Hold(id.clone(), Holding::Recovered)),
                // A pass that ended right after it took over a former object's Secret.
                Sight::Present(application) if wants_it && fits(world, application) => take_over(world, id, Holding::Adopted),
                Sight::Present(_) => None,
                sight => gone_or_step(world, sight, id, now),
            };
        }
        SecretView::Leftover { client_id: Some(id), .. } if !world.held_elsewhere.contains_key(id) => {
            let wants_it = world.desired.adopt.as_ref() == Some(id);
            return match &world.remote.sight {
                Sight::Unseen => Some(Step::Look(id.clone())),
                Sight::NotFound => Some(Step::ConfirmAbsence(id.clone())),
                Sight::Present(application) if is_proven(world, application) => take_over(world, id, Holding::Readopted),
                Sight::Present(application) if wants_it && fits(world, application) => take_over(world, id, Holding::Adopted),
                Sight::Present(_) | Sight::Absent => None,
            };
        }
        SecretView::Leftover { .. } => return None,
        _ => {}
    }
    if let Some(id) = &world.desired.adopt {
        if world.held_elsewhere.contains_key(id) {
            return None;
        }
        return match &world.remote.sight {
            Sight::Unseen => Some(Step::Look(id.clone())),
            Sight::NotFound => Some(Step::ConfirmAbsence(id.clone())),
            Sight::Present(application) if fits(world, application) => take_over(world, id, Holding::Adopted),
            Sight::Present(_) | Sight::Absent => None,
        };
    }
    let wants_roles = world.desired.roles.as_ref().is_some_and(|roles| !roles.is_empty());
    if wants_roles && world.remote.catalogue.is_none() {
        return (!world.has_trouble(Stage::Roles)).then_some(Step::ReadCatalogue);
    }
    if !missing_roles(world).is_empty() {
        return None;
    }
    if world.stored.client_id.is_some() {
        // The former registration is gone. As long as status names it, a crash after the next one would leave that unnoticed.
        return Some(Step::Record);
    }
    match world.claim {
        Claim::Absent | Claim::Unmarked => Some(Step::Claim),
        Claim::Before if world.remote.namesakes.is_none() => Some(Step::FindNamesakes),
        _ if !world.remote.registration_was_sent => Some(Step::Register),
        _ => None,
    }
}

fn take_over(world: &World, id: &ClientId, holding: Holding) -> Option<Step> {
    Some(match (&world.claim, &world.secret) {
        (Claim::Absent | Claim::Unmarked, _) => Step::Claim,
        (_, SecretView::Leftover { .. }) => Step::TakeOverSecret(id.clone(), holding),
        _ => Step::Hold(id.clone(), holding),
    })
}

/// Whether an application that only a Secret names is ours: it still bears our provisional name, or the Secret holds its secret.
///
/// Client ids are public and annotations can be forged; a client secret is neither.
fn is_proven(world: &World, application: &Application) -> bool {
    if world.held_elsewhere.contains_key(&application.client_id) {
        return false;
    }
    let (held, bears_our_name) = match &world.secret {
        SecretView::Ours { held, .. } => (held, application.name == world.provisional.as_str()),
        SecretView::Leftover { held, .. } => (held, false),
        _ => return false,
    };
    let same_secret = matches!((held, &application.secret), (Some(held), Some(shown)) if held.expose_secret() == shown.expose_secret());
    bears_our_name || (same_secret && fits(world, application))
}

fn fits(world: &World, application: &Application) -> bool {
    application.kind.is_none_or(|kind| kind == world.desired.kind)
}

/// Two looks, apart, each confirmed by a list: only then is an application gone.
fn gone_or_step(world: &World, sight: &Sight, id: &ClientId, now: Timestamp) -> Option<Step> {
    match sight {
        Sight::Unseen => Some(Step::Look(id.clone())),
        Sight::NotFound => Some(Step::ConfirmAbsence(id.clone())),
        Sight::Absent => {
            let long_enough = world.recorded.missing_since.is_some_and(|since| now >= later(since, ABSENCE_SPACING));
            (long_enough && !world.recorded.adopted).then(|| Step::Forget(id.clone()))
        }
        Sight::Present(_) => None,
    }
}

/// A registration is recorded: bring everything around it into shape.
fn maintain(world: &World, id: &ClientId, now: Timestamp) -> Option<Step> {
    let application = match &world.remote.sight {
        Sight::Present(application) => application,
        sight => return gone_or_step(world, sight, id, now),
    };
    if !secret_is_right(world, id) {
        // Without the secret there is nothing complete to publish; an incomplete Secret is never written.
        let complete = world.desired.kind == ApplicationKind::SinglePageApp || application.secret.is_some();
        return complete.then_some(Step::Publish);
    }
    if let Some(step) = read_before_recording(world) {
        return Some(step);
    }
    let intended = Recorded { added: intentions(world), ..world.recorded.clone() };
    if must_be_stored_first(&intended, &world.stored) {
        return Some(Step::Record);
    }
    surplus_step(world, id, now)
        .or_else(|| scopes_step(world, id))
        .or_else(|| roles_step(world))
        .or_else(|| redirect_uris_step(world))
        .or_else(|| name_step(world, application))
        .or_else(|| {
            let can_be_tried = world.desired.kind == ApplicationKind::RegularWebApp && !world.recorded.verified;
            (can_be_tried && !world.has_trouble(Stage::Verification)).then_some(Step::Try)
        })
}

fn secret_is_right(world: &World, id: &ClientId) -> bool {
    matches!(&world.secret, SecretView::Ours { client_id: Some(named), is_intact: true, .. } if named == id)
}

/// Which facts must be stored before anything else is done at the service. That a credential was accepted is not among them.
fn must_be_stored_first(intended: &Recorded, stored: &Recorded) -> bool {
    intended.client_id != stored.client_id
        || intended.tenant != stored.tenant
        || intended.adopted != stored.adopted
        || !intended.added.is_within(&stored.added)
        || (intended.unclear_since.is_some() && stored.unclear_since.is_none())
}

fn read_before_recording(world: &World) -> Option<Step> {
    let (desired, added, remote) = (&world.desired, &world.recorded.added, &world.remote);
    if desired.scopes.is_some() && remote.scopes.is_none() && !world.has_trouble(Stage::Scopes) {
        return Some(Step::ReadScopes);
    }
    if let Some(roles) = desired.roles.as_ref().filter(|_| !world.has_trouble(Stage::Roles)) {
        let Some(assigned) = &remote.roles else {
            return Some(Step::ReadRoles);
        };
        if roles.iter().any(|role| !assigned.contains_key(role)) && remote.catalogue.is_none() {
            return Some(Step::ReadCatalogue);
        }
    }
    let lists_any = !desired.redirect_uris.is_empty() || !added.redirect_uris.is_empty();
    (lists_any && remote.redirect_uris.is_none() && !world.has_trouble(Stage::RedirectUris)).then_some(Step::ReadRedirectUris)
}

/// What will have been added once this pass is through.
fn intentions(world: &World) -> Added {
    let mut added = world.recorded.added.clone();
    if let (Some(wanted), Some(present)) = (&world.desired.scopes, &world.remote.scopes) {
        added.scopes.extend(wanted.difference(present).cloned());
    }
    if let (Some(wanted), Some(present)) = (&world.desired.roles, &world.remote.roles) {
        added.roles.extend(wanted.iter().filter(|role| !present.contains_key(*role) && in_catalogue(world, role)).cloned());
    }
    if let Some(present) = &world.remote.redirect_uris {
        added.redirect_uris.extend(world.desired.redirect_uris.difference(present).cloned());
    }
    added
}

fn in_catalogue(world: &World, role: &str) -> bool {
    world.remote.catalogue.as_ref().is_some_and(|catalogue| catalogue.contains_key(role))
}

/// Wanted roles that neither the application nor the tenant has.
fn missing_roles(world: &World) -> Vec<&String> {
    let Some(catalogue) = &world.remote.catalogue else {
        return Vec::new();
    };
    let assigned = |role: &String| world.remote.roles.as_ref().is_some_and(|roles| roles.contains_key(role));
    world.desired.roles.iter().flatten().filter(|role| !catalogue.contains_key(*role) && !assigned(role)).collect()
}

fn surplus_step(world: &World, id: &ClientId, now: Timestamp) -> Option<Step> {
    if world.has_trouble(Stage::Surplus) {
        return None;
    }
    match &world.remote.namesakes {
        Some(namesakes) => namesakes
            .iter()
            .find(|other| *other != id && !world.remote.deregistered.contains(*other))
            .map(|other| Step::RemoveSurplus(other.clone())),
        None => world.recorded.unclear_since.is_some_and(|since| now >= later(since, LATE_COMMIT)).then_some(Step::FindNamesakes),
    }
}

fn scopes_step(world: &World, id: &ClientId) -> Option<Step> {
    let (wanted, present) = (world.desired.scopes.as_ref()?, world.remote.scopes.as_ref()?);
    if world.has_trouble(Stage::Scopes) {
        return None;
    }
    let dropped = dropped_scopes(world, wanted, present);
    if !dropped.is_empty() && world.remote.catalogue.is_none() && !world.has_trouble(Stage::Roles) {
        return Some(Step::ReadCatalogue);
    }
    let mut target: BTreeSet<String> = present.union(wanted).cloned().collect();
    // Without the tenant's roles nobody knows which scopes they hold: then none is removed.
    let may_go = |scope: &&String| world.remote.catalogue.is_some() && !scope_is_in_use(world, id, scope);
    for scope in dropped.iter().filter(may_go) {
        target.remove(scope);
    }
    (target != *present).then_some(Step::SetScopes(target))
}

fn dropped_scopes(world: &World, wanted: &BTreeSet<String>, present: &BTreeSet<String>) -> BTreeSet<String> {
    world.recorded.added.scopes.iter().filter(|scope| present.contains(*scope) && !wanted.contains(*scope)).cloned().collect()
}

fn scope_is_in_use(world: &World, id: &ClientId, scope: &str) -> bool {
    let held = world
        .remote
        .catalogue
        .iter()
        .flat_map(BTreeMap::values)
        .any(|role| role.scopes.get(id).is_some_and(|scopes| scopes.contains(scope)));
    held && !world.desired.removable_scopes.contains(scope)
}

fn roles_step(world: &World) -> Option<Step> {
    let (wanted, present) = (world.desired.roles.as_ref()?, world.remote.roles.as_ref()?);
    if world.has_trouble(Stage::Roles) {
        return None;
    }
    let mut target = present.clone();
    target.retain(|role, _| wanted.contains(role) || !world.recorded.added.roles.contains(role));
    for role in wanted {
        if let Some(known) = world.remote.catalogue.as_ref().and_then(|catalogue| catalogue.get(role)) {
            target.entry(role.clone()).or_insert_with(|| known.id.clone());
        }
    }
    (target != *present).then_some(Step::SetRoles(target))
}

fn redirect_uris_step(world: &World) -> Option<Step> {
    let present = world.remote.redirect_uris.as_ref()?;
    if world.has_trouble(Stage::RedirectUris) {
        return None;
    }
    let wanted = &world.desired.redirect_uris;
    let dropped: BTreeSet<String> =
        world.recorded.added.redirect_uris.intersection(present).filter(|uri| !wanted.contains(*uri)).cloned().collect();
    if let Some(step) = bequest(world, &dropped) {
        return Some(step);
    }
    let add: BTreeSet<String> = wanted.difference(present).cloned().collect();
    (!add.is_empty() || !dropped.is_empty()).then_some(Step::MergeRedirectUris { add, remove: dropped })
}

/// Entries that another live object lists are handed over, one heir at a time.
fn bequest(world: &World, entries: &BTreeSet<String>) -> Option<Step> {
    let heir = entries.iter().find_map(|uri| world.heirs.get(uri))?;
    let share = entries.iter().filter(|uri| world.heirs.get(*uri) == Some(heir)).cloned().collect();
    Some(Step::Bequeath(heir.clone(), share))
}

fn name_step(world: &World, application: &Application) -> Option<Step> {
    let ours_to_name = !world.recorded.adopted || world.desired.display_name_is_explicit;
    let differs = application.name != world.desired.display_name;
    (ours_to_name && differs && !world.has_trouble(Stage::Name)).then(|| Step::Rename(world.desired.display_name.clone()))
}

fn deletion(world: &World, deleting: &Deleting, now: Timestamp) -> Next {
    if world.claim == Claim::Absent || deleting.released {
        return Next::Rest;
    }
    if deleting.abandoned {
        return Next::Perform(Step::Release);
    }
    if deletion_problem(world).is_some() {
        let exhausted = deleting.first_failed_at.is_some_and(|first| now >= later(first, deleting.budget));
        return if exhausted { Next::Perform(Step::Abandon) } else { Next::Rest };
    }
    let step = if world.retains() { retain_step(world, deleting) } else { delete_step(world, deleting, now) };
    step.map_or(Next::Rest, Next::Perform)
}

fn deletion_problem(world: &World) -> Option<Problem> {
    if let Some(trouble) = world.troubles.first() {
        return Some(Problem::new(trouble.failure.reason, trouble.failure.to_string()));
    }
    match &world.provider {
        ProviderView::Unusable(problem) if !world.retains() => Some(problem.clone()),
        _ => None,
    }
}

fn retain_step(world: &World, deleting: &Deleting) -> Option<Step> {
    let Some(id) = &world.recorded.client_id else {
        return Some(Step::Release);
    };
    if deleting.secret_is_released {
        return Some(Step::Release);
    }
    match (&world.secret, &world.remote.sight, &world.provider) {
        // Foreground deletion removed it already: it is written again where the secret can be read back.
        (SecretView::Absent, Sight::Unseen, ProviderView::Usable { .. }) => Some(Step::Look(id.clone())),
        (SecretView::Absent, Sight::Present(_), _) | (SecretView::Ours { .. } | SecretView::Immutable, _, _) => Some(Step::ReleaseSecret),
        _ => Some(Step::Release),
    }
}

fn delete_step(world: &World, deleting: &Deleting, now: Timestamp) -> Option<Step> {
    let entries = &world.recorded.added.redirect_uris;
    if let Some(step) = bequest(world, entries) {
        return Some(step);
    }
    if !entries.is_empty() {
        return Some(Step::MergeRedirectUris { add: BTreeSet::new(), remove: entries.clone() });
    }
    if let Some(id) = world.remote.deletion_not_found.iter().find(|id| !world.remote.deregistered.contains(*id)) {
        return Some(Step::ConfirmAbsence(id.clone()));
    }
    if let Some(id) = world.recorded.client_id.as_ref().filter(|id| !world.remote.deregistered.contains(*id)) {
        return Some(Step::Deregister(id.clone()));
    }
    if world.recorded.client_id.is_some() && world.recorded.unclear_since.is_none() {
        return Some(Step::Release);
    }
    if let (None, SecretView::Ours { client_id: Some(id), .. }) = (&world.recorded.client_id, &world.secret)
        && !world.remote.deregistered.contains(id)
    {
        match &world.remote.sight {
            Sight::Unseen => return Some(Step::Look(id.clone())),
            Sight::Present(application) if is_proven(world, application) => {
                return Some(Step::Deregister(id.clone()));
            }
            _ => {}
        }
    }
    let Some(namesakes) = &world.remote.namesakes else {
        return Some(Step::FindNamesakes);
    };
    if let Some(id) = namesakes.iter().find(|id| !world.remote.deregistered.contains(*id)) {
        return Some(Step::Deregister(id.clone()));
    }
    (now >= absence_is_certain_at(world, deleting)).then_some(Step::Release)
}

/// From when on a list without a namesake means that none will come.
fn absence_is_certain_at(world: &World, deleting: &Deleting) -> Timestamp {
    later(world.recorded.unclear_since.unwrap_or(deleting.leader_since), LATE_COMMIT)
}

fn later(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

impl Verdict {
    /// Whether a deletion met a failure, as opposed to having to wait until it can be sure.
    #[must_use]
    pub fn failed_deletion(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.reason != Reason::Deleting)
    }
}

impl Added {
    fn is_within(&self, other: &Self) -> bool {
        self.scopes.is_subset(&other.scopes) && self.roles.is_subset(&other.roles) && self.redirect_uris.is_subset(&other.redirect_uris)
    }
}

impl Step {
    /// The part of the work this step belongs to.
    #[must_use]
    pub fn stage(&self, deleting: bool) -> Stage {
        if deleting {
            return Stage::Deletion;
        }
        match self {
            Self::Claim
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

impl World {
    /// Whether the registration outlives the object: as the spec says, else only what was adopted.
    #[must_use]
    pub fn retains(&self) -> bool {
        self.desired.retain.unwrap_or(self.recorded.adopted)
    }

    fn has_trouble(&self, stage: Stage) -> bool {
        self.troubles.iter().any(|trouble| trouble.stage == stage)
    }

    /// Whether a failure ends the pass: without a registration or a Secret nothing else makes sense, and a service that
    /// does not answer, or does not want to, is not asked for more.
    fn is_stopped(&self) -> bool {
        self.troubles.iter().any(|Trouble { stage, failure }| {
            matches!(stage, Stage::Registration | Stage::Secret)
                || matches!(failure.class, Class::RateLimited | Class::Unauthorized)
                || (failure.class == Class::Transient && failure.status.is_none())
        })
    }

    /// Takes in what came of a step.
    pub fn absorb(&mut self, step: &Step, result: Result<Outcome, Failure>, now: Timestamp) {
        let stage = step.stage(self.deleting.is_some());
        match result {
            Ok(outcome) => self.absorb_outcome(step, outcome, now),
            Err(failure) => {
                if *step == Step::Register {
                    self.remote.registration_was_sent = true;
                    if failure.may_have_happened {
                        self.recorded.unclear_since = Some(now);
                    }
                }
                self.troubles.push(Trouble { stage, failure });
                self.failed_steps.push(step.clone());
            }
        }
    }

    /// What is put right at the service although the spec did not change.
    fn announce_repair(&mut self, step: &Step) {
        let what = match step {
            Step::Rename(_) => "the display name",
            Step::SetScopes(_) => "the scopes",
            Step::SetRoles(_) => "the roles",
            Step::MergeRedirectUris { .. } => "the redirect URIs",
            _ => return,
        };
        if self.was_in_order && self.deleting.is_none() {
            self.news.push(News { reason: Reason::DriftRepaired, note: format!("put {what} back, which had been changed at the service") });
        }
    }

    fn absorb_outcome(&mut self, step: &Step, outcome: Outcome, now: Timestamp) {
        self.announce_repair(step);
        match (step, outcome) {
            (Step::Claim, _) => {
                self.claim = if self.claim == Claim::Absent { Claim::Now } else { Claim::Before };
                if let ProviderView::Usable { tenant, .. } = &self.provider {
                    self.recorded.tenant = Some(tenant.clone());
                    self.stored.tenant = self.recorded.tenant.clone();
                }
            }
            (Step::Register, Outcome::Application(application)) => self.absorb_registration(application, now),
            (Step::FindNamesakes, Outcome::Namesakes(found)) => self.absorb_namesakes(found, now),
            (Step::Look(_) | Step::ConfirmAbsence(_), Outcome::Application(application)) => self.see(application),
            (Step::Look(_), Outcome::NotFound) => self.remote.sight = Sight::NotFound,
            (Step::ConfirmAbsence(_), Outcome::Listed(Some(application))) if self.deleting.is_some() => {
                // The deletion said "not found", the list says otherwise: the service has to be asked again, but not at once.
                self.remote.deletion_not_found.remove(&application.client_id);
                let message = "the service does not find the application, but lists it";
                let failure = Failure::new("deleting the application", Class::Transient, Reason::ServiceUnavailable, message);
                self.troubles.push(Trouble { stage: Stage::Deletion, failure });
            }
            (Step::ConfirmAbsence(_), Outcome::Listed(Some(application))) => self.see(application),
            (Step::ConfirmAbsence(id), Outcome::Listed(None)) => {
                if self.deleting.is_some() {
                    self.remote.deregistered.insert(id.clone());
                } else {
                    self.remote.sight = Sight::Absent;
                    self.recorded.missing_since.get_or_insert(now);
                }
            }
            (Step::Hold(id, holding), _) => self.hold(id, *holding, now),
            (Step::Forget(id), _) => self.forget(id, now),
            (Step::TakeOverSecret(id, holding), _) => {
                if let SecretView::Leftover { client_id, held, adopted } = &self.secret {
                    self.recorded.adopted = *adopted;
                    self.secret = SecretView::Ours { client_id: client_id.clone(), is_intact: false, held: held.clone() };
                }
                self.hold(id, *holding, now);
            }
            (Step::Publish, _) => {
                self.secret = SecretView::Ours { client_id: self.recorded.client_id.clone(), is_intact: true, held: None };
            }
            (Step::Record, _) => {
                self.recorded.added = intentions(self);
                self.stored = self.recorded.clone();
            }
            (Step::RemoveSurplus(id), _) => {
                self.remote.deregistered.insert(id.clone());
                self.news.push(News {
                    reason: Reason::SurplusRemoved,
                    note: format!("removed the second registration {id}, left behind by a lost answer"),
                });
                self.settle_unclear(now);
            }
            (Step::ReadScopes | Step::SetScopes(_), Outcome::Names(scopes)) => {
                let wanted = self.desired.scopes.iter().flatten().collect::<BTreeSet<_>>();
                self.recorded.added.scopes.retain(|scope| scopes.contains(scope) || wanted.contains(scope));
                self.remote.scopes = Some(scopes);
            }
            (Step::ReadRoles | Step::SetRoles(_), Outcome::Roles(roles)) => {
                let wanted = self.desired.roles.iter().flatten().collect::<BTreeSet<_>>();
                self.recorded.added.roles.retain(|role| roles.contains_key(role) || wanted.contains(role));
                self.remote.roles = Some(roles);
            }
            (Step::ReadCatalogue, Outcome::Catalogue(catalogue)) => self.remote.catalogue = Some(catalogue),
            (Step::ReadRedirectUris, Outcome::Names(uris)) => {
                self.recorded.added.redirect_uris.retain(|uri| uris.contains(uri) || self.desired.redirect_uris.contains(uri));
                self.remote.redirect_uris = Some(uris);
            }
            (Step::Bequeath(heir, uris), _) => {
                self.recorded.added.redirect_uris.retain(|uri| !uris.contains(uri));
                self.news.push(News {
                    reason: Reason::OwnershipPassed,
                    note: format!("{} redirect URIs now belong to {heir}, which lists them too", uris.len()),
                });
            }
            (Step::MergeRedirectUris { remove, .. }, Outcome::Merged { list, already }) => {
                self.recorded.added.redirect_uris.retain(|uri| !remove.contains(uri) && !already.contains(uri));
                self.remote.redirect_uris = Some(list);
            }
            (Step::Rename(name), _) => {
                if let Sight::Present(seen) = &mut self.remote.sight {
                    seen.name = name.clone();
                }
            }
            (Step::Try, _) => self.recorded.verified = true,
            (Step::Deregister(id), Outcome::NotFound) => {
                self.remote.deletion_not_found.insert(id.clone());
            }
            (Step::Deregister(id), _) => {
                self.remote.deregistered.insert(id.clone());
            }
            (Step::ReleaseSecret, _) => self.on_deletion(|deleting| deleting.secret_is_released = true),
            (Step::Abandon, _) => self.on_deletion(|deleting| deleting.abandoned = true),
            (Step::Release, _) => self.on_deletion(|deleting| deleting.released = true),
            _ => {}
        }
    }

    fn on_deletion(&mut self, change: impl FnOnce(&mut Deleting)) {
        if let Some(deleting) = &mut self.deleting {
            change(deleting);
        }
    }

    fn see(&mut self, application: Application) {
        self.recorded.missing_since = None;
        self.remote.sight = Sight::Present(application);
    }

    fn absorb_registration(&mut self, application: Application, now: Timestamp) {
        self.remote.registration_was_sent = true;
        if self.claim == Claim::Before {
            // A registration of an earlier pass may still be on its way.
            self.recorded.unclear_since = Some(now);
        }
        // What was just made has nothing yet: no need to ask.
        self.remote.scopes = Some(BTreeSet::new());
        self.remote.roles = Some(BTreeMap::new());
        self.news.push(News { reason: Reason::Registered, note: format!("registered as {}", application.client_id) });
        self.recorded.client_id = Some(application.client_id.clone());
        self.see(application);
    }

    fn absorb_namesakes(&mut self, mut found: Vec<Application>, now: Timestamp) {
        found.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        self.remote.namesakes = Some(found.iter().map(|application| application.client_id.clone()).collect());
        if self.deleting.is_some() {
            return;
        }
        if self.recorded.client_id.is_none() {
            self.recorded.unclear_since = Some(now);
            if let Some(first) = found.into_iter().next() {
                self.recorded.client_id = Some(first.client_id.clone());
                self.see(first);
            }
        }
        self.settle_unclear(now);
    }

    /// The mark goes when a list taken late enough holds nothing that is not ours.
    fn settle_unclear(&mut self, now: Timestamp) {
        let Some(since) = self.recorded.unclear_since else {
            return;
        };
        let Some(namesakes) = &self.remote.namesakes else {
            return;
        };
        let clean = namesakes.iter().all(|id| self.recorded.client_id.as_ref() == Some(id) || self.remote.deregistered.contains(id));
        if clean && now >= later(since, LATE_COMMIT) {
            self.recorded.unclear_since = None;
        }
    }

    fn hold(&mut self, id: &ClientId, holding: Holding, now: Timestamp) {
        if holding == Holding::Recovered {
            // Whoever published it left no word of whether an earlier registration may still be on its way.
            self.recorded.unclear_since = Some(now);
        }
        let (reason, note) = match holding {
            Holding::Recovered => (None, String::new()),
            Holding::Readopted => {
                (Some(Reason::Readopted), format!("took over {id}, which the Secret of a former object proved to be ours"))
            }
            Holding::Adopted => (Some(Reason::Adopted), format!("adopted {id}")),
        };
        self.recorded.adopted |= holding == Holding::Adopted;
        self.recorded.client_id = Some(id.clone());
        self.news.extend(reason.map(|reason| News { reason, note }));
    }

    fn forget(&mut self, id: &ClientId, now: Timestamp) {
        self.remote.deregistered.insert(id.clone());
        self.remote.sight = Sight::Unseen;
        self.remote.scopes = None;
        self.remote.roles = None;
        self.news.push(News {
            reason: Reason::RegisteredAgain,
            note: format!("{id} was deleted at the service; it is registered again, with a new client id"),
        });
        let redirect_uris = std::mem::take(&mut self.recorded.added.redirect_uris);
        self.recorded = Recorded {
            tenant: self.recorded.tenant.clone(),
            added: Added { redirect_uris, ..Added::default() },
            unclear_since: Some(now),
            ..Recorded::default()
        };
    }

    /// What the pass came to, after [`next`] said to rest.
    #[must_use]
    pub fn verdict(&self, failures: u32, seed: &str, now: Timestamp) -> Verdict {
        let problem = self.problem(now);
        let registered = match (&self.recorded.client_id, &problem) {
            (Some(_), Some(problem)) if problem.reason == Reason::RemoteMissing => State::No(problem.clone()),
            (Some(_), Some(problem)) if problem.reason == Reason::ConfirmingAbsence => State::Unknown(problem.clone()),
            (Some(_), _) => State::Yes(Reason::Registered),
            (None, Some(problem)) => State::No(problem.clone()),
            (None, None) => State::Unknown(Problem::new(Reason::InProgress, "registration is under way")),
        };
        let published = match (&self.secret, &problem) {
            (SecretView::Ours { client_id: Some(named), is_intact: true, .. }, _) if self.recorded.client_id.as_ref() == Some(named) => {
                State::Yes(Reason::Published)
            }
            (_, Some(problem)) => State::No(problem.clone()),
            _ => State::Unknown(Problem::new(Reason::InProgress, "publication is under way")),
        };
        let verified = self.verification();
        Verdict {
            registered,
            published,
            verified,
            again: self.again(problem.as_ref(), failures, seed, now),
            failed: self.failed(),
            problem,
        }
    }

    fn verification(&self) -> State {
        if self.desired.kind == ApplicationKind::SinglePageApp {
            return State::Unknown(Problem::new(Reason::NotApplicable, "a SinglePageApp has no secret that could be tried"));
        }
        match self.troubles.iter().find(|trouble| trouble.stage == Stage::Verification) {
            Some(trouble) => State::No(Problem::new(trouble.failure.reason, trouble.failure.to_string())),
            None if self.recorded.verified => State::Yes(Reason::Verified),
            None => State::Unknown(Problem::new(Reason::InProgress, "the credential was not tried yet")),
        }
    }

    /// The failures of the pass that count towards growing waits.
    fn failed(&self) -> bool {
        !self.troubles.is_empty() || (self.attention == Attention::Full && obstacle(self).is_none() && self.open_question().is_some())
    }

    fn problem(&self, now: Timestamp) -> Option<Problem> {
        if self.deleting.is_some() {
            return deletion_problem(self).or_else(|| Some(Problem::new(Reason::Deleting, "the registration is being removed")));
        }
        if let Some(obstacle) = obstacle(self) {
            return Some(obstacle);
        }
        if let Some(trouble) = self.troubles.first() {
            let reason = if trouble.stage == Stage::Name { Reason::RenameFailed } else { trouble.failure.reason };
            return Some(Problem::new(reason, trouble.failure.to_string()));
        }
        if self.attention < Attention::Full {
            return None;
        }
        self.open_question().or_else(|| match next(self, now) {
            Next::Rest => None,
            Next::Perform(_) => Some(Problem::new(Reason::InProgress, "work is under way")),
        })
    }

    /// What was found at the service and cannot go on by itself.
    fn open_question(&self) -> Option<Problem> {
        match &self.recorded.client_id {
            None => self.registration_question(),
            Some(id) => self.maintenance_question(id),
        }
    }

    fn registration_question(&self) -> Option<Problem> {
        let unproven = |id: &ClientId| {
            Problem::new(
                Reason::Unproven,
                format!(
                    "the Secret names {id}, but does not hold its credential: set adopt.clientId to take the application over, or delete the Secret"
                ),
            )
        };
        match (&self.secret, &self.remote.sight) {
            (SecretView::Leftover { client_id: Some(id), .. }, Sight::Absent) => {
                return Some(Problem::new(
                    Reason::RestoredRegistrationGone,
                    format!("a former object's Secret names {id}, which no longer exists: delete the Secret to register anew"),
                ));
            }
            (SecretView::Leftover { client_id: Some(id), .. }, _) if self.held_elsewhere.contains_key(id) => return Some(unproven(id)),
            (SecretView::Leftover { client_id: Some(id), .. } | SecretView::Ours { client_id: Some(id), .. }, Sight::Present(_)) => {
                return Some(unproven(id));
            }
            (SecretView::Leftover { client_id: None, .. }, _) => {
                return Some(Problem::new(Reason::Unproven, "a former object's Secret names no client id: delete it to register anew"));
            }
            (SecretView::Ours { client_id: Some(id), .. }, Sight::Absent) => return Some(absence_problem(id)),
            _ => {}
        }
        if let Some(id) = &self.desired.adopt {
            return self.adoption_question(id);
        }
        missing_roles(self).first().map(|role| role_problem(role))
    }

    fn adoption_question(&self, id: &ClientId) -> Option<Problem> {
        if let Some(holder) = self.held_elsewhere.get(id) {
            return Some(Problem::new(Reason::AlreadyManaged, format!("the application {id} is held by {holder}")));
        }
        match &self.remote.sight {
            Sight::Absent => Some(remote_missing(id)),
            Sight::Present(application) if !fits(self, application) => Some(Problem::new(
                Reason::TypeMismatch,
                format!("the application {id} is of another type than spec.type; nothing was changed"),
            )),
            _ => None,
        }
    }

    fn maintenance_question(&self, id: &ClientId) -> Option<Problem> {
        match &self.remote.sight {
            Sight::Absent if self.recorded.adopted => return Some(remote_missing(id)),
            Sight::Absent | Sight::NotFound => return Some(absence_problem(id)),
            Sight::Present(application)
                if !secret_is_right(self, id) && application.secret.is_none() && self.desired.kind == ApplicationKind::RegularWebApp =>
            {
                return Some(Problem::new(
                    Reason::UnexpectedResponse,
                    "the service does not show the application's secret, so nothing complete can be published",
                ));
            }
            _ => {}
        }
        if let Some(role) = missing_roles(self).first() {
            return Some(role_problem(role));
        }
        let (wanted, present) = (self.desired.scopes.as_ref()?, self.remote.scopes.as_ref()?);
        let scope = dropped_scopes(self, wanted, present).into_iter().find(|scope| scope_is_in_use(self, id, scope))?;
        Some(Problem::new(
            Reason::ScopeInUse,
            format!(
                "a role holds the scope {scope}; removing it would take it from the role for good: annotate cloudidentity.dev/remove-scope: {scope} to do it"
            ),
        ))
    }

    fn again(&self, problem: Option<&Problem>, failures: u32, seed: &str, now: Timestamp) -> Option<Timestamp> {
        if let Some(deleting) = &self.deleting {
            return self.deletion_again(deleting, failures, seed, now);
        }
        let unclear = self.recorded.unclear_since.map(|since| later(since, LATE_COMMIT).max(later(now, Duration::from_secs(1))));
        let wait = problem.map(|problem| match (self.slowest_failure(), problem.reason) {
            (_, Reason::ConfirmingAbsence) => ABSENCE_SPACING,
            (_, Reason::Contested) => {
                self.contested_until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or_default()
            }
            (Some(failure), _) => wait::after(failure, failures, seed),
            (None, Reason::InProgress) => Duration::from_secs(1),
            (None, Reason::RoleNotFound) => wait::spread(wait::ROLE_MISSING, seed, failures, -0.2, 0.0),
            (None, _) => wait::spread(wait::WAITING, seed, failures, -0.2, 0.2),
        });
        let retry = wait.map(|wait| later(now, wait));
        match (unclear, retry) {
            (Some(a), Some(b)) => Some(a.min(b)).filter(|_| self.troubles.is_empty()).or(Some(b)),
            (a, b) => a.or(b),
        }
    }

    /// A deletion is tried more often than the wait for a refusal allows: its budget ends before the next attempt would come.
    fn deletion_again(&self, deleting: &Deleting, failures: u32, seed: &str, now: Timestamp) -> Option<Timestamp> {
        if deleting.released || self.claim == Claim::Absent {
            return None;
        }
        if deletion_problem(self).is_none() {
            return Some(absence_is_certain_at(self, deleting).max(later(now, Duration::from_secs(1))));
        }
        let end = later(deleting.first_failed_at.unwrap_or(now), deleting.budget);
        let wait =
            self.slowest_failure().map_or(Duration::from_secs(10), |failure| wait::after(failure, failures, seed).min(deleting.budget / 5));
        Some(later(now, wait).min(end.max(later(now, Duration::from_secs(1)))))
    }

    fn slowest_failure(&self) -> Option<&Failure> {
        self.troubles
            .iter()
            .map(|trouble| &trouble.failure)
            .find(|failure| failure.class == Class::RateLimited)
            .or_else(|| self.troubles.first().map(|trouble| &trouble.failure))
    }
}

fn role_problem(role: &str) -> Problem {
    Problem::new(Reason::RoleNotFound, format!("the role {role:?} does not exist in the tenant: create it, or correct spec.roles"))
}

fn absence_problem(id: &ClientId) -> Problem {
    Problem::new(
        Reason::ConfirmingAbsence,
        format!("the application {id} was not found; it is looked for again before anything follows from that"),
    )
}

fn remote_missing(id: &ClientId) -> Problem {
    Problem::new(
        Reason::RemoteMissing,
        format!("the application {id}, which was to be adopted, does not exist at the service; nothing is registered in its place"),
    )
}

#[cfg(test)]
mod tests;
