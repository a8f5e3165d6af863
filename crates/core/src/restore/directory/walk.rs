//! The entries of the directories of a restore.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::FileStat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::links::MappedLink;
use super::owner::Owner;
use super::root;
use super::root::{LOST_AND_FOUND, Root, failed, leads_to};
use super::tablespaces::Tablespace;
use super::wal_directory::is_of_server;
use crate::data_dir::{is_wal_directory_name, wal_directory_name};
use crate::error::Result;
use crate::version;

/// The unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

/// A file, a directory or something else.
pub(crate) struct DirectoryEntry<'a> {
    /// The path below the data directory, with slashes between its components; in a tablespace it begins with
    /// `pg_tblspc/<oid>`.
    pub(crate) path: &'a [u8],
    pub(crate) is_directory: bool,
    /// The tablespace that has the directory; none for the data directory.
    pub(crate) tablespace: Option<u32>,
    root: &'a Root,
    /// That the root is on.
    device: u64,
    /// So much of the path stands for the root.
    above: usize,
    directory: &'a File,
    name: &'a OsStr,
}

impl DirectoryEntry<'_> {
    fn failed(&self, operation: &'static str, error: Errno) -> crate::Error {
        failed(operation, self.full(), error)
    }

    /// Its place, for messages.
    pub(crate) fn full(&self) -> PathBuf {
        self.root.path.join(OsStr::from_bytes(&self.path[self.above..]))
    }

    pub(crate) fn stat(&self) -> Result<FileStat> {
        root::stat(self.directory, self.name).map_err(|error| self.failed("read", error))
    }

    /// The target of a link.
    pub(crate) fn target(&self) -> Option<PathBuf> {
        readlinkat(self.directory, self.name).ok().map(PathBuf::from)
    }

    /// None if it cannot be read.
    pub(crate) fn open(&self) -> Option<File> {
        root::open_file(self.directory, self.name).ok()
    }

    /// Is it the link to one of the tablespaces, to where that is?
    pub(crate) fn is_link_of(&self, tablespaces: &[Tablespace]) -> bool {
        let Some(oid) = self.path.strip_prefix(b"pg_tblspc/").filter(|_| !self.is_directory) else {
            return false;
        };
        let mut known = tablespaces.iter();
        let found = known.find(|tablespace| tablespace.oid.as_bytes() == oid);
        let location = found.and_then(|tablespace| tablespace.location.as_ref());
        location.is_some_and(|location| leads_to(self.directory, self.name, location))
    }

    /// Is it the link `pg_wal` to the directory for WAL?
    pub(crate) fn is_link_to_wal(&self, wal: Option<&Root>) -> bool {
        let is_it = is_wal_directory_name(self.path) && self.above == 0 && !self.is_directory;
        is_it && wal.is_some_and(|wal| leads_to(self.directory, self.name, &wal.path))
    }

    /// Is it in the data directory at the place of a link to one of the tablespaces? Entries of the backup with its path belong
    /// into the tablespace's own directory.
    pub(crate) fn is_in_place_of_link(&self, tablespaces: &[Tablespace]) -> bool {
        let Some(below) = self.path.strip_prefix(b"pg_tblspc/").filter(|_| self.above == 0) else {
            return false;
        };
        let oid = below.split(|byte| *byte == b'/').next();
        let mut linked = tablespaces.iter().filter(|tablespace| tablespace.location.is_some());
        linked.any(|tablespace| Some(tablespace.oid.as_bytes()) == oid)
    }

    /// Is it in the data directory at the place of one of these links, or below? Entries of the backup with its path belong to
    /// the target of the link.
    pub(super) fn is_in_place_of(&self, links: &[MappedLink]) -> bool {
        let is_at = |link: &MappedLink| {
            let rest = self.path.strip_prefix(link.path.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.above == 0 && links.iter().any(is_at)
    }

    /// Is it in a file system that is mounted below the root?
    pub(crate) fn is_mounted(&self, stat: &FileStat) -> bool {
        stat.st_dev != self.device
    }

    /// The bytes that its removal frees in the root's file system.
    pub(crate) fn frees(&self, stat: &FileStat) -> u64 {
        match stat.st_nlink == 1 && !self.is_mounted(stat) {
            true => (stat.st_blocks as u64).saturating_mul(STAT_BLOCK),
            false => 0,
        }
    }

    /// Remove it; a directory that is not empty, or that something is mounted on, stays. Returns whether it is gone.
    pub(crate) fn remove(&self) -> Result<bool> {
        let how = match self.is_directory {
            true => UnlinkatFlags::RemoveDir,
            false => UnlinkatFlags::NoRemoveDir,
        };
        match unlinkat(self.directory, self.name, how) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) if self.is_directory => Ok(false),
            Err(error) => Err(self.failed("remove", error)),
        }
    }

    /// Of a link, the link itself.
    pub(crate) fn give(&self, owner: Owner) -> Result<()> {
        root::give_named(self.directory, self.name, owner).map_err(|error| self.failed("set the owner of", error))
    }
}

