//! What a machine that sleeps does to time: the steady clock of a process stands still with it, and so does every timer.
//!
//! The kernel also counts how long it is up, sleep included. Where it does not say so (`/proc` is Linux's), nobody here notices a sleep.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

/// Looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The two clocks are read one after the other, and one of them counts hundredths of a second.
const NOTICED: Duration = Duration::from_secs(1);

const UPTIME: &str = "/proc/uptime";

type Uptime = dyn Fn() -> Option<Duration> + Send + Sync;

/// A clock that sleep does not stop.
#[derive(Clone)]
pub struct Sleepless {
    uptime: Arc<Uptime>,
    /// The steady clock and the uptime, read in this order.
    begun: (Instant, Option<Duration>),
}

impl std::fmt::Debug for Sleepless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleepless").finish_non_exhaustive()
    }
}

impl Default for Sleepless {
    fn default() -> Self {
        let file = File::open(UPTIME).ok();
        Self::new(move || of_the_kernel(file.as_ref()?))
    }
}

impl Sleepless {
    /// A clock that counts on from now, by what `uptime` says.
    #[must_use]
    pub fn new(uptime: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        let begun = Instant::now();
        Self { begun: (begun, uptime()), uptime: Arc::new(uptime) }
    }

    /// Now, as the steady clock would show it if it had never stood still.
    #[must_use]
    pub fn now(&self) -> Instant {
        let asleep = self.asleep();
        Instant::now() + asleep
    }

    /// How long the machine has slept so far.
    fn asleep(&self) -> Duration {
        let (steady, up) = self.begun;
        let Some(counted) = up.zip((self.uptime)()).and_then(|(up, now)| now.checked_sub(up)) else { return Duration::ZERO };
        // Read last: a process that stands still in between, on a machine that does not, has slept no longer for that.
        let asleep = counted.saturating_sub(steady.elapsed());
        if asleep < NOTICED { Duration::ZERO } else { asleep }
    }

    /// Says of each sleep how long it was, and when the machine was last known to be awake before. Never ends.
    pub async fn on_waking(&self, woke: impl Fn(Duration, Instant)) {
        let (mut told, mut awake) = (self.asleep(), Instant::now());
        loop {
            sleep(LOOK_EVERY).await;
            let (asleep, before) = (self.asleep(), std::mem::replace(&mut awake, Instant::now()));
            if let Some(slept) = asleep.checked_sub(told).filter(|slept| *slept >= NOTICED) {
                told = asleep;
                woke(slept, before);
            }
        }
    }
}

/// Read before every call that must not be made twice, and so kept open.
fn of_the_kernel(file: &File) -> Option<Duration> {
    let mut text = [0; 64];
    let read = file.read_at(&mut text, 0).ok()?;
    let seconds = std::str::from_utf8(text.get(..read)?).ok()?.split_whitespace().next()?;
    Duration::try_from_secs_f64(seconds.parse().ok()?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// A clock under which the machine sleeps when a test says so.
    pub fn sleeper() -> (Sleepless, Arc<Mutex<Duration>>) {
        let (begun, slept) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
        let told = slept.clone();
        (Sleepless::new(move || Some(begun.elapsed() + *told.lock())), slept)
    }

    #[tokio::test(start_paused = true)]
    async fn each_sleep_is_told_once_soon_after_its_end_and_a_clock_that_nobody_tells_of_sleep_is_the_steady_one() {
        let ((sleepless, slept), told, begun) = (sleeper(), Arc::new(Mutex::new(Vec::new())), Instant::now());
        let (clock, heard) = (sleepless.clone(), told.clone());
        let task = tokio::spawn(async move {
            clock.on_waking(|slept, awake| heard.lock().push((slept.as_millis(), awake.duration_since(begun).as_secs()))).await;
        });
        for milliseconds in [0, 35_000, 600, 600, 3_600_000] {
            *slept.lock() += Duration::from_millis(milliseconds);
            tokio::time::sleep(Duration::from_millis(4400)).await;
        }
        // What is too short to be told from the reading of two clocks adds up.
        assert_eq!(*told.lock(), [(35_000, 4), (1_200, 13), (3_600_000, 17)]);
        assert_eq!(sleepless.now() - begun, begun.elapsed() + Duration::from_millis(35_000 + 1_200 + 3_600_000));
        assert_eq!(Sleepless::new(|| None).now(), Instant::now());
        task.abort();
    }

    #[test]
    fn the_kernel_tells_its_uptime_each_time() {
        let file = File::open(UPTIME).expect("it is there");
        let before = of_the_kernel(&file);
        std::thread::sleep(Duration::from_millis(30));
        let after = of_the_kernel(&file);
        assert!(before.is_some_and(|before| !before.is_zero()) && before < after, "{before:?}, {after:?}");
    }
}
