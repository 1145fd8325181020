//! UIDs in few bytes, for indexes.

use sha2::{Digest, Sha256};

/// Stands for the UID of an object: two UIDs never have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

impl Uid {
    /// What stands for a UID. A hash, because nothing but that they differ is promised of UIDs.
    #[must_use]
    pub fn of(uid: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(uid).into();
        Self(digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte)))
    }
}
