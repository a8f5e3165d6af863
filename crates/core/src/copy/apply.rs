//! Carrying a plan out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::plan::{BackupFiles, CopyPlan};
use crate::error::{Error, Result};
use crate::objects::{Existing, carry};
use crate::repository::inventory::{list_backups, write_continuous};
use crate::repository::layout::Key;
use crate::repository::{cluster, layout};
use walarchive_storage::{Created, Store};

/// Objects that are on their way at a time.
const CONCURRENCY: usize = 4;

/// How far a copy is. May be read at any time.
#[derive(Debug, Default)]
pub struct CopyProgress {
    /// Objects that are there.
    pub objects: AtomicU64,
    /// Their stored bytes.
    pub bytes: AtomicU64,
}

/// The result of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects that were sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Objects that were there already.
    pub there: u64,
}

/// Copy. The other repository is claimed for the cluster first; one of another cluster is refused. `to` has the fence of whoever
/// may write there.
pub async fn apply(
    from: &Store,
    to: &Store,
    plan: &CopyPlan,
    progress: &CopyProgress,
    cancel: &CancellationToken,
) -> Result<Copied> {
    if from.url() == to.url() {
        return Err(Error::config(
            "both configuration files name the same storage",
            "Give two that differ: a copy beside the original protects from nothing.",
        ));
    }
    // WAL that is there tells another story than what this copy begins with.
    let is_new = list_backups(to).await?.is_empty();
    cluster::claim(to, &plan.identity).await?;
    if let Some(since) = plan.continuous.filter(|_| is_new) {
        write_continuous(to, &BTreeMap::from([(since.timeline, since)])).await?;
    }
    let mut copied = Copied::default();
    let wal = plan
        .wal
        .iter()
        .map(|object| (object.key(), object.size, Existing::Keep));
    let job = Job {
        from,
        to,
        progress,
        cancel,
    };
    job.carry_all(wal.collect(), &mut copied).await?;
    for backup in &plan.backups {
        job.carry_backup(backup, &mut copied).await?;
    }
    Ok(copied)
}

struct Job<'a> {
    from: &'a Store,
    to: &'a Store,
    progress: &'a CopyProgress,
    cancel: &'a CancellationToken,
}

/// Key, stored bytes, and what happens to one that is there.
type Item = (Key, u64, Existing);

impl Job<'_> {
    async fn carry_backup(&self, backup: &BackupFiles, copied: &mut Copied) -> Result<()> {
        let sentinel = layout::sentinel(&backup.name);
        if self.to.size(&sentinel).await?.is_some() {
            // Its sentinel came last. A mark that was changed since then stays as it is there.
            let bytes = backup.objects.iter().map(|object| object.size).sum::<u64>() + backup.sentinel_bytes;
            let objects = backup.objects.len() as u64 + 1;
            self.progress.objects.fetch_add(objects, Ordering::Relaxed);
            self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            copied.there += objects;
            return Ok(());
        }
        // A mark may have changed it since a copy that was interrupted.
        let metadata = layout::metadata(&backup.name);
        let items = backup.objects.iter().map(|object| {
            let existing = match object.key == metadata {
                true => Existing::Replace,
                false => Existing::Keep,
            };
            (Key::listed(object), object.size, existing)
        });
        self.carry_all(items.collect(), copied).await?;
        self.carry_all(vec![(sentinel, backup.sentinel_bytes, Existing::Keep)], copied)
            .await
    }

    /// The first failure ends it; what is on its way then is given up.
    async fn carry_all(&self, items: Vec<Item>, copied: &mut Copied) -> Result<()> {
        let one = |(key, size, existing): Item| async move {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let created = tokio::select! {
                carried = carry(self.from, self.to, &key, size, existing) => carried?,
                () = self.cancel.cancelled() => return Err(Error::Cancelled),
            };
            Ok((created, size))
        };
        let mut running = futures::stream::iter(items).map(one).buffer_unordered(CONCURRENCY);
        while let Some(done) = running.next().await {
            let (created, size) = done?;
            match created {
                Created::Yes => {
                    copied.sent += 1;
                    copied.sent_bytes += size;
                }
                Created::Exists => copied.there += 1,
            }
            self.progress.objects.fetch_add(1, Ordering::Relaxed);
            self.progress.bytes.fetch_add(size, Ordering::Relaxed);
        }
        Ok(())
    }
}
