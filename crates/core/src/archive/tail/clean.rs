//! Chunks that nobody needs any more are removed: those that others have taken the place of, and those of segments that are archived
//! whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use walarchive_storage::Store;

use super::pending::is_archived;
use crate::archive::Archive;
use crate::codec::Format;
use crate::error::Result;
use crate::repository::layout::{self, Key, TailChunk};
use crate::wal::{Segment, WalFileName};

/// What is to be removed.
#[derive(Debug, Default)]
pub(super) struct Waste {
    /// Whatever becomes of the segment.
    pub(super) objects: Vec<Key>,
    /// As soon as they are archived.
    pub(super) segments: BTreeSet<Segment>,
}

/// Removes what a [`Shipper`](super::Shipper) leaves behind. It goes on beside that one.
#[derive(Debug, Clone)]
pub struct Cleaner {
    pub(super) archive: Arc<Archive>,
    pub(super) pg_wal: PathBuf,
    pub(super) waste: Arc<Mutex<Waste>>,
}

impl Cleaner {
    /// One for what others have left: see [`Cleaner::look`].
    pub fn new(archive: Arc<Archive>, pg_wal: PathBuf) -> Self {
        Cleaner {
            archive,
            pg_wal,
            waste: Arc::default(),
        }
    }

    /// Look for segments that have chunks.
    pub async fn look(&self) -> Result<()> {
        let mut segments = BTreeSet::new();
        let look = |listed: walarchive_storage::Listed| {
            segments.extend(TailChunk::of_key(&listed.key).map(|chunk| chunk.segment));
        };
        self.archive.store().each(&layout::TAIL_FOLDER, look).await?;
        self.waste.lock().segments.extend(segments);
        Ok(())
    }

    /// Is there anything that could be removed now?
    pub fn has_work(&self) -> bool {
        let waste = self.waste.lock();
        !waste.objects.is_empty() || waste.segments.iter().any(|segment| is_archived(&self.pg_wal, *segment))
    }

    /// Remove what can be removed now. Returns how many objects that were. After an error the rest is tried again with the next call.
    pub async fn clean(&self) -> Result<usize> {
        let (objects, segments) = {
            let waste = self.waste.lock();
            (waste.objects.clone(), waste.segments.clone())
        };
        let store = self.archive.writable();
        let mut removed = objects.len();
        if !objects.is_empty() {
            store.delete_many(&objects, |_| {}).await?;
            self.waste.lock().objects.drain(..objects.len());
        }
        for segment in segments {
            if !is_archived(&self.pg_wal, segment) {
                continue;
            }
            if is_stored(&self.archive, segment).await? {
                removed += remove(&store, segment).await?;
            } else {
                // It is no segment that this server archives. Whoever deletes garbage finds it.
                tracing::debug!(%segment, "its chunks stay, as it is not archived");
            }
            self.waste.lock().segments.remove(&segment);
        }
        Ok(removed)
    }
}

/// Does the store have the whole segment, compressed in whatever way?
pub(super) async fn is_stored(archive: &Archive, segment: Segment) -> Result<bool> {
    for format in Format::in_order(archive.compression().format()) {
        let key = layout::wal(&WalFileName::Segment(segment), format);
        if archive.store().size(&key).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Remove all chunks of a segment.
async fn remove(store: &Store, segment: Segment) -> Result<usize> {
    let mut keys = Vec::new();
    let look = |listed: walarchive_storage::Listed| {
        if TailChunk::of_key(&listed.key).is_some() {
            keys.push(Key::listed(&listed));
        }
    };
    store.each(&layout::tail_of(segment), look).await?;
    store.delete_many(&keys, |_| {}).await?;
    Ok(keys.len())
}
