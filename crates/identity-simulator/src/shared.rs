//! The world behind its lock, and the news that it changed.

use crate::world::World;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all listeners share.
pub(crate) struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<()>,
    /// Ends every listener, connection and call.
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(world: World, stop: CancellationToken) -> Self {
        Self { world: Mutex::new(world), changed: watch::Sender::new(()), stop }
    }

    /// Looks at the world or changes it, then wakes all who wait for something.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let value = self.look(change);
        self.changed.send_replace(());
        value
    }

    /// Looks at the world. A panic of an earlier call does not stop later ones.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is something to see. None when it takes too long.
    pub(crate) async fn until<T>(&self, timeout: Duration, mut see: impl FnMut(&mut World) -> Option<T>) -> Option<T> {
        let mut news = self.changed.subscribe();
        let search = async {
            loop {
                if let Some(found) = self.look(&mut see) {
                    return Some(found);
                }
                if news.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(timeout, search).await.ok().flatten()
    }

    /// Runs something until it is done or the simulator stops, whatever becomes of the caller.
    pub(crate) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<Option<T>> {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(future))
    }
}
