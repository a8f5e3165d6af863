//! Carrying the plan out.

use std::ffi::OsStr;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::member::unpack;
use super::plan::{CatchupState, Control, Held, PlannedCatchup};
use super::shared::Shared;
use super::{survey, visible};
use crate::blocking::blocking;
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL, TABLESPACE_MAP};
use crate::encrypted;
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::layout;
use crate::restore::directory::condition::{self, Marker};
use crate::restore::directory::root::leads_to;
use crate::restore::directory::tablespaces::Tablespace;
use crate::restore::directory::tree::{Flush, Tree};
use crate::restore::run::apply::{Restored, conclude};
use crate::restore::run::prepare::{check_opens, check_readable, lock_out};
use crate::restore::run::recovery::put;
use crate::stored::facts::Stored;
use crate::stored::level::Bits;
use crate::stored::member::{MARKER, path_of};
use crate::stored::progress::ReadProgress;
use crate::stored::tars::{Tar, TarKind};
use walarchive_storage::Store;

/// Bring the standby up. When this fails or is cancelled while [`ReadProgress::is_writing`] is set, no server starts on the
/// directory, and the same must be done again, up to its end. Before that, nothing was changed. When it returns, everything is on
/// disk.
pub async fn apply_catchup(
    planned: PlannedCatchup,
    progress: Arc<ReadProgress>,
    cancel: CancellationToken,
) -> Result<Restored> {
    let PlannedCatchup { plan, held } = planned;
    if plan.state == CatchupState::Complete {
        return blocking(move || unmark(held)).await;
    }
    let source = layout::catchup_place(&plan.backup);
    progress.bytes_total.store(plan.stored_bytes, Ordering::Relaxed);
    let cancel = cancel.child_token();
    // Threads that unpack do not notice when nobody waits for them any more.
    let _guard = cancel.clone().drop_guard();
    let full = held.tars.iter().filter(|tar| tar.size > 0);
    let keys = full.map(|tar| tar.key.clone()).collect();
    check_readable(&held.store, keys, held.concurrency, &cancel).await?;
    check_opens(&held.store, &held.tars).await?;
    let (store, concurrency, major) = (held.store.clone(), held.concurrency, held.place.major);
    let (tars, control) = (held.tars.clone(), held.control.clone());
    let (named, shown) = (source.clone(), Arc::clone(&progress));
    let shared = Arc::new(blocking(move || prepare(held, &named, &shown, cancel)).await?);
    let tars = tars.into_iter().filter(|tar| tar.kind != TarKind::Control).collect();
    unpack_all(&shared, &store, tars, concurrency).await?;
    check(&shared, &store, &source)?;
    blocking(move || finish(&shared, &control, major)).await?;
    Ok(Restored {
        files: progress.files_done.load(Ordering::Relaxed),
        bytes: progress.bytes_written.load(Ordering::Relaxed),
        stored_bytes: progress.bytes_done.load(Ordering::Relaxed),
    })
}

/// Everything was there, and only the marker is left of an interrupted run; blocks.
fn unmark(held: Held) -> Result<Restored> {
    let tree = open(held)?.0;
    // The name of `pg_control` may not be on disk yet.
    tree.sync()?;
    tree.remove(&path_of(MARKER)?)?;
    Ok(Restored {
        files: 0,
        bytes: 0,
        stored_bytes: 0,
    })
}

/// If it is still as it was when the plan was made.
fn open(mut held: Held) -> Result<(Tree, Held)> {
    let place = &mut held.place;
    let all = place.all();
    let directories = std::mem::take(&mut place.directories);
    let tree = Tree::open(directories, &place.target, &all, place.owner)?;
    condition::check_again(&tree, &all, &held.sentinel, Some(&place.condition))?;
    Ok((tree, held))
}

