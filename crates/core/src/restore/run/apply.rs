//! Carrying a plan out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::complete::check_complete;
use super::context::{Context, Step};
use super::extract::extract;
use super::prepare::{check_opens, check_readable, prepare};
use super::{readback, recovery, stubs};
use crate::blocking::blocking;
use crate::data_dir::{BACKUP_LABEL, BACKUP_MANIFEST, PG_CONTROL, wal_directory_name};
use crate::encrypted;
use crate::error::{Error, Result};
use crate::repository::layout::{self, Key};
use crate::restore::directory::tree::Tree;
use crate::restore::options::RestoreMode;
use crate::restore::plan::{Fetch, PlannedRestore, RestorePlan};
use crate::stored::level::Level;
use crate::stored::member::{MARKER, path_of};
use crate::stored::progress::ReadProgress;
use crate::stored::tars::{Tar, TarKind};
use crate::version;
use walarchive_storage::Store;

/// The result of a restore.
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
pub async fn apply(
    restore: PlannedRestore,
    progress: Arc<ReadProgress>,
    cancel: CancellationToken,
) -> Result<Restored> {
    let PlannedRestore { plan, held, fetch } = restore;
    plan.check_locations()?;
    progress.bytes_total.store(plan.stored_bytes(), Ordering::Relaxed);
    let cancel = cancel.child_token();
    // Threads that unpack do not notice when nobody waits for them any more.
    let _guard = cancel.clone().drop_guard();
    if held.condition.is_some() {
        check_readable(&plan.store, keys(&fetch), plan.concurrency, &cancel).await?;
    }
    for level in &fetch.levels {
        check_opens(&plan.store, &level.tars).await?;
    }
    let (shown, cancelled) = (Arc::clone(&progress), cancel.clone());
    let (plan, tree, fetch) = blocking(move || {
        let tree = match plan.mode {
            RestoreMode::VerifyOnly => None,
            _ => Some(prepare(&plan, held, &fetch, &shown, &cancelled)?),
        };
        Ok((plan, tree, fetch))
    })
    .await?;
    let Fetch { levels, table, kept } = fetch;
    let mut context = Context::new(tree, table, kept, Arc::clone(&progress), cancel);
    context.mask = plan.mask.clone();
    let context = Arc::new(context);
    if let Some(manifest) = plan.manifest.as_ref().filter(|_| !plan.databases.is_all()) {
        stubs::make(&context, &plan.store, manifest).await?;
    }
    let control = unpack(&context, &plan, levels).await?;
    check(&context, &plan).await?;
    settle(&context, &plan).await?;
    finish(&context, &plan, control).await?;
    Ok(Restored {
        files: progress.files_done.load(Ordering::Relaxed),
        bytes: progress.bytes_written.load(Ordering::Relaxed),
        stored_bytes: progress.bytes_done.load(Ordering::Relaxed),
    })
}

/// The keys of all tars that are not empty.
fn keys(fetch: &Fetch) -> Vec<Key> {
    let tars = fetch.levels.iter().flat_map(|level| &level.tars);
    let full = tars.filter(|tar| tar.size > 0);
    full.map(|tar| tar.key.clone()).collect()
}

/// The tars with `pg_control`, which come last.
type Control = (Arc<Step>, Vec<Tar>);

/// All but `pg_control`.
async fn unpack(context: &Arc<Context>, plan: &RestorePlan, levels: Vec<Level>) -> Result<Option<Control>> {
    let mut control = None;
    for mut level in levels {
        let tars = std::mem::take(&mut level.tars);
        let (last, tars): (Vec<Tar>, Vec<Tar>) = tars.into_iter().partition(|tar| tar.kind == TarKind::Control);
        let step = Arc::new(Step::new(level, context.table.as_ref()));
        extract_all(context, &step, &plan.store, tars, plan.concurrency).await?;
        if step.is_newest() {
            control = Some((step, last));
        }
    }
    Ok(control)
}

