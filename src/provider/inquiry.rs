//! One look at a server at a time, which serves all who wait for it.

use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use crate::model::Failure;

/// How the last look failed, if it did, and when.
type Failed = Option<(Instant, Failure)>;

/// Held by whoever looks.
#[derive(Debug, Default)]
pub(super) struct Inquiry(Mutex<Failed>);

impl Inquiry {
    /// What is `known` when it is our turn, or else what `look` finds. Whoever waited while somebody looked shares the failure of that.
    ///
    /// # Errors
    ///
    /// When a look fails.
    pub(super) async fn wait<T>(
        &self,
        known: impl AsyncFnOnce() -> Option<T>,
        look: impl AsyncFnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let asked_at = Instant::now();
        take(self.0.lock().await, asked_at, known, look).await
    }

    /// The same where nobody looks; `None` where somebody does.
    pub(super) async fn unless_busy<T>(
        &self,
        known: impl AsyncFnOnce() -> Option<T>,
        look: impl AsyncFnOnce() -> Result<T, Failure>,
    ) -> Option<Result<T, Failure>> {
        let turn = self.0.try_lock().ok()?;
        Some(take(turn, Instant::now(), known, look).await)
    }
}

async fn take<T>(
    mut failed: MutexGuard<'_, Failed>,
    asked_at: Instant,
    known: impl AsyncFnOnce() -> Option<T>,
    look: impl AsyncFnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Some(known) = known().await {
        return Ok(known);
    }
    if let Some((_, failure)) = failed.as_ref().filter(|(at, _)| *at > asked_at) {
        return Err(failure.clone());
    }
    let found = look().await;
    *failed = found.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
    found
}
