//! The object is being deleted: take away what is ours, or hand it over, and say what could not be.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    super::Problem, Claim, Deleting, Next, ProviderView, SecretView, Sight, Step, World, later, maintenance::bequest,
    registration::holding_of,
};
use crate::model::Class;

pub(super) fn deletion(world: &World, deleting: &Deleting, now: Timestamp) -> Next {
    if world.claim == Claim::Absent || deleting.released {
        return Next::Rest;
    }
    if deleting.abandoned {
        return Next::Perform(leave(world, deleting));
    }
    let problem = deletion_problem(world);
    let step = match &problem {
        None if world.retains() => retain_step(world, deleting, now),
        None => delete_step(world, now),
        // Redirect URIs that cannot be taken away are no reason to leave a working credential behind.
        Some(_) if only_redirect_uris_failed(world) && !world.retains() => {
            delete_step(world, now).filter(|step| !matches!(step, Step::Release | Step::MergeRedirectUris { .. }))
        }
        Some(_) => None,
    };
    if let Some(step) = step {
        return Next::Perform(step);
    }
    let is_exhausted = problem.is_some() && deleting.first_failed_at.is_some_and(|first| now >= later(first, deleting.budget));
    if is_exhausted { Next::Perform(Step::Abandon) } else { Next::Rest }
}

pub(super) fn deletion_problem(world: &World) -> Option<Problem> {
    if let Some(trouble) = world.troubles.first() {
        return Some(Problem::of(&trouble.failure));
    }
    match &world.provider {
        ProviderView::Unusable(problem) if !world.retains() => Some(problem.clone()),
        _ => None,
    }
}

fn only_redirect_uris_failed(world: &World) -> bool {
    let is_merge = |step: &Step| matches!(step, Step::MergeRedirectUris { .. });
    let may_go_on = |class: Class| !matches!(class, Class::RateLimited | Class::Unauthorized);
    !world.troubles.is_empty()
        && world.troubles.len() == world.failed_steps.len()
        && world.failed_steps.iter().all(is_merge)
        && world.troubles.iter().all(|trouble| may_go_on(trouble.failure.class))
}

/// The last step: what is retained keeps its Secret, whatever else could not be done.
fn leave(world: &World, deleting: &Deleting) -> Step {
    let is_ours = matches!(world.secret, SecretView::Ours { .. } | SecretView::Immutable);
    if world.retains() && is_ours && !deleting.secret_is_released { Step::ReleaseSecret } else { Step::Release }
}

fn retain_step(world: &World, deleting: &Deleting, now: Timestamp) -> Option<Step> {
    // As recorded, or as our own Secret names it while nothing is recorded yet.
    let id = match (&world.recorded.client_id, &world.secret) {
        (Some(id), _) => id,
        // The second was let go by a pass that was cut short then: it names what is kept.
        (None, SecretView::Ours { client_id: Some(id), .. } | SecretView::Leftover { client_id: Some(id), .. }) => id,
        // Nothing was published that could be kept: what was begun is taken back.
        _ => return delete_step(world, now),
    };
    // While nothing is recorded, no status could say either that a request was not answered.
    let is_unclear = world.recorded.client_id.is_none() || world.recorded.unclear_since.is_some();
    if let (true, ProviderView::Usable { .. }) = (is_unclear, &world.provider) {
        // A second registration is nothing that anybody wants to keep.
        let Some(namesakes) = &world.remote.namesakes else { return Some(Step::FindNamesakes) };
        if let Some(surplus) = namesakes.iter().find(|other| *other != id && !world.remote.deregistered.contains(*other)) {
            return Some(Step::Deregister(surplus.clone()));
        }
        if now < world.absence_is_certain_at() {
            return None;
        }
    }
    match (&world.secret, &world.remote.sight, &world.provider) {
        // Foreground deletion removed it already: it is written again where the secret can be read back.
        (SecretView::Absent, Sight::Unseen, ProviderView::Usable { .. }) => Some(Step::Look(id.clone())),
        (SecretView::Absent, Sight::Present(_), _) if !deleting.secret_is_released => Some(Step::ReleaseSecret),
        _ => Some(leave(world, deleting)),
    }
}

fn delete_step(world: &World, now: Timestamp) -> Option<Step> {
    let entries = &world.recorded.added.redirect_uris;
    if let Some(step) = bequest(world, entries) {
        return Some(step);
    }
    let merge = Step::MergeRedirectUris { add: BTreeSet::new(), remove: entries.clone() };
    if !entries.is_empty() && !world.remote.redirect_uris_are_removed && !world.failed_steps.contains(&merge) {
        return Some(merge);
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
            Sight::Present(application) if holding_of(world, application).is_some() => {
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
    // What a request that was not answered may still bring is looked for once more before that.
    (now >= world.absence_is_certain_at()).then_some(Step::Release)
}
