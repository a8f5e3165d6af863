//! Writing below the target without ever following a link.
//!
//! Every directory is opened by the one above it: see [`Root`]. Tablespaces are directories of their own here: what is
//! below `pg_tblspc/<oid>` goes straight to the tablespace's directory and not through the link to it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, symlinkat, syncfs, unlinkat};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::directories::{Directories, WalDirectory};
use super::links::OpenLink;
use super::owner::Owner;
use super::root::{Root, device, failed, give, give_named, leads_to, open_file, open_own};
use super::tablespaces::Tablespace;
use crate::error::{Error, Result};
use crate::stored::member::{LONGEST_NAME, MemberPath};

/// The name of a file until its content was checked.
const TEMPORARY_SUFFIX: &[u8] = b".walarchive-tmp";

/// The directories of a restore, open.
pub(crate) struct Tree {
    target: Root,
    tablespaces: BTreeMap<Vec<u8>, Root>,
    /// The target of the link `pg_wal` or `pg_xlog`; none if it is a directory.
    wal: Option<Root>,
    /// Of that link.
    wal_name: &'static str,
    /// Other links, the deepest ones last.
    links: Vec<OpenLink>,
    /// The file systems of these.
    devices: BTreeSet<u64>,
    /// For each other file system that is mounted below them, a directory with writes since the last flush.
    pub(crate) mounted: Mutex<BTreeMap<u64, File>>,
    /// Of this restore, in its temporary names.
    tag: String,
    owner: Option<Owner>,
}

/// A file under its temporary name. Dropped without [`NewFile::keep`], it is removed.
pub(crate) struct NewFile {
    directory: File,
    temporary: OsString,
    name: OsString,
    kept: bool,
    /// Its future place, for messages.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// The place of a file.
struct Spot<'a> {
    directory: File,
    name: &'a OsStr,
    /// For messages.
    full: PathBuf,
}

impl Tree {
    /// Take the directories that were `found`, and create the others. New directories belong to `owner`; those that were found
    /// are left as they are until [`Tree::take_over`].
    pub(crate) fn open(
        mut found: Directories,
        target: &Path,
        tablespaces: &[Tablespace],
        owner: Option<Owner>,
    ) -> Result<Self> {
        let mut tree = Tree {
            target: found.target.take().map_or_else(|| Root::create(target, owner), Ok)?,
            tablespaces: BTreeMap::new(),
            wal: None,
            wal_name: "",
            links: Vec::new(),
            devices: BTreeSet::new(),
            mounted: Mutex::default(),
            owner,
            tag: format!("{:08x}", rand::random::<u32>()),
        };
        for tablespace in tablespaces {
            let Some(location) = &tablespace.location else { continue };
            let oid = tablespace.oid.clone().into_bytes();
            let root = match found.tablespaces.remove(&oid) {
                Some(root) => root,
                None => Root::create(location, owner)?,
            };
            tree.tablespaces.insert(oid, root);
        }
        if let Some(WalDirectory { name, path, root }) = found.wal.take() {
            tree.wal_name = name;
            tree.wal = Some(root.map_or_else(|| Root::create(&path, owner), Ok)?);
        }
        tree.links = found
            .links
            .into_iter()
            .map(|link| link.open(owner))
            .collect::<Result<_>>()?;
        tree.devices = tree.roots().map(Root::device).collect::<Result<_>>()?;
        Ok(tree)
    }

    /// Give the directories themselves to the owner, and the mode that a server needs to start.
    pub(crate) fn take_over(&self) -> Result<()> {
        for root in self.own_roots() {
            let directory = root.directory();
            give(directory, self.owner, &root.path)?;
            let meta = directory
                .metadata()
                .map_err(|error| Error::io("open", &root.path, error))?;
            // PostgreSQL refuses to start on a directory that others may read.
            if meta.mode() & 0o027 != 0 {
                directory
                    .set_permissions(Permissions::from_mode(0o700))
                    .map_err(|error| Error::io("set the mode of", &root.path, error))?;
            }
        }
        Ok(())
    }

    /// Directories that hold nothing but the server's entries.
    fn own_roots(&self) -> impl Iterator<Item = &Root> {
        let behind_links = self.links.iter().filter(|link| link.is_directory());
        std::iter::once(&self.target)
            .chain(self.tablespaces.values())
            .chain(&self.wal)
            .chain(behind_links.map(OpenLink::root))
    }

