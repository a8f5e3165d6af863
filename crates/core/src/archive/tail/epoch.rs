//! A number for each run of a server, higher than all before.

use chrono::{DateTime, Utc};
use serde::Serialize;
use walarchive_storage::{Created, Store};

use super::position::Position;
use crate::error::{Error, Result, StorageError};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::{self, Key, TailChunk};
use crate::wal::SegmentSize;

/// The version of the object.
const VERSION: u32 = 1;

/// Others may take the same number at the same moment so many times.
const ATTEMPTS: usize = 8;

/// The object, for people.
#[derive(Debug, Serialize)]
struct Taken {
    version: u32,
    epoch: u64,
    system_identifier: u64,
    timeline: u32,
    since: DateTime<Utc>,
}

/// An epoch that was begun, and what was there before.
#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) number: u64,
    /// The chunks of the epochs before, and when they were stored.
    pub(super) chunks: Vec<(TailChunk, DateTime<Utc>)>,
    /// The objects of the epochs before.
    pub(super) older: Vec<Key>,
}

/// Begin an epoch of a server that is there. Chunks count too: whatever was deleted by hand, no number is used again while something of
/// it is there.
pub(super) async fn take(store: &Store, identity: &ClusterIdentity, position: Position) -> Result<Epoch> {
    for _ in 0..ATTEMPTS {
        let (mut chunks, mut numbers) = (Vec::new(), Vec::new());
        let look = |listed: walarchive_storage::Listed| {
            if let Some(chunk) = TailChunk::of_key(&listed.key) {
                chunks.push((chunk, listed.last_modified));
            } else if let Some(number) = layout::epoch_of_tail(&listed.key) {
                numbers.push(number);
            }
        };
        store.each(&layout::TAIL_FOLDER, look).await?;
        refuse_behind(&chunks, identity.segment_size, position)?;
        let used = chunks.iter().map(|(chunk, _)| chunk.epoch);
        let used = used.chain(numbers.iter().copied());
        let number = used.max().unwrap_or(0) + 1;
        let taken = Taken {
            version: VERSION,
            epoch: number,
            system_identifier: identity.system_identifier,
            timeline: position.timeline,
            since: Utc::now(),
        };
        let key = layout::tail_epoch(number);
        let content = serde_json::to_vec(&taken)
            .map_err(|error| Error::damaged(store.object_url(&key), format!("It cannot be written: {error}.")))?;
        match store.create(&key, content.into()).await? {
            Created::Yes => {
                let older = numbers.into_iter().map(layout::tail_epoch).collect();
                return Ok(Epoch { number, chunks, older });
            }
            Created::Exists => {}
        }
    }
    Err(Error::Storage(StorageError::Store {
        operation: "write",
        object: store.object_url(&layout::TAIL_EPOCHS_FOLDER),
        reason: "Others take each number first.".to_owned(),
    }))
}

/// A server is never before what it has stored, unless its disks have lost what was flushed, or it is an older copy of itself. Then the
/// store has the only copy, which must not be replaced.
fn refuse_behind(chunks: &[(TailChunk, DateTime<Utc>)], size: SegmentSize, position: Position) -> Result<()> {
    let end = |chunk: &TailChunk| Lsn(chunk.segment.start(size).0.saturating_add(chunk.end));
    let of_timeline = chunks.iter().map(|(chunk, _)| chunk);
    let of_timeline = of_timeline.filter(|chunk| chunk.segment.timeline == position.timeline);
    match of_timeline.max_by_key(|chunk| end(chunk)) {
        Some(last) if end(last) > position.flushed => Err(Error::refused(
            format!(
                "the store has WAL up to {} of timeline {}, this server only up to {}",
                end(last),
                position.timeline,
                position.flushed
            ),
            format!(
                "This server has lost WAL. Restore from the store. To go on with this server and without that WAL, remove it: \
                 walarchive st rm --force {}.",
                layout::tail_of(last.segment)
            ),
        )),
        _ => Ok(()),
    }
}
