//! What the prefetcher has not found. Recovery is never told so by this note: it only makes `wal-fetch` ask for all that it must know
//! at the end of the archive at once.

use std::fs;

use super::spool::{MISSING, Spool};
use crate::wal::Segment;

impl Spool {
    /// Note that the segment was not there, when it was looked for ahead of recovery.
    pub(super) fn note_missing(&self, segment: Segment) {
        // Without the note recovery waits a moment longer.
        let _ = fs::write(self.directory().join(MISSING), self.missing(segment));
    }

    /// Was the segment not there, when it was looked for ahead of recovery? It may have come since.
    pub fn was_missing(&self, segment: Segment) -> bool {
        fs::read_to_string(self.directory().join(MISSING)).is_ok_and(|note| note == self.missing(segment))
    }

    fn missing(&self, segment: Segment) -> String {
        format!("{segment} {:08x}\n", self.repository())
    }
}
