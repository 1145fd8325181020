//! The object is being deleted: take away what is ours, or hand it over, and say what could not be.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    super::Problem, Claim, Deleting, Next, ProviderView, SecretView, Sight, Step, World, later, maintenance::bequest,
    registration::is_proven,
};

pub(super) fn deletion(world: &World, deleting: &Deleting, now: Timestamp) -> Next {
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
    let step = if world.retains() { retain_step(world, deleting) } else { delete_step(world, now) };
    step.map_or(Next::Rest, Next::Perform)
}

pub(super) fn deletion_problem(world: &World) -> Option<Problem> {
    if let Some(trouble) = world.troubles.first() {
        return Some(Problem::new(trouble.failure.reason, trouble.failure.to_string()));
    }
    match &world.provider {
        ProviderView::Unusable(problem) if !world.retains() => Some(problem.clone()),
        _ => None,
    }
}

pub(super) fn retain_step(world: &World, deleting: &Deleting) -> Option<Step> {
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

pub(super) fn delete_step(world: &World, now: Timestamp) -> Option<Step> {
    let entries = &world.recorded.added.redirect_uris;
    if let Some(step) = bequest(world, entries) {
        return Some(step);
    }
    if !entries.is_empty() && !world.remote.redirect_uris_are_removed {
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
    // What a request that was not answered may still bring is looked for once more before that.
    (now >= world.absence_is_certain_at()).then_some(Step::Release)
}
