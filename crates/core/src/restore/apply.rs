//! Carrying a plan out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::complete::check_complete;
use super::condition::{self, Condition, Marker};
use super::context::{Context, Step};
use super::existing;
use super::extract::extract;
use super::fetch::blocking;
use super::member::{BACKUP_LABEL, MARKER, MemberPath, PG_CONTROL};
use super::options::RestoreMode;
use super::plan::{RestorePlan, Tar, TarKind};
use super::recovery::{self, put};
use super::tree::Tree;
use super::{readback, stubs};
use crate::error::{Error, Result};
use crate::layout;
use crate::storage::{RangeReader, Store};

/// How far a restore is; read it from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Stored bytes that were downloaded.
    pub bytes_done: AtomicU64,
    /// Stored bytes to download.
    pub bytes_total: AtomicU64,
    /// Bytes that were written into files.
    pub bytes_written: AtomicU64,
    /// Files that are complete.
    pub files_done: AtomicU64,
    /// The directories are not what they were any more: until the restore has ended well, no server can start on them.
    pub is_writing: AtomicBool,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were downloaded.
    pub stored_bytes: u64,
}

/// Restore. When this fails or is cancelled, the directory is incomplete: it has no `global/pg_control`, so no server
/// starts on it, and it must be emptied before the next attempt, or that must be one with [`RestoreMode::Delta`]. When it
/// returns, everything is on disk. A directory that was changed since the plan is refused.
pub async fn apply(plan: RestorePlan, progress: Arc<Progress>, cancel: CancellationToken) -> Result<Restored> {
    progress.bytes_total.store(plan.stored_bytes(), Ordering::Relaxed);
    let cancel = cancel.child_token();
    // Threads that unpack do not notice when nobody waits for them any more.
    let _guard = cancel.clone().drop_guard();
    let shown = Arc::clone(&progress);
    let (mut plan, tree) = blocking(move || {
        let mut plan = plan;
        let tree = match plan.mode {
            RestoreMode::VerifyOnly => None,
            _ => Some(prepare(&mut plan, &shown)?),
        };
        Ok((plan, tree))
    })
    .await?;
    let kept = plan.existing.take().map(|existing| existing.kept);
    let (table, levels) = (plan.table.take(), std::mem::take(&mut plan.levels));
    let context = Arc::new(Context::new(tree, table, kept, Arc::clone(&progress), cancel));
    let store = &plan.store;
    if let Some(manifest) = plan.manifest.as_ref().filter(|_| !plan.databases.is_all()) {
        stubs::make(&context, store, manifest).await?;
    }
    let mut control = None;
    for mut level in levels {
        let tars = std::mem::take(&mut level.tars);
        let (last, tars): (Vec<Tar>, Vec<Tar>) = tars.into_iter().partition(|tar| tar.kind == TarKind::Control);
        let step = Arc::new(Step::new(level, context.table.as_ref()));
        extract_all(&context, &step, store, tars, plan.concurrency).await?;
        if step.is_newest() {
            control = Some((step, last));
        }
    }
    let backup = store.object_url(&layout::backup_folder(&plan.backup));
    if !context.label.load(Ordering::Relaxed) {
        // Without it, the server would start from the wrong checkpoint and find nothing wrong.
        return Err(Error::damaged(backup, format!("No tar has \"{BACKUP_LABEL}\".")));
    }
    check_complete(&context, store, &plan.backup).await?;
    if let Some(manifest) = &plan.manifest {
        readback::finish_manifest(&context, store, manifest, plan.concurrency).await?;
    }
    let further = plan.further_settings();
    let (finishing, recovery) = (Arc::clone(&context), plan.recovery);
    blocking(move || {
        if let Some(tree) = &finishing.tree {
            tree.create_directory(&path_of("pg_wal")?, 0o700)?;
            recovery::write(recovery.as_ref(), &further, tree)?;
        }
        sync(&finishing)
    })
    .await?;
    if let Some((step, tars)) = control {
        extract_all(&context, &step, store, tars, 1).await?;
    }
    if !context.control.load(Ordering::Relaxed) {
        let folder = store.object_url(&layout::tar_folder(&plan.backup));
        return Err(Error::damaged(folder, format!("No tar has \"{PG_CONTROL}\".")));
    }
    let flushing = Arc::clone(&context);
    blocking(move || {
        sync(&flushing)?;
        // Only now: without it and without `pg_control` nobody could tell whose directory it is.
        let mark = path_of(MARKER)?;
        flushing.tree.as_ref().map_or(Ok(()), |tree| tree.remove(&mark))
    })
    .await?;
    Ok(Restored {
        files: progress.files_done.load(Ordering::Relaxed),
        bytes: progress.bytes_written.load(Ordering::Relaxed),
        stored_bytes: progress.bytes_done.load(Ordering::Relaxed),
    })
}

