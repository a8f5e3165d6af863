//! Writing below the target without ever following a link.
//!
//! Every directory is opened by its parent, with `O_NOFOLLOW`. Tablespaces are directories of their own here: what lies
//! below `pg_tblspc/<oid>` goes straight to the tablespace's directory and not through the link to it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, syncfs, unlinkat};

use super::member::MemberPath;
use super::owner::Owner;
use super::tablespaces::Tablespace;
use crate::error::{Error, Result};

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What a file is called until its content was checked.
const TEMPORARY_SUFFIX: &[u8] = b".walarchive-tmp";

/// The directories of a restore, open.
pub(super) struct Tree {
    target: Root,
    tablespaces: BTreeMap<Vec<u8>, Root>,
    /// Of this restore, in its temporary names.
    tag: String,
    owner: Option<Owner>,
}

struct Root {
    path: PathBuf,
    directory: OwnedFd,
    owner: Option<Owner>,
}

/// A file under its temporary name. Dropped without [`NewFile::keep`], it is removed.
pub(super) struct NewFile {
    directory: OwnedFd,
    temporary: Vec<u8>,
    name: Vec<u8>,
    kept: bool,
    /// Where it will be, for messages.
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Tree {
    /// Open the directories, creating what does not exist yet. What is created belongs to `owner`.
    pub(super) fn open(target: &Path, tablespaces: &[Tablespace], owner: Option<Owner>) -> Result<Self> {
        let mut tree = Tree {
            target: Root::create(target, owner)?,
            tablespaces: BTreeMap::new(),
            owner,
            tag: format!("{:08x}", rand::random::<u32>()),
        };
        for tablespace in tablespaces {
            let Some(location) = &tablespace.location else { continue };
            tree.tablespaces
                .insert(tablespace.oid.clone().into_bytes(), Root::create(location, owner)?);
        }
        Ok(tree)
    }

    /// Create the links to the tablespaces, unless they are there.
    pub(super) fn link(&self, tablespaces: &[Tablespace]) -> Result<()> {
        for tablespace in tablespaces {
            let Some(location) = &tablespace.location else { continue };
            let path = self.target.path.join("pg_tblspc").join(&tablespace.oid);
            if std::fs::read_link(&path).is_ok_and(|link| link == *location) {
                continue;
            }
            let links = self.target.descend(&[b"pg_tblspc".to_vec()])?;
            symlinkat(location, &links, tablespace.oid.as_str())
                .map_err(|error| failed("create", path.clone(), error))?;
            if let Some(owner) = self.owner {
                std::os::unix::fs::lchown(&path, Some(owner.uid), Some(owner.gid))
                    .map_err(|error| Error::io("set the owner of", &path, error))?;
            }
        }
        Ok(())
    }

    /// Remove a file, durably; it is no failure if it is not there.
    pub(super) fn remove(&self, path: &MemberPath) -> Result<()> {
        let (root, components) = self.locate(path);
        let full = root.join(components);
        let Some((name, parents)) = components.split_last() else {
            return Ok(());
        };
        if !full.parent().is_some_and(Path::exists) {
            return Ok(());
        }
        let directory = root.descend(parents)?;
        match unlinkat(&directory, OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => File::from(directory)
                .sync_all()
                .map_err(|error| Error::io("flush", full, error)),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(failed("remove", full, error)),
        }
    }

    /// The root that a path is below, and the rest of the path.
    fn locate<'a>(&self, path: &'a MemberPath) -> (&Root, &'a [Vec<u8>]) {
        match path.components() {
            [links, oid, rest @ ..] if links == b"pg_tblspc" => match self.tablespaces.get(oid) {
                Some(root) => (root, rest),
                None => (&self.target, path.components()),
            },
            components => (&self.target, components),
        }
    }

    /// Create a directory, and those above it, unless it exists. `mode` may open it for the group.
    pub(super) fn create_directory(&self, path: &MemberPath, mode: u32) -> Result<()> {
        let (root, components) = self.locate(path);
        let directory = File::from(root.descend(components)?);
        // The server insists on 0700 or 0750 for the data directory; nothing below needs more.
        let mode = mode & 0o750 | 0o700;
        directory
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|error| Error::io("set the mode of", root.join(components), error))
    }

    /// Create a file under a temporary name, and the directories above it.
    pub(super) fn create_file(&self, path: &MemberPath) -> Result<NewFile> {
        let (root, components) = self.locate(path);
        let full = root.join(components);
        let Some((name, parents)) = components.split_last() else {
            return Err(Error::damaged(path.to_string(), "A file has the name of a directory."));
        };
        let directory = root.descend(parents)?;
        let temporary = self.temporary(name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(
            &directory,
            OsStr::from_bytes(&temporary),
            flags,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(|error| failed("create", full.clone(), error))?;
        give(&file, self.owner, &full)?;
        Ok(NewFile {
            directory,
            temporary,
            name: name.clone(),
            kept: false,
            path: full,
            file: File::from(file),
        })
    }

    /// Open a file that was parked.
    pub(super) fn reopen_file(&self, path: &MemberPath) -> Result<NewFile> {
        let (root, components) = self.locate(path);
        let full = root.join(components);
        let Some((name, parents)) = components.split_last() else {
            return Err(Error::damaged(path.to_string(), "A file has the name of a directory."));
        };
        let directory = root.descend(parents)?;
        let temporary = self.temporary(name);
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&directory, OsStr::from_bytes(&temporary), flags, Mode::empty())
            .map_err(|error| failed("open", full.clone(), error))?;
        Ok(NewFile {
            directory,
            temporary,
            name: name.clone(),
            kept: false,
            path: full,
            file: File::from(file),
        })
    }

    /// Open a file for reading; its path is for messages.
    pub(super) fn open_file(&self, path: &MemberPath) -> Result<(File, PathBuf)> {
        let (root, components) = self.locate(path);
        let full = root.join(components);
        let Some((name, parents)) = components.split_last() else {
            return Err(Error::damaged(path.to_string(), "A file has the name of a directory."));
        };
        let directory = root.descend(parents)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&directory, OsStr::from_bytes(name), flags, Mode::empty())
            .map_err(|error| failed("open", full.clone(), error))?;
        Ok((File::from(file), full))
    }

    /// Nobody can foresee it, so no member of a tar can bear it.
    fn temporary(&self, name: &[u8]) -> Vec<u8> {
        [name, b".", self.tag.as_bytes(), TEMPORARY_SUFFIX].concat()
    }

    /// Flush everything to disk: the file systems of the target and of each tablespace.
    pub(super) fn sync(&self) -> Result<()> {
        for root in std::iter::once(&self.target).chain(self.tablespaces.values()) {
            syncfs(&root.directory).map_err(|error| failed("flush", root.path.clone(), error))?;
        }
        Ok(())
    }

    /// The data directory.
    pub(super) fn path(&self) -> &Path {
        &self.target.path
    }
}

