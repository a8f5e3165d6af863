//! Carrying a plan out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, refuse_deleted, was_deleted};
use super::plan::{BackupFiles, CopyPlan};
use crate::error::{Error, Result, StorageError};
use crate::formats::Sentinel;
use crate::objects::{Existing, carry};
use crate::repository::encryption::State;
use crate::repository::inventory::{TailObject, read_sentinel, write_continuous};
use crate::repository::layout::Key;
use crate::repository::plain_text::{begins_in_plain_text, encrypted_object};
use crate::repository::{cluster, encryption, layout, unread};
use crate::wal::WalFileName;
use walarchive_storage::{Created, Listed, Store};

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

/// How to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Nothing is stored in plain text, of what is encrypted where anything is.
    pub only_encrypted: bool,
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

/// Copy. The other repository is claimed for the cluster first; one of another cluster is refused, and so is another backup of the
/// same name. `to` has the fence of whoever may write there.
pub async fn apply(
    from: &Store,
    to: &Store,
    plan: &CopyPlan,
    options: CopyOptions,
    progress: &CopyProgress,
    cancel: &CancellationToken,
) -> Result<Copied> {
    if from.url() == to.url() {
        return Err(Error::config(
            "both configuration files name the same storage",
            "Give two that differ: a copy beside the original protects from nothing.",
        ));
    }
    let claims = Claims::new(to)?;
    let (of_source, of_target) = tokio::try_join!(encryption::state(from), encryption::state(to))?;
    let only_encrypted = options.only_encrypted || only_encrypted(to, &of_source, &of_target).await?;
    let job = Job {
        from,
        to,
        of_source,
        only_encrypted,
        claims: &claims,
        progress,
        cancel,
    };
    let outcome = tokio::select! {
        biased;
        outcome = Box::pin(job.run(plan)) => outcome,
        never = claims.keep() => match never {},
    };
    claims.release_all().await;
    outcome
}

/// Must nothing be stored there in plain text, by what is there already?
async fn only_encrypted(to: &Store, of_source: &State, of_target: &State) -> Result<bool> {
    match (of_source, of_target) {
        // A copy of the same repository.
        (State::Encrypted(here), State::Encrypted(there)) if here.key == there.key => Ok(!there.plain_before),
        (_, State::Encrypted(_)) => Ok(true),
        _ => Ok(encrypted_object(to).await?.is_some()),
    }
}

struct Job<'a> {
    from: &'a Store,
    to: &'a Store,
    /// Is the source encrypted? The other repository will be in the same way.
    of_source: State,
    only_encrypted: bool,
    claims: &'a Claims<'a>,
    progress: &'a CopyProgress,
    cancel: &'a CancellationToken,
}

/// Key, stored bytes, and what happens to one that is there.
type Item = (Key, u64, Existing);

