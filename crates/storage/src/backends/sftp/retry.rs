//! When to try again, for the stores whose requests are our own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

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
    /// Pauses before the next attempt. False, at once: there shall be none.
    pub(super) async fn again(&mut self) -> bool {
        let moved = Flow::current().motion.bytes();
        if moved > self.moved && self.since.elapsed() >= self.policy.patience && self.renewals > 0 {
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
    use super::*;

    fn policy(request_timeout: Duration) -> Policy {
        Policy::new(&StorageConfig {
            request_timeout,
            patience: Duration::from_secs(1),
            ..StorageConfig::new("sftp://host/path")
        })
    }

    #[tokio::test]
    async fn an_archiver_gives_up_soon_and_a_backup_goes_on() {
        for (request_timeout, attempts) in [(1000, 4..=4), (10, 4..=8)] {
            let mut retry = policy(Duration::from_millis(request_timeout)).start();
            let (start, mut made) = (Instant::now(), 1);
            while retry.again().await {
                made += 1;
            }
            assert!(attempts.contains(&made), "{made}");
            assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        }
        // A pause that would go beyond the end is not begun.
        let mut retry = policy(Duration::ZERO).start();
        retry.pause = Duration::from_secs(10);
        assert!(!retry.again().await);
    }
}
