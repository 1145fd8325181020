//! No registration is recorded: find the one that is ours, or make it.

use jiff::Timestamp;

use super::{ABSENCE_SPACING, Claim, Holding, SecretView, Sight, Stage, Step, World, later, maintenance::missing_roles};
use crate::model::{Application, ClientId, ExposeSecret, SecretText};

/// No registration is recorded: find the one that is ours, or make it.
pub(super) fn register(world: &World, now: Timestamp) -> Option<Step> {
    match &world.secret {
        SecretView::Ours { client_id: Some(id), .. } if !world.remote.deregistered.contains(id) => {
            return match &world.remote.sight {
                Sight::Present(application) => holding_of(world, application).and_then(|holding| take_over(world, id, holding)),
                sight => gone_or_step(world, sight, id, now),
            };
        }
        SecretView::Leftover { client_id: Some(id), .. } if !world.held_elsewhere.contains_key(id) => {
            return match &world.remote.sight {
                Sight::Unseen => Some(Step::Look(id.clone())),
                Sight::NotFound => Some(Step::ConfirmAbsence(id.clone())),
                Sight::Present(application) => holding_of(world, application).and_then(|holding| take_over(world, id, holding)),
                Sight::Absent => None,
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
    let answers = world.service_answers || world.remote.catalogue.is_some();
    match world.claim {
        // What was never sent needs no deletion: nothing is claimed while nobody answers.
        Claim::Absent | Claim::Unmarked if !answers => Some(Step::SeeThatItAnswers),
        Claim::Absent | Claim::Unmarked => Some(Step::Claim),
        Claim::Before if world.remote.namesakes.is_none() => Some(Step::FindNamesakes),
        _ if !world.remote.registration_was_sent => Some(Step::Register),
        _ => None,
    }
}

pub(super) fn take_over(world: &World, id: &ClientId, holding: Holding) -> Option<Step> {
    Some(match (&world.claim, &world.secret) {
        (Claim::Absent | Claim::Unmarked, _) => Step::Claim,
        (_, SecretView::Leftover { .. }) => Step::TakeOverSecret(id.clone(), holding),
        _ => Step::Hold(id.clone(), holding),
    })
}

/// How an application that only a Secret names is held, if that is proven: it still bears our provisional name, the Secret holds its
/// secret, or the spec asks for it.
///
/// Client ids are public and annotations can be forged; a client secret is neither. It proves access, not that we registered the
/// application: what was adopted stays adopted.
pub(super) fn holding_of(world: &World, application: &Application) -> Option<Holding> {
    if world.held_elsewhere.contains_key(&application.client_id) {
        return None;
    }
    let wants_it = world.desired.adopt.as_ref() == Some(&application.client_id) && fits(world, application);
    let is_secret_of_it = |held: &Option<SecretText>| {
        let same = matches!((held, &application.secret), (Some(held), Some(shown)) if held.expose_secret() == shown.expose_secret());
        same && fits(world, application)
    };
    match &world.secret {
        SecretView::Ours { .. } if application.name == world.provisional.as_str() => Some(Holding::Recovered),
        // A pass that ended right after it published what it adopted, or took over a former object's Secret.
        SecretView::Ours { .. } if wants_it => Some(Holding::Adopted),
        SecretView::Ours { held, adopted, .. } if is_secret_of_it(held) => {
            Some(if *adopted { Holding::Adopted } else { Holding::Recovered })
        }
        SecretView::Leftover { held, adopted, .. } if is_secret_of_it(held) => {
            Some(if wants_it && *adopted { Holding::Adopted } else { Holding::Readopted })
        }
        SecretView::Leftover { .. } if wants_it => Some(Holding::Adopted),
        _ => None,
    }
}

pub(super) fn fits(world: &World, application: &Application) -> bool {
    application.kind.is_none_or(|kind| kind == world.desired.kind)
}

/// Two looks, apart, each confirmed by a list: only then is an application gone.
pub(super) fn gone_or_step(world: &World, sight: &Sight, id: &ClientId, now: Timestamp) -> Option<Step> {
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
