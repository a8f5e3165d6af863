//! Find out whose directory the target is, and notice if anything happens to it between the plan and its execution.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use nix::fcntl::readlinkat;
use serde::{Deserialize, Serialize};

use super::bare::is_bare;
use super::directories::Directories;
use super::links::refused_by_delta;
use super::root::{Root, leads_to};
use super::tablespaces::Tablespace;
use super::tree::Tree;
use crate::control_file::ControlFile;
use crate::data_dir::{PG_CONTROL, POSTMASTER_PID};
use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::stored::member::MARKER;

/// More than the files that are read here have, in bytes.
const LIMIT: u64 = 1 << 20;

/// Says whose directory it is while `pg_control` is not there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) system_identifier: Option<u64>,
    pub(crate) backup: String,
}

impl Marker {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A number and a text: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn is_there(target: &Path) -> bool {
        target.join(MARKER).symlink_metadata().is_ok()
    }
}

/// The facts about a data directory that tell whose it is. A server that was started on it changes them.
#[derive(PartialEq, Eq)]
pub(crate) struct Condition {
    control: Option<Vec<u8>>,
    marker: Option<Vec<u8>>,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: they are thousands.
        f.debug_struct("Condition")
            .field("control", &self.control.is_some())
            .field("marker", &self.marker.is_some())
            .finish()
    }
}

impl Condition {
    /// Its `pg_control`.
    pub(crate) fn control(&self) -> Option<&[u8]> {
        self.control.as_deref()
    }

    /// The backup that an interrupted restore has left a part of; empty if it cannot be read.
    pub(crate) fn interrupted(&self) -> Option<String> {
        let marker = serde_json::from_slice::<Marker>(self.marker.as_ref()?);
        Some(marker.map(|marker| marker.backup).unwrap_or_default())
    }

    /// Was a restore into it interrupted?
    pub(crate) fn is_incomplete(&self) -> bool {
        self.marker.is_some()
    }
}

/// Refuse a directory that is not of the backup's cluster, or that a server is using. None if nothing is in it.
pub(crate) fn check(target: Option<&Root>, wal: Option<&Path>, sentinel: &Sentinel) -> Result<Option<Condition>> {
    let Some(target) = target else { return Ok(None) };
    if is_bare(target, wal)? {
        return Ok(None);
    }
    let path = target.path.display();
    let read = |name: &str| target.read(&components(name), LIMIT);
    let condition = Condition {
        control: read(PG_CONTROL)?,
        marker: read(MARKER)?,
    };
    let of_target = match (&condition.control, &condition.marker) {
        (Some(control), _) => match ControlFile::parse(control) {
            Ok(control) => Some(control.system_identifier),
            // It may be writing this at the moment.
            Err(_) if is_used(target)? => return Err(used(target)),
            Err(reason) => {
                return Err(Error::damaged(
                    target.path.join(PG_CONTROL).display().to_string(),
                    reason,
                ));
            }
        },
        (None, Some(marker)) => {
            let marker = serde_json::from_slice::<Marker>(marker).ok();
            marker.map(|marker| marker.system_identifier.unwrap_or(0))
        }
        // `global` is on another disk.
        (None, None) => match readlinkat(target.directory(), "global") {
            Ok(place) => return Err(refused_by_delta(&target.path.join("global"), Some(Path::new(&place)))),
            Err(_) => None,
        },
    };
    let Some(of_target) = of_target else {
        return Err(Error::refused(
            format!("directory \"{path}\" is not empty, and is not a data directory"),
            "With --delta, restore into the data directory of the same cluster, into what an interrupted restore left, or into an \
             empty directory.",
        ));
    };
    let of_backup = sentinel.system_identifier.unwrap_or(0);
    if of_target != of_backup {
        return Err(Error::refused(
            format!("directory \"{path}\" belongs to system identifier {of_target}, the backup to {of_backup}"),
            "Check the directory and the storage URL; a backup is restored only over its own cluster.",
        ));
    }
    match is_used(target)? {
        true => Err(used(target)),
        false => Ok(Some(condition)),
    }
}

/// Whether the process that it names lives cannot be told from here: it may be in a container, with its own numbers of
/// processes and its own name for this directory.
pub(crate) fn is_used(target: &Root) -> Result<bool> {
    target.has(&components(POSTMASTER_PID))
}

pub(crate) fn used(target: &Root) -> Error {
    Error::refused(
        format!(
            "a server is or was running in directory \"{}\": postmaster.pid is there",
            target.path.display()
        ),
        "Stop the server. If none is running, in no container either, remove postmaster.pid.",
    )
}

/// A tablespace directory with files in it must be that of the target: the server that uses it may be another.
pub(crate) fn check_tablespaces(
    target: Option<&Root>,
    roots: &BTreeMap<Vec<u8>, Root>,
    tablespaces: &[Tablespace],
) -> Result<()> {
    let links = target
        .map(|target| target.look(&components("pg_tblspc")))
        .transpose()?
        .flatten();
    for tablespace in tablespaces {
        let (Some(location), Some(root)) = (&tablespace.location, roots.get(tablespace.oid.as_bytes())) else {
            continue;
        };
        let is_own = |links| leads_to(links, OsStr::new(&tablespace.oid), location);
        if !links.as_ref().is_some_and(is_own) && !is_bare(root, None)? {
            return Err(Error::refused(
                match target {
                    Some(target) => format!(
                        "directory \"{}\" is not empty, and is not that of tablespace {} in \"{}\"",
                        location.display(),
                        tablespace.oid,
                        target.path.display()
                    ),
                    None => format!("directory \"{}\" is not empty", location.display()),
                },
                "Empty it if nothing uses it, or restore to another place with --tablespace-map OLD=NEW.",
            ));
        }
    }
    Ok(())
}

/// Since the plan some time has passed. Refuse what is not as it was then.
pub(crate) fn check_again(
    tree: &Tree,
    tablespaces: &[Tablespace],
    sentinel: &Sentinel,
    planned: Option<&Condition>,
) -> Result<()> {
    let target = tree.target();
    let wal = tree.wal().map(|wal| wal.path.as_path());
    let changed = || {
        Error::refused(
            format!(
                "directory \"{}\" was changed while the restore was planned",
                target.path.display()
            ),
            "Make sure that nothing else uses it, and run the command again.",
        )
    };
    match planned {
        None if !is_bare(target, wal)? => return Err(changed()),
        Some(_) if check(Some(target), wal, sentinel)?.as_ref() != planned => return Err(changed()),
        _ => {}
    }
    check_tablespaces(Some(target), tree.tablespaces(), tablespaces)
}

/// As [`check`], with all that is open.
pub(crate) fn check_directories(
    found: &Directories,
    tablespaces: &[Tablespace],
    sentinel: &Sentinel,
) -> Result<Option<Condition>> {
    let wal = found.wal.as_ref().map(|wal| wal.path.as_path());
    let condition = check(found.target.as_ref(), wal, sentinel)?;
    check_tablespaces(found.target.as_ref(), &found.tablespaces, tablespaces)?;
    Ok(condition)
}

fn components(path: &str) -> Vec<Vec<u8>> {
    path.split('/').map(|part| part.as_bytes().to_vec()).collect()
}
