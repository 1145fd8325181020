//! A real control plane does what tests rely on, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but not in the functions they share")]

mod audit;
mod cleanup;
mod cluster;
mod outage;
