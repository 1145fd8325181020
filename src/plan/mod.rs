//! The rules. Everything here is a pure function of plain values and a given `now`: no Kubernetes, no HTTP, no clock.

pub mod application;
pub mod field_ownership;
pub mod layout;
pub mod permit;
pub mod schedule;
pub mod token;
pub mod wait;

use crate::{
    model::Failure,
    reasons::{Outlook, Reason},
};

/// Something that keeps an object from being ready, in words for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The reason that conditions and events carry.
    pub reason: Reason,
    /// A sentence that says what is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with its sentence.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What a failed call means for the owner: what happened, and what to do where the reason tells that.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        let message = match failure.reason.what_to_do().filter(|_| failure.reason.outlook() == Outlook::NeedsChange) {
            Some(what_to_do) => format!("{}; {what_to_do}", failure.to_string().trim_end_matches('.')),
            None => failure.to_string(),
        };
        Self::new(failure.reason, message)
    }
}
