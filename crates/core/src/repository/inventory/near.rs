//! The WAL of some backups, without a look at all the other WAL: that can be a million objects.

use std::ops::ControlFlow;

use futures::{StreamExt, TryStreamExt};

use super::{BackupInfo, CONCURRENCY, Inventory, SegmentRange, WalObject, list_backups};
use crate::error::Result;
use crate::repository::{cluster, layout};
use crate::wal::{Segment, SegmentSize, WalFileName};
use walarchive_storage::Store;

/// The backups of a repository and, of its WAL, what they need.
pub async fn of_backups(store: &Store) -> Result<Inventory> {
    if !store.lists_in_order() {
        return Inventory::load(store).await;
    }
    let (backups, owner) = tokio::try_join!(list_backups(store), cluster::owner(store))?;
    let size = match owner {
        Some(owner) => owner.segment_size,
        None => segment_size(store, &backups).await?,
    };
    let mut inventory = Inventory::new(size, backups, Vec::new(), Default::default());
    let ranges: Vec<SegmentRange> = inventory
        .backups
        .iter()
        .filter_map(|backup| inventory.needed(backup))
        .collect();
    let wal: Vec<Vec<WalObject>> = futures::stream::iter(ranges)
        .map(|range| present(store, range.first, range.last))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    inventory = Inventory::new(size, inventory.backups, wal.concat(), Default::default());
    // It may be the order that was wrong.
    let complete = |backup| inventory.missing(backup).is_empty();
    match inventory.backups.iter().all(complete) {
        true => Ok(inventory),
        false => Inventory::load(store).await,
    }
}

/// Those of the segments, which are of one timeline and in order, that are not in the archive.
pub async fn missing_segments(store: &Store, wanted: &[Segment]) -> Result<Vec<Segment>> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
        return Ok(Vec::new());
    };
    let without = |found: Vec<WalObject>| -> Vec<Segment> {
        let is_there = |segment: &&Segment| {
            found
                .iter()
                .any(|object| object.name == WalFileName::Segment(**segment))
        };
        wanted.iter().filter(|segment| !is_there(segment)).copied().collect()
    };
    let missing = without(present(store, *first, *last).await?);
    if missing.is_empty() || !store.lists_in_order() {
        return Ok(missing);
    }
    // It may be the order that was wrong.
    let after = before(*first);
    let listed = store.list_after(&layout::WAL_FOLDER, &after).await?;
    Ok(without(listed.iter().filter_map(WalObject::of).collect()))
}

/// The segments from one to another that are there, as a listing shows them that is in the order of the keys.
async fn present(store: &Store, first: Segment, last: Segment) -> Result<Vec<WalObject>> {
    let mut found = Vec::new();
    let in_order = store.lists_in_order();
    let look = |listed| {
        let Some(object) = WalObject::of(&listed) else {
            return ControlFlow::Continue(());
        };
        match object.name {
            WalFileName::Segment(segment) if segment > last && in_order => return ControlFlow::Break(()),
            WalFileName::Segment(segment) if (first..=last).contains(&segment) => found.push(object),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    store.each_after(&layout::WAL_FOLDER, &before(first), look).await?;
    Ok(found)
}

/// A key before all of a segment's. An uncompressed one's is exactly its name, and a listing begins after the key that it is
/// given.
pub(crate) fn before(segment: Segment) -> String {
    let name = segment.to_string();
    format!("{}/{}", layout::WAL_FOLDER, &name[..name.len() - 1])
}

/// As the WAL of the oldest backup tells it.
pub(crate) async fn segment_size(store: &Store, backups: &[BackupInfo]) -> Result<SegmentSize> {
    let starts = backups
        .iter()
        .filter_map(|backup| crate::repository::inventory::backups::parse_name(&backup.name).0);
    let Some(start) = starts.min() else {
        return Ok(SegmentSize::DEFAULT);
    };
    let mut found = None;
    let look = |listed| {
        found = WalObject::of(&listed).filter(|object| matches!(object.name, WalFileName::Segment(_)));
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    store.each_after(&layout::WAL_FOLDER, &before(start), look).await?;
    match found {
        Some(object) => match crate::repository::inventory::wal::first_page(store, &object).await {
            Ok(page) => Ok(page
                .and_then(|page| SegmentSize::new(page.segment_bytes.into()).ok())
                .unwrap_or(SegmentSize::DEFAULT)),
            // One segment that is encrypted or damaged is no reason to show no backups.
            Err(error) if error.is_content() => {
                Ok(crate::repository::inventory::backups::segment_size(backups).unwrap_or(SegmentSize::DEFAULT))
            }
            Err(error) => Err(error),
        },
        None => Ok(SegmentSize::DEFAULT),
    }
}
