//! When the last transaction of a recovery window ended: only the WAL knows.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use super::content::check_object;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::inventory::{Inventory, RecoveryWindow, SegmentRange, recovery_windows, walk_tail};
use crate::wal::{Segment, WalWalker};
use walarchive_storage::Store;

/// Segments that are read of a window, from its end backwards, until there is a transaction in one.
const SEGMENTS: u64 = 4;

/// The ends of so many windows are read at a time.
const CONCURRENCY: usize = 4;

/// As [`recovery_windows`], with the times of the last transactions. One that ends in the tail ends before what is damaged there.
pub async fn timed_windows(store: &Store, inventory: &Inventory) -> Result<Vec<RecoveryWindow>> {
    futures::stream::iter(recovery_windows(inventory))
        .map(|window| async move {
            let looked = look(store, inventory, &window).await?;
            let end = looked.readable.map(|(segment, readable)| {
                let number = segment.number(inventory.segment_size);
                let damaged = SegmentRange::new(segment.timeline, number, number, inventory.segment_size);
                (readable.max(window.start_lsn), damaged.into())
            });
            let (end_lsn, missing) = match end {
                Some((end_lsn, damaged)) => (end_lsn, Some(damaged)),
                None => (window.end_lsn, window.missing),
            };
            Ok(RecoveryWindow {
                // A backup can end after the last transaction of its window.
                end_time: looked.last_time.unwrap_or(window.end_time).max(window.start_time),
                end_lsn,
                missing,
                ..window
            })
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await
}

/// The end of a window, as its WAL tells it.
#[derive(Default)]
struct Looked {
    last_time: Option<DateTime<Utc>>,
    /// The tail of this segment is damaged, and can be read up to here.
    readable: Option<(Segment, Lsn)>,
}

async fn look(store: &Store, inventory: &Inventory, window: &RecoveryWindow) -> Result<Looked> {
    let size = inventory.segment_size;
    let end = window.end_lsn.0.div_ceil(size.bytes());
    let first = (window.start_lsn.0 / size.bytes()).max(end.saturating_sub(SEGMENTS));
    let mut looked = Looked::default();
    for number in (first..end).rev() {
        let segment = Segment::from_number(window.timeline, number, size);
        let walker = WalWalker::new(size, inventory.system_identifier);
        let walked = match (inventory.object_of(segment), inventory.cover(segment)) {
            (Some(object), _) => check_object(store, walker, *object, size, &Arc::default()).await.1?,
            (None, Some(cover)) => walk_tail(store, inventory.tail.objects(cover), walker, size).await?.1,
            (None, None) => break,
        };
        let Some(walked) = walked else { continue };
        looked.readable = walked.readable.map(|readable| (segment, readable)).or(looked.readable);
        looked.last_time = walked.last_time;
        if looked.last_time.is_some() {
            break;
        }
    }
    Ok(looked)
}
