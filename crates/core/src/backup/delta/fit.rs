//! Whether a backup can be the parent of the one that begins.

use std::io::{self, Read};

use crate::backup::BackupRequest;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::data_dir::{PG_CONTROL, wal_directory_name};
use crate::encrypted;
use crate::error::{Error, Result, StorageError};
use crate::page::PAGE_BYTES;
use crate::repository::inventory::{BackupDetail, BackupInfo, Inventory, read_history, read_sentinel};
use crate::repository::layout;
use crate::stored::member::MemberPath;
use crate::stored::members::{Stop, each_member};
use crate::version;
use crate::wal::{TimelineHistory, WalFileName};
use walarchive_storage::Store;

/// More than the tar of `pg_control` has, in stored bytes.
const TAR_LIMIT: u64 = 1 << 20;

/// Why it cannot be one.
#[derive(Debug)]
pub(super) struct Unfit {
    /// Half a sentence about it.
    pub(super) why: String,
    /// The hint, as a sentence, if the backup was asked for by name.
    pub(super) hint: &'static str,
}

const FULL: &str = "Take a full backup.";
const OTHER: &str = "Name another backup, or take a full one.";
const WAIT: &str = "On a standby, wait for its next restartpoint, or name an older backup.";

fn unfit<T>(why: impl Into<String>, hint: &'static str) -> Result<Result<T, Unfit>> {
    Ok(Err(Unfit { why: why.into(), hint }))
}

/// Everything but its files. Returns how its timeline leads to that of this backup. Errors are those of the store.
pub(super) async fn check(
    store: &Store,
    request: &BackupRequest,
    inventory: &Inventory,
    parent: &BackupInfo,
) -> Result<Result<TimelineHistory, Unfit>> {
    if let Some(problem) = BackupDetail::of(inventory, parent).problem {
        let problem = problem.strip_suffix('.').unwrap_or(&problem);
        return unfit(format!("it cannot be restored ({problem})"), OTHER);
    }
    if is_being_deleted(store, &parent.name).await? {
        return unfit("it is being deleted", OTHER);
    }
    let (metadata, here) = (&parent.metadata, request.system_identifier);
    match metadata.system_identifier {
        Some(there) if there == here => {}
        Some(there) => {
            let why = format!("it belongs to system identifier {there}, not {here}");
            return unfit(why, OTHER);
        }
        None => return unfit("its cluster is not known", FULL),
    }
    let (there, here) = (metadata.pg_version / 10_000, request.major_version());
    if there != here {
        let (there, here) = (version::name(there), version::name(here));
        return unfit(format!("it is of PostgreSQL {there}, not {here}"), FULL);
    }
    if metadata.finish_lsn > request.start_lsn {
        let why = format!(
            "it ends at {}, after this backup's start at {}",
            metadata.finish_lsn, request.start_lsn
        );
        return unfit(why, WAIT);
    }
    let history = match on_our_way(store, request, parent).await? {
        Ok(history) => history,
        Err(unfit) => return Ok(Err(unfit)),
    };
    if let Err(unfit) = same_pages(store, request, parent).await? {
        return Ok(Err(unfit));
    }
    match read_sentinel(store, &parent.name).await {
        Ok(sentinel) if sentinel.files_metadata_disabled => unfit("it was taken without files metadata", FULL),
        Ok(_) => Ok(Ok(history)),
        Err(Error::NoBackup { .. }) => unfit("it was deleted just now", OTHER),
        Err(Error::Damaged { .. }) => unfit("its sentinel cannot be read", FULL),
        Err(error) => Err(error),
    }
}

/// Has a deletion begun?
pub(super) async fn is_being_deleted(store: &Store, backup: &str) -> Result<bool> {
    Ok(store.size(&layout::backup_deletion(backup)).await?.is_some())
}

/// The error's reason, if it is about the parent's manifest or files metadata.
pub(super) fn unreadable(store: &Store, backup: &str, error: Error) -> Result<Unfit> {
    let manifest = store.object_url(&layout::backup_manifest(backup));
    let (object, why) = match error {
        Error::Storage(StorageError::NotFound { object }) if object == manifest => {
            let why = "it has no backup manifest; WAL-G's backups have none".to_owned();
            return Ok(Unfit { why, hint: FULL });
        }
        Error::Storage(StorageError::NotFound { object }) => (object, "it does not exist".to_owned()),
        Error::Damaged { object, reason } => (object, reason),
        error => return Err(error),
    };
    let why = why.strip_suffix('.').unwrap_or(&why);
    Ok(Unfit {
        why: format!("\"{object}\" cannot be used ({why})"),
        hint: FULL,
    })
}

