//! Whether the archive falls behind the server: then what is written must be compressed soon, whoever else needs the processors. If not,
//! `pg_wal` would grow until the disk is full.

use std::time::{Duration, Instant};

use walarchive_core::Lsn;

/// How often the distance is measured.
const EVERY: Duration = Duration::from_secs(10);

/// So many segments behind is usual.
const USUAL: u64 = 32;

/// What the server has written and the archive has not.
#[derive(Debug, Default)]
pub(super) struct Lag {
    measured: Option<(Instant, u64)>,
    grows: bool,
}

impl Lag {
    /// Is there a hurry? `archived` is where the oldest segment begins that is not archived yet. One in which the distance has grown lasts
    /// until it is half of what is usual.
    pub(super) fn turn(&mut self, now: Instant, archived: Option<Lsn>, written: Lsn, segment_bytes: u64) -> bool {
        if let Some((at, _)) = self.measured
            && now.duration_since(at) < EVERY
        {
            return self.grows;
        }
        let behind = archived.map_or(0, |archived| written.0.saturating_sub(archived.0) / segment_bytes);
        let before = self
            .measured
            .replace((now, behind))
            .map_or(behind, |(_, before)| before);
        self.grows = match self.grows {
            true => behind > USUAL / 2,
            false => behind > USUAL && behind > before,
        };
        self.grows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_grows_is_urgent_until_it_is_small() {
        const SIZE: u64 = 16 << 20;
        let (mut lag, mut now) = (Lag::default(), Instant::now());
        let mut turn = |segments: Option<u64>| {
            now += EVERY;
            let archived = segments.map(|segments| Lsn((1000 - segments) * SIZE));
            lag.turn(now, archived, Lsn(1000 * SIZE + 5), SIZE)
        };
        // However large it is, it shrinks.
        assert!(!turn(Some(900)) && !turn(Some(500)) && !turn(Some(40)));
        assert!(turn(Some(41)), "it grows");
        assert!(turn(Some(900)) && turn(Some(17)));
        assert!(!turn(Some(16)));
        assert!(!turn(Some(32)), "that is usual");
        assert!(!turn(None));
        assert!(turn(Some(33)));
        assert!(!turn(None));
        // Nothing is measured in between.
        let (mut lag, now) = (Lag::default(), Instant::now());
        assert!(!lag.turn(now, Some(Lsn(0)), Lsn(100 * SIZE), SIZE));
        assert!(!lag.turn(now, Some(Lsn(0)), Lsn(200 * SIZE), SIZE));
        assert!(lag.turn(now + EVERY, Some(Lsn(0)), Lsn(200 * SIZE), SIZE));
    }
}
