//! When the SFTP server is asked again.

use super::failure::Failure;
use crate::transfer::retry::Attempts;

/// Pauses before the next attempt, after this failure of the last one. False, at once: there is no other.
pub(super) async fn again(attempts: &mut Attempts, failure: &Failure) -> bool {
    match failure {
        Failure::Timeout(_) => attempts.stalled(),
        _ => attempts.renew(),
    }
    let Some(pause) = attempts.next_pause(None) else {
        return false;
    };
    tokio::time::sleep(pause).await;
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::failure::lost;
    use super::*;
    use crate::config::StorageConfig;
    use crate::transfer::motion::Flow;
    use crate::transfer::retry::Retry;

    fn attempts(request_timeout: Duration) -> Attempts {
        attempts_for(request_timeout, Duration::from_secs(1))
    }

    fn attempts_for(request_timeout: Duration, patience: Duration) -> Attempts {
        let config = StorageConfig {
            request_timeout,
            patience,
            ..StorageConfig::new("sftp://host/path")
        };
        Retry::new(&config).begin()
    }

    fn broken() -> Failure {
        lost("The connection broke.")
    }

    #[tokio::test]
    async fn what_was_slow_is_tried_again_and_what_stalled_is_not() {
        let work = async {
            for (failure, again) in [(Failure::Timeout(Duration::from_secs(1)), false), (broken(), true)] {
                let mut attempts = attempts(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(1100)).await;
                Flow::current().motion.moved(1 << 20);
                assert_eq!(super::again(&mut attempts, &failure).await, again, "{failure}");
            }
        };
        let done = Flow::default().watch(Duration::from_secs(60), work).await;
        assert_eq!(done, Some(()));
    }

    #[tokio::test]
    async fn an_archiver_gives_up_soon_and_a_backup_goes_on() {
        for (request_timeout, patience, expected) in [(60_000, 60_000, 4..=4), (10, 3000, 5..=20)] {
            let [request_timeout, patience] = [request_timeout, patience].map(Duration::from_millis);
            let mut attempts = attempts_for(request_timeout, patience);
            let (start, mut made) = (Instant::now(), 1);
            while again(&mut attempts, &broken()).await {
                made += 1;
            }
            assert!(expected.contains(&made), "{made}");
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        }
        // A pause that would go beyond the end is not begun.
        let pause = attempts(Duration::ZERO).next_pause(Some(Duration::from_secs(10)));
        assert_eq!(pause, None);
    }
}
