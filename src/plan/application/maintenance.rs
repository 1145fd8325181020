//! A registration is recorded: bring everything around it into shape.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Added, Claim, Recorded, SecretView, Sight, Stage, Step, World, registration::gone_or_step};
use crate::model::{Application, ApplicationKind, ClientId};

/// A registration is recorded: bring everything around it into shape.
pub(super) fn maintain(world: &World, id: &ClientId, now: Timestamp) -> Option<Step> {
    if matches!(world.claim, Claim::Absent | Claim::Unmarked) {
        // Somebody took finalizer or tenant away: without them a deletion would leave the registration behind.
        return Some(Step::Claim);
    }
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

pub(super) fn secret_is_right(world: &World, id: &ClientId) -> bool {
    matches!(&world.secret, SecretView::Ours { client_id: Some(named), is_intact: true, .. } if named == id)
}

/// Which facts must be stored before anything else is done at the service. That a credential was accepted is not among them.
pub(super) fn must_be_stored_first(intended: &Recorded, stored: &Recorded) -> bool {
    intended.client_id != stored.client_id
        || intended.tenant != stored.tenant
        || intended.adopted != stored.adopted
        || !intended.added.is_within(&stored.added)
        || (intended.unclear_since.is_some() && stored.unclear_since.is_none())
}

pub(super) fn read_before_recording(world: &World) -> Option<Step> {
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
pub(super) fn intentions(world: &World) -> Added {
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

pub(super) fn in_catalogue(world: &World, role: &str) -> bool {
    world.remote.catalogue.as_ref().is_some_and(|catalogue| catalogue.contains_key(role))
}

/// Wanted roles that neither the application nor the tenant has.
pub(super) fn missing_roles(world: &World) -> Vec<&String> {
    let Some(catalogue) = &world.remote.catalogue else {
        return Vec::new();
    };
    let assigned = |role: &String| world.remote.roles.as_ref().is_some_and(|roles| roles.contains_key(role));
    world.desired.roles.iter().flatten().filter(|role| !catalogue.contains_key(*role) && !assigned(role)).collect()
}

pub(super) fn surplus_step(world: &World, id: &ClientId, now: Timestamp) -> Option<Step> {
    if world.has_trouble(Stage::Surplus) {
        return None;
    }
    match &world.remote.namesakes {
        Some(namesakes) => namesakes
            .iter()
            .find(|other| *other != id && !world.remote.deregistered.contains(*other))
            .map(|other| Step::RemoveSurplus(other.clone())),
        None => (world.recorded.unclear_since.is_some() && !world.may_come_late(now)).then_some(Step::FindNamesakes),
    }
}

pub(super) fn scopes_step(world: &World, id: &ClientId) -> Option<Step> {
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

pub(super) fn dropped_scopes(world: &World, wanted: &BTreeSet<String>, present: &BTreeSet<String>) -> BTreeSet<String> {
    world.recorded.added.scopes.iter().filter(|scope| present.contains(*scope) && !wanted.contains(*scope)).cloned().collect()
}

pub(super) fn scope_is_in_use(world: &World, id: &ClientId, scope: &str) -> bool {
    let held = world
        .remote
        .catalogue
        .iter()
        .flat_map(BTreeMap::values)
        .any(|role| role.scopes.get(id).is_some_and(|scopes| scopes.contains(scope)));
    held && !world.desired.removable_scopes.contains(scope)
}

pub(super) fn roles_step(world: &World) -> Option<Step> {
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

pub(super) fn redirect_uris_step(world: &World) -> Option<Step> {
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
pub(super) fn bequest(world: &World, entries: &BTreeSet<String>) -> Option<Step> {
    let heir = entries.iter().find_map(|uri| world.heirs.get(uri))?;
    let share = entries.iter().filter(|uri| world.heirs.get(*uri) == Some(heir)).cloned().collect();
    Some(Step::Bequeath(heir.clone(), share))
}

pub(super) fn name_step(world: &World, application: &Application) -> Option<Step> {
    let ours_to_name = !world.recorded.adopted || world.desired.display_name_is_explicit;
    let differs = application.name != world.desired.display_name;
    (ours_to_name && differs && !world.has_trouble(Stage::Name)).then(|| Step::Rename(world.desired.display_name.clone()))
}

impl Added {
    fn is_within(&self, other: &Self) -> bool {
        self.scopes.is_subset(&other.scopes) && self.roles.is_subset(&other.roles) && self.redirect_uris.is_subset(&other.redirect_uris)
    }
}
