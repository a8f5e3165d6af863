//! Finding everything that a backup holds.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::files::FileList;
use super::unlogged::Unlogged;
use super::{BackupRequest, Tablespace, rules};
use crate::control_file::PG_CONTROL;
use crate::error::{Error, Result};

/// What was found. Paths are relative to the data directory; those in tablespaces go through `pg_tblspc/<oid>`.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Parents before their children.
    pub(super) directories: Vec<Directory>,
    /// Without `pg_control`, which is copied last.
    pub(super) files: FileList,
    pub(super) tablespaces: Vec<Tablespace>,
    /// Only their init forks are among the files.
    pub(super) unlogged: Unlogged,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
}

/// What a tar keeps of a file beside its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(super) modified: (i64, u32),
}

impl From<&Metadata> for Owner {
    fn from(meta: &Metadata) -> Self {
        Owner {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            modified: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
        }
    }
}

/// Walk the data directory and its tablespaces. What vanishes meanwhile is not there.
pub(super) fn walk(request: &BackupRequest, cancel: &CancellationToken) -> Result<Tree> {
    let mut walker = Walker {
        request,
        version: format!("PG_{}_", request.major_version()),
        cancel,
        tree: Tree::default(),
        locations: HashSet::new(),
    };
    walker.find_tablespaces()?;
    walker.directory(Path::new(""))?;
    walker.walk_tablespaces()?;
    Ok(walker.tree)
}

struct Walker<'a> {
    request: &'a BackupRequest,
    /// How the names of this major version's directories in tablespaces begin.
    version: String,
    cancel: &'a CancellationToken,
    tree: Tree,
    /// Of tablespaces that lie inside the data directory, against all advice: they are walked once, as tablespaces.
    locations: HashSet<PathBuf>,
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
            self.tree.tablespaces.push(Tablespace {
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

    /// Everything in one directory, which itself is in the tree already.
    fn directory(&mut self, path: &Path) -> Result<()> {
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

    /// `in_database`: does it lie in the directory of a database?
    fn entry(&mut self, path: &Path, in_database: bool) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if rules::is_left_out(path) || rules::is_beside_version(path, &self.version) || path == Path::new(PG_CONTROL) {
            return Ok(());
        }
        let full = self.request.data_dir.join(path);
        let Some(meta) = found(std::fs::symlink_metadata(&full), "open", &full)? else {
            return Ok(());
        };
        if meta.is_dir() {
            self.tree.directories.push(Directory {
                path: path.to_owned(),
                owner: Owner::from(&meta),
            });
            if rules::is_emptied(path) {
                self.children_of_pg_wal(path, &meta);
                return Ok(());
            }
            if !self.locations.is_empty() && full.canonicalize().is_ok_and(|place| self.locations.contains(&place)) {
                return Ok(());
            }
            return self.directory(path);
        }
        if meta.is_symlink() {
            return self.symlink(path, &full);
        }
        if !meta.is_file() {
            tracing::warn!(file = %full.display(), "skipped a special file");
            return Ok(());
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if in_database && (self.tree.unlogged.has(path) || rules::is_temporary_relation(name)) {
            return Ok(());
        }
        self.tree.files.push(path, meta.len());
        Ok(())
    }

    /// The links of tablespaces are made anew by a restore. A directory of which only its existence counts may be a link,
    /// mostly to another disk; it comes back as a directory.
    fn symlink(&mut self, path: &Path, full: &Path) -> Result<()> {
        if rules::is_emptied(path) {
            if let Some(meta) = found(std::fs::metadata(full), "open", full)?.filter(Metadata::is_dir) {
                self.tree.directories.push(Directory {
                    path: path.to_owned(),
                    owner: Owner::from(&meta),
                });
                self.children_of_pg_wal(path, &meta);
            }
            return Ok(());
        }
        let is_tablespace = path.parent() == Some(Path::new("pg_tblspc"));
        if !is_tablespace {
            tracing::warn!(file = %full.display(), "skipped a symbolic link");
        }
        Ok(())
    }

    /// The server expects these in `pg_wal`.
    fn children_of_pg_wal(&mut self, path: &Path, parent: &Metadata) {
        if path != Path::new("pg_wal") {
            return;
        }
        let summaries = (self.request.major_version() >= 17).then_some("summaries");
        for name in ["archive_status"].into_iter().chain(summaries) {
            self.tree.directories.push(Directory {
                path: path.join(name),
                owner: Owner::from(parent),
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
            None if path.as_os_str().is_empty() => {
                Err(Error::io("read", full, io::Error::from(io::ErrorKind::NotFound)))
            }
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
