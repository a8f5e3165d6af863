//! A directory of a restore, held open. All below it is reached by descriptors, component by component and never through a
//! link: while root restores, another user may be able to put a link where a directory was.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use super::owner::Owner;
use super::tablespaces::settled;
use crate::error::{Error, Result};

/// An entry that some file systems have in their topmost directory.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// To look into a directory.
const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// To pass through one that need not be readable.
const PASSING: OFlag = DIRECTORY.union(OFlag::O_PATH);

/// The way to deal with a directory that is missing.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Leave,
    /// Create it, for this owner.
    Create(Option<Owner>),
}

/// The data directory, or that of a tablespace.
#[derive(Debug)]
pub(crate) struct Root {
    /// As the user gave it, for messages.
    pub(crate) path: PathBuf,
    directory: File,
}

impl Root {
    /// The directory, if it exists.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>> {
        Root::reach(path, Missing::Leave)
    }

    /// Create the directory, and those above it, unless it exists; and keep other restores out of it.
    pub(crate) fn create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        let created = Root::reach(path, Missing::Create(owner))?;
        let root = created.ok_or_else(|| failed("create", path.to_path_buf(), Errno::ENOENT))?;
        root.lock()?;
        Ok(root)
    }

    /// The path is the user's, so links in it are the user's, too: they count as they were when they were looked at first.
    fn reach(path: &Path, missing: Missing) -> Result<Option<Self>> {
        let reached = reach(&settled(path)?, missing)?;
        Ok(reached.map(|directory| Root {
            path: path.to_path_buf(),
            directory,
        }))
    }

    /// It lasts as long as the directory is open.
    pub(crate) fn lock(&self) -> Result<()> {
        match self.directory.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(Error::refused(
                format!("another restore works on directory \"{}\"", self.path.display()),
                "Wait until it has ended, or restore to another place.",
            )),
            // Not every file system can.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    "directory \"{}\" cannot be locked, so make sure that no other restore works on it: {error}",
                    self.path.display()
                );
                Ok(())
            }
        }
    }

    pub(crate) fn directory(&self) -> &File {
        &self.directory
    }

    /// The file system that it is on.
    pub(crate) fn device(&self) -> Result<u64> {
        device(&self.directory).map_err(|error| Error::io("open", &self.path, error))
    }

    /// The path of entries below, for messages.
    pub(crate) fn join(&self, components: &[Vec<u8>]) -> PathBuf {
        let mut path = self.path.clone();
        path.extend(components.iter().map(|component| OsStr::from_bytes(component)));
        path
    }

    /// Open a directory below, creating what is missing on the way.
    pub(crate) fn descend(&self, components: &[Vec<u8>], owner: Option<Owner>) -> Result<File> {
        let descended = self.step_down(components, Missing::Create(owner))?;
        descended.ok_or_else(|| failed("create", self.join(components), Errno::ENOENT))
    }

    /// Open a directory below; none if it is missing, or something else is in its place or on the way.
    pub(crate) fn look(&self, components: &[Vec<u8>]) -> Result<Option<File>> {
        self.step_down(components, Missing::Leave)
    }

    fn step_down(&self, components: &[Vec<u8>], missing: Missing) -> Result<Option<File>> {
        let mut directory = self
            .directory
            .try_clone()
            .map_err(|error| Error::io("open", &self.path, error))?;
        for (depth, component) in components.iter().enumerate() {
            let full = || self.join(&components[..=depth]);
            let entered = enter(&directory, OsStr::from_bytes(component), DIRECTORY, missing);
            let is_other = matches!(entered, Err((_, Errno::ENOTDIR | Errno::ELOOP)));
            if is_other && matches!(missing, Missing::Leave) {
                return Ok(None);
            }
            let entered = entered.map_err(|(operation, error)| match error {
                Errno::ENOTDIR | Errno::ELOOP => Error::damaged(
                    full().display().to_string(),
                    "The backup has files below it, but it is no directory.",
                ),
                error => failed(operation, full(), error),
            })?;
            match entered {
                Some(entered) => directory = entered,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// Is something there, whatever it is?
    pub(crate) fn has(&self, components: &[Vec<u8>]) -> Result<bool> {
        let Some((name, parents)) = components.split_last() else {
            return Ok(true);
        };
        let Some(directory) = self.look(parents)? else {
            return Ok(false);
        };
        match stat(&directory, OsStr::from_bytes(name)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(failed("read", self.join(components), error)),
        }
    }

    /// The content of a file, of at most `limit` bytes; none if there is none.
    pub(crate) fn read(&self, components: &[Vec<u8>], limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((name, parents)) = components.split_last() else {
            return Ok(None);
        };
        let Some(directory) = self.look(parents)? else {
            return Ok(None);
        };
        let failed = |error: io::Error| Error::io("read", self.join(components), error);
        let file = match open_file(&directory, OsStr::from_bytes(name)) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
        match content.len() as u64 > limit {
            true => Err(failed(io::Error::other(format!("it has more than {limit} bytes")))),
            false => Ok(Some(content)),
        }
    }
}

/// Open a directory by its path, without following any link.
fn reach(real: &Path, missing: Missing) -> Result<Option<File>> {
    let names: Vec<&OsStr> = real
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let flags = |left: usize| if left == 0 { DIRECTORY } else { PASSING };
    let mut at = PathBuf::from("/");
    let mut directory =
        File::from(open("/", flags(names.len()), Mode::empty()).map_err(|error| failed("open", at.clone(), error))?);
    for (depth, name) in names.iter().enumerate() {
        at.push(name);
        let entered = enter(&directory, name, flags(names.len() - depth - 1), missing);
        match entered.map_err(|(operation, error)| failed(operation, at.clone(), error))? {
            Some(entered) => directory = entered,
            None => return Ok(None),
        }
    }
    Ok(Some(directory))
}

/// Open a directory in another one; a failure says what failed.
fn enter(parent: &File, name: &OsStr, flags: OFlag, missing: Missing) -> Result<Option<File>, (&'static str, Errno)> {
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => return Ok(Some(directory.into())),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(("open", error)),
    }
    let Missing::Create(owner) = missing else {
        return Ok(None);
    };
    let is_ours = match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) => true,
        // Another tar may have been quicker.
        Err(Errno::EEXIST) => false,
        Err(error) => return Err(("create", error)),
    };
    let directory = openat(parent, name, DIRECTORY, Mode::empty()).map_err(|error| ("open", error))?;
    if let Some(owner) = owner.filter(|_| is_ours) {
        fchown(&directory, Some(owner.uid), Some(owner.gid)).map_err(|error| {
            (
                "set the owner of",
                Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            )
        })?;
    }
    Ok(Some(directory.into()))
}

