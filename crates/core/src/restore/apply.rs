//! Carrying a plan out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::extract::{Context, extract};
use super::fetch::blocking;
use super::member::{BACKUP_LABEL, BACKUP_MANIFEST, MemberPath, PG_CONTROL, TABLESPACE_MAP};
use super::plan::{RestorePlan, Tar, TarKind};
use super::recovery::{RecoverySettings, put};
use super::tree::Tree;
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
/// starts on it, and it must be emptied before the next attempt. When it returns, everything is on disk.
pub async fn apply(plan: RestorePlan, progress: Arc<Progress>, cancel: CancellationToken) -> Result<Restored> {
    progress.bytes_total.store(plan.stored_bytes(), Ordering::Relaxed);
    let cancel = cancel.child_token();
    // Threads that unpack do not notice when nobody waits for them any more.
    let _guard = cancel.clone().drop_guard();
    let (target, tablespaces) = (plan.target.clone(), plan.tablespaces.clone());
    let tree = blocking(move || Tree::create(&target, &tablespaces)).await?;
    let context = Arc::new(Context {
        tree,
        manifest: plan.manifest,
        files: plan.files,
        restored: Mutex::new(HashSet::new()),
        progress: Arc::clone(&progress),
        cancel,
    });
    let (control, others): (Vec<Tar>, Vec<Tar>) = plan.tars.into_iter().partition(|tar| tar.kind == TarKind::Control);
    extract_all(&context, &plan.store, others, plan.concurrency).await?;
    let (finishing, recovery) = (Arc::clone(&context), plan.recovery);
    let backup = plan.store.object_url(&layout::backup_folder(&plan.backup));
    blocking(move || finish(&finishing, recovery.as_ref(), &backup)).await?;
    extract_all(&context, &plan.store, control, 1).await?;
    if !was_restored(&context, PG_CONTROL) {
        let folder = plan.store.object_url(&layout::tar_folder(&plan.backup));
        return Err(Error::damaged(folder, format!("No tar has \"{PG_CONTROL}\".")));
    }
    let flushing = Arc::clone(&context);
    blocking(move || flushing.tree.sync()).await?;
    Ok(Restored {
        files: progress.files_done.load(Ordering::Relaxed),
        bytes: progress.bytes_written.load(Ordering::Relaxed),
        stored_bytes: progress.bytes_done.load(Ordering::Relaxed),
    })
}

/// The first failure ends the others; it is the one that is returned, not the cancellations that follow from it.
async fn extract_all(context: &Arc<Context>, store: &Store, tars: Vec<Tar>, concurrency: usize) -> Result<()> {
    let mut running = futures::stream::iter(tars)
        .map(|tar| extract_one(Arc::clone(context), store, tar))
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

async fn extract_one(context: Arc<Context>, store: &Store, tar: Tar) -> Result<()> {
    if context.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let object = store.object_url(&tar.key);
    let reader = RangeReader::new(store, &tar.key, tar.size);
    blocking(move || extract(&context, &tar, &object, reader)).await
}

/// Everything between the last file and `pg_control`; blocks.
fn finish(context: &Context, recovery: Option<&RecoverySettings>, backup: &str) -> Result<()> {
    if !was_restored(context, BACKUP_LABEL) {
        // Without it, the server would start from the wrong checkpoint and find nothing wrong.
        return Err(Error::damaged(backup, format!("No tar has \"{BACKUP_LABEL}\".")));
    }
    check_complete(context, backup)?;
    if let Ok(wal) = MemberPath::parse(b"pg_wal") {
        context.tree.create_directory(&wal, 0o700)?;
    }
    if let Some(manifest) = &context.manifest {
        put(&context.tree, BACKUP_MANIFEST, &manifest.text)?;
    }
    if let Some(recovery) = recovery {
        recovery.write(&context.tree)?;
    }
    if context.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    context.tree.sync()
}

fn check_complete(context: &Context, backup: &str) -> Result<()> {
    let restored = context.restored.lock();
    if let Some(manifest) = &context.manifest {
        let paths: HashSet<_> = restored.iter().map(MemberPath::to_path).collect();
        let later = |path: &Path| {
            [PG_CONTROL, TABLESPACE_MAP]
                .into_iter()
                .any(|later| path == Path::new(later))
        };
        let mut missing: Vec<_> = manifest
            .files
            .keys()
            .filter(|path| !paths.contains(*path) && !later(path))
            .collect();
        missing.sort();
        if let Some(first) = missing.first() {
            return Err(Error::damaged(
                backup,
                format!(
                    "Of the files in its manifest, {} are in no tar, the first is \"{}\".",
                    missing.len(),
                    first.display()
                ),
            ));
        }
    } else if let Some(files) = &context.files {
        let keys: HashSet<String> = restored.iter().map(MemberPath::key).collect();
        let missing = files.files.keys().filter(|key| !keys.contains(*key)).count();
        if missing > 0 {
            // WAL-G may list files that vanished while it packed them, so this alone is no damage.
            tracing::warn!("{missing} files of the backup's files metadata are in no tar");
        }
    }
    Ok(())
}

fn was_restored(context: &Context, path: &str) -> bool {
    MemberPath::parse(path.as_bytes()).is_ok_and(|path| context.restored.lock().contains(&path))
}
