//! What is written down about a WAL file that cannot be read again once it is encrypted. It comes before the object, so no object is
//! ever without it.

use std::io;
use std::path::PathBuf;

use crate::blocking::blocking;
use crate::encrypted::KeyedDigest;
use crate::error::{Error, Result};
use crate::formats::manifest::hex;
use crate::objects::Summed;
use crate::repository::layout::{self, Key};
use crate::repository::unread::{self, Digest};
use crate::wal::{TimelineHistory, WalFileName};
use walarchive_storage::{Created, RangeReader, Store};

/// A digest, as it is written down.
pub(super) fn noted(digest: KeyedDigest) -> Digest {
    let (sum, bytes) = digest.finish();
    Digest {
        digest: hex(&sum),
        bytes,
    }
}

/// Write down the digest of a file whose object will have this SHA-256. Returns the key of that, and the SHA-256.
pub(super) async fn note_digest(
    store: &Store,
    name: &WalFileName,
    object: [u8; 32],
    digest: KeyedDigest,
) -> Result<(Key, [u8; 32])> {
    unread::write_digest(store, name, &object, &noted(digest)).await?;
    Ok((layout::digest(name, &object), object))
}

/// The SHA-256 of an object as it is stored; none if it is not there.
pub(super) async fn sum_of(store: &Store, key: &str) -> Result<Option<[u8; 32]>> {
    let Some(mut object) = RangeReader::open(store, key).await? else {
        return Ok(None);
    };
    let url = store.object_url(key);
    blocking(move || {
        let mut sum = Summed::new(io::sink());
        match io::copy(&mut object, &mut sum) {
            Ok(_) => Ok(Some(sum.sum())),
            Err(error) => Err(object
                .take_failure()
                .map_or_else(|| Error::damaged(url, error.to_string()), Error::from)),
        }
    })
    .await
}

/// Remove the digest of an attempt if another object was there before. An attempt whose answer was lost finds its own one. A digest
/// that stays does no harm, and goes with the file.
pub(super) async fn forget_unless(created: Created, store: &Store, object: &Key, noted: Option<(Key, [u8; 32])>) {
    let Some((note, ours)) = noted.filter(|_| created == Created::Exists) else {
        return;
    };
    let forgotten = async {
        match sum_of(store, object).await? {
            Some(there) if there != ours => Ok(store.delete_own(&note).await?),
            _ => Ok::<(), Error>(()),
        }
    };
    if let Err(error) = forgotten.await {
        tracing::debug!(%note, %error, "the digest of an object that was there before could not be removed");
    }
}

/// Write down where a timeline comes from, as the history file at `path` tells it.
pub(super) async fn note_timeline(store: &Store, timeline: u32, path: PathBuf) -> Result<()> {
    let read = move || std::fs::read(&path).map_err(|error| Error::io("read", &path, error));
    let content = blocking(read).await?;
    match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)) {
        Some(history) => unread::write_timeline(store, &history).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// The answer to the first attempt was lost: the object that is there is that of the digest.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_attempt_whose_answer_was_lost_keeps_its_digest() {
        let store = Store::of(Arc::new(InMemory::new()), "memory:");
        let name = "000000010000000000000003".parse().expect("a name");
        let key = layout::wal(&name, crate::codec::Format::Zstd);
        store.put(&key, "ours".into()).await.expect("written");
        for (object, stays) in [("ours", true), ("another attempt", false)] {
            let sum = Sha256::digest(object).into();
            let note = note_digest(&store, &name, sum, KeyedDigest::new(&[1; 32]))
                .await
                .expect("noted");
            forget_unless(Created::Exists, &store, &key, Some(note.clone())).await;
            assert_eq!(store.size(&note.0).await.expect("asked").is_some(), stays, "{object}");
        }
    }
}
