//! A number for each run of a server, higher than all before.

use chrono::{DateTime, Utc};
use serde::Serialize;
use walarchive_storage::{Created, Store};

use crate::error::{Error, Result, StorageError};
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::{self, Key, TailChunk};

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
    /// The chunks of the epochs before.
    pub(super) chunks: Vec<TailChunk>,
    /// The objects of the epochs before.
    pub(super) older: Vec<Key>,
}

/// Begin an epoch. Chunks count too: whatever was deleted by hand, no number is used again while something of it is there.
pub(super) async fn take(store: &Store, identity: &ClusterIdentity, timeline: u32) -> Result<Epoch> {
    for _ in 0..ATTEMPTS {
        let (mut chunks, mut numbers) = (Vec::new(), Vec::new());
        let look = |listed: walarchive_storage::Listed| {
            if let Some(chunk) = TailChunk::of_key(&listed.key) {
                chunks.push(chunk);
            } else if let Some(number) = layout::epoch_of_tail(&listed.key) {
                numbers.push(number);
            }
        };
        store.each(&layout::TAIL_FOLDER, look).await?;
        let used = chunks.iter().map(|chunk| chunk.epoch).chain(numbers.iter().copied());
        let number = used.max().unwrap_or(0) + 1;
        let taken = Taken {
            version: VERSION,
            epoch: number,
            system_identifier: identity.system_identifier,
            timeline,
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
