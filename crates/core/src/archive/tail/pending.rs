//! WAL of before the present segment that is not archived yet.

use std::collections::BTreeSet;
use std::path::Path;

use crate::archive::ready_files;
use crate::data_dir::ARCHIVE_STATUS;
use crate::error::{Error, Result};
use crate::wal::{Segment, WalFileName};

/// Is a segment of this `pg_wal`, which is complete, archived? The server marks it as done then, and removes no file that is not. It may
/// not be marked as ready, although it waits: after a crash, or on a full disk, that comes later.
pub(super) fn is_archived(pg_wal: &Path, segment: Segment) -> bool {
    is_done(pg_wal, &WalFileName::Segment(segment))
}

fn is_done(pg_wal: &Path, name: &WalFileName) -> bool {
    match has_mark(pg_wal, name, "ready") {
        true => false,
        false => has_mark(pg_wal, name, "done") || !pg_wal.join(name.to_string()).exists(),
    }
}

fn has_mark(pg_wal: &Path, name: &WalFileName, mark: &str) -> bool {
    pg_wal.join(ARCHIVE_STATUS).join(format!("{name}.{mark}")).exists()
}

/// The segments before this one of its timeline, in any order, whose files are there. Those that are kept for later use have higher
/// numbers.
pub fn segments_before(pg_wal: &Path, present: Segment) -> Result<Vec<Segment>> {
    let failed = |error| Error::io("read", pg_wal, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(pg_wal).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let segment: Option<Segment> = name.to_str().and_then(|name| name.parse().ok());
        found.extend(segment.filter(|segment| segment.timeline == present.timeline && *segment < present));
    }
    Ok(found)
}

/// The files without which recovery would not come to the present segment.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeSet<WalFileName>);

impl Pending {
    /// Those that wait, of a server that is in this segment.
    pub(super) fn look(pg_wal: &Path, present: Segment) -> Result<Self> {
        let is_needed = |name: &WalFileName| match *name {
            WalFileName::Segment(segment) => segment < present,
            WalFileName::History(timeline) => timeline <= present.timeline,
            // The new timeline has what a partial segment has.
            WalFileName::Partial(_) | WalFileName::BackupHistory(..) => false,
        };
        let ready = ready_files(&pg_wal.join(ARCHIVE_STATUS), usize::MAX)?;
        let mut waiting: BTreeSet<_> = ready.into_iter().filter(is_needed).collect();
        // Those without a mark.
        for segment in segments_before(pg_wal, present)? {
            if !is_archived(pg_wal, segment) {
                waiting.insert(WalFileName::Segment(segment));
            }
        }
        Ok(Pending(waiting))
    }

    /// The server has left this segment, and the tail does not have all of it.
    pub(super) fn left(&mut self, pg_wal: &Path, segment: Segment) {
        if !is_archived(pg_wal, segment) {
            self.0.insert(WalFileName::Segment(segment));
        }
    }

    /// None of them is left.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of them that still waits. The archiver takes them in their order.
    pub(super) fn first(&mut self, pg_wal: &Path) -> Option<WalFileName> {
        while let Some(first) = self.0.first() {
            if !is_done(pg_wal, first) {
                return Some(*first);
            }
            self.0.pop_first();
        }
        None
    }
}