    /// All directories with writes.
    fn roots(&self) -> impl Iterator<Item = &Root> {
        let of_others = self.links.iter().filter(|link| !link.is_directory());
        self.own_roots().chain(of_others.map(OpenLink::root))
    }

    /// The target of the link `pg_wal`.
    pub(crate) fn wal(&self) -> Option<&Root> {
        self.wal.as_ref()
    }

    /// The data directory.
    pub(crate) fn target(&self) -> &Root {
        &self.target
    }

    /// The tablespaces' directories by OID.
    pub(crate) fn tablespaces(&self) -> &BTreeMap<Vec<u8>, Root> {
        &self.tablespaces
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Create the links to the tablespaces, to the directory for WAL and to the other places, unless they are there.
    pub(crate) fn link(&self, tablespaces: &[Tablespace]) -> Result<()> {
        if let Some(wal) = &self.wal {
            self.link_one(&[], OsStr::new(self.wal_name), &wal.path)?;
        }
        // One may be behind another.
        for link in &self.links {
            let Some((name, parents)) = link.at().split_last() else {
                continue;
            };
            self.link_one(parents, OsStr::from_bytes(name), link.location())?;
        }
        for tablespace in tablespaces {
            let Some(location) = &tablespace.location else { continue };
            self.link_one(&[b"pg_tblspc".to_vec()], OsStr::new(&tablespace.oid), location)?;
        }
        Ok(())
    }

    fn link_one(&self, parents: &[Vec<u8>], name: &OsStr, location: &Path) -> Result<()> {
        let full = || self.target.join(parents).join(name);
        let (root, below) = self.locate(parents);
        let links = root.descend(below, self.owner)?;
        if leads_to(&links, name, location) {
            return Ok(());
        }
        symlinkat(location, &links, name).map_err(|error| failed("create", full(), error))?;
        if let Some(owner) = self.owner {
            give_named(&links, name, owner).map_err(|error| failed("set the owner of", full(), error))?;
        }
        links.sync_all().map_err(|error| Error::io("flush", full(), error))
    }

    /// Let the group of the owner read what the restore made itself, as it may read all else.
    pub(crate) fn open_to_group(&self, files: &[&str]) -> Result<()> {
        let set = |file: &File, mode, path: &Path| {
            let set = file.set_permissions(Permissions::from_mode(mode));
            set.map_err(|error| Error::io("set the mode of", path, error))
        };
        for root in self.own_roots() {
            set(root.directory(), 0o750, &root.path)?;
        }
        for name in files {
            let path = MemberPath::parse(name.as_bytes()).map_err(|reason| Error::damaged(*name, reason))?;
            let Some(spot) = self.look(&path)? else { continue };
            match open_own(&spot.directory, spot.name) {
                Ok(file) => set(&file, 0o640, &spot.full)?,
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(failed("open", spot.full, error)),
            }
        }
        Ok(())
    }

    /// May the group read the data directory as it is now?
    pub(crate) fn is_open_to_group(&self) -> Result<bool> {
        let meta = self.target.directory().metadata();
        let meta = meta.map_err(|error| Error::io("open", &self.target.path, error))?;
        Ok(meta.mode() & 0o050 == 0o050)
    }

    /// Remove a file, durably; it is no failure if it is not there.
    pub(crate) fn remove(&self, path: &MemberPath) -> Result<()> {
        let Some(spot) = self.look(path)? else { return Ok(()) };
        match unlinkat(&spot.directory, spot.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => spot.flush(),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(failed("remove", spot.full, error)),
        }
    }

    /// Remove the link to a tablespace, durably. Its path stands for the tablespace's own directory everywhere else.
    pub(crate) fn unlink_tablespace(&self, oid: &str) -> Result<()> {
        let components = [b"pg_tblspc".to_vec(), oid.as_bytes().to_vec()];
        let Some(links) = self.target.look(&components[..1])? else {
            return Ok(());
        };
        let full = self.target.join(&components);
        match unlinkat(&links, oid, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => links.sync_all().map_err(|error| Error::io("flush", full, error)),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(failed("remove", full, error)),
        }
    }

    /// Give a file its temporary name, durably; it is no failure if it is not there.
    pub(crate) fn set_aside(&self, path: &MemberPath) -> Result<()> {
        let renamed = self.rename(path, |name| (name.to_owned(), self.temporary(name)))?;
        renamed.as_ref().map_or(Ok(()), Spot::flush)
    }

    /// Undo [`Tree::set_aside`]. That it lasts is not waited for: where flushing fails, that may be what is undone.
    pub(crate) fn put_back(&self, path: &MemberPath) -> Result<()> {
        self.rename(path, |name| (self.temporary(name), name.to_owned()))
            .map(drop)
    }

    /// None if nothing is there.
    fn rename<'a>(
        &'a self,
        path: &'a MemberPath,
        names: impl Fn(&OsStr) -> (OsString, OsString),
    ) -> Result<Option<Spot<'a>>> {
        let Some(spot) = self.look(path)? else { return Ok(None) };
        let (from, to) = names(spot.name);
        match renameat(&spot.directory, &from[..], &spot.directory, &to[..]) {
            Ok(()) => Ok(Some(spot)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(failed("rename", spot.full, error)),
        }
    }

