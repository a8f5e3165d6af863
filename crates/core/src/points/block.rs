//! The index of a block of segments.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::encrypted::metadata;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::inventory::Inventory;
use crate::repository::layout::{self, Key};
use crate::wal::{Event, Segment, SegmentSize, Walked};
use walarchive_storage::Store;

/// Segments of a block. With 16 MB each an object stands for 1 GB of WAL, and has some 50 kB.
const SEGMENTS: u64 = 64;

/// More than any has, in bytes.
const LIMIT: u64 = 16 << 20;

/// The place of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) timeline: u32,
    pub(super) number: u64,
}

impl Place {
    /// The block that a segment is in.
    pub(super) fn of(segment: Segment, size: SegmentSize) -> Self {
        Place {
            timeline: segment.timeline,
            number: segment.number(size) / SEGMENTS,
        }
    }

    pub(super) fn key(self) -> Key {
        layout::points(self.timeline, self.number)
    }
}

/// Of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) lsn: Lsn,
    #[serde(default)]
    pub(super) time: Option<DateTime<Utc>>,
}

/// Of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noted {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) restore_points: Vec<Named>,
    /// Position, and microseconds since 1970.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) commits: Vec<(Lsn, i64)>,
}

impl From<&Walked> for Noted {
    fn from(walked: &Walked) -> Self {
        let restore_points = walked.events.iter().filter_map(|event| match event {
            Event::RestorePoint(point) => Some(Named {
                name: point.name.clone(),
                lsn: point.lsn,
                time: point.time,
            }),
            _ => None,
        });
        let commits = walked
            .commits
            .iter()
            .map(|commit| (commit.lsn, commit.time.timestamp_micros()));
        Noted {
            restore_points: restore_points.collect(),
            commits: commits.collect(),
        }
    }
}

/// A block, by the number of the segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    #[serde(default)]
    pub(super) segments: BTreeMap<u64, Noted>,
}

impl Block {
    /// That of the repository. One that cannot be read is empty: the WAL tells the same.
    pub(super) async fn read(store: &Store, place: Place) -> Result<Self> {
        let content = match metadata::read(store, &place.key(), LIMIT).await {
            Err(Error::Damaged { .. }) => None,
            content => content?,
        };
        let parsed = content.and_then(|content| serde_json::from_slice::<Block>(&content).ok());
        let mut block = parsed.unwrap_or_default();
        block.segments.retain(|number, _| number / SEGMENTS == place.number);
        Ok(block)
    }

    /// Nothing more comes into it.
    pub(super) fn is_full(&self) -> bool {
        self.segments.len() as u64 >= SEGMENTS
    }

    /// Keep it, if this process may write. That it may not is no failure.
    pub(super) async fn write(&self, store: &Store, place: Place) -> Result<Written> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::defect(format!("could not write an index of WAL down: {error}")))?;
        match metadata::put(store, &place.key(), Bytes::from(text)).await {
            Err(refused @ Error::NotWriter { .. }) => {
                tracing::debug!(error = %refused, "the index of WAL is not noted");
                Ok(Written::No)
            }
            written => written.map(|()| Written::Yes),
        }
    }
}

/// Could a block be written? Only the writer of the repository may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Yes,
    No,
}

/// The objects of the index that no segment of the inventory is in, once those that `goes` takes are gone.
pub fn blocks_of<'a>(
    inventory: &Inventory,
    index: impl Iterator<Item = &'a walarchive_storage::Listed>,
    goes: impl Fn(Segment) -> bool,
) -> Vec<&'a walarchive_storage::Listed> {
    let segments = inventory.wal.iter().filter_map(|object| object.name.segment());
    let stay: std::collections::BTreeSet<String> = segments
        .filter(|segment| !goes(*segment))
        .map(|segment| Place::of(segment, inventory.segment_size).key().into())
        .collect();
    index.filter(|object| !stay.contains(&object.key)).collect()
}
