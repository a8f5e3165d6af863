//! How fast something is at the moment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Older bytes do not count.
const WINDOW: Duration = Duration::from_secs(5);

/// Looks that follow each other faster are not kept.
const STEP: Duration = Duration::from_millis(50);

/// The rate of a counter during the last seconds, for who looks at it every now and then.
#[derive(Debug, Default)]
pub struct Rate {
    /// The counts, the oldest first; all but the first within the window.
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// The counter is at `count` now. Returns how much it has grown in a second, in the mean of the last five; none if it
    /// was not looked at before, or just now.
    pub fn update(&mut self, now: Instant, count: u64) -> Option<u64> {
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.seen.pop_front();
        }
        let rate = self.seen.front().and_then(|(at, before)| {
            let nanoseconds = now.saturating_duration_since(*at).as_nanos();
            let grown = u128::from(count.saturating_sub(*before));
            (nanoseconds >= STEP.as_nanos()).then(|| (grown * 1_000_000_000 / nanoseconds) as u64)
        });
        let is_new = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) < STEP;
        if !self.seen.back().is_some_and(is_new) {
            self.seen.push_back((now, count));
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        let mut at = |ms: u64, count| rate.update(begin + Duration::from_millis(ms), count);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(10, 1_000_000), None, "too short to tell");
        assert_eq!(at(1000, 1000), Some(1000));
        assert_eq!(at(3000, 1000), Some(333));
        // Older counts are forgotten, half a second after half a second.
        for step in 1..=20 {
            at(3000 + step * 500, 1000 + step * 1000);
        }
        assert_eq!(at(13_500, 22_000), Some(2000));
        for step in 1..=1000 {
            at(13_500 + step, 22_000);
        }
        assert_eq!(at(30_000, 22_000), Some(0));
        assert!(rate.seen.len() < 40, "{}", rate.seen.len());
    }
}