/// Make the directories ready. Until the end a mark says whose they are; what is not in the backup goes.
fn prepare(plan: &mut RestorePlan, progress: &Progress) -> Result<Tree> {
    let found = std::mem::take(&mut plan.directories);
    let tree = Tree::open(found, &plan.target, &plan.tablespaces, plan.owner)?;
    let planned = plan.condition.as_ref();
    condition::check_again(&tree, &plan.tablespaces, &plan.sentinel, planned)?;
    tree.take_over()?;
    let marker = Marker {
        system_identifier: plan.sentinel.system_identifier,
        backup: plan.backup.clone(),
    };
    put(&tree, MARKER, &marker.to_json())?;
    if let Some(planned) = planned {
        lock_out(&tree, planned)?;
        progress.is_writing.store(true, Ordering::Relaxed);
        let kept = plan.existing.as_ref().map(|existing| &existing.kept);
        existing::clean(&tree, &plan.tablespaces, plan.major, plan.table.as_ref(), kept)?;
    }
    progress.is_writing.store(true, Ordering::Relaxed);
    tree.link(&plan.tablespaces)?;
    Ok(tree)
}

/// From here on no server starts. One that is starting has looked for `pg_control`, then creates `postmaster.pid`, and then reads
/// `pg_control`: it either cannot read it any more, or is seen here, and all is as it was.
pub(super) fn lock_out(tree: &Tree, planned: &Condition) -> Result<()> {
    let control = path_of(PG_CONTROL)?;
    tree.set_aside(&control)?;
    if !condition::is_used(tree.target())? {
        return Ok(());
    }
    tree.put_back(&control)?;
    if !planned.is_incomplete() {
        tree.remove(&path_of(MARKER)?)?;
    }
    Err(condition::used(tree.target()))
}

fn path_of(path: &str) -> Result<MemberPath> {
    MemberPath::parse(path.as_bytes()).map_err(|reason| Error::damaged(path, reason))
}

fn sync(context: &Context) -> Result<()> {
    if context.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    context.tree.as_ref().map_or(Ok(()), Tree::sync)
}

/// The first failure ends the others; it is the one that is returned, not the cancellations that follow from it.
async fn extract_all(
    context: &Arc<Context>,
    step: &Arc<Step>,
    store: &Store,
    tars: Vec<Tar>,
    concurrency: usize,
) -> Result<()> {
    let mut running = futures::stream::iter(tars)
        .map(|tar| extract_one(Arc::clone(context), Arc::clone(step), store, tar))
        .buffer_unordered(concurrency);
    let mut failure = None;
    while let Some(result) = running.next().await {
        if let Err(error) = result {
            context.cancel.cancel();
            if matches!(failure, None | Some(Error::Cancelled)) {
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn extract_one(context: Arc<Context>, step: Arc<Step>, store: &Store, tar: Tar) -> Result<()> {
    if context.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let object = store.object_url(&tar.key);
    let reader = RangeReader::new(store, &tar.key, tar.size);
    blocking(move || extract(&context, &step, &tar, &object, reader)).await
}
