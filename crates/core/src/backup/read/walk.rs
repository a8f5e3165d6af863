//! Finding everything that a backup holds.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::essential::Essential;
use super::files::FileList;
use super::links::{LinkTarget, Links, target_of};
use super::rules;
use super::unlogged::Unlogged;
use crate::backup::{BackupRequest, TablespaceLink};
use crate::data_dir::PG_CONTROL;
use crate::error::{Error, Result};
use crate::formats::FILES_LIMIT;
use crate::version;

/// The result of the walk. Paths are relative to the data directory; those in tablespaces go through `pg_tblspc/<oid>`.
#[derive(Debug, Default)]
pub(crate) struct DataDirectory {
    /// Parents before their children.
    pub(crate) directories: Vec<Directory>,
    /// Without `pg_control`, which is copied last.
    pub(crate) files: FileList,
    pub(crate) tablespaces: Vec<TablespaceLink>,
    /// Only their init forks are among the files.
    pub(crate) unlogged: Unlogged,
    pub(crate) essential: Essential,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) owner: Attributes,
}

/// The attributes of a file that a tar keeps beside its content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) modified: (i64, u32),
}

impl From<&Metadata> for Attributes {
    fn from(meta: &Metadata) -> Self {
        Attributes {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            modified: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
        }
    }
}

/// Walk the data directory and its tablespaces. Files that vanish meanwhile are not there. Links that are followed, and files
/// that are left out, go to `links`. An error if anything is missing without which no server starts.
pub(crate) fn walk(request: &BackupRequest, links: &Links, cancel: &CancellationToken) -> Result<DataDirectory> {
    let mut walker = Walker {
        request,
        links,
        version: version::tablespace_prefix(request.major_version()),
        keys: rules::keys_within(&request.data_dir, &request.configuration.keys),
        cancel,
        tree: DataDirectory::default(),
        locations: HashSet::new(),
        above: Vec::new(),
    };
    walker.find_tablespaces()?;
    walker.find_links()?;
    walker.directory(Path::new(""))?;
    walker.walk_tablespaces()?;
    walker
        .tree
        .essential
        .check(&request.data_dir, request.major_version())?;
    Ok(walker.tree)
}

/// Places of the server's own directories that somebody may have put elsewhere, beside those in tablespaces.
const FOLDERS: [&str; 4] = ["", "base", "pg_logical", "pg_multixact"];

struct Walker<'a> {
    request: &'a BackupRequest,
    links: &'a Links,
    /// How the names of this major version's directories in tablespaces begin.
    version: String,
    /// Of the repository.
    keys: Vec<PathBuf>,
    cancel: &'a CancellationToken,
    tree: DataDirectory,
    /// Tablespaces inside the data directory, against all advice: they are walked once, as tablespaces. The same for targets of
    /// the server's own links inside the data directory.
    locations: HashSet<PathBuf>,
    /// Device and inode of the directory that is walked, and of all those above it.
    above: Vec<(u64, u64)>,
}

