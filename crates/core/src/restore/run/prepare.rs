//! The steps before the first file: nothing is removed as long as the restore may still be refused.

use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::recovery::put;
use crate::data_dir::PG_CONTROL;
use crate::error::{Error, Result};
use crate::repository::layout::Key;
use crate::restore::directory::condition::{Condition, Marker};
use crate::restore::directory::existing::Intended;
use crate::restore::directory::root::Root;
use crate::restore::directory::tree::Tree;
use crate::restore::directory::{condition, existing};
use crate::restore::plan::{Fetch, Held, RestorePlan};
use crate::stored::fetch::read_with;
use crate::stored::member::{MARKER, path_of};
use crate::stored::progress::ReadProgress;
use crate::stored::tars::{Tar, TarKind};
use walarchive_storage::Store;

/// Can these objects be read? None of them is empty. A listing does not tell: a store may have moved them to a place from where
/// they must be asked back first, and credentials may do for listing only. So one byte of each is read, of so many at a time.
pub(crate) async fn check_readable(
    store: &Store,
    keys: Vec<Key>,
    concurrency: usize,
    cancel: &CancellationToken,
) -> Result<()> {
    let read = futures::stream::iter(keys)
        .map(|key| async move { store.get_range(&key, 0..1).await.map(drop) })
        .buffer_unordered(concurrency)
        .try_for_each(|()| std::future::ready(Ok(())));
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        read = read => Ok(read?),
    }
}

/// Can the tars of a backup be opened, with the keys that are configured or with none? The one with the backup label tells it, or
/// else the smallest one, before anything is changed or downloaded in bulk. What else is wrong with it is told when it is unpacked.
pub(crate) async fn check_opens(store: &Store, tars: &[Tar]) -> Result<()> {
    let full = tars.iter().filter(|tar| tar.size > 0);
    let Some(tar) = full.min_by_key(|tar| (tar.kind != TarKind::Label, tar.size)) else {
        return Ok(());
    };
    let read = read_with(store, &tar.key, tar.size, |source| Ok(source.read(&mut [0])?));
    match read.await {
        Err(error) if error.asks_for_a_key() => Err(error),
        Err(error @ (Error::Sealed { .. } | Error::Setting { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// Make the directories ready; blocks. Until the end a mark says whose they are; what is not in the backup goes.
pub(crate) fn prepare(
    plan: &RestorePlan,
    held: Held,
    fetch: &Fetch,
    progress: &ReadProgress,
    cancel: &CancellationToken,
) -> Result<Tree> {
    let tree = Tree::open(held.directories, &plan.target, &plan.tablespaces, plan.owner)?;
    let planned = held.condition.as_ref();
    condition::check_again(&tree, &plan.tablespaces, &plan.sentinel, planned)?;
    tree.take_over()?;
    let marker = Marker {
        system_identifier: plan.sentinel.system_identifier,
        backup: plan.backup.clone(),
    };
    put(&tree, MARKER, &marker.to_json())?;
    if let Some(planned) = planned {
        if cancel.is_cancelled() {
            unmark(&tree, planned)?;
            return Err(Error::Cancelled);
        }
        lock_out(&tree, planned, progress, condition::is_used)?;
        let intended = Intended {
            tablespaces: &plan.tablespaces,
            links: &plan.links,
            major: plan.major,
            table: fetch.table.as_ref(),
        };
        existing::clean(&tree, intended, fetch.kept.as_ref(), cancel)?;
    }
    progress.is_writing.store(true, Ordering::Relaxed);
    tree.link(&plan.tablespaces)?;
    Ok(tree)
}

/// From here on no server starts. One that is starting has looked for `pg_control`, then creates `postmaster.pid`, and then reads
/// `pg_control`: it either cannot read it any more, or is seen here, and all is as it was.
pub(crate) fn lock_out(
    tree: &Tree,
    planned: &Condition,
    progress: &ReadProgress,
    is_used: impl FnOnce(&Root) -> Result<bool>,
) -> Result<()> {
    let control = path_of(PG_CONTROL)?;
    // Unless it is put back.
    progress.is_writing.store(true, Ordering::Relaxed);
    let failure = match tree.set_aside(&control).and_then(|()| is_used(tree.target())) {
        Ok(false) => return Ok(()),
        Ok(true) => condition::used(tree.target()),
        Err(error) => error,
    };
    if let Err(error) = tree.put_back(&control) {
        tracing::warn!("{PG_CONTROL} could not be given its name again: {error}");
        return Err(failure);
    }
    progress.is_writing.store(false, Ordering::Relaxed);
    unmark(tree, planned)?;
    Err(failure)
}

/// Nothing was changed; but what was incomplete before still is.
fn unmark(tree: &Tree, planned: &Condition) -> Result<()> {
    match planned.is_incomplete() {
        true => Ok(()),
        false => tree.remove(&path_of(MARKER)?),
    }
}
