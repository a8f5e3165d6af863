//! WAL of before the present segment that is not archived yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::archive::ready_files;
use crate::data_dir::ARCHIVE_STATUS;
use crate::error::Result;
use crate::wal::{Segment, WalFileName};

/// Does a segment of this `pg_wal` wait to be archived? The server marks it before it says that it was flushed.
pub(super) fn is_ready(pg_wal: &Path, segment: Segment) -> bool {
    mark(pg_wal, &WalFileName::Segment(segment)).exists()
}

fn mark(pg_wal: &Path, name: &WalFileName) -> PathBuf {
    pg_wal.join(ARCHIVE_STATUS).join(format!("{name}.ready"))
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
        Ok(Pending(ready.into_iter().filter(is_needed).collect()))
    }

    /// The server has left this segment, and the tail does not have all of it.
    pub(super) fn left(&mut self, pg_wal: &Path, segment: Segment) {
        if is_ready(pg_wal, segment) {
            self.0.insert(WalFileName::Segment(segment));
        }
    }

    /// The first of them that still waits. The archiver takes them in their order.
    pub(super) fn first(&mut self, pg_wal: &Path) -> Option<WalFileName> {
        while let Some(first) = self.0.first() {
            if mark(pg_wal, first).exists() {
                return Some(*first);
            }
            self.0.pop_first();
        }
        None
    }
}
