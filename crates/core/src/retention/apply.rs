//! Carrying a plan out, in an order that is safe against a crash at any point.
//!
//! A backup goes like this: a marker into its folder, the sentinel, the rest of the folder, the marker. Before the sentinel is
//! gone the backup is whole; after that it does not exist, and whoever finds a marker without a sentinel finishes the work.
//! All backups are gone before the first WAL file goes: no sentinel ever stands without what its backup needs. Two deletions
//! at a time remove the same things or different ones, and nothing that is missing is an error.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::dependants::Known;
use super::plan::{ABANDONED_AFTER, Action, DeletionPlan, Object};
use super::uploads::Discard;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::drills;
use crate::repository::inventory::{read_sentinel, write_continuous};
use crate::repository::layout::{self, Key};
use crate::repository::unread;
use crate::wal::WalFileName;
use walarchive_storage::Store;

/// Objects that are deleted with one call. S3 takes so many in one request.
const BATCH: usize = 1000;

/// How far a deletion is; read it from any thread.
#[derive(Debug, Default)]
pub struct DeletionProgress {
    /// Rows of the plan that are done.
    pub done: AtomicU64,
    /// All of them.
    pub total: AtomicU64,
    /// Stored bytes of the deleted objects.
    pub bytes: AtomicU64,
}

/// Something that was planned and not deleted, since it had changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spared {
    /// The backup.
    pub name: String,
    /// Why, as half a sentence.
    pub why: String,
}

/// The result.
#[derive(Debug, Default)]
pub struct Applied {
    /// For each action of the plan. An upload that has become an object in the meantime, or that has grown, stays without a
    /// word.
    pub deleted: Vec<bool>,
    /// Backups that stay against the plan. All WAL stays with them: which of it they need another plan has to say.
    pub spared: Vec<Spared>,
}

impl Applied {
    /// How many rows of the plan were carried out.
    pub fn count(&self) -> usize {
        self.deleted.iter().filter(|deleted| **deleted).count()
    }

    /// Stored bytes of the deleted objects.
    pub fn bytes(&self, plan: &DeletionPlan) -> u64 {
        let rows = plan.actions.iter().zip(&self.deleted).filter(|(_, deleted)| **deleted);
        rows.fold(0, |sum, (action, _)| sum.saturating_add(action.size))
    }
}

/// Carry the plan out. [`Error::Cancelled`] if it was cancelled: what is gone by then is gone, and the rest is whole. So is it
/// after a failure; a new plan takes up what is left.
pub async fn apply(
    store: &Store,
    plan: &DeletionPlan,
    progress: &DeletionProgress,
    cancel: &CancellationToken,
) -> Result<Applied> {
    progress.total.store(plan.actions.len() as u64, Ordering::Relaxed);
    let mut work = Work {
        store,
        plan,
        progress,
        cancel,
        applied: Applied {
            deleted: vec![false; plan.actions.len()],
            spared: Vec::new(),
        },
    };
    // WAL that the plan has no use for may be of use to a backup that stays against the plan.
    let first = plan
        .actions
        .iter()
        .position(|action| !matches!(action.object, Object::Backup { .. } | Object::Leftover { .. }));
    let (backups, rest) = plan.actions.split_at(first.unwrap_or(plan.actions.len()));
    let mut known = Known::new(backups);
    work.delete_backups(backups, &mut known).await?;
    if !work.applied.spared.is_empty() {
        return Ok(work.applied);
    }
    let is_common = |action: &Action| matches!(action.object, Object::Wal(_) | Object::Tail(_) | Object::Own(_));
    // If no backup stays that needs all WAL from it on, one that has begun since may need the WAL, as on a standby, and the owner.
    if (plan.kept.is_empty() || plan.without_backups.is_some())
        && rest.iter().any(is_common)
        && let Some(name) = known.newcomer(store, plan.without_backups.as_ref()).await?
    {
        let why = "it has begun since the plan was made".to_owned();
        work.applied.spared.push(Spared { name, why });
        return Ok(work.applied);
    }
    if rest.iter().any(|action| matches!(action.object, Object::Wal(_))) && !plan.continuous.is_empty() {
        write_continuous(store, &plan.continuous).await?;
    }
    let mut discard = Discard::new(store, plan.force);
    let mut at = backups.len();
    for stage in stages(rest) {
        match stage.first().map(|action| &action.object) {
            Some(Object::Upload(_)) => work.discard_uploads(at, stage, &mut discard).await?,
            _ => work.delete_objects(at, stage).await?,
        }
        let wal: Vec<WalFileName> = stage.iter().filter_map(wal_of).collect();
        if !wal.is_empty() {
            unread::forget(store, &wal).await?;
        }
        at += stage.len();
    }
    Ok(work.applied)
}

