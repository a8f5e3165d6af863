//! `pg_wal` on a disk of its own: a link in the data directory, as `initdb --waldir` makes it.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::bare::is_bare;
use super::directories::{Directories, WalDirectory};
use super::root::Root;
use super::tablespaces::settled;
use crate::data_dir::{SPOOL, wal_directory_name};
use crate::error::{Error, Result};
use crate::wal::WalFileName;

/// The server's entries in `pg_wal` beside WAL.
const SUBDIRECTORIES: [&str; 3] = ["archive_status", "summaries", SPOOL];

/// Find out whether `pg_wal`, or `pg_xlog` for a server of this major version, is to be a link: to the place that the user wants,
/// or to the one that it leads to already. The place must be empty, unless it is that of the directory that is restored into
/// (`is_own`).
pub(crate) fn find(
    wanted: Option<&Path>,
    target: &Path,
    major: u32,
    directories: &Directories,
    others: &[PathBuf],
    is_own: bool,
) -> Result<Option<WalDirectory>> {
    let name = wal_directory_name(major);
    let link = target.join(name);
    let known = std::fs::read_link(&link).ok();
    let Some(path) = wanted.map(Path::to_owned).or_else(|| known.clone()) else {
        return Ok(None);
    };
    if !path.is_absolute() {
        return Err(Error::config(
            format!("the directory \"{}\" for WAL is not an absolute path", path.display()),
            "Give an absolute one with --waldir.",
        ));
    }
    let is_linked = known.as_ref() == Some(&path);
    check_place(&link, is_linked, is_own)?;
    let real = settled(&path)?;
    if let Some(other) = others
        .iter()
        .find(|other| other.starts_with(&real) || real.starts_with(other))
    {
        return Err(Error::config(
            format!(
                "WAL directory \"{}\" and directory \"{}\" overlap",
                path.display(),
                other.display()
            ),
            "Give it a place of its own with --waldir.",
        ));
    }
    let root = Root::find(&path)?;
    if wanted.is_none() {
        check_link(name, &path, root.as_ref(), directories)?;
    }
    if let Some(root) = &root {
        root.lock()?;
        let may_be_full = is_own && is_linked;
        if !may_be_full && !is_bare(root, None)? {
            return Err(Error::refused(
                format!("WAL directory \"{}\" is not empty", path.display()),
                "Empty it if nothing uses it, or give another one with --waldir.",
            ));
        }
    }
    Ok(Some(WalDirectory { name, path, root }))
}

/// Can the link be made? A restore into a server's own directory removes the server's entries there, but not a mount.
fn check_place(link: &Path, is_linked: bool, is_own: bool) -> Result<()> {
    let Some(found) = link.symlink_metadata().ok().filter(|_| !is_linked) else {
        return Ok(());
    };
    let parent = link.parent().and_then(|parent| parent.metadata().ok());
    let is_mounted = parent.is_some_and(|parent| parent.dev() != found.dev());
    match is_own && !is_mounted {
        true => Ok(()),
        false => Err(Error::refused(
            format!(
                "\"{}\" already exists, and is not a link to the WAL directory",
                link.display()
            ),
            "Remove it, or leave out --waldir.",
        )),
    }
}

/// A link that was found was made by whoever owns the data directory: root must not do there what that user could not do himself.
fn check_link(name: &str, path: &Path, root: Option<&Root>, directories: &Directories) -> Result<()> {
    let hint = "Create it, give another one with --waldir, or remove the link.";
    let Some(root) = root else {
        return Err(Error::refused(
            format!("the link {name} leads to \"{}\", which does not exist", path.display()),
            hint,
        ));
    };
    let owner = |root: &Root| {
        let meta = root
            .directory()
            .metadata()
            .map_err(|error| Error::io("open", &root.path, error));
        meta.map(|meta| meta.uid())
    };
    let of_target = directories.target.as_ref().map(owner).transpose()?;
    if geteuid().is_root() && of_target != Some(owner(root)?) {
        return Err(Error::refused(
            format!(
                "the link {name} leads to \"{}\", which belongs to another user than the data directory",
                path.display()
            ),
            "If WAL is to go there, give the directory with --waldir.",
        ));
    }
    Ok(())
}

/// Is it something that a server keeps in `pg_wal`, to be removed with the rest? Other entries are left alone.
pub(crate) fn is_of_server(name: &OsStr, is_directory: bool) -> bool {
    let Some(name) = name.to_str() else { return false };
    match is_directory {
        true => SUBDIRECTORIES.contains(&name),
        false => {
            let is_temporary = name.starts_with("xlogtemp.") || name.starts_with("RECOVERY");
            is_temporary || name.parse::<WalFileName>().is_ok()
        }
    }
}