impl Root {
    fn create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            DirBuilder::new()
                .mode(0o700)
                .create(directory)
                .map_err(|error| Error::io("create", directory, error))?;
            if let Some(owner) = owner {
                std::os::unix::fs::lchown(directory, Some(owner.uid), Some(owner.gid))
                    .map_err(|error| Error::io("set the owner of", directory, error))?;
            }
        }
        // The path is the user's, so links in it are the user's too.
        let directory = open(path, DIRECTORY.difference(OFlag::O_NOFOLLOW), Mode::empty())
            .map_err(|error| failed("open", path.to_path_buf(), error))?;
        give(&directory, owner, path)?;
        let root = Root {
            path: path.to_path_buf(),
            directory,
            owner,
        };
        let handle = File::from(root.reopen()?);
        let mode = handle
            .metadata()
            .map_err(|error| Error::io("open", path, error))?
            .mode();
        // PostgreSQL refuses to start on a directory that others may read.
        if mode & 0o027 != 0 {
            handle
                .set_permissions(Permissions::from_mode(0o700))
                .map_err(|error| Error::io("set the mode of", path, error))?;
        }
        Ok(root)
    }

    fn reopen(&self) -> Result<OwnedFd> {
        self.directory
            .try_clone()
            .map_err(|error| Error::io("open", &self.path, error))
    }

    fn join(&self, components: &[Vec<u8>]) -> PathBuf {
        let mut path = self.path.clone();
        path.extend(components.iter().map(|component| OsStr::from_bytes(component)));
        path
    }

    /// Open a directory below, creating what is missing on the way.
    fn descend(&self, components: &[Vec<u8>]) -> Result<OwnedFd> {
        let mut directory = self.reopen()?;
        for (depth, component) in components.iter().enumerate() {
            let name = OsStr::from_bytes(component);
            let full = || self.join(&components[..=depth]);
            let mut opened = openat(&directory, name, DIRECTORY, Mode::empty());
            let is_new = matches!(opened, Err(Errno::ENOENT));
            if is_new {
                match mkdirat(&directory, name, Mode::from_bits_truncate(0o700)) {
                    // Another tar may have been quicker.
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(failed("create", full(), error)),
                }
                opened = openat(&directory, name, DIRECTORY, Mode::empty());
            }
            directory = opened.map_err(|error| match error {
                Errno::ENOTDIR | Errno::ELOOP => Error::damaged(
                    full().display().to_string(),
                    "The backup has files below it, but it is no directory.",
                ),
                error => failed("open", full(), error),
            })?;
            if is_new {
                give(&directory, self.owner, &full())?;
            }
        }
        Ok(directory)
    }
}

impl NewFile {
    /// Give the file its final name and mode.
    pub(super) fn keep(mut self, mode: u32, durably: bool) -> Result<()> {
        let mode = Permissions::from_mode(mode & 0o750 | 0o600);
        self.file
            .set_permissions(mode)
            .map_err(|error| Error::io("set the mode of", &self.path, error))?;
        let sync = |file: &File, path: &Path| file.sync_all().map_err(|error| Error::io("flush", path, error));
        if durably {
            sync(&self.file, &self.path)?;
        }
        let (temporary, name) = (OsStr::from_bytes(&self.temporary), OsStr::from_bytes(&self.name));
        renameat(&self.directory, temporary, &self.directory, name)
            .map_err(|error| failed("rename", self.path.clone(), error))?;
        self.kept = true;
        if durably {
            let directory = self.directory.as_fd().try_clone_to_owned();
            let directory = directory.map_err(|error| Error::io("open", &self.path, error))?;
            sync(&File::from(directory), &self.path)?;
        }
        Ok(())
    }
}

impl NewFile {
    /// Leave it under its temporary name, for [`Tree::reopen_file`].
    pub(super) fn park(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            let name = OsStr::from_bytes(&self.temporary);
            // The restore has failed already; a leftover under a temporary name does no harm.
            let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn give(file: &impl AsFd, owner: Option<Owner>, path: &Path) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
        .map_err(|error| Error::io("set the owner of", path, error))
}

fn failed(operation: &'static str, path: PathBuf, error: Errno) -> Error {
    Error::io(operation, path, io::Error::from(error))
}