    /// The content of a small file, of at most `limit` bytes; none if it is not there.
    pub(crate) fn read(&self, path: &MemberPath, limit: u64) -> Result<Option<Vec<u8>>> {
        let (root, components) = self.locate(path.components());
        root.read(components, limit)
    }

    /// The root that a path is below, and the rest of the path.
    fn locate<'a>(&'a self, components: &'a [Vec<u8>]) -> (&'a Root, &'a [Vec<u8>]) {
        let mut links = self.links.iter().rev();
        if let Some(found) = links.find_map(|link| link.locate(components)) {
            return found;
        }
        match components {
            [links, oid, rest @ ..] if links == b"pg_tblspc" => match self.tablespaces.get(oid) {
                Some(root) => (root, rest),
                None => (&self.target, components),
            },
            [first, rest @ ..] if first == self.wal_name.as_bytes() => match &self.wal {
                Some(root) => (root, rest),
                None => (&self.target, components),
            },
            components => (&self.target, components),
        }
    }

    /// The place of a file, if its directory is there.
    fn look<'a>(&'a self, path: &'a MemberPath) -> Result<Option<Spot<'a>>> {
        let (root, components) = self.locate(path.components());
        let Some((name, parents)) = components.split_last() else {
            return Ok(None);
        };
        Ok(root.look(parents)?.map(|directory| Spot {
            directory,
            name: OsStr::from_bytes(name),
            full: root.join(components),
        }))
    }

    /// The place for a file; its directory is there then.
    fn reach<'a>(&'a self, path: &'a MemberPath) -> Result<Spot<'a>> {
        let (root, components) = self.locate(path.components());
        let Some((name, parents)) = components.split_last() else {
            return Err(Error::damaged(path.to_string(), "A file has the name of a directory."));
        };
        let directory = root.descend(parents, self.owner)?;
        self.remember(&directory)
            .map_err(|error| Error::io("open", root.join(parents), error))?;
        Ok(Spot {
            directory,
            name: OsStr::from_bytes(name),
            full: root.join(components),
        })
    }

    /// Something is written to this directory, so [`Tree::sync`] is to reach its file system.
    fn remember(&self, directory: &File) -> io::Result<()> {
        let device = device(directory)?;
        if !self.devices.contains(&device)
            && let Entry::Vacant(place) = self.mounted.lock().entry(device)
        {
            place.insert(directory.try_clone()?);
        }
        Ok(())
    }

    /// Create a directory, and those above it, unless it exists. `mode` may open it for the group.
    pub(crate) fn create_directory(&self, path: &MemberPath, mode: u32) -> Result<()> {
        let (root, components) = self.locate(path.components());
        let directory = root.descend(components, self.owner)?;
        self.remember(&directory)
            .map_err(|error| Error::io("open", root.join(components), error))?;
        // The server insists on 0700 or 0750 for the data directory; nothing below needs more.
        let mode = mode & 0o750 | 0o700;
        directory
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|error| Error::io("set the mode of", root.join(components), error))
    }

    /// Create a file under a temporary name, and the directories above it.
    pub(crate) fn create_file(&self, path: &MemberPath) -> Result<NewFile> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::from_bits_truncate(0o600);
        let new = self.open_temporary(path, "create", |directory, name| {
            openat(directory, name, flags, mode).map(File::from)
        })?;
        give(&new.file, self.owner, &new.path)?;
        Ok(new)
    }

    /// Open a file that was parked.
    pub(crate) fn reopen_file(&self, path: &MemberPath) -> Result<NewFile> {
        self.open_temporary(path, "open", open_own)
    }

    /// Open a file for writing into it as it is; its path is for messages.
    pub(crate) fn open_in_place(&self, path: &MemberPath) -> Result<(File, PathBuf)> {
        let spot = self.reach(path)?;
        match open_own(&spot.directory, spot.name) {
            Ok(file) => Ok((file, spot.full)),
            Err(error) => Err(failed("open", spot.full, error)),
        }
    }

    fn open_temporary(
        &self,
        path: &MemberPath,
        operation: &'static str,
        open: impl FnOnce(&File, &OsStr) -> nix::Result<File>,
    ) -> Result<NewFile> {
        let spot = self.reach(path)?;
        let temporary = self.temporary(spot.name);
        match open(&spot.directory, &temporary) {
            Ok(file) => Ok(NewFile {
                directory: spot.directory,
                temporary,
                name: spot.name.to_owned(),
                kept: false,
                path: spot.full,
                file,
            }),
            Err(error) => Err(failed(operation, spot.full, error)),
        }
    }

    /// Open a file for reading; its path is for messages.
    pub(crate) fn open_file(&self, path: &MemberPath) -> Result<(File, PathBuf)> {
        let spot = self.reach(path)?;
        match open_file(&spot.directory, spot.name) {
            Ok(file) => Ok((file, spot.full)),
            Err(error) => Err(failed("open", spot.full, error)),
        }
    }

    /// Nobody can foresee it, so no member of a tar can bear it. It is in the file's own directory, as that may be on a file system
    /// of its own; of a long name there is only a digest, so that this one is not too long.
    fn temporary(&self, name: &OsStr) -> OsString {
        let of = |name: &[u8]| [name, b".", self.tag.as_bytes(), TEMPORARY_SUFFIX].concat();
        let full = of(name.as_bytes());
        OsString::from_vec(match full.len() <= LONGEST_NAME {
            true => full,
            false => of(hex_digest(name.as_bytes()).as_bytes()),
        })
    }

    /// Flush everything to disk: the file systems of the target and of each tablespace, and those that are mounted below them.
    pub(crate) fn sync(&self) -> Result<()> {
        for root in self.roots() {
            syncfs(root.directory()).map_err(|error| failed("flush", root.path.clone(), error))?;
        }
        // Later writes are remembered again.
        let mounted = std::mem::take(&mut *self.mounted.lock());
        for directory in mounted.values() {
            syncfs(directory).map_err(|error| failed("flush", self.target.path.clone(), error))?;
        }
        Ok(())
    }
}