impl Job<'_> {
    async fn run(&self, plan: &CopyPlan) -> Result<Copied> {
        // WAL that is there tells another story than what this copy begins with.
        let there = self.to.list_shallow(&layout::BACKUPS_FOLDER).await?;
        let is_new = !there
            .iter()
            .any(|object| layout::backup_of_sentinel(&object.key).is_some());
        cluster::claim_for_copy((self.from, &self.of_source), self.to, &plan.identity).await?;
        let mut complete = BTreeSet::new();
        for backup in &plan.backups {
            if self.is_complete(&backup.name).await? {
                complete.insert(backup.name.as_str());
            }
        }
        for backup in &plan.backups {
            if !complete.contains(backup.name.as_str()) {
                self.claims.take(&backup.name).await?;
            }
        }
        if let Some(since) = plan.continuous.filter(|_| is_new) {
            write_continuous(self.to, &BTreeMap::from([(since.timeline, since)])).await?;
        }
        let mut copied = Copied::default();
        let names: Vec<WalFileName> = plan.wal.iter().map(|object| object.name).collect();
        let notes = unread::notes_on(self.from, &names).await?;
        let notes = notes
            .iter()
            .map(|note| (Key::listed(note), note.size, Existing::Replace));
        let wal = plan
            .wal
            .iter()
            .map(|object| (object.key(), object.size, Existing::Keep));
        self.carry_all(notes.chain(wal).collect(), &mut copied).await?;
        self.carry_tail(&plan.tail, &mut copied).await?;
        for backup in &plan.backups {
            match complete.contains(backup.name.as_str()) {
                true => self.carry_missing(backup, &mut copied).await?,
                false => self.carry_backup(backup, &mut copied).await?,
            }
        }
        Ok(copied)
    }

    /// Does the backup have a sentinel there? An error if it is another backup's.
    async fn is_complete(&self, name: &str) -> Result<bool> {
        if self.to.size(&layout::sentinel(name)).await?.is_none() {
            return Ok(false);
        }
        self.claims.refuse_deleted(name).await?;
        // What was copied there has the keys that it has here.
        let there = async {
            match read_sentinel(self.to, name).await {
                Err(error) if error.asks_for_a_key() => read_sentinel(&self.to.with_keys_of(self.from), name).await,
                read => read,
            }
        };
        let (here, there) = tokio::try_join!(read_sentinel(self.from, name), there)?;
        match identity(&here) == identity(&there) {
            true => Ok(true),
            false => Err(Error::refused(
                format!(
                    "backup \"{name}\" is in \"{}\" already, and is another one: it starts at {}, {}, and the one to copy at \
                     {}, {}",
                    self.to.url(),
                    there.start_lsn,
                    there.start_time.to_rfc3339(),
                    here.start_lsn,
                    here.start_time.to_rfc3339()
                ),
                "Copy into another prefix, or delete the backup there if nobody needs it.",
            )),
        }
    }

    /// Of a backup whose sentinel is there. A mark that was changed since then stays as it is there.
    async fn carry_missing(&self, backup: &BackupFiles, copied: &mut Copied) -> Result<()> {
        let listed = self.to.list(&layout::backup_folder(&backup.name)).await?;
        let there: BTreeMap<&str, u64> = listed.iter().map(|object| (object.key.as_str(), object.size)).collect();
        let metadata = layout::metadata(&backup.name);
        let is_there = |object: &&Listed| match there.get(object.key.as_str()) {
            Some(size) => *size == object.size || object.key == metadata,
            None => false,
        };
        let (kept, missing): (Vec<_>, Vec<_>) = backup.objects.iter().partition(is_there);
        let bytes = kept.iter().map(|object| object.size).sum::<u64>() + backup.sentinel_bytes;
        let objects = kept.len() as u64 + 1;
        self.progress.objects.fetch_add(objects, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        copied.there += objects;
        let items = missing
            .into_iter()
            .map(|object| (Key::listed(object), object.size, Existing::Keep));
        self.carry_all(items.collect(), copied).await?;
        self.claims.refuse_deleted(&backup.name).await
    }

    async fn carry_backup(&self, backup: &BackupFiles, copied: &mut Copied) -> Result<()> {
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
        let sentinel = layout::sentinel(&backup.name);
        // Another copy may have come to its end in the meantime, and have removed the claim.
        if self.is_complete(&backup.name).await? {
            self.count(copied, Created::Exists, backup.sentinel_bytes);
            self.claims.release(&backup.name).await;
            return Ok(());
        }
        // Whoever deletes it there says so first, and looks for the sentinel then. So one of the two gives way.
        let parent = self.check(&backup.name, None).await?;
        refuse_deleted(self.from, &backup.name).await?;
        // It may have been marked since the plan was made.
        let Some(bytes) = self.from.size(&sentinel).await? else {
            return Err(Error::damaged(
                self.from.object_url(&sentinel),
                "It was deleted in the meantime.",
            ));
        };
        let (created, _) = self.carry_one((sentinel.clone(), bytes, Existing::Keep)).await?;
        self.count(copied, created, bytes);
        match created {
            Created::Yes => {
                if let Err(error) = self.check(&backup.name, Some(parent)).await {
                    if !error.is_transient() {
                        self.to.delete(&sentinel).await?;
                    }
                    return Err(error);
                }
            }
            // It is another copy's, which does all this too. Nobody but that one may remove it.
            Created::Exists => {
                self.check_parent(&backup.name, parent.as_deref()).await?;
                if !self.is_complete(&backup.name).await? {
                    return Err(was_deleted(&backup.name));
                }
            }
        }
        self.claims.release(&backup.name).await;
        Ok(())
    }

    /// Is what was copied of the backup still there, and what it is based on? Returns the name of that.
    async fn check(&self, name: &str, parent: Option<Option<String>>) -> Result<Option<String>> {
        self.claims.check(name).await?;
        let parent = match parent {
            Some(parent) => parent,
            None => read_sentinel(self.from, name).await?.delta_from,
        };
        self.check_parent(name, parent.as_deref()).await?;
        Ok(parent)
    }

    async fn check_parent(&self, name: &str, parent: Option<&str>) -> Result<()> {
        let Some(parent) = parent else { return Ok(()) };
        self.claims.refuse_deleted(parent).await?;
        match self.to.size(&layout::sentinel(parent)).await? {
            Some(_) => Ok(()),
            None => Err(Error::refused(
                format!("backup \"{parent}\", on which \"{name}\" is based, was deleted in the other storage"),
                "Run the same command again.",
            )),
        }
    }

    /// The first failure ends it; what is on its way then is given up.
    async fn carry_all(&self, items: Vec<Item>, copied: &mut Copied) -> Result<()> {
        let one = |item| self.carry_one(item);
        let mut running = futures::stream::iter(items).map(one).buffer_unordered(CONCURRENCY);
        while let Some(done) = running.next().await {
            let (created, size) = done?;
            self.count(copied, created, size);
        }
        Ok(())
    }

    /// A chunk that is gone is no loss: its segment was archived whole meanwhile, or it was merged with others, and another copy will
    /// have that.
    async fn carry_tail(&self, tail: &[TailObject], copied: &mut Copied) -> Result<()> {
        for object in tail {
            match self.carry_one((object.key(), object.size, Existing::Keep)).await {
                Ok((created, size)) => self.count(copied, created, size),
                Err(Error::Storage(StorageError::NotFound { .. })) => {
                    self.progress.objects.fetch_add(1, Ordering::Relaxed);
                    self.progress.bytes.fetch_add(object.size, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn carry_one(&self, (key, size, existing): Item) -> Result<(Created, u64)> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if self.only_encrypted && begins_in_plain_text(self.from, &key, size).await? == Some(true) {
            return Err(Error::refused(
                format!(
                    "\"{}\" is not encrypted, and is not copied to where everything has to be",
                    self.from.object_url(&key)
                ),
                "The configuration file of that storage asks for encryption, or encrypted objects are there already. If plain text \
                 may be stored, copy to another prefix, with a file that asks for none.",
            ));
        }
        let created = tokio::select! {
            carried = carry(self.from, self.to, &key, size, existing) => carried?,
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        Ok((created, size))
    }

    fn count(&self, copied: &mut Copied, created: Created, size: u64) {
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
}

/// What two copies of one backup have in common, and no two backups. A mark may differ.
fn identity(sentinel: &Sentinel) -> impl PartialEq + use<'_> {
    (
        sentinel.start_lsn,
        sentinel.finish_lsn,
        sentinel.system_identifier,
        sentinel.start_time,
        sentinel.finish_time,
        &sentinel.hostname,
        &sentinel.delta_from,
    )
}
