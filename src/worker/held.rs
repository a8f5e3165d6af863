//! The memory that uploads hold. A segment is kept, compressed, until the store has acknowledged it: it may have to be sent again.

/// An upload has the room of a segment that compresses to a quarter. Others make up for one that compresses worse.
const SHARE: u64 = 4;

/// There is so much room in any case: small segments are not worth a limit.
const LEAST: u64 = 32 << 20;

/// Larger segments go in parts, which take the same room whatever the size is.
const LARGEST: u64 = 64 << 20;

/// What the next upload will hold, as far as that can be known.
#[derive(Debug)]
pub(super) struct Held {
    segment_bytes: u64,
    /// What the latest segments have become. Nothing is known at first.
    expected: u64,
}

impl Held {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Held {
            segment_bytes,
            expected: segment_bytes,
        }
    }

    /// Do segments go in parts, while they are compressed?
    pub(super) fn in_parts(&self) -> bool {
        self.segment_bytes > LARGEST
    }

    /// May another upload begin beside those that run, with `most` at once? Each that runs has so many bytes to send; none where that is
    /// not known yet. A single one may always.
    pub(super) fn has_room(&self, most: usize, running: impl Iterator<Item = Option<u64>>) -> bool {
        if self.in_parts() {
            return true;
        }
        let room = (self.segment_bytes / SHARE).saturating_mul(most as u64);
        let held: u64 = running.map(|bytes| bytes.unwrap_or(self.expected)).sum();
        held == 0 || held + self.expected <= room.max(self.segment_bytes).max(LEAST)
    }

    /// A file became an object of so many bytes. What was large once is taken for large for a while.
    pub(super) fn learn(&mut self, stored_bytes: u64) {
        self.expected = stored_bytes.max(self.expected - self.expected / SHARE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// How many run at once when each becomes so large.
    fn at_once(segment_bytes: u64, stored_bytes: u64, most: usize) -> usize {
        let mut held = Held::new(segment_bytes);
        (0..50).for_each(|_| held.learn(stored_bytes));
        let mut running = Vec::new();
        while running.len() < most && held.has_room(most, running.iter().copied()) {
            running.push(Some(stored_bytes));
        }
        running.len()
    }

    #[test]
    fn what_compresses_well_has_room_and_the_rest_has_as_much_as_there_is() {
        for (stored, most, expected) in [
            (2 * MB, 8, 8),
            (4 * MB, 8, 8),
            (8 * MB, 8, 4),
            (16 * MB, 8, 2),
            (16 * MB, 1, 1),
            (17 * MB, 1, 1),
            (2 * MB, 1, 1),
            (2 * MB, 32, 32),
            (16 * MB, 4, 2),
            (16 * MB, 32, 8),
        ] {
            assert_eq!(at_once(16 * MB, stored, most), expected, "{stored} {most}");
        }
        assert_eq!(at_once(MB, MB, 8), 8, "they are small");
        assert_eq!(at_once(1024 * MB, 1024 * MB, 8), 8, "it goes in parts");
    }

    #[test]
    fn nothing_is_known_at_first_and_large_ones_are_remembered() {
        let mut held = Held::new(16 * MB);
        assert!(held.has_room(8, [None].into_iter()));
        assert!(!held.has_room(8, [None, None].into_iter()));
        held.learn(2 * MB);
        assert!(
            !held.has_room(8, [None, None].into_iter()),
            "it may have been an exception"
        );
        (0..10).for_each(|_| held.learn(2 * MB));
        assert!(held.has_room(8, [None; 7].into_iter()));
        held.learn(16 * MB);
        assert!(!held.has_room(8, [None, None].into_iter()));
    }
}