fn hex_digest(name: &[u8]) -> String {
    let digest = Sha256::digest(name);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Spot<'_> {
    /// Make the changes of names in the directory durable.
    fn flush(&self) -> Result<()> {
        self.directory
            .sync_all()
            .map_err(|error| Error::io("flush", &self.full, error))
    }
}

/// When a new file is brought to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// With its name, before anything else happens.
    Now,
    /// Together with all others; see [`Tree::sync`].
    AtTheEnd,
}

impl NewFile {
    /// Give the file its final name and mode.
    pub(crate) fn keep(mut self, mode: u32, flush: Flush) -> Result<()> {
        let mode = Permissions::from_mode(mode & 0o750 | 0o600);
        self.file
            .set_permissions(mode)
            .map_err(|error| Error::io("set the mode of", &self.path, error))?;
        let sync = |file: &File, path: &Path| file.sync_all().map_err(|error| Error::io("flush", path, error));
        if flush == Flush::Now {
            sync(&self.file, &self.path)?;
        }
        renameat(&self.directory, &self.temporary[..], &self.directory, &self.name[..])
            .map_err(|error| failed("rename", self.path.clone(), error))?;
        self.kept = true;
        if flush == Flush::Now {
            sync(&self.directory, &self.path)?;
        }
        Ok(())
    }

    /// Leave it under its temporary name, for [`Tree::reopen_file`].
    pub(crate) fn park(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // The restore has failed already; a leftover under a temporary name does no harm.
            let _ = unlinkat(&self.directory, &self.temporary[..], UnlinkatFlags::NoRemoveDir);
        }
    }
}
