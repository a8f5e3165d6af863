//! Is what the repository holds whole? `integrity` and `timeline` look at names, as WAL-G's `wal-verify` does; `content`
//! reads WAL; [`verify_backup`] reads a base backup.

mod backup;
mod content;
mod integrity;
mod live;
mod looks;
mod page_checksum;
mod record;
mod report;
mod timeline;
mod times;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use backup::{BackupFinding, BackupReport, verify_backup};
pub use content::{Content, ContentRow, Selection, verify_content};
pub use integrity::{Integrity, IntegrityRow, SegmentStatus, integrity, integrity_since};
pub use live::{Archiving, Live, Position};
pub use looks::Looks;
pub use record::{Verified, VerifiedBackup};
pub use report::{Checks, WalReport, WalRow};
pub use timeline::{TimelineCheck, TimelineDetails, timeline};
pub use times::timed_windows;

use crate::error::Result;
use crate::lease::Holder;
use crate::repository::cluster;
use crate::repository::inventory::Inventory;
use crate::wal::SegmentSize;
use walarchive_storage::Store;

/// The result of a check, in WAL-G's words. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VerifyStatus {
    /// All is well.
    Ok,
    /// Not all is there yet, or not all could be found out.
    Warning,
    /// Something is lost or damaged.
    Failure,
}

impl VerifyStatus {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            VerifyStatus::Ok => "OK",
            VerifyStatus::Warning => "WARNING",
            VerifyStatus::Failure => "FAILURE",
        }
    }
}

impl fmt::Display for VerifyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answers of `integrity` and `timeline`, in the shape of `wal-g wal-verify --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Names {
    /// Is every segment there that a restore may need?
    pub integrity: Integrity,
    /// Does the repository follow the server's timeline?
    pub timeline: TimelineCheck,
}

impl Names {
    /// The worse of both.
    pub fn status(&self) -> VerifyStatus {
        self.integrity.status.max(self.timeline.status)
    }
}

/// The owner of the repository, if that is another cluster than the one with this system identifier. Of the same cluster its
/// WAL segments must have the same size.
pub fn other_owner(store: &Store, inventory: &Inventory, own: u64, segment_size: SegmentSize) -> Result<Option<u64>> {
    match inventory.system_identifier {
        Some(owner) if owner == own => {
            cluster::check_segment_size(store, inventory.segment_size, segment_size).map(|()| None)
        }
        owner => Ok(owner),
    }
}

/// `integrity` and `timeline`. The order in which things are looked at makes a healthy, busy server look healthy:
/// [`Live::position`] first, then the [`Inventory`]; then, here, what still waits in `pg_wal`; and last the store again for
/// what was found nowhere, since it may have been uploaded in between. With the name of a backup, or LATEST, the WAL is
/// looked at from its start on.
pub async fn verify_names(store: &Store, inventory: &Inventory, mut live: Live, since: Option<&str>) -> Result<Names> {
    let since = since.map(|name| inventory.named(name)).transpose()?;
    let since = since.and_then(|name| inventory.backup(name));
    let look = |live: &Live| match since {
        Some(backup) => integrity_since(inventory, live, backup),
        None => Ok(integrity(inventory, live)),
    };
    let mut found = look(&live)?;
    if !found.missing().is_empty() {
        live.look_for_waiting().await?;
        found = look(&live)?;
    }
    let lost = found.lost();
    if !lost.is_empty() {
        live.look_again(store, &lost).await?;
        found = look(&live)?;
    }
    Ok(Names {
        integrity: found,
        timeline: timeline(inventory, &live, &Holder::all(store).await?),
    })
}

#[cfg(test)]
mod tests;
