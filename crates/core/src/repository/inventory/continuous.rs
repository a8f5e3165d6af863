//! From which segments on WAL is meant to be without gaps. Retention leaves the WAL of a permanent backup and deletes what
//! comes after it; only what it writes down here tells such a gap from a loss.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, StorageError};
use crate::repository::layout;
use crate::wal::Segment;
use walarchive_storage::Store;

/// More than the object ever has, in bytes.
const LIMIT: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct ContinuousFile {
    /// Names, one for each timeline.
    since: Vec<String>,
}

/// By timeline. A record that cannot be read tells nothing: gaps are taken for losses then.
pub(crate) async fn read(store: &Store) -> Result<BTreeMap<u32, Segment>> {
    let content = match store.get(&layout::CONTINUOUS, LIMIT).await {
        Err(StorageError::Damaged { .. }) => None,
        content => content?,
    };
    let file = content.and_then(|content| serde_json::from_slice::<ContinuousFile>(&content).ok());
    let names = file.map(|file| file.since).unwrap_or_default();
    let segments = names.iter().filter_map(|name| name.parse::<Segment>().ok());
    Ok(segments.map(|segment| (segment.timeline, segment)).collect())
}

/// To be written before the first of the WAL is deleted.
pub(crate) async fn write(store: &Store, since: &BTreeMap<u32, Segment>) -> Result<()> {
    let since = since.values().map(Segment::to_string).collect();
    let content = serde_json::to_vec(&ContinuousFile { since })
        .map_err(|error| Error::damaged(&layout::CONTINUOUS, format!("It cannot be written: {error}.")))?;
    Ok(store.put(&layout::CONTINUOUS, Bytes::from(content)).await?)
}