/// A deletion under way.
struct Work<'a> {
    store: &'a Store,
    plan: &'a DeletionPlan,
    progress: &'a DeletionProgress,
    cancel: &'a CancellationToken,
    applied: Applied,
}

impl Work<'_> {
    /// The first actions of the plan.
    async fn delete_backups(&mut self, backups: &[Action], known: &mut Known<'_>) -> Result<()> {
        for (index, action) in backups.iter().enumerate() {
            stop_if(self.cancel)?;
            match delete_backup(self.store, self.plan, action, known).await? {
                None => {
                    self.applied.deleted[index] = true;
                    self.progress.bytes.fetch_add(action.size, Ordering::Relaxed);
                }
                Some(spared) => {
                    known.spare(&spared.name);
                    self.applied.spared.push(spared);
                }
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The actions from this one on are uploads.
    async fn discard_uploads(&mut self, first: usize, uploads: &[Action], discard: &mut Discard<'_>) -> Result<()> {
        for (at, action) in (first..).zip(uploads) {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::Cancelled),
                gone = discard.one(action) => self.applied.deleted[at] = gone?,
            }
            if self.applied.deleted[at] {
                self.progress.bytes.fetch_add(action.size, Ordering::Relaxed);
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The actions from this one on are objects, in one stage.
    async fn delete_objects(&mut self, first: usize, objects: &[Action]) -> Result<()> {
        let progress = self.progress;
        let mut at = first;
        for batch in objects.chunks(BATCH) {
            let keys: Vec<Key> = batch.iter().map(Action::key).collect();
            let deletion = self.store.delete_many(&keys, |index| {
                progress.done.fetch_add(1, Ordering::Relaxed);
                progress.bytes.fetch_add(batch[index].size, Ordering::Relaxed);
            });
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::Cancelled),
                deleted = deletion => deleted?,
            }
            self.applied.deleted[at..at + batch.len()].fill(true);
            at += batch.len();
        }
        Ok(())
    }
}

/// WAL, then history files, the tail, uploads, then what is walarchive's own, the owner of the repository last: each stage only when the one
/// before it is done.
fn stages(actions: &[Action]) -> impl Iterator<Item = &[Action]> {
    let stage = |action: &Action| match &action.object {
        Object::Wal(object) => u8::from(matches!(object.name, WalFileName::History(_))),
        Object::Tail(_) => 2,
        Object::Own(key) if *key == layout::CLUSTER => 5,
        Object::Own(_) => 4,
        _ => 3,
    };
    actions.chunk_by(move |left, right| stage(left) == stage(right))
}

fn wal_of(action: &Action) -> Option<WalFileName> {
    match &action.object {
        Object::Wal(object) => Some(object.name),
        _ => None,
    }
}

fn stop_if(cancel: &CancellationToken) -> Result<()> {
    match cancel.is_cancelled() {
        true => Err(Error::Cancelled),
        false => Ok(()),
    }
}

/// Returns why it stays, if it does.
async fn delete_backup(
    store: &Store,
    plan: &DeletionPlan,
    action: &Action,
    known: &Known<'_>,
) -> Result<Option<Spared>> {
    let (name, check) = match &action.object {
        Object::Backup { name, start_lsn } => (name, Some(*start_lsn)),
        Object::Leftover { name, .. } => (name, None),
        Object::Wal(_) | Object::Tail(_) | Object::Upload(_) | Object::Own(_) => return Ok(None),
    };
    let spared = |why: &str| {
        Ok(Some(Spared {
            name: name.clone(),
            why: why.to_owned(),
        }))
    };
    let (sentinel, marker) = (layout::sentinel(name), layout::backup_deletion(name));
    let objects = store.list(&layout::backup_folder(name)).await?;
    let begun = objects.iter().any(|object| object.key == marker);
    match (check, store.size(&sentinel).await?) {
        (None, Some(_)) => return spared("it was completed since the plan was made"),
        // Somebody else has deleted it wholly.
        (Some(_), None) if objects.is_empty() => return Ok(None),
        (Some(_), None) if !begun => return spared("its sentinel is gone, and it may be being taken again"),
        (None, None) | (Some(_), _) => {}
    }
    if !begun {
        let content = serde_json::json!({ "time": Utc::now(), "why": &*action.why });
        store.put(&marker, Bytes::from(content.to_string())).await?;
    }
    let objection = match check {
        Some(start_lsn) => objection(store, plan, name, start_lsn, known).await?,
        None => completed_or_young(store, plan, name, begun).await?,
    };
    if let Some(why) = objection {
        // Somebody else's stays: he may have looked before there was an objection.
        if !begun {
            store.delete(&marker).await?;
        }
        return spared(&why);
    }
    store.delete(&sentinel).await?;
    let keys: Vec<Key> = objects.iter().map(Key::listed).filter(|key| *key != marker).collect();
    for batch in keys.chunks(BATCH) {
        store.delete_many(batch, |_| {}).await?;
    }
    // Once more: somebody who was marking the backup may have written it again.
    store.delete(&sentinel).await?;
    store.delete(&layout::metadata(name)).await?;
    drills::forget(store, name).await?;
    store.delete(&marker).await?;
    Ok(None)
}

/// Find an objection to the deletion of a leftover, now that everybody can see that it has begun. By the clock of the store:
/// ours may be a day ahead.
async fn completed_or_young(store: &Store, plan: &DeletionPlan, name: &str, begun: bool) -> Result<Option<String>> {
    let marker = layout::backup_deletion(name);
    let objects = store.list(&layout::backup_folder(name)).await?;
    if store.size(&layout::sentinel(name)).await?.is_some() {
        return Ok(Some("it was completed since the plan was made".to_owned()));
    }
    let now = objects
        .iter()
        .find(|object| object.key == marker)
        .map(|object| object.last_modified);
    let now = now.unwrap_or_else(Utc::now);
    let mut others = objects.iter().filter(|object| object.key != marker);
    let young = others.any(|object| object.last_modified > now - ABANDONED_AFTER);
    Ok((young && !begun && !plan.force).then(|| "it is being written to".to_owned()))
}

/// Find an objection to the deletion, now that everybody can see that it has begun.
async fn objection(
    store: &Store,
    plan: &DeletionPlan,
    name: &str,
    planned: Option<Lsn>,
    known: &Known<'_>,
) -> Result<Option<String>> {
    if let Some(delta) = known.dependant(store, name).await? {
        return Ok(Some(format!("\"{delta}\" depends on it")));
    }
    if plan.force {
        return Ok(None);
    }
    if crate::retention::said(store, name).await?.is_permanent {
        return Ok(Some("it was marked permanent since the plan was made".to_owned()));
    }
    match read_sentinel(store, name).await {
        Ok(found) if planned != Some(found.start_lsn) => Ok(Some("it is not the one that was planned".to_owned())),
        Err(Error::Damaged { .. }) if planned.is_some() => Ok(Some("it can no longer be read".to_owned())),
        Ok(_) | Err(Error::Damaged { .. } | Error::NoBackup { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
