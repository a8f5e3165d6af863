//! Look at the content of the store: whose it is, and whether the newest backup can be restored.

use std::ops::ControlFlow;

use super::Check;
use crate::archive::read_through;
use crate::codec::{Compression, Format};
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::inventory::{BackupInfo, list_backups, missing_segments, segment_size};
use crate::repository::{cluster, layout};
use crate::version;
use crate::wal::{Segment, SegmentSize, WalFileName};
use walarchive_storage::Store;

/// Find out whose repository it is.
pub(super) async fn owner(store: &Store, identity: Option<&ClusterIdentity>) -> Check {
    let name = "owner";
    let nobody = "the repository has no owner yet: the first server that archives becomes its owner";
    let found = match identity {
        Some(identity) => cluster::is_owned(store, identity).await.map(|owned| match owned {
            true => "the repository is this cluster's".to_owned(),
            false => nobody.to_owned(),
        }),
        None => cluster::owner(store).await.map(|owner| match owner {
            Some(owner) => format!(
                "the repository belongs to system identifier {}, PostgreSQL {}, with WAL segments of {} MB",
                owner.system_identifier,
                version::name(owner.major_version),
                owner.segment_size.bytes() >> 20
            ),
            None => nobody.to_owned(),
        }),
    };
    match found {
        Ok(detail) => Check::ok(name, detail),
        Err(error) => Check::of_error(name, &error),
    }
}

/// How many objects of a folder are looked at. Names that no key can have mostly come first.
const LOOKED_AT: usize = 2000;

/// Objects that are passed over, since no key can name them; none if there are none.
pub(super) async fn names(store: &Store) -> Option<Check> {
    for folder in [&layout::WAL_FOLDER, &layout::BACKUPS_FOLDER] {
        let mut left = LOOKED_AT;
        let look = |_| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        // Another check has reported what is wrong with the listing.
        let _ = store.each_while(folder, look).await;
    }
    let names = store.passed_over();
    let shown = names
        .iter()
        .take(5)
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let more = names.len().saturating_sub(5);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    (!names.is_empty()).then(|| {
        Check::warning(
            "names",
            format!(
                "{} ignored, because no object of a repository has such a name: {shown}{more}",
                counted(names.len(), "object")
            ),
            "Remove them, or give them other names, by the tools of the store: walarchive can neither read nor delete them.",
        )
    })
}

/// The row of [`newest_backup`].
pub(super) const NEWEST: &str = "newest backup";

/// The newest backup that can be restored, as far as it is looked at here.
pub(super) async fn restorable(store: &Store) -> Result<Option<String>> {
    let backups = list_backups(store).await?;
    for backup in backups.iter().rev().filter(|backup| backup.damaged.is_none()) {
        match wal_of(store, backup, size_of(store, &backups).await?).await {
            Ok(_) => return Ok(Some(backup.name.clone())),
            Err(error) if error.is_content() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Is the WAL there that the newest backup needs, and can it be read?
pub(super) async fn newest_backup(store: &Store) -> Check {
    let name = NEWEST;
    let backups = match list_backups(store).await {
        Ok(backups) => backups,
        Err(error) => return Check::of_error(name, &error),
    };
    let Some(newest) = backups.last() else {
        return Check::warning(
            name,
            "there is no base backup yet, and nothing can be restored without one",
            "Take one by SELECT walarchive_backup_push().",
        );
    };
    if let Some(damaged) = &newest.damaged {
        return Check::failed(
            name,
            format!("\"{}\" cannot be used: {damaged}", newest.name),
            "Take another backup, then look for the reason.",
        );
    }
    let segments = async { wal_of(store, newest, size_of(store, &backups).await?).await };
    match segments.await {
        Ok((segments, Ends::Read)) => Check::ok(
            name,
            format!(
                "\"{}\" can be restored: its {segments} WAL segments are there, and the first and the last can be read",
                newest.name
            ),
        ),
        Ok((segments, Ends::Unread)) => Check::ok(
            name,
            format!(
                "the {segments} WAL segments of \"{}\" are there; that they can be read is to be checked where the secret key is",
                newest.name
            ),
        ),
        Err(error) => Check {
            detail: format!(
                "\"{}\" cannot be restored: {}",
                newest.name,
                Check::of_error(name, &error).detail
            ),
            ..Check::of_error(name, &error)
        },
    }
}

/// The size of segments of the repository, which need not be this cluster's.
async fn size_of(store: &Store, backups: &[BackupInfo]) -> Result<SegmentSize> {
    match cluster::owner(store).await? {
        Some(owner) => Ok(owner.segment_size),
        None => segment_size(store, backups).await,
    }
}

/// Were the first and the last segment read?
enum Ends {
    Read,
    /// What this server encrypts it cannot decrypt.
    Unread,
}

/// Returns how many segments the backup needs.
async fn wal_of(store: &Store, backup: &BackupInfo, size: SegmentSize) -> Result<(usize, Ends)> {
    let Some(timeline) = backup.timeline else {
        return Err(Error::damaged(&backup.name, "Its name has no timeline."));
    };
    let metadata = &backup.metadata;
    let needed = Segment::range(timeline, metadata.start_lsn, metadata.finish_lsn, size);
    let missing = missing_segments(store, &needed).await?;
    if let Some(first) = missing.first() {
        return Err(Error::damaged(
            &backup.name,
            format!(
                "{} of the {} WAL segments that it needs are not in the archive; the first is \"{first}\".",
                missing.len(),
                needed.len()
            ),
        ));
    }
    if !Wrapping::of(store, Compression::Plain).await?.reads() {
        return Ok((needed.len(), Ends::Unread));
    }
    let ends = [needed.first(), needed.last().filter(|_| needed.len() > 1)];
    for segment in ends.into_iter().flatten() {
        let file = WalFileName::Segment(*segment);
        read_through(store, &file, Format::Zstd, metadata.system_identifier).await?;
    }
    Ok((needed.len(), Ends::Read))
}