/// Open a directory in another one, if it is still one.
pub(crate) fn enter_existing(parent: &File, name: &OsStr) -> nix::Result<Option<File>> {
    enter(parent, name, DIRECTORY, Missing::Leave).map_err(|(_, error)| error)
}

/// Open a file for reading; nothing that is not a regular file makes this wait.
pub(crate) fn open_file(parent: &File, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from)
}

/// Look at an entry of a directory, link or not.
pub(crate) fn stat(parent: &File, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Is it a link to there?
pub(crate) fn leads_to(directory: &File, name: &OsStr, location: &Path) -> bool {
    readlinkat(directory, name).is_ok_and(|link| Path::new(&link) == location)
}

/// The file system of an open file.
pub(crate) fn device(file: &File) -> io::Result<u64> {
    file.metadata().map(|meta| meta.dev())
}

/// Is it of this kind?
pub(crate) fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// The names in a directory, and whether each is a directory.
pub(crate) fn entries(directory: &File) -> nix::Result<Vec<(OsString, bool)>> {
    // Opened again, as descriptors that were cloned share their position.
    let mut listing = Dir::openat(directory, ".", DIRECTORY, Mode::empty())?;
    let mut found = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => is_kind(&stat(directory, name)?, SFlag::S_IFDIR),
        };
        found.push((name.to_owned(), is_directory));
    }
    Ok(found)
}

