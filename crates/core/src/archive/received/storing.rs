//! Files that have come are stored, several at a time. How far it is is told in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::spool::Received;
use crate::archive::push::Archive;
use crate::error::{Error, Result};
use crate::lease::Following;
use crate::wal::SegmentSize;

/// After a failure that may pass by itself the next attempt comes after this, and then later and later.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many files are stored: all before the one with that number, counted from 0 in the order in which they came.
pub type Progress = watch::Receiver<u64>;

/// Stores what comes.
#[derive(Debug)]
pub struct Storing {
    /// The archive.
    pub archive: Archive,
    /// `wal_segment_size` of the cluster.
    pub segment_size: SegmentSize,
    /// Files at a time, at least 1.
    pub at_a_time: usize,
}

impl Storing {
    /// Store all files of the channel until it is closed, or something fails that does not pass by itself. A failing store is tried
    /// again until it works, or until `end` is cancelled: then what failed is left.
    pub async fn run(
        self,
        files: mpsc::Receiver<Received>,
        progress: watch::Sender<u64>,
        end: CancellationToken,
    ) -> Result<()> {
        let (following, failing) = (Following::default(), AtomicBool::new(false));
        let (this, following, failing, end) = (&self, &following, &failing, &end);
        let files = futures::stream::unfold(files, async |mut files| files.recv().await.map(|file| (file, files)));
        let stored = files
            .map(|file| async move { Box::pin(this.store(file, following, failing, end)).await })
            .buffered(self.at_a_time.max(1));
        stored
            .try_for_each(async |()| {
                progress.send_modify(|count| *count += 1);
                Ok(())
            })
            .await
    }

    /// `failing` is what is known of the store: it is told once that it fails, and once that it works again.
    async fn store(
        &self,
        file: Received,
        following: &Following,
        failing: &AtomicBool,
        end: &CancellationToken,
    ) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(&file, following).await {
                Ok(()) => {
                    if failing.swap(false, Ordering::Relaxed) {
                        tracing::warn!("\"{}\" is stored now", file.name);
                    }
                    return Ok(());
                }
                Err(error) if error.is_transient() => {
                    if !failing.swap(true, Ordering::Relaxed) {
                        let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
                        tracing::warn!(
                            "could not store \"{}\", and tries again until it can: {error}{detail}",
                            file.name
                        );
                    }
                }
                Err(error) => return Err(as_received(error, &file)),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = end.cancelled() => return Err(Error::Cancelled),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_once(&self, file: &Received, following: &Following) -> Result<()> {
        let store = self.archive.store();
        following.permit(store, &file.name, self.segment_size).await?;
        let (motion, brake) = (Arc::default(), Default::default());
        let pushed = self.archive.push_file(file.path(), &file.name, motion, brake).await?;
        tracing::info!(name = %file.name, already_there = pushed.already_there, bytes = pushed.stored_bytes, "stored");
        Ok(())
    }
}

/// Nobody knows the file by its path.
fn as_received(error: Error, received: &Received) -> Error {
    let name = format!("{} as the server sends it", received.name);
    match error {
        Error::Conflict { object, reason, .. } => Error::Conflict {
            object,
            local: name,
            reason,
        },
        Error::InvalidWal { reason, .. } => Error::InvalidWal { file: name, reason },
        other => other,
    }
}
