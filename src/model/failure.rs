//! What can go wrong outside, classified by what happens next.

use std::time::Duration;

use crate::reasons::Reason;

/// How long a tenant pauses whose service names no `Retry-After`: App ID blocks for 30 s (App ID documentation, rate limits).
pub const RATE_LIMIT_UNKNOWN: Duration = Duration::from_secs(30);

/// What happens next after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Likely to go away by itself: network, time-outs, 5xx.
    Transient,
    /// The service asked for fewer requests; the whole tenant pauses.
    RateLimited,
    /// The credential is not accepted.
    Unauthorized,
    /// The request is refused; the same request will be refused again.
    Rejected,
    /// Not in the service's documentation.
    Unexpected,
}

impl Class {
    /// The class as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Rejected => "rejected",
            Self::Unexpected => "unexpected",
        }
    }
}

/// A failed call. Its text never holds a value of a response body beyond known, scrubbed message fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {message}")]
pub struct Failure {
    /// What we were doing, in our words.
    pub doing: &'static str,
    /// What happens next.
    pub class: Class,
    /// Why, for people and for the condition.
    pub reason: Reason,
    /// One sentence, scrubbed, at most 200 characters of the service's words in it.
    pub message: String,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// How long the service asked us to wait.
    pub retry_after: Option<Duration>,
    /// Whether the request may have been carried out although it failed for us.
    pub may_have_happened: bool,
}

impl Failure {
    /// A failure of the given class whose request was certainly not carried out.
    #[must_use]
    pub fn new(doing: &'static str, class: Class, reason: Reason, message: impl Into<String>) -> Self {
        Self { doing, class, reason, message: message.into(), status: None, retry_after: None, may_have_happened: false }
    }
}
