//! When the last transaction of a recovery window ended: only the WAL knows.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use super::content::check_object;
use crate::error::Result;
use crate::repository::inventory::{Inventory, RecoveryWindow, recovery_windows, walk_tail};
use crate::wal::{Segment, WalWalker};
use walarchive_storage::Store;

/// Segments that are read of a window, from its end backwards, until there is a transaction in one.
const SEGMENTS: u64 = 4;

/// The ends of so many windows are read at a time.
const CONCURRENCY: usize = 4;

/// As [`recovery_windows`], with the times of the last transactions.
pub async fn timed_windows(store: &Store, inventory: &Inventory) -> Result<Vec<RecoveryWindow>> {
    futures::stream::iter(recovery_windows(inventory))
        .map(|window| async move {
            let last = last_transaction(store, inventory, &window).await?;
            Ok(RecoveryWindow {
                // A backup can end after the last transaction of its window.
                end_time: last.unwrap_or(window.end_time).max(window.start_time),
                ..window
            })
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await
}

async fn last_transaction(
    store: &Store,
    inventory: &Inventory,
    window: &RecoveryWindow,
) -> Result<Option<DateTime<Utc>>> {
    let size = inventory.segment_size;
    let end = window.end_lsn.0.div_ceil(size.bytes());
    let first = (window.start_lsn.0 / size.bytes()).max(end.saturating_sub(SEGMENTS));
    for number in (first..end).rev() {
        let segment = Segment::from_number(window.timeline, number, size);
        let walker = WalWalker::new(size, inventory.system_identifier);
        let walked = match (inventory.object_of(segment), inventory.cover(segment)) {
            (Some(object), _) => check_object(store, walker, *object, size, &Arc::default()).await.1?,
            (None, Some(cover)) => walk_tail(store, inventory.tail.objects(cover), walker, size).await?.1,
            (None, None) => break,
        };
        if let Some(last) = walked.and_then(|walked| walked.last_time) {
            return Ok(Some(last));
        }
    }
    Ok(None)
}