/// Give what is open to its owner.
pub(crate) fn give(file: &impl AsFd, owner: Option<Owner>, path: &Path) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    fchown(file, Some(owner.uid), Some(owner.gid)).map_err(|error| Error::io("set the owner of", path, error))
}

/// Give an entry of a directory to its owner; of a link, the link itself. Somebody who may write there can put another name of
/// a file elsewhere in its place at any time: that is not given away.
pub(crate) fn give_named(parent: &File, name: &OsStr, owner: Owner) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let entry = openat(parent, name, flags, Mode::empty())?;
    let stat = fstat(&entry)?;
    if !is_kind(&stat, SFlag::S_IFDIR) && stat.st_nlink != 1 {
        return Err(Errno::EMLINK);
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchownat(&entry, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
}

/// Open a file of our own for writing. If somebody has put something else in its place, that is refused, and makes nobody wait.
pub(crate) fn open_own(parent: &File, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    match is_kind(&stat, SFlag::S_IFREG) && stat.st_nlink == 1 {
        true => Ok(file.into()),
        false => Err(Errno::EMLINK),
    }
}

pub(crate) fn failed(operation: &'static str, path: PathBuf, error: Errno) -> Error {
    Error::io(operation, path, io::Error::from(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::restore::directory::bare::is_bare;

    #[test]
    fn no_component_is_reached_through_a_link() {
        let place = tempfile::tempdir().expect("a directory");
        let real = place.path().canonicalize().expect("real");
        let made = Root::create(&real.join("a/b"), None).expect("created");
        assert!(is_bare(&made, None).expect("read") && real.join("a/b").is_dir());
        symlink(real.join("a"), real.join("link")).expect("linked");
        for path in ["link", "link/b", "link/new"] {
            assert!(reach(&real.join(path), Missing::Create(None)).is_err(), "{path}");
        }
        assert!(!real.join("a/new").exists());
        assert!(reach(&real.join("none/x"), Missing::Leave).expect("looked").is_none());
        // That of the user is followed.
        assert!(
            Root::reach(&real.join("link/b"), Missing::Leave)
                .expect("open")
                .is_some()
        );
    }

    #[test]
    fn one_restore_at_a_time() {
        let place = tempfile::tempdir().expect("a directory");
        let first = Root::create(place.path(), None).expect("open");
        let inner = first.descend(&[b"x".to_vec()], None).expect("created");
        let refused = Root::create(place.path(), None).expect_err("in use");
        assert!(
            refused.to_string().starts_with("another restore works on directory"),
            "{refused}"
        );
        drop(first);
        Root::create(place.path(), None).expect("free again");
        drop(inner);
    }

    #[test]
    fn small_files_are_read_within_a_limit() {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(place.path().join("x")).expect("created");
        std::fs::write(place.path().join("x/y"), "four").expect("written");
        symlink("y", place.path().join("x/link")).expect("linked");
        let root = Root::create(place.path(), None).expect("open");
        let path = |name: &str| name.split('/').map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>();
        let read = |name: &str, limit| root.read(&path(name), limit);
        assert_eq!(read("x/y", 4).expect("read").as_deref(), Some(&b"four"[..]));
        assert!(read("x/y", 3).is_err() && read("x/link", 9).is_err());
        assert_eq!(
            (read("x/z", 4).expect("read"), read("z/y", 4).expect("read")),
            (None, None)
        );
        assert!(root.has(&path("x/link")).expect("seen") && !root.has(&path("x/z")).expect("seen"));
    }
}
