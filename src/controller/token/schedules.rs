//! What this process knows more exactly than status says: moments of its own steady clock, and digests of what it published.

use std::{collections::HashMap, time::Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

/// What is known of one published token.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// When it was published, as status says it: whole seconds. Another value there means that somebody else published since.
    pub published_at: Timestamp,
    /// Its end.
    pub expires: Instant,
    /// When it is to be replaced.
    pub refresh: Instant,
    /// A digest of the token.
    pub token: [u8; 32],
    /// A digest of what it was asked for with.
    pub source: [u8; 32],
}

/// By UID. Losing it costs nothing but time.
#[derive(Debug, Default)]
pub struct Schedules(Mutex<HashMap<String, State>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    kept: Option<Kept>,
    /// Whether a pass of this process has reported.
    has_passed: bool,
}

impl Schedules {
    /// What is known of the token that was published then.
    #[must_use]
    pub fn of(&self, uid: &str, published_at: Option<Timestamp>) -> Option<Kept> {
        self.0.lock().get(uid)?.kept.filter(|kept| Some(kept.published_at) == published_at)
    }

    /// A token was published, or is to be replaced at another time.
    pub fn keep(&self, uid: &str, kept: Kept) {
        self.0.lock().entry(uid.to_owned()).or_default().kept = Some(kept);
    }

    /// A pass of this process has reported.
    pub fn passed(&self, uid: &str) {
        self.0.lock().entry(uid.to_owned()).or_default().has_passed = true;
    }

    /// Whether a pass of this process has reported.
    #[must_use]
    pub fn has_passed(&self, uid: &str) -> bool {
        self.0.lock().get(uid).is_some_and(|state| state.has_passed)
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
