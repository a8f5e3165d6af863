//! Directories that hold nothing but the entries of file systems and of those who prepare them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::root::{LOST_AND_FOUND, Root, device, enter_existing, entries, failed, leads_to};
use crate::data_dir::is_wal_directory_name;
use crate::error::Result;

/// Has the directory nothing that a restore would have to respect? That is `lost+found`; directories on which file systems are
/// mounted, with no more in them; and in a data directory, which `wal` belongs to if it is given, an empty directory of WAL or the link
/// to there.
pub(crate) fn is_bare(root: &Root, wal: Option<&Path>) -> Result<bool> {
    let directory = root.directory();
    let is_wal = |name: &OsStr| is_wal_directory_name(name.as_bytes());
    let read = |error| failed("read", root.path.clone(), error);
    for (name, is_directory) in entries(directory).map_err(read)? {
        if is_directory && name == LOST_AND_FOUND {
            continue;
        }
        if !is_directory {
            if is_wal(&name) && wal.is_some_and(|wal| leads_to(directory, &name, wal)) {
                continue;
            }
            return Ok(false);
        }
        let Some(inner) = enter_existing(directory, &name).map_err(read)? else {
            return Ok(false);
        };
        let is_mounted = device(&inner).ok() != device(directory).ok();
        // No directory can be in the place where pg_wal is to be a link.
        let is_expected = is_mounted || is_wal(&name);
        let is_in_the_way = is_wal(&name) && wal.is_some();
        let only_lost = |(name, is_directory): &(_, bool)| *is_directory && is_lost_and_found(name);
        if !is_expected || is_in_the_way || !entries(&inner).map_err(read)?.iter().all(only_lost) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_lost_and_found(name: impl AsRef<OsStr>) -> bool {
    name.as_ref() == LOST_AND_FOUND
}
