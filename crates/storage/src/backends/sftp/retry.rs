//! When to try again, for the stores whose requests are our own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;
use crate::config::StorageConfig;
use crate::transfer::motion::Flow;

const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Attempts that may break after they got on for long.
const RENEWALS: u32 = 10;

/// The attempts at one operation: pauses that double and are spread by chance, until the patience is used up.
#[derive(Debug, Clone)]
pub(super) struct Retry {
    since: Instant,
    policy: Policy,
    pause: Duration,
    left: u32,
    /// Bytes that had moved at the last attempt.
    moved: u64,
    /// Attempts that may still break after they got on for long.
    renewals: u32,
}

/// What a [`Retry`] keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    patience: Duration,
    longest_pause: Duration,
    retries: u32,
}

impl Policy {
    pub(super) fn new(config: &StorageConfig) -> Self {
        Policy {
            patience: config.patience,
            longest_pause: (config.patience / 10).max(Duration::from_secs(1)),
            // An archiver has better to do than to wait here: it comes again, and says meanwhile what is wrong.
            retries: if config.patience > config.request_timeout {
                u32::MAX
            } else {
                3
            },
        }
    }

    /// The patience counts from now.
    pub(super) fn start(self) -> Retry {
        Retry {
            since: Instant::now(),
            policy: self,
            pause: FIRST_PAUSE,
            left: self.retries,
            moved: Flow::current().motion.bytes(),
            renewals: RENEWALS,
        }
    }
}

impl Retry {
    /// Pauses before the next attempt, after this failure of the last one. False, at once: there shall be none.
    pub(super) async fn again(&mut self, failure: &Failure) -> bool {
        let moved = Flow::current().motion.bytes();
        // What was given up because nothing moved was not slow.
        let stalled = matches!(failure, Failure::Timeout(_));
        if !stalled && moved > self.moved && self.since.elapsed() >= self.policy.patience && self.renewals > 0 {
            // The attempt took long because the link is slow: the patience begins anew.
            let renewals = self.renewals - 1;
            *self = Retry {
                renewals,
                ..self.policy.start()
            };
        }
        self.moved = moved;
        // Between half of the pause and all of it, so that those who failed together do not come back together.
        let pause = self.pause.mul_f64(0.5 + (chance() % 1000) as f64 / 2000.0);
        if self.left == 0 || self.since.elapsed() + pause > self.policy.patience {
            return false;
        }
        self.left -= 1;
        self.pause = (self.pause * 2).min(self.policy.longest_pause);
        tokio::time::sleep(pause).await;
        true
    }
}

/// A number that nobody else is likely to get. Not for secrets.
pub(super) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::super::failure::lost;
    use super::*;

    fn policy(request_timeout: Duration) -> Policy {
        Policy::new(&StorageConfig {
            request_timeout,
            patience: Duration::from_secs(1),
            ..StorageConfig::new("sftp://host/path")
        })
    }

    fn broken() -> Failure {
        lost("The connection broke.")
    }

    #[tokio::test]
    async fn what_was_slow_is_tried_again_and_what_stalled_is_not() {
        let work = async {
            for (failure, again) in [(Failure::Timeout(Duration::from_secs(1)), false), (broken(), true)] {
                let mut retry = policy(Duration::from_secs(1)).start();
                tokio::time::sleep(Duration::from_millis(1100)).await;
                Flow::current().motion.moved(1 << 20);
                assert_eq!(retry.again(&failure).await, again, "{failure}");
            }
        };
        let done = Flow::default().watch(Duration::from_secs(60), work).await;
        assert_eq!(done, Some(()));
    }

    #[tokio::test]
    async fn an_archiver_gives_up_soon_and_a_backup_goes_on() {
        for (request_timeout, attempts) in [(1000, 4..=4), (10, 4..=8)] {
            let mut retry = policy(Duration::from_millis(request_timeout)).start();
            let (start, mut made) = (Instant::now(), 1);
            while retry.again(&broken()).await {
                made += 1;
            }
            assert!(attempts.contains(&made), "{made}");
            assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        }
        // A pause that would go beyond the end is not begun.
        let mut retry = policy(Duration::ZERO).start();
        retry.pause = Duration::from_secs(10);
        assert!(!retry.again(&broken()).await);
    }
}
