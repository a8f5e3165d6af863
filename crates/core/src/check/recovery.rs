//! How far recovery gets from the newest backup on.

use chrono::{TimeDelta, Utc};

use super::Check;
use crate::error::Result;
use crate::repository::inventory::{Hole, Reach, list_backups, parse_name, wal_from};
use walarchive_storage::Store;

/// A segment that comes after a hole and was stored so short a time ago may have been quicker than those in the hole: several are
/// uploaded at a time, and one of them may be tried again for a while.
const ON_ITS_WAY: TimeDelta = TimeDelta::minutes(10);

/// Its row.
pub(super) const NAME: &str = "recovery";

/// Is there a hole in the WAL from the newest backup to the end of the archive? None without a backup, which another row says.
pub(super) async fn reach(store: &Store) -> Option<Check> {
    match look(store).await {
        Ok(check) => check,
        Err(error) => Some(Check::of_error(NAME, &error)),
    }
}

async fn look(store: &Store) -> Result<Option<Check>> {
    let backups = list_backups(store).await?;
    let newest = backups.iter().rev().find(|backup| backup.damaged.is_none());
    let Some((backup, first)) = newest.and_then(|backup| Some((backup, parse_name(&backup.name).0?))) else {
        return Ok(None);
    };
    let Some(inventory) = wal_from(store, first).await? else {
        return Ok(None);
    };
    let history = inventory.latest_history(first.timeline);
    let reach = Reach::of(&inventory, first.timeline, backup.metadata.start_lsn, &history);
    if reach.read.is_empty() && reach.hole.is_none() {
        return Ok(None);
    }
    Ok(Some(match &reach.hole {
        None => Check::ok(
            NAME,
            format!(
                "the WAL has no gap from \"{}\" up to LSN {} on timeline {}",
                backup.name, reach.end, reach.timeline
            ),
        ),
        Some(hole) => with_hole(&backup.name, &reach, hole),
    }))
}

fn with_hole(backup: &str, reach: &Reach, hole: &Hole) -> Check {
    let (first, last) = (hole.missing.first, hole.missing.last);
    let missing = match hole.missing.count {
        1 => format!("segment {first} is missing"),
        count => format!("{count} segments are missing, {first} to {last}"),
    };
    let detail = format!(
        "recovery from \"{backup}\" ends at LSN {}, though the WAL continues to LSN {} on timeline {}: {missing}",
        hole.begun.unwrap_or(reach.end),
        hole.beyond,
        hole.timeline
    );
    match Utc::now().signed_duration_since(hole.after_written) < ON_ITS_WAY {
        true => Check::warning(
            NAME,
            detail,
            "They may still be on their way: look again in ten minutes. If walarchive.storage was another one for a while, they are in \
             that repository: copy them from there.",
        ),
        false => Check::failed(
            NAME,
            detail,
            "Look for them in pg_wal of the server that wrote them, a primary before a failover for example, and archive them by \
             walarchive wal-push. If walarchive.storage was another one for a while, they are in that repository: copy them from \
             there. Or take another backup now.",
        ),
    }
}
