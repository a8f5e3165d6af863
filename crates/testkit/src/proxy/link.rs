//! A link that all connections share: one bucket of tokens for each direction.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// The bytes that are sent at a time: so the connections take turns.
pub(super) const PIECE: u64 = 4 << 10;

/// One direction. A sender waits for its turn, in the order in which they came.
#[derive(Default)]
pub(super) struct Link {
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    /// When so many bytes will have passed, at that many a second.
    pub(super) fn pass(&self, bytes: u64, rate: u64) -> Instant {
        let mut free_at = lock(&self.free_at);
        let begin = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
        let end = begin + Duration::from_nanos(bytes * 1_000_000_000 / rate.max(1));
        *free_at = Some(end);
        end
    }
}
