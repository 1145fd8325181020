//! Gather, the part that asks nobody: what memory and indexes know of an object.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use super::super::{Context, claims::ProviderKey, directory::Connection, name::Name};
use super::{
    DELETION_BUDGET_WITHOUT_PROVIDER,
    spec::{desired, flaw, recorded, request, secret_name, shape_of, standing_claim, was_refused},
};
use crate::{
    api::{AppIdApplication, ObjectVersion},
    model::{ProvisionalName, TenantIdentity},
    plan::{
        Problem,
        application::{self as rules, Attention, Claim, Deleting, ProviderView, Recorded, Remote, SecretView, Triggers, World},
        layout::Shape,
        wait,
    },
    reasons::Reason,
};

/// What can be seen of an object without asking anybody.
pub struct Survey {
    pub(super) uid: String,
    pub(super) key: Name,
    pub(super) provider: ProviderKey,
    pub(super) recorded: Recorded,
    /// What this process sent and got no answer to, while no status says so.
    pub(super) unanswered_since: Option<Timestamp>,
    pub(super) stored_secret: Option<ObjectVersion>,
    pub(super) triggers: Triggers,
    /// Whether the Secret was ours and is not as it was left.
    pub(super) secret_is_damaged: bool,
    /// Until when a Secret that somebody else keeps changing is not put back.
    pub(super) contested_until: Option<Timestamp>,
}

impl Survey {
    pub(super) fn of(context: &Context, object: &AppIdApplication, now: Timestamp) -> Self {
        let uid = object.uid().unwrap_or_default();
        let namespace = object.namespace().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let provider = ProviderKey::referred(&object.spec.provider_ref, &namespace);
        let key = Name::new(&namespace, &secret_name(object));
        let spec_changed = status.observed_generation != object.metadata.generation;
        let seen = context.secrets.get(&key);
        let drift_check_due = context
            .memory
            .checked_at(&uid)
            .or(Some(context.leadership.since()))
            .and_then(|checked| wait::next_drift_check(checked, context.settings.drift_interval, &uid))
            .is_some_and(|due| due <= now && status.client_id.is_some());
        let triggers = Triggers {
            deleting: object.metadata.deletion_timestamp.is_some()
                && status.next_action_at.as_ref().is_none_or(|at| at.0 <= now || spec_changed),
            unclaimed: status.client_id.is_some()
                && object.metadata.deletion_timestamp.is_none()
                && standing_claim(object) != Claim::Before,
            spec_changed,
            provider_changed: status.client_id.is_some()
                && context.directory.version(&provider).is_some_and(|version| status.provider_version.as_ref() != Some(&version)),
            // A working object has nothing to gain from a dependency that changed; what it leads to is compared anyway.
            woken: (context.memory.is_woken(&uid) && (status.client_id.is_none() || status.next_action_at.is_some()))
                || request(object).is_some_and(|request| !context.memory.is_taken_up(&uid, request)),
            drift_check_due,
            secret_changed: seen != status.secret_version,
            secret_damaged: false,
            failed: status.failures.is_some_and(|failures| failures > 0),
            unclear: status.unclear_since.is_some(),
            next_action_at: status.next_action_at.as_ref().map(|at| at.0),
        };
        let unanswered_since = context.memory.unanswered_since(&uid);
        // What a person asked for, or the provider changed, is no part of the fight over the Secret: it is done, and the Secret with it.
        let waits_for_peace = !spec_changed && !triggers.provider_changed;
        let contested_until = waits_for_peace.then(|| context.memory.contested_until(&uid, seen.is_none(), now)).flatten();
        Self {
            uid,
            key,
            provider,
            recorded: recorded(object, &status),
            unanswered_since,
            stored_secret: status.secret_version,
            triggers,
            secret_is_damaged: false,
            contested_until,
        }
    }

    /// The Secret as it is recorded, when there is no need to look.
    pub(super) fn own_secret(&self, is_intact: bool) -> SecretView {
        SecretView::Ours { client_id: self.recorded.client_id.clone(), is_intact, held: None, adopted: self.recorded.adopted }
    }

    /// What can be seen to be in the way without a look at the Secret.
    pub(super) fn obstacle(&self, context: &Context, object: &AppIdApplication) -> Option<Problem> {
        rules::obstacle(&self.world(context, object, &shape_of(object), self.own_secret(true), false))
    }

