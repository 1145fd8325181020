//! The rate limit of App ID: so many calls a second, then nothing for half a minute (App ID 7.2).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The calls of the last second, and until when the caller is blocked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Meter {
    calls: VecDeque<Instant>,
    blocked_until: Option<Instant>,
}

impl Meter {
    /// Counts a call. Answers how much of the block is left when the call has to be refused; calls during a block do not prolong it.
    pub(crate) fn refuse(&mut self, now: Instant, per_second: u32, block: Duration) -> Option<Duration> {
        if per_second == 0 {
            *self = Self::default();
            return None;
        }
        if let Some(until) = self.blocked_until {
            if now < until {
                return Some(until - now);
            }
            *self = Self::default();
        }
        while self.calls.front().is_some_and(|call| now.duration_since(*call) >= Duration::from_secs(1)) {
            self.calls.pop_front();
        }
        if self.calls.len() >= per_second as usize {
            self.blocked_until = Some(now + block);
            return Some(block);
        }
        self.calls.push_back(now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_too_many_within_a_second_blocks_for_the_whole_time() {
        let (start, block) = (Instant::now(), Duration::from_secs(30));
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut meter = Meter::default();
        assert_eq!(meter.refuse(at(0), 2, block), None);
        assert_eq!(meter.refuse(at(10), 2, block), None);
        assert_eq!(meter.refuse(at(20), 2, block), Some(block));
        assert_eq!(meter.refuse(at(10_020), 2, block), Some(Duration::from_secs(20)));
        assert_eq!(meter.refuse(at(30_020), 2, block), None);
    }

    #[test]
    fn the_window_slides() {
        let (start, block) = (Instant::now(), Duration::from_secs(30));
        let mut meter = Meter::default();
        for call in 0..20_u64 {
            assert_eq!(meter.refuse(start + Duration::from_millis(call * 500), 2, block), None);
        }
    }
}
