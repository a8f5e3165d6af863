//! Carrying a plan out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::complete::check_complete;
use super::context::{Context, Step};
use super::extract::extract;
use super::prepare::{check_readable, prepare};
use super::{readback, recovery, stubs};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::layout;
use crate::restore::directory::tree::Tree;
use crate::restore::options::RestoreMode;
use crate::restore::plan::RestorePlan;
use crate::stored::member::{BACKUP_LABEL, MARKER, PG_CONTROL, path_of};
use crate::stored::progress::ReadProgress;
use crate::stored::tars::{Tar, TarKind};
use walarchive_storage::{RangeReader, Store};

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

/// Restore. When this fails or is cancelled while [`ReadProgress::is_writing`] is set, the directory is incomplete: it has no
/// `global/pg_control`, so no server starts on it, and it must be emptied before the next attempt, or that must be one with
/// [`RestoreMode::Delta`]. Before that, nothing was removed. When it returns, everything is on disk. A directory that was
/// changed since the plan is refused, and one in which something is stays as it is if a tar that is needed cannot be read.
pub async fn apply(plan: RestorePlan, progress: Arc<ReadProgress>, cancel: CancellationToken) -> Result<Restored> {
    plan.check_locations()?;
    progress.bytes_total.store(plan.stored_bytes(), Ordering::Relaxed);
    let cancel = cancel.child_token();
    // Threads that unpack do not notice when nobody waits for them any more.
    let _guard = cancel.clone().drop_guard();
    if plan.condition.is_some() {
        let tars = plan.tars().filter(|tar| tar.size > 0);
        let keys = tars.map(|tar| tar.key.clone()).collect();
        check_readable(&plan.store, keys, plan.concurrency, &cancel).await?;
    }
    let (shown, cancelled) = (Arc::clone(&progress), cancel.clone());
    let (mut plan, tree) = blocking(move || {
        let mut plan = plan;
        let tree = match plan.mode {
            RestoreMode::VerifyOnly => None,
            _ => Some(prepare(&mut plan, &shown, &cancelled)?),
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
    let parameters = plan.outlook.and_then(|outlook| outlook.parameters);
    blocking(move || {
        if let Some(tree) = &finishing.tree {
            tree.create_directory(&path_of("pg_wal")?, 0o700)?;
            recovery::write(recovery.as_ref(), &further, parameters.as_ref(), tree)?;
            // Where `PG_VERSION` was kept, so was the mode of the directory.
            let is_open = finishing
                .group
                .get()
                .map_or_else(|| tree.is_open_to_group(), |open| Ok(*open))?;
            if is_open {
                tree.create_directory(&path_of("pg_wal")?, 0o750)?;
                tree.open_to_group(&recovery::OWN_FILES)?;
            }
        }
        if finishing.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        finishing.tree.as_ref().map_or(Ok(()), Tree::sync)
    })
    .await?;
    let extracted = match control {
        Some((step, tars)) => extract_all(&context, &step, store, tars, 1).await,
        None => Ok(()),
    };
    if let Err(error) = extracted {
        // It may have failed after the file had its name.
        let failed = Arc::clone(&context);
        blocking(move || {
            failed.tree.as_ref().into_iter().for_each(take_control_away);
            Ok(())
        })
        .await?;
        return Err(error);
    }
    if !context.control.load(Ordering::Relaxed) {
        let folder = store.object_url(&layout::tar_folder(&plan.backup));
        return Err(Error::damaged(folder, format!("No tar has \"{PG_CONTROL}\".")));
    }
    let completed = Arc::clone(&context);
    blocking(move || complete(&completed, Tree::sync)).await?;
    Ok(Restored {
        files: progress.files_done.load(Ordering::Relaxed),
        bytes: progress.bytes_written.load(Ordering::Relaxed),
        stored_bytes: progress.bytes_done.load(Ordering::Relaxed),
    })
}

/// The end, when `pg_control` has its name: it is too late to cancel anything.
pub(crate) fn complete(context: &Context, flush: impl FnOnce(&Tree) -> Result<()>) -> Result<()> {
    let Some(tree) = &context.tree else { return Ok(()) };
    flush(tree).inspect_err(|_| take_control_away(tree))?;
    context.progress.is_writing.store(false, Ordering::Relaxed);
    // Only now: without it and without `pg_control` nobody could tell whose directory it is.
    tree.remove(&path_of(MARKER)?)
}

/// After a failure no server may start.
fn take_control_away(tree: &Tree) {
    let removed = path_of(PG_CONTROL).and_then(|control| tree.remove(&control));
    if let Err(error) = removed {
        let target = tree.target().path.display();
        tracing::warn!("{error}; the restore has failed, so start no server on \"{target}\"");
    }
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