/// Is all there that the backup should have?
async fn check(context: &Arc<Context>, plan: &RestorePlan) -> Result<()> {
    let (store, backup) = (&plan.store, &plan.backup);
    if !context.label.load(Ordering::Relaxed) && context.takes(BACKUP_LABEL.as_bytes()) {
        // Without it, the server would start from the wrong checkpoint and find nothing wrong.
        let folder = store.object_url(&layout::backup_folder(backup));
        return Err(Error::damaged(folder, format!("No tar has \"{BACKUP_LABEL}\".")));
    }
    check_complete(context, store, backup).await?;
    match &plan.manifest {
        Some(manifest) => {
            let is_written = version::has_manifest(plan.major);
            readback::finish_manifest(context, store, manifest, is_written, plan.concurrency).await?;
            match &context.tree {
                // It was needed to check the others.
                Some(tree) if is_written && !context.takes(BACKUP_MANIFEST.as_bytes()) => {
                    tree.remove(&path_of(BACKUP_MANIFEST)?)
                }
                _ => Ok(()),
            }
        }
        None => Ok(()),
    }
}

/// Write what recovery is told, and bring everything to disk.
async fn settle(context: &Arc<Context>, plan: &RestorePlan) -> Result<()> {
    let (context, further) = (Arc::clone(context), plan.further_settings());
    let (recovery, major) = (plan.recovery.clone(), plan.major);
    let parameters = plan.outlook.as_ref().and_then(|outlook| outlook.parameters);
    blocking(move || {
        if let Some(tree) = context.tree.as_ref().filter(|_| context.mask.is_none()) {
            let wal = path_of(wal_directory_name(major))?;
            tree.create_directory(&wal, 0o700)?;
            recovery::write(recovery.as_ref(), major, &further, parameters.as_ref(), tree)?;
            // The mode of the directory was kept with `PG_VERSION`.
            let is_open = context
                .group
                .get()
                .map_or_else(|| tree.is_open_to_group(), |open| Ok(*open))?;
            if is_open {
                tree.create_directory(&wal, 0o750)?;
                tree.open_to_group(&recovery::OWN_FILES)?;
            }
        }
        if context.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        context.tree.as_ref().map_or(Ok(()), Tree::sync)
    })
    .await
}

/// `pg_control` comes, and from now on a server can start on the directory.
async fn finish(context: &Arc<Context>, plan: &RestorePlan, control: Option<Control>) -> Result<()> {
    let extracted = match control {
        Some((step, tars)) => extract_all(context, &step, &plan.store, tars, 1).await,
        None => Ok(()),
    };
    if let Err(error) = extracted {
        // It may have failed after the file had its name.
        let failed = Arc::clone(context);
        blocking(move || {
            failed.tree.as_ref().into_iter().for_each(take_control_away);
            Ok(())
        })
        .await?;
        return Err(error);
    }
    if !context.control.load(Ordering::Relaxed) && context.takes(PG_CONTROL.as_bytes()) {
        let folder = plan.store.object_url(&layout::tar_folder(&plan.backup));
        return Err(Error::damaged(folder, format!("No tar has \"{PG_CONTROL}\".")));
    }
    let completed = Arc::clone(context);
    blocking(move || complete(&completed, Tree::sync)).await
}

/// The end, when `pg_control` has its name: it is too late to cancel anything.
pub(crate) fn complete(context: &Context, flush: impl FnOnce(&Tree) -> Result<()>) -> Result<()> {
    match &context.tree {
        Some(tree) => conclude(tree, &context.progress, flush),
        None => Ok(()),
    }
}

/// `pg_control` has its name, or gets it by what is given here. If that fails, it is taken away.
pub(crate) fn conclude(tree: &Tree, progress: &ReadProgress, last: impl FnOnce(&Tree) -> Result<()>) -> Result<()> {
    last(tree).inspect_err(|_| take_control_away(tree))?;
    progress.is_writing.store(false, Ordering::Relaxed);
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
    let reader = encrypted::reader(store, &tar.key, tar.size);
    blocking(move || extract(&context, &step, &tar, &object, reader)).await
}
