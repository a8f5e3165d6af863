//! What is written down about a WAL file that cannot be read again once it is encrypted. It comes before the object, so no object is
//! ever without it.

use std::path::PathBuf;

use crate::blocking::blocking;
use crate::encrypted::KeyedDigest;
use crate::error::{Error, Result};
use crate::repository::layout::{self, Key};
use crate::repository::unread::{self, Digest};
use crate::wal::{TimelineHistory, WalFileName};
use walarchive_storage::{Created, Store};

/// A digest, as it is written down.
pub(super) fn noted(digest: KeyedDigest) -> Digest {
    let (sum, bytes) = digest.finish();
    Digest::new(&sum, bytes)
}

/// Write down the digest of a file whose object will have this SHA-256. Returns the key of that.
pub(super) async fn note_digest(
    store: &Store,
    name: &WalFileName,
    object: &[u8; 32],
    digest: KeyedDigest,
) -> Result<Key> {
    unread::write_digest(store, name, object, &noted(digest)).await?;
    Ok(layout::digest(name, object))
}

/// No object has come to the digest that was written down. One that stays does no harm, and goes with the file.
pub(super) async fn forget_unless(created: Created, store: &Store, note: Option<Key>) {
    let Some(note) = note.filter(|_| created == Created::Exists) else {
        return;
    };
    if let Err(error) = store.delete_own(&note).await {
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