/// From here on no server starts, and what the primary does not have any more is gone; blocks.
fn prepare(held: Held, source: &str, progress: &Arc<ReadProgress>, cancel: CancellationToken) -> Result<Shared> {
    let (tree, held) = open(held)?;
    let place = held.place;
    let all = place.all();
    let marker = Marker {
        system_identifier: held.sentinel.system_identifier,
        backup: source.to_owned(),
    };
    put(&tree, MARKER, &marker.to_json())?;
    lock_out(&tree, &place.condition, progress, condition::is_used)?;
    survey::clean(&tree, &held.table, &all, place.major, &cancel)?;
    unlink_dropped(&tree, &place.dropped)?;
    tree.link(&place.tablespaces)?;
    Ok(Shared {
        seen: Bits::none(held.table.len()),
        table: held.table,
        tree,
        label: AtomicBool::new(false),
        progress: Arc::clone(progress),
        cancel,
    })
}

/// Remove the links to tablespaces that the primary has dropped.
fn unlink_dropped(tree: &Tree, dropped: &[Tablespace]) -> Result<()> {
    let links = tree.target().look(&[b"pg_tblspc".to_vec()])?;
    for tablespace in dropped {
        let (oid, location) = (OsStr::new(&tablespace.oid), tablespace.location.as_deref());
        let is_there = links.as_ref().zip(location);
        if is_there.is_some_and(|(links, location)| leads_to(links, oid, location)) {
            tree.unlink_tablespace(&tablespace.oid)?;
        }
    }
    Ok(())
}

/// The first failure ends the others.
async fn unpack_all(shared: &Arc<Shared>, store: &Store, tars: Vec<Tar>, concurrency: usize) -> Result<()> {
    let mut running = futures::stream::iter(tars)
        .map(|tar| {
            let (shared, object) = (Arc::clone(shared), store.object_url(&tar.key));
            let reader = encrypted::reader(store, &tar.key, tar.size);
            blocking(move || unpack(&shared, &tar, &object, reader))
        })
        .buffer_unordered(concurrency);
    let mut failure = None;
    while let Some(result) = running.next().await {
        if let Err(error) = result {
            shared.cancel.cancel();
            if matches!(failure, None | Some(Error::Cancelled)) {
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Has everything come?
fn check(shared: &Shared, store: &Store, source: &str) -> Result<()> {
    let folder = || store.object_url(&layout::backup_folder(source));
    if !shared.label.load(Ordering::Relaxed) {
        return Err(Error::damaged(folder(), format!("No tar has \"{BACKUP_LABEL}\".")));
    }
    let table = &shared.table;
    // They come in tars of their own, or not at all.
    let apart = [PG_CONTROL, BACKUP_LABEL, TABLESPACE_MAP].map(|path| table.find(path.as_bytes()));
    let is_missing = |file: &usize| {
        let is_due = matches!(table.stored(*file), Some(Stored::Full | Stored::Increment));
        is_due
            && !apart.contains(&Some(*file))
            && (table.is_listed(*file) || !table.has_manifest)
            && !shared.seen.get(*file)
    };
    match (0..table.len()).filter(is_missing).count() as u64 {
        0 => Ok(()),
        missing => Err(Error::damaged(
            folder(),
            format!(
                "{} of its files metadata cannot be found in any tar.",
                counted(missing, "file")
            ),
        )),
    }
}

/// Everything is on disk before `pg_control` has its name; blocks.
fn finish(shared: &Shared, control: &Control, major: u32) -> Result<()> {
    let tree = &shared.tree;
    if !control.facts.data_checksums {
        visible::agree(
            tree,
            &shared.table,
            control.facts.relation_segment_pages,
            major,
            &shared.cancel,
        )?;
    }
    // It would make links that lead to the primary's directories.
    tree.remove(&path_of(TABLESPACE_MAP)?)?;
    if shared.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    tree.sync()?;
    end(tree, control, &shared.progress, Tree::sync)
}

/// From here on a server can start, unless this fails; blocks.
pub(crate) fn end(
    tree: &Tree,
    control: &Control,
    progress: &ReadProgress,
    flush: impl FnOnce(&Tree) -> Result<()>,
) -> Result<()> {
    conclude(tree, progress, |tree| {
        let mut new = tree.create_file(&path_of(PG_CONTROL)?)?;
        new.file
            .write_all(&control.content)
            .map_err(|error| Error::io("write", &new.path, error))?;
        new.keep(control.mode, Flush::Now)?;
        flush(tree)
    })
}
