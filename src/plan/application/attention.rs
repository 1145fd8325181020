//! Whether an object is looked at, how closely, and what is in the way: from the cluster alone.

use jiff::Timestamp;

use super::{
    super::{Problem, permit},
    ProviderView, SecretView, World,
};
use crate::reasons::Reason;

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
    /// Something is registered, and finalizer or tenant are not on the object.
    pub unclaimed: bool,
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
    /// And it no longer is what was applied; false when that was seen and not mended already: then its time will come.
    pub secret_damaged: bool,
    /// The last pass failed at the service.
    pub failed: bool,
    /// Something that was sent and not answered may still be carried out: the last pass waits for that alone.
    pub unclear: bool,
    /// The last pass left something to do later, and when.
    pub next_action_at: Option<Timestamp>,
}

/// How much attention an object needs.
#[must_use]
pub fn attention(triggers: &Triggers, has_obstacle: bool, now: Timestamp) -> Attention {
    let due = triggers.next_action_at.is_some_and(|at| at <= now);
    if triggers.deleting || triggers.unclaimed || triggers.spec_changed || triggers.provider_changed || triggers.woken {
        return Attention::Full;
    }
    if triggers.secret_damaged {
        return Attention::Full;
    }
    if triggers.failed && !due {
        return if triggers.secret_changed { Attention::Local } else { Attention::Nothing };
    }
    // A local obstacle leaves `next_action_at` without a failure: as soon as the obstacle is gone, all is looked at.
    let obstacle_cleared = triggers.next_action_at.is_some() && !triggers.failed && !triggers.unclear && !has_obstacle;
    if due || obstacle_cleared || triggers.drift_check_due {
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
    if desired.suspended && world.recorded.client_id.is_some() && matches!(world.secret, SecretView::Absent) {
        return Some(Problem::new(
            Reason::SecretMissing,
            "the Secret is gone, and the object is suspended (spec.suspend): it is put back when that is false",
        ));
    }
    if desired.suspended {
        return Some(Problem::suspended());
    }
    if let Some(flaw) = &world.flaw {
        return Some(flaw.clone());
    }
    let (tenant, allowed, permits) = match &world.provider {
        ProviderView::Unusable(problem) => return Some(problem.clone()),
        ProviderView::Usable { tenant, namespace_is_allowed, permits } => (tenant, *namespace_is_allowed, permits),
    };
    if !allowed {
        return Some(Problem::new(Reason::NamespaceNotAllowed, Reason::NAMESPACE_NOT_ALLOWED));
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
        return Some(Problem::secret_rival(rival));
    }
    match &world.secret {
        SecretView::Ours { is_intact: false, .. } if world.contested_until.is_some() => Some(Problem::contested_secret()),
        SecretView::Leftover { tenant: Some(former), .. } if former != tenant => Some(Problem::new(
            Reason::ProviderIdentityChanged,
            format!(
                "the Secret of a former object speaks of tenant {former}, but the provider leads to {tenant}: lead it back, or delete this object and create it with another secret.name"
            ),
        )),
        SecretView::Foreign { whose } => Some(Problem::foreign_secret(whose)),
        SecretView::Immutable => Some(Problem::immutable_secret()),
        _ => None,
    }
}