    /// When to look again although nothing happens: what is left to do, or the drift check.
    pub(super) fn next_look(&self, context: &Context, object: &AppIdApplication, now: Timestamp) -> Option<Timestamp> {
        let is_registered = self.recorded.client_id.is_some() && !object.spec.suspend;
        let drift = is_registered.then(|| wait::next_drift_check(now, context.settings.drift_interval, &self.uid)).flatten();
        match (self.triggers.next_action_at, drift) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn world(
        &self,
        context: &Context,
        object: &AppIdApplication,
        shape: &Shape,
        secret: SecretView,
        has_connection: bool,
    ) -> World {
        let namespace = self.key.namespace();
        let labels = context.labels_of(namespace);
        let desired = desired(object);
        let claims = &context.claims;
        let tenant = self.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut view = context.directory.view_for_application(&self.provider, namespace, labels.as_ref());
        let deleting = object.metadata.deletion_timestamp.is_some();
        if deleting && has_connection {
            // A deletion goes through whatever connection still leads to the tenant, allowed or not.
            view = ProviderView::Usable {
                tenant: self.recorded.tenant.clone().unwrap_or_else(|| TenantIdentity::recorded("")),
                namespace_is_allowed: true,
                permits: None,
            };
        } else if deleting && matches!(view, ProviderView::Usable { .. }) {
            view = ProviderView::Unusable(Problem::new(
                Reason::ProviderIdentityChanged,
                "the provider no longer leads to the tenant that holds the registration",
            ));
        }
        let current_tenant = match &view {
            ProviderView::Usable { tenant, .. } => tenant.to_string(),
            ProviderView::Unusable(_) => tenant.clone(),
        };
        let named = match &secret {
            SecretView::Ours { client_id, .. } | SecretView::Leftover { client_id, .. } => client_id.clone(),
            _ => None,
        };
        let held_elsewhere = [named, desired.adopt.clone()]
            .into_iter()
            .flatten()
            .filter_map(|id| claims.holder(&current_tenant, &id, &self.uid).map(|holder| (id, holder.to_string())))
            .collect();
        let heirs = claims
            .heirs(
                &tenant,
                self.recorded.added.redirect_uris.iter().filter(|uri| deleting || !desired.redirect_uris.contains(*uri)),
                &self.uid,
            )
            .into_iter()
            .map(|(uri, heir)| (uri, heir.name.to_string()))
            .collect();
        let owns_secret = matches!(secret, SecretView::Ours { .. } | SecretView::Immutable);
        World {
            flaw: flaw(context, object, shape),
            provisional: ProvisionalName::of(&context.settings.cluster_uid, &self.uid),
            attention: Attention::Full,
            leader_since: if context.memory.is_claimed_here(&self.uid) { Timestamp::UNIX_EPOCH } else { context.leadership.since() },
            stored: self.recorded.clone(),
            recorded: Recorded { unclear_since: self.recorded.unclear_since.max(self.unanswered_since), ..self.recorded.clone() },
            provider: view,
            service_answers: context.directory.is_answering(&self.provider),
            secret,
            secret_rival: if owns_secret { None } else { claims.secret_rival(&self.key, &self.uid).map(|rival| rival.to_string()) },
            held_elsewhere,
            heirs,
            claim: standing_claim(object),
            remote: Remote::default(),
            troubles: Vec::new(),
            failed_steps: Vec::new(),
            news: Vec::new(),
            was_in_order: self.recorded.client_id.is_some() && !self.triggers.spec_changed && self.triggers.next_action_at.is_none(),
            was_refused: was_refused(object),
            contested_until: self.contested_until,
            deleting: deleting.then(|| Deleting {
                first_failed_at: object
                    .status
                    .as_ref()
                    .and_then(|status| status.deletion.as_ref())
                    .map(|deletion| deletion.first_failed_at.0),
                budget: if has_connection {
                    context.settings.deletion_budget
                } else {
                    DELETION_BUDGET_WITHOUT_PROVIDER.min(context.settings.deletion_budget)
                },
                abandoned: false,
                secret_is_released: false,
                released: false,
            }),
            desired,
        }
    }
}

/// The connection that leads to the tenant of the registration; for a deletion also one from before.
pub(super) fn connection_for(context: &Context, object: &AppIdApplication, survey: &Survey) -> Option<Arc<Connection>> {
    let current = context.directory.connection(&survey.provider).ok();
    if object.metadata.deletion_timestamp.is_none() {
        return current;
    }
    match &survey.recorded.tenant {
        Some(tenant) => context.directory.connection_to(&survey.provider, tenant),
        None => current,
    }
}