/// Call `each` with everything in the data directory and in the tablespaces' directories of this server's version; the content
/// of a directory comes before the directory. Links are not followed.
pub(crate) fn walk(
    target: &Root,
    tablespaces: &BTreeMap<Vec<u8>, Root>,
    wal: Option<&Root>,
    major: u32,
    each: &mut impl FnMut(&DirectoryEntry<'_>) -> Result<()>,
) -> Result<()> {
    // That of a file system is nobody's to look into.
    let all = |name: &OsStr, is_directory: bool| !is_directory || name != LOST_AND_FOUND;
    Walk {
        root: target,
        device: target.device()?,
        above: 0,
        tablespace: None,
    }
    .go(target.directory(), &mut Vec::new(), &all, each)?;
    if let Some(root) = wal {
        let mut path = wal_directory_name(major).as_bytes().to_vec();
        let walk = Walk {
            root,
            device: root.device()?,
            above: path.len() + 1,
            tablespace: None,
        };
        walk.go(root.directory(), &mut path, &is_of_server, each)?;
    }
    for (oid, root) in tablespaces {
        let mut path = [b"pg_tblspc/", &oid[..]].concat();
        let walk = Walk {
            root,
            device: root.device()?,
            above: path.len() + 1,
            tablespace: std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok()),
        };
        // Another server may have a directory of its own there.
        let version = version::tablespace_prefix(major);
        let of_version =
            |name: &OsStr, is_directory: bool| is_directory && name.as_bytes().starts_with(version.as_bytes());
        walk.go(root.directory(), &mut path, &of_version, each)?;
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Root,
    device: u64,
    above: usize,
    tablespace: Option<u32>,
}

impl Walk<'_> {
    /// `path` is that of the directory, and is so again at the end.
    fn go(
        &self,
        directory: &File,
        path: &mut Vec<u8>,
        which: &dyn Fn(&OsStr, bool) -> bool,
        each: &mut impl FnMut(&DirectoryEntry<'_>) -> Result<()>,
    ) -> Result<()> {
        let length = path.len();
        let full = |path: &[u8]| {
            let below = path.get(self.above..).unwrap_or_default();
            self.root.path.join(OsStr::from_bytes(below))
        };
        let entries = root::entries(directory).map_err(|error| failed("read", full(path), error))?;
        for (name, is_directory) in entries
            .into_iter()
            .filter(|(name, is_directory)| which(name, *is_directory))
        {
            if length > 0 {
                path.push(b'/');
            }
            path.extend(name.as_bytes());
            if is_directory {
                let inner =
                    root::enter_existing(directory, &name).map_err(|error| failed("open", full(path), error))?;
                if let Some(inner) = inner {
                    self.go(&inner, path, &|_, _| true, each)?;
                }
            }
            each(&DirectoryEntry {
                path,
                is_directory,
                tablespace: self.tablespace,
                root: self.root,
                device: self.device,
                above: self.above,
                directory,
                name: &name,
            })?;
            path.truncate(length);
        }
        Ok(())
    }
}
