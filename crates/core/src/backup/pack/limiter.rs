//! `walarchive.backup_rate_limit`.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Hands out bytes at a constant rate to all tars of a backup. Time that nobody used is not saved up.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_per_second: Option<u64>,
    /// When the next byte may be read.
    next: Mutex<Instant>,
    runtime: Handle,
}

impl Limiter {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Limiter {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            next: Mutex::new(Instant::now()),
            runtime: Handle::current(),
        }
    }

    /// Wait, on a thread that may block, until so many bytes may be read.
    pub(crate) fn wait_for(&self, bytes: u64, cancel: &CancellationToken) -> Result<()> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let Some(rate) = self.bytes_per_second else {
            return Ok(());
        };
        let pause = self.reserve(bytes, rate, Instant::now());
        if pause.is_zero() {
            return Ok(());
        }
        let sleep = async { tokio::time::timeout(pause, cancel.cancelled()).await };
        match self.runtime.block_on(sleep) {
            Ok(()) => Err(Error::Cancelled),
            Err(_) => Ok(()),
        }
    }

    fn reserve(&self, bytes: u64, rate: u64, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut next = self.next.lock();
        let start = (*next).max(now);
        *next = start + cost;
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_readers_share_one_rate() {
        let limiter = Limiter::new(Some(1000));
        let now = Instant::now() + Duration::from_secs(1);
        let pauses: Vec<_> = (0..4).map(|_| limiter.reserve(500, 1000, now)).collect();
        assert_eq!(pauses, [0, 500, 1000, 1500].map(Duration::from_millis));
        // An hour of idleness buys nothing.
        let later = now + Duration::from_secs(3600);
        assert_eq!(limiter.reserve(500, 1000, later), Duration::ZERO);
        assert_eq!(limiter.reserve(500, 1000, later), Duration::from_millis(500));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cancel_ends_the_pause() {
        let limiter = std::sync::Arc::new(Limiter::new(Some(1)));
        let cancel = CancellationToken::new();
        let waiting = {
            let (limiter, cancel) = (limiter.clone(), cancel.clone());
            tokio::task::spawn_blocking(move || {
                limiter.wait_for(3600, &cancel)?;
                limiter.wait_for(1, &cancel)
            })
        };
        cancel.cancel();
        let result = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(matches!(
            result.expect("in time").expect("no panic"),
            Err(Error::Cancelled)
        ));
    }
}
