//! When something is tried again, for the stores that do not have it from object_store.

use std::time::{Duration, Instant};

use super::motion::Flow;
use crate::config::StorageConfig;

const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Attempts that may break after they got on for long.
const RENEWALS: u32 = 10;

/// The archiver must not wait here: it asks again, and until then it can say what is wrong.
const SHORT_RETRIES: u32 = 3;

/// How often and how long: as for object_store's own stores. Pauses double and are spread by chance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    patience: Duration,
    retries: u32,
    longest_pause: Duration,
}

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Attempts {
    retry: Retry,
    since: Instant,
    made: u32,
    /// Bytes that had moved at the last attempt.
    moved: u64,
    renewed: u32,
}

impl Retry {
    pub(crate) fn new(config: &StorageConfig) -> Self {
        Retry {
            patience: config.patience,
            // A backup tries again until its patience ends.
            retries: if config.patience > config.request_timeout {
                u32::MAX
            } else {
                SHORT_RETRIES
            },
            longest_pause: (config.patience / 10).max(Duration::from_secs(1)),
        }
    }

    /// The patience begins to run.
    pub(crate) fn begin(self) -> Attempts {
        Attempts {
            retry: self,
            since: Instant::now(),
            made: 0,
            moved: Flow::current().motion.bytes(),
            renewed: 0,
        }
    }
}

impl Attempts {
    /// How long to wait before the next attempt; none if there is no other. The server may have asked for a pause: it
    /// gets no shorter one, and none that outlasts the patience.
    pub(crate) fn next_pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.made >= self.retry.retries {
            return None;
        }
        let full = FIRST_PAUSE
            .saturating_mul(1 << self.made.min(16))
            .min(self.retry.longest_pause);
        // Clients that a server sent away at the same moment must not come back at the same moment.
        let pause = full
            .mul_f64(rand::random_range(0.5..1.0))
            .saturating_add(asked.unwrap_or_default());
        if self.since.elapsed().saturating_add(pause) >= self.retry.patience {
            return None;
        }
        self.made += 1;
        Some(pause)
    }

    /// An attempt failed that had got on until then: if it took long because the link is slow, the patience begins again.
    pub(crate) fn renew(&mut self) {
        let moved = Flow::current().motion.bytes();
        if moved > self.moved && self.since.elapsed() >= self.retry.patience && self.renewed < RENEWALS {
            (self.since, self.made) = (Instant::now(), 0);
            self.renewed += 1;
        }
        self.moved = moved;
    }

    /// An attempt failed because nothing moved any more. That is no slow link, so the patience goes on.
    pub(crate) fn stalled(&mut self) {
        self.moved = Flow::current().motion.bytes();
    }

    /// How often something was tried again so far.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(patience: u64) -> Attempts {
        let config = StorageConfig {
            patience: Duration::from_secs(patience),
            ..StorageConfig::new("swift://c")
        };
        Retry::new(&config).begin()
    }

    #[test]
    fn pauses_grow_and_end_with_the_patience() {
        let (mut attempts, mut pauses) = (attempts(600), Vec::new());
        while let Some(pause) = attempts.next_pause(None) {
            pauses.push(pause);
            // As if it had been waited for.
            attempts.since -= pause;
        }
        assert!(pauses.len() > 8 && pauses.len() < 30, "{pauses:?}");
        let all = pauses.iter().sum::<Duration>();
        assert!(
            all < Duration::from_secs(600) && all > Duration::from_secs(530),
            "{all:?}"
        );
        assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] < FIRST_PAUSE);
        assert!(
            pauses.iter().all(|pause| *pause < Duration::from_secs(60)),
            "{pauses:?}"
        );
        assert!(pauses[8] > pauses[0] * 50, "{pauses:?}");
    }

    #[test]
    fn an_archiver_gives_up_soon() {
        let mut attempts = attempts(30);
        assert_eq!(std::iter::from_fn(|| attempts.next_pause(None)).count(), 3);
    }

    #[test]
    fn the_servers_wish_is_heard_within_the_patience() {
        let pause = attempts(30).next_pause(Some(Duration::from_secs(7))).expect("a pause");
        assert!(pause >= Duration::from_secs(7) && pause < Duration::from_secs(8));
        assert_eq!(attempts(30).next_pause(Some(Duration::from_secs(31))), None);
        assert_eq!(attempts(30).next_pause(Some(Duration::MAX)), None);
    }
}
