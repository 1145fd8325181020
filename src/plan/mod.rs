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

    /// A value that only a newer version knows.
    #[must_use]
    pub fn unknown_value(field: &str) -> Self {
        Self::new(Reason::InvalidSpec, format!("this version of the operator does not know the value of {field}"))
    }

    /// A Secret that nobody may write now: its name is claimed by an older object.
    #[must_use]
    pub fn secret_rival(rival: &str) -> Self {
        let way_out = "delete this object and create it with another secret.name, or remove the other";
        Self::new(Reason::SecretConflict, format!("the Secret's name is also claimed by {rival}, which comes first: {way_out}"))
    }

    /// A Secret that is somebody else's.
    #[must_use]
    pub fn foreign_secret(whose: &str) -> Self {
        let way_out = "remove it, or delete this object and create it with another secret.name";
        Self::new(Reason::SecretConflict, format!("a Secret of that name exists and belongs to {whose}; it is left as it is: {way_out}"))
    }

    /// A Secret that was made immutable.
    #[must_use]
    pub fn immutable_secret() -> Self {
        let message = "the Secret was made immutable, so that it cannot be changed, and the operator never deletes it: delete it, and it is written anew";
        Self::new(Reason::SecretImmutable, message)
    }

    /// A Secret that somebody else keeps changing.
    #[must_use]
    pub fn contested_secret() -> Self {
        Self::new(Reason::Contested, "something else keeps changing the Secret; it is put back at growing intervals")
    }

    /// An object that is suspended.
    #[must_use]
    pub fn suspended() -> Self {
        Self::new(Reason::Suspended, "the object is suspended (spec.suspend)")
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
