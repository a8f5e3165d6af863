//! Files that have come are stored, several at a time. How far it is is told in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walarchive_storage::Motion;

use super::spool::Received;
use crate::archive::push::Archive;
use crate::error::{Error, Result};
use crate::lease::Following;
use crate::wal::{SegmentSize, WalFileName};

/// After a failure that may pass by itself the next attempt comes after this, and then later and later.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many files are stored: all before the one with that number, counted from 0 in the order in which they came.
pub type Progress = watch::Receiver<u64>;

/// How the store gets on.
#[derive(Debug, Default)]
pub struct Pace {
    motion: Arc<Motion>,
    /// It is told once that the store fails, and once that it works again.
    failing: AtomicBool,
}

impl Pace {
    /// Does the store fail, so that what has come is tried again and again?
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Have bytes moved within that time, to a store that does not fail?
    pub fn gets_on(&self, within: Duration) -> bool {
        !self.is_failing() && self.motion.quiet() < within
    }
}

/// Stores what comes.
#[derive(Debug)]
pub struct Storing {
    /// The archive.
    pub archive: Archive,
    /// `wal_segment_size` of the cluster.
    pub segment_size: SegmentSize,
    /// Files at a time, at least 1.
    pub at_a_time: usize,
    /// How the store gets on, for those who wait.
    pub pace: Arc<Pace>,
}

/// A file whose turn comes after that of a history file.
struct Turn {
    file: Received,
    /// Cancelled as soon as the history file before this file is stored.
    after: Option<CancellationToken>,
    /// To be cancelled when this history file is stored.
    history: Option<CancellationToken>,
}

/// Files with their turns: what comes after a history file is of the timeline that it tells of.
fn in_turns(files: mpsc::Receiver<Received>) -> impl Stream<Item = Turn> {
    futures::stream::unfold(
        (files, None),
        async |(mut files, last): (_, Option<CancellationToken>)| {
            let file: Received = mpsc::Receiver::recv(&mut files).await?;
            let history = matches!(file.name, WalFileName::History(_)).then(CancellationToken::new);
            let next = history.clone().or_else(|| last.clone());
            let turn = Turn {
                file,
                after: last,
                history,
            };
            Some((turn, (files, next)))
        },
    )
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
        let following = Following::default();
        let (this, following, end) = (&self, &following, &end);
        let stored = in_turns(files)
            .map(|turn| async move { Box::pin(this.store_in_turn(turn, following, end)).await })
            .buffered(self.at_a_time.max(1));
        stored
            .try_for_each(async |()| {
                progress.send_modify(|count| *count += 1);
                Ok(())
            })
            .await
    }

    async fn store_in_turn(&self, turn: Turn, following: &Following, end: &CancellationToken) -> Result<()> {
        if let Some(after) = &turn.after {
            // If that history file fails for good, all ends, and this is dropped.
            after.cancelled().await;
        }
        self.store(turn.file, following, end).await?;
        if let Some(history) = turn.history {
            history.cancel();
        }
        Ok(())
    }

    async fn store(&self, file: Received, following: &Following, end: &CancellationToken) -> Result<()> {
        let failing = &self.pace.failing;
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
        let (motion, brake) = (self.pace.motion.part(), Default::default());
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

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use parking_lot::Mutex;
    use walarchive_storage::Store;
    use walarchive_testkit::meddler::{Act, Meddler, Op};

    use super::*;
    use crate::codec::Compression;
    use crate::repository::cluster::ClusterIdentity;

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_stored_before_the_history_file_that_came_before_it() {
        let meddler = Meddler::new(Arc::new(InMemory::new()));
        let written: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&written);
        meddler.rule(move |op, key| {
            if op != Op::Put || !key.contains(".history") {
                return Act::Pass;
            }
            let mut noted = noted.lock();
            noted.push(key.to_owned());
            match noted.len() {
                1 => Act::Fail,
                _ => Act::Pass,
            }
        });
        let segment_size = SegmentSize::new(1 << 20).expect("a size");
        let identity = ClusterIdentity {
            system_identifier: 7,
            major_version: 15,
            segment_size,
        };
        let store = Store::of(Arc::new(meddler), "memory:");
        let storing = Storing {
            archive: Archive::new(store, identity, Compression::Zstd(1)),
            segment_size,
            at_a_time: 8,
            pace: Arc::default(),
        };
        let (files, receiver) = mpsc::channel(8);
        for timeline in [2, 3] {
            let content = format!("{}\t0/3000000\tno recovery target\n", timeline - 1);
            let file = Received::with(WalFileName::History(timeline), content.as_bytes());
            files.try_send(file.expect("made")).expect("room");
        }
        drop(files);
        let (sender, progress) = watch::channel(0);
        storing
            .run(receiver, sender, CancellationToken::new())
            .await
            .expect("stored");
        assert_eq!(*progress.borrow(), 2);
        let written = written.lock();
        let later = written
            .iter()
            .position(|key| key.contains("00000003"))
            .expect("written");
        assert!(later >= 2, "{written:?}");
        assert!(
            written[later..].iter().all(|key| key.contains("00000003")),
            "{written:?}"
        );
    }
}