/// A cluster that was restored to a point before the parent's end has pages with the LSNs of the parent's and another content.
async fn on_our_way(
    store: &Store,
    request: &BackupRequest,
    parent: &BackupInfo,
) -> Result<Result<TimelineHistory, Unfit>> {
    let (Some(there), here) = (parent.timeline, request.timeline) else {
        return unfit("its name has no timeline", FULL);
    };
    if there == here {
        return Ok(Ok(TimelineHistory {
            timeline: here,
            ancestors: Vec::new(),
        }));
    }
    let Some(history) = history(store, request).await? else {
        return unfit(
            format!("it is of timeline {there}, and the history of timeline {here} is not known"),
            FULL,
        );
    };
    let finish = parent.metadata.finish_lsn;
    if history.leads_from(there, finish) {
        return Ok(Ok(history));
    }
    match history.ancestors.iter().find(|(timeline, _)| *timeline == there) {
        Some((_, switch)) => unfit(
            format!("it ends at {finish}, after timeline {here} had left its timeline {there} at {switch}"),
            FULL,
        ),
        None => unfit(
            format!("its timeline {there} is not an ancestor of timeline {here}"),
            FULL,
        ),
    }
}

/// As the server has it in `pg_wal`, or else as it was archived.
async fn history(store: &Store, request: &BackupRequest) -> Result<Option<TimelineHistory>> {
    let timeline = request.timeline;
    let name = WalFileName::History(timeline).to_string();
    let path = request
        .data_dir
        .join(wal_directory_name(request.major_version()))
        .join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match read_history(store, timeline).await {
            Err(error) if error.is_content() => None,
            read => read?,
        },
        Err(error) => return Err(Error::io("read", path, error)),
    };
    Ok(text.and_then(|text| TimelineHistory::parse(timeline, &text)))
}

/// `pg_checksums --enable` writes pages again and leaves their LSNs as they were.
async fn same_pages(store: &Store, request: &BackupRequest, parent: &BackupInfo) -> Result<Result<(), Unfit>> {
    let data_dir = request.data_dir.clone();
    let here = blocking(move || ControlFile::read(&data_dir)).await?;
    let there = match control_file(store, &parent.name).await {
        Ok(control) => control.map(|control| control.data_checksums),
        // This server cannot decrypt what it stores.
        Err(error) if error.asks_for_a_key() => parent.metadata.data_checksums,
        Err(error) => return Err(error),
    };
    let Some(there) = there else {
        return unfit("its copy of pg_control cannot be read", FULL);
    };
    if here.page_bytes as usize != PAGE_BYTES {
        return unfit(
            format!("the pages of this cluster have {} bytes", here.page_bytes),
            FULL,
        );
    }
    let state = |checksums: bool| if checksums { "on" } else { "off" };
    if here.data_checksums != there {
        let why = format!(
            "data checksums were {} when it was taken, and are {} now",
            state(there),
            state(here.data_checksums)
        );
        return unfit(why, FULL);
    }
    Ok(Ok(()))
}

/// The `pg_control` of a backup; none if it cannot be read. An error if that takes a key.
async fn control_file(store: &Store, backup: &str) -> Result<Option<ControlFile>> {
    for format in Format::in_order(Format::Zstd) {
        let key = layout::tar(backup, &layout::pg_control_name(format));
        let Some(mut reader) = encrypted::open(store, &key).await? else {
            continue;
        };
        let read = move || {
            let mut found = None;
            let read = each_member(format, (&mut reader).take(TAR_LIMIT), |member| {
                let path = MemberPath::parse(&member.path_bytes());
                if path.is_ok_and(|path| path.is(PG_CONTROL)) {
                    let mut content = Vec::new();
                    member.take(PG_CONTROL_BYTES).read_to_end(&mut content)?;
                    found = ControlFile::parse(&content).ok();
                }
                Ok::<_, Stop>(())
            });
            // What is encrypted proves right only at its end.
            let is_at_end = matches!(reader.read(&mut [0]), Ok(0));
            match reader.take_failure().map(Error::from) {
                Some(failure) if !failure.is_content() || failure.asks_for_a_key() => Err(failure),
                _ => Ok(found.filter(|_| is_at_end && matches!(read, Ok(true)))),
            }
        };
        return blocking(read).await;
    }
    Ok(None)
}
