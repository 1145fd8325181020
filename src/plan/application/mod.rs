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
use std::time::Duration;

use jiff::Timestamp;

mod absorb;
mod attention;
mod deletion;
mod maintenance;
mod registration;
mod step;
mod verdict;
mod world;

use deletion::deletion;
use maintenance::maintain;
use registration::register;

pub use attention::{Attention, Triggers, attention, obstacle};
pub use step::{Holding, Next, Outcome, Step};
pub use verdict::{State, Verdict};
pub use world::{
    ABSENCE_SPACING, Added, Claim, Deleting, LATE_COMMIT, News, ProviderView, Recorded, Remote, SecretView, Sight, Stage, Trouble, World,
};

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

fn later(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
