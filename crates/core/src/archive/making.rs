//! The object of a file: made whole in memory, or stored in parts while it is made.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::frames::Frame;
use super::notes::{forget_unless, note_digest};
use super::source::{Compressing, SegmentSource};
use crate::blocking::blocking;
use crate::encrypted::{KeyedDigest, Wrapping};
use crate::error::{Error, Result, StorageError};
use crate::objects::Summed;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::Key;
use crate::threads::{Steps, Threads, busy, busy_at_times};
use crate::wal::WalFileName;
use walarchive_storage::{Created, Store};

/// A file that is to be stored.
pub(super) struct Making {
    pub(super) source: SegmentSource,
    pub(super) identity: ClusterIdentity,
    pub(super) wrapping: Wrapping,
    /// Of the object.
    pub(super) key: Key,
    /// All that keeps a processor busy is done there; none where it may take what it needs.
    pub(super) threads: Option<Arc<Threads>>,
}

/// An object that is not stored yet.
pub(super) struct Body {
    pub(super) content: Bytes,
    /// Its SHA-256, and the digest of the file, where it cannot be read again.
    pub(super) digest: Option<([u8; 32], KeyedDigest)>,
}

/// An object that is made in memory.
enum Whole {
    New(Box<Making>, Vec<Frame>),
    Begun(Box<Compressing<Vec<u8>>>),
    /// It has failed.
    Over,
}

impl Steps for Whole {
    type Outcome = Body;

    fn go_on(&mut self) -> Result<bool> {
        match std::mem::replace(self, Whole::Over) {
            Whole::New(making, frames) => {
                let Making {
                    source,
                    identity,
                    wrapping,
                    key,
                    ..
                } = *making;
                let expected = Vec::with_capacity(source.bytes() as usize / 4);
                let begun = source.begin(&identity, &wrapping, &key, &frames, expected)?;
                *self = Whole::Begun(Box::new(begun));
                Ok(true)
            }
            Whole::Begun(mut compressing) => {
                let goes_on = compressing.go_on()?;
                *self = Whole::Begun(compressing);
                Ok(goes_on)
            }
            Whole::Over => Ok(false),
        }
    }

    fn finish(self) -> Result<Body> {
        let Whole::Begun(compressing) = self else {
            return Err(Error::defect("an object is finished that was not begun"));
        };
        let (content, digest) = compressing.finish()?;
        Ok(Body {
            digest: digest.map(|digest| (Sha256::digest(&content).into(), digest)),
            content: content.into(),
        })
    }
}

impl Making {
    /// The whole object. What `frames` have of the file is not compressed again.
    pub(super) async fn whole(mut self, frames: Vec<Frame>) -> Result<Body> {
        let threads = self.threads.take();
        busy(threads.as_deref(), Whole::New(Box::new(self), frames)).await
    }

    /// Store the object while it is made. Memory is bounded, whatever the size of the file.
    pub(super) async fn in_parts(self, store: &Store, name: &WalFileName) -> Result<(Created, u64)> {
        let Making {
            source,
            identity,
            wrapping,
            key,
            threads,
        } = self;
        // Before gigabytes are compressed and sent.
        if let Some(bytes) = store.size(&key).await? {
            return Ok((Created::Exists, bytes));
        }
        let (path, object) = (source.path().to_owned(), key.clone());
        let cancel = CancellationToken::new();
        // If this future is dropped, as it is when the server stops, the upload ends and its parts are removed.
        let _cancel_on_drop = cancel.clone().drop_guard();
        let (upload, task) = store.upload_new(&key, cancel);
        let compress = async {
            let compress = move || source.compress(&identity, &wrapping, &object, &[], Summed::new(upload));
            // It waits for the store in between.
            let summed = busy_at_times(threads.as_deref(), compress);
            let (Summed { inner: upload, sum }, digest) = summed.await?;
            // There is no object before its last part is handed over.
            let note = match digest {
                Some(digest) => Some(note_digest(store, name, sum.finalize().into(), digest).await?),
                None => None,
            };
            let finish = move || upload.finish().map_err(|error| Error::io("compress", &path, error));
            blocking(finish).await.map(|()| note)
        };
        match tokio::join!(compress, task.uploaded()) {
            (Ok(note), outcome) => {
                let uploaded = outcome?;
                forget_unless(uploaded.created, store, &key, note).await;
                Ok((uploaded.created, uploaded.bytes))
            }
            // The one that ended first tells the reason: an upload that failed takes no more, one whose producer failed is
            // cancelled.
            (Err(error), Ok(_) | Err(StorageError::Cancelled)) => Err(error),
            (Err(_), Err(error)) => Err(error.into()),
        }
    }
}
