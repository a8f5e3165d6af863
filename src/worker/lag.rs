//! Whether the archive falls behind the server: then what is written must be compressed soon, whoever else needs the processors. If not,
//! `pg_wal` would grow until the disk is full.

use std::time::{Duration, Instant};

/// How often the distance is measured.
const EVERY: Duration = Duration::from_secs(10);

/// So many bytes behind are usual, and two segments, whatever their size.
const USUAL: u64 = 512 << 20;

/// What the server has written and the archive has not.
#[derive(Debug, Default)]
pub(super) struct Lag {
    measured: Option<(Instant, u64)>,
    grows: bool,
}

impl Lag {
    /// Is there a hurry, with so many bytes that are not archived yet? Once the distance has grown beyond what is usual, it lasts until
    /// that is no more than half of it.
    pub(super) fn turn(&mut self, now: Instant, behind: u64, segment_bytes: u64) -> bool {
        if let Some((at, _)) = self.measured
            && now.duration_since(at) < EVERY
        {
            return self.grows;
        }
        let usual = USUAL.max(2 * segment_bytes);
        let before = self
            .measured
            .replace((now, behind))
            .map_or(behind, |(_, before)| before);
        self.grows = match self.grows {
            true => behind > usual / 2,
            false => behind > usual && behind > before,
        };
        self.grows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_grows_is_urgent_until_it_is_small() {
        const SEGMENT: u64 = 16 << 20;
        let (mut lag, mut now) = (Lag::default(), Instant::now());
        let mut turn = |segments: u64| {
            now += EVERY;
            lag.turn(now, segments * SEGMENT, SEGMENT)
        };
        // However large it is, it shrinks.
        assert!(!turn(900) && !turn(500) && !turn(40));
        assert!(turn(41), "it grows");
        assert!(turn(900) && turn(17));
        assert!(!turn(16));
        assert!(!turn(32), "that is usual");
        assert!(!turn(0));
        assert!(turn(33));
        assert!(!turn(0));
        // Nothing is measured in between.
        let (mut lag, now) = (Lag::default(), Instant::now());
        assert!(!lag.turn(now, 100 * SEGMENT, SEGMENT));
        assert!(!lag.turn(now, 200 * SEGMENT, SEGMENT));
        assert!(lag.turn(now + EVERY, 200 * SEGMENT, SEGMENT));
        // One large segment is being archived while the next one is written.
        let (mut lag, large) = (Lag::default(), 1 << 30);
        assert!(!lag.turn(now, large, large));
        assert!(!lag.turn(now + EVERY, large * 2, large));
        assert!(lag.turn(now + 2 * EVERY, large * 2 + 1, large));
    }
}