impl Walker<'_> {
    fn find_tablespaces(&mut self) -> Result<()> {
        let folder = Path::new("pg_tblspc");
        for name in self.names(folder)? {
            let Some(oid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let link = self.request.data_dir.join(folder).join(&name);
            // A directory instead of a link is an in-place tablespace, which needs no treatment of its own.
            let Ok(target) = std::fs::read_link(&link) else {
                continue;
            };
            if let Ok(place) = link.canonicalize() {
                self.locations.insert(place);
            }
            let given = self.request.tablespaces.iter().find(|tablespace| tablespace.oid == oid);
            self.tree.tablespaces.push(TablespaceLink {
                oid,
                location: given.map_or(target, |tablespace| tablespace.location.clone()),
            });
        }
        self.tree.tablespaces.sort_by_key(|tablespace| tablespace.oid);
        for gone in &self.request.tablespaces {
            if !self.tree.tablespaces.iter().any(|found| found.oid == gone.oid) {
                tracing::debug!(oid = gone.oid, "the tablespace has no link in pg_tblspc");
            }
        }
        Ok(())
    }

    fn walk_tablespaces(&mut self) -> Result<()> {
        for index in 0..self.tree.tablespaces.len() {
            let folder = Path::new("pg_tblspc").join(self.tree.tablespaces[index].oid.to_string());
            for name in self.names(&folder)? {
                self.entry(&folder.join(name), false)?;
            }
        }
        Ok(())
    }

    /// Links of the server's own to directories that are inside the data directory under another name.
    fn find_links(&mut self) -> Result<()> {
        let Ok(data_dir) = self.request.data_dir.canonicalize() else {
            return Ok(());
        };
        for folder in FOLDERS.map(Path::new) {
            for name in self.names(folder)? {
                let path = folder.join(name);
                let full = self.request.data_dir.join(&path);
                if rules::is_of_server(&path)
                    && std::fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_symlink())
                    && let Ok(place) = full.canonicalize()
                    && place.starts_with(&data_dir)
                {
                    self.locations.insert(place);
                }
            }
        }
        Ok(())
    }

    /// Everything in one directory, which itself is in the tree already.
    fn directory(&mut self, path: &Path) -> Result<()> {
        let full = self.request.data_dir.join(path);
        let Some(meta) = found(std::fs::metadata(&full), "open", &full)? else {
            return match path.as_os_str().is_empty() {
                true => Err(Error::io("read", full, io::Error::from(io::ErrorKind::NotFound))),
                false => Ok(()),
            };
        };
        let identity = (meta.dev(), meta.ino());
        if self.above.contains(&identity) {
            return Err(Error::refused(
                format!("\"{}\" is inside itself", full.display()),
                "A symbolic link leads there. Remove it, or let it lead to where the server's data is.",
            ));
        }
        self.above.push(identity);
        let walked = self.entries(path);
        self.above.pop();
        walked
    }

    fn entries(&mut self, path: &Path) -> Result<()> {
        let names = self.names(path)?;
        let is_database = rules::is_database(path);
        if is_database {
            self.tree.unlogged.note(path, &names);
        }
        for name in names {
            self.entry(&path.join(name), is_database)?;
        }
        Ok(())
    }

    /// `in_database`: is it in the directory of a database?
    fn entry(&mut self, path: &Path, in_database: bool) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let is_key = self.keys.iter().any(|key| key == path);
        if is_key
            || rules::is_left_out(path)
            || rules::is_beside_version(path, &self.version)
            || path == Path::new(PG_CONTROL)
        {
            return Ok(());
        }
        let full = self.request.data_dir.join(path);
        let Some(meta) = found(std::fs::symlink_metadata(&full), "open", &full)? else {
            return Ok(());
        };
        if meta.is_dir() {
            self.tree.directories.push(Directory {
                path: path.to_owned(),
                owner: Attributes::from(&meta),
            });
            if self.is_emptied(path) {
                self.children_of_pg_wal(path, &meta);
                return Ok(());
            }
            if !self.locations.is_empty()
                && !rules::is_of_server(path)
                && full.canonicalize().is_ok_and(|place| self.locations.contains(&place))
            {
                return Ok(());
            }
            return self.directory(path);
        }
        if meta.is_symlink() {
            return self.symlink(path, &full, &meta, in_database);
        }
        self.file(path, &full, &meta, in_database)
    }

    fn file(&mut self, path: &Path, full: &Path, meta: &Metadata, in_database: bool) -> Result<()> {
        if meta.file_type().is_socket() {
            // A server that listens in its own data directory has one there.
            tracing::debug!(file = %full.display(), "left out a socket");
            return Ok(());
        }
        if !meta.is_file() {
            self.links.leave_out(path, full, meta);
            return Ok(());
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if in_database && (self.tree.unlogged.has(path) || rules::is_temporary_relation(name)) {
            return Ok(());
        }
        if self.tree.files.len() >= FILES_LIMIT {
            return Err(Error::refused(
                format!("the data directory has more than {FILES_LIMIT} files"),
                "A backup of so many is more than a restore can keep in memory. Use fewer tables, or several clusters.",
            ));
        }
        self.tree.essential.note(path);
        self.tree.files.push(path, meta.len());
        Ok(())
    }

    /// A restore makes the links of tablespaces again. At a place of the server's own, what a link leads to is the server's
    /// data, mostly on another disk; it is backed up, and comes back, as the file or directory that it is for the server. Of a
    /// directory that is kept empty only the existence counts. Any other link is left out.
    fn symlink(&mut self, path: &Path, full: &Path, link: &Metadata, in_database: bool) -> Result<()> {
        let is_tablespace = path.parent() == Some(Path::new("pg_tblspc"))
            && path
                .file_name()
                .is_some_and(|name| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
        if is_tablespace {
            return Ok(());
        }
        let is_emptied = self.is_emptied(path);
        if !is_emptied && !rules::is_of_server(path) {
            self.links.leave_out(path, full, link);
            return Ok(());
        }
        let Some((target, meta)) = target_of(full)? else {
            return Ok(());
        };
        if meta.is_dir() {
            self.links.follow(path, target, LinkTarget::Directory);
            self.tree.directories.push(Directory {
                path: path.to_owned(),
                owner: Attributes::from(&meta),
            });
            if is_emptied {
                self.children_of_pg_wal(path, &meta);
                return Ok(());
            }
            return self.directory(path);
        }
        if meta.is_file() && !is_emptied {
            self.links.follow(path, target, LinkTarget::File);
        }
        self.file(path, full, &meta, in_database)
    }

    /// Is this directory kept empty, by the rules or because the server is configured to write there what no restore needs?
    fn is_emptied(&self, path: &Path) -> bool {
        rules::is_emptied(path, self.request.major_version())
            || self.request.emptied.iter().any(|emptied| emptied == path)
    }

    /// The server expects these in the directory of WAL.
    fn children_of_pg_wal(&mut self, path: &Path, parent: &Metadata) {
        let major = self.request.major_version();
        if !rules::is_wal_directory(path, major) {
            return;
        }
        let summaries = (major >= 17).then_some("summaries");
        for name in ["archive_status"].into_iter().chain(summaries) {
            self.tree.directories.push(Directory {
                path: path.join(name),
                owner: Attributes::from(parent),
            });
        }
    }

    /// The names in a directory, in a stable order; none if it vanished.
    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let full = self.request.data_dir.join(path);
        let read = || -> io::Result<Vec<OsString>> {
            let mut names = std::fs::read_dir(&full)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        };
        match found(read(), "read", &full)? {
            Some(names) => Ok(names),
            None => Ok(Vec::new()),
        }
    }
}

/// Vanished is none, everything else is an error.
fn found<T>(result: io::Result<T>, operation: &'static str, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(operation, path, error)),
    }
}
