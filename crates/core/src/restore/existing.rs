//! Restoring into a directory in which something is: the same cluster, or what an interrupted restore left of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use nix::fcntl::OFlag;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::level::Bits;
use super::member::{BACKUP_LABEL, BACKUP_MANIFEST, MARKER, PG_CONTROL};
use super::owner::Owner;
use super::readback::copy;
use super::survey::{BLOCK, tablespace_of};
use super::table::Table;
use super::tablespaces::Tablespace;
use crate::control_file::ControlFile;
use crate::error::{Error, Result};
use crate::formats::Sentinel;

/// Says whose directory it is while `pg_control` is not there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) system_identifier: Option<u64>,
    pub(super) backup: String,
}

impl Marker {
    /// None if there is none, or one that cannot be read.
    fn read(target: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(target.join(MARKER)).ok()?).ok()
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // A number and a text: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn is_there(target: &Path) -> bool {
        target.join(MARKER).symlink_metadata().is_ok()
    }
}

/// Refuse a directory that is not that of the cluster of which the backup is, or that a server is using. Returns whether
/// anything is in it.
pub(super) fn check(target: &Path, sentinel: &Sentinel) -> Result<bool> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(false),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Error::io("read", target, error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("open", target, error)),
    }
    let path = target.display();
    let of_target = match ControlFile::read(target) {
        Ok(control) => Some(control.system_identifier),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Marker::read(target).map(|marker| marker.system_identifier.unwrap_or(0))
        }
        Err(error) => return Err(error),
    };
    let Some(of_target) = of_target else {
        return Err(Error::config(
            format!("directory \"{path}\" is not empty, and it is no data directory"),
            "With --delta, restore into the data directory of the same cluster, into what an interrupted restore left, or into an \
             empty directory.",
        ));
    };
    let of_backup = sentinel.system_identifier.unwrap_or(0);
    if of_target != of_backup {
        return Err(Error::config(
            format!(
                "directory \"{path}\" is of the cluster with system identifier {of_target}, the backup of {of_backup}"
            ),
            "Check the directory and the storage URL; a backup is restored only over its own cluster.",
        ));
    }
    // Whether the process that it names lives cannot be told from here: it may be in a container, with its own numbers of
    // processes and its own name for this directory.
    if fs::symlink_metadata(target.join("postmaster.pid")).is_ok() {
        return Err(Error::config(
            format!("a server is or was running in directory \"{path}\": postmaster.pid is there"),
            "Stop the server. If none is running, in no container either, remove postmaster.pid.",
        ));
    }
    Ok(true)
}

/// What was found in the directory.
#[derive(Debug)]
pub(crate) struct Existing {
    /// The files that are as in the backup.
    pub(crate) kept: Bits,
    pub(crate) kept_files: u64,
    pub(crate) kept_bytes: u64,
    /// Files and links that are not in the backup.
    pub(crate) removed: u64,
    /// Those of them that are in `pg_wal`.
    pub(crate) removed_wal: u64,
    /// The bytes that need no more room, by tablespace: those of files that are kept, replaced or removed.
    pub(super) room: BTreeMap<Option<u32>, u64>,
}

impl Existing {
    /// What is lost with it, as a sentence.
    pub(super) fn note(&self) -> Option<String> {
        (self.removed_wal > 0).then(|| {
            format!(
                "{} files in pg_wal are removed. WAL among them that is not archived is lost: copy pg_wal first if it is needed.",
                self.removed_wal
            )
        })
    }
}

/// Where a walk goes: the data directory, and the tablespaces' directories of this server's version.
fn roots(target: &Path, tablespaces: &[Tablespace], major: u32) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut roots = vec![(target.to_owned(), Vec::new())];
    for tablespace in tablespaces {
        let Some(location) = &tablespace.location else { continue };
        for (name, is_directory) in entries(location)? {
            // Another server may have a directory of its own there.
            if is_directory && name.starts_with(format!("PG_{major}_").as_bytes()) {
                let path = [b"pg_tblspc/", tablespace.oid.as_bytes(), b"/", &name].concat();
                roots.push((location.join(std::ffi::OsStr::from_bytes(&name)), path));
            }
        }
    }
    Ok(roots)
}

/// The names in a directory, and whether each is a directory; none if it is not there.
fn entries(path: &Path) -> Result<Vec<(Vec<u8>, bool)>> {
    let read = || -> io::Result<Vec<(Vec<u8>, bool)>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name().as_bytes().to_vec(), entry.file_type()?.is_dir()))
            })
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| Error::io("read", path, error)),
    }
}

/// Call `each` with every file and directory, those in a directory before it; links are not followed.
fn walk(path: &Path, name: &[u8], each: &mut impl FnMut(&Path, &[u8], bool) -> Result<()>) -> Result<()> {
    for (entry, is_directory) in entries(path)? {
        let full = path.join(std::ffi::OsStr::from_bytes(&entry));
        let name = match name.is_empty() {
            true => entry,
            false => [name, b"/", &entry].concat(),
        };
        if is_directory {
            walk(&full, &name, each)?;
        }
        each(&full, &name, is_directory)?;
    }
    Ok(())
}

/// A tablespace directory with files in it must be that of the target: the server that uses it may be another.
pub(super) fn check_tablespaces(target: &Path, tablespaces: &[Tablespace]) -> Result<()> {
    for tablespace in tablespaces {
        let Some(location) = &tablespace.location else { continue };
        let link = fs::read_link(target.join("pg_tblspc").join(&tablespace.oid));
        if !link.is_ok_and(|link| link == *location) && !entries(location)?.is_empty() {
            return Err(Error::config(
                format!(
                    "directory \"{}\" is not empty, and is not that of tablespace {} in \"{}\"",
                    location.display(),
                    tablespace.oid,
                    target.display()
                ),
                "Empty it if nothing uses it any more, or restore to another place with --tablespace-map OLD=NEW.",
            ));
        }
    }
    Ok(())
}

/// Compare what is there with the manifest, in so many threads; blocks. Writes nothing.
pub(super) fn compare(
    target: &Path,
    tablespaces: &[Tablespace],
    major: u32,
    table: &Table,
    threads: usize,
) -> Result<Existing> {
    let (mut removed, mut removed_wal) = (0, 0);
    let mut room = BTreeMap::<Option<u32>, u64>::new();
    let kept = Bits::none(table.len());
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let (sender, receiver) = sync_channel::<(PathBuf, usize)>(256);
    let receiver = Mutex::new(receiver);
    let roots = roots(target, tablespaces, major)?;
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| compare_files(table, &receiver, &kept, &files, &bytes));
        }
        let mut look = |path: &Path, name: &[u8], is_directory: bool| {
            let file = table.find(name);
            if is_directory {
                if let Some(file) = file {
                    kept.set(file);
                }
                return Ok(());
            }
            // Of the two of our own one stays until the end, and the other is replaced.
            let is_own = [MARKER, BACKUP_MANIFEST].iter().any(|own| name == own.as_bytes());
            if is_own || is_link_of(tablespaces, path, name) {
                return Ok(());
            }
            let meta = path
                .symlink_metadata()
                .map_err(|error| Error::io("read", path, error))?;
            let taken = meta.len().div_ceil(BLOCK) * BLOCK;
            *room.entry(tablespace_of(name)).or_default() += taken;
            match file {
                Some(file) if meta.is_file() => {
                    let expected = table.expected(file);
                    let may_be_kept =
                        expected.is_some_and(|expected| expected.size == meta.len() && expected.sum.is_some());
                    let is_special = [PG_CONTROL, BACKUP_LABEL]
                        .iter()
                        .any(|special| name == special.as_bytes());
                    if may_be_kept && !is_special && !table.is_left_out(file) {
                        // The receivers go on until this ends.
                        let _ = sender.send((path.to_owned(), file));
                    }
                }
                Some(_) => {}
                None => {
                    removed += 1;
                    removed_wal += u64::from(name.starts_with(b"pg_wal/") || name == b"pg_wal");
                }
            }
            Ok(())
        };
        let walked = roots.iter().try_for_each(|(path, name)| walk(path, name, &mut look));
        drop(sender);
        walked
    })?;
    Ok(Existing {
        kept,
        kept_files: files.into_inner(),
        kept_bytes: bytes.into_inner(),
        removed,
        removed_wal,
        room,
    })
}

/// A file that cannot be read is fetched again.
fn compare_files(
    table: &Table,
    paths: &Mutex<Receiver<(PathBuf, usize)>>,
    kept: &Bits,
    files: &AtomicU64,
    bytes: &AtomicU64,
) {
    loop {
        let next = paths.lock().recv();
        let Ok((path, file)) = next else { return };
        let Some(expected) = table.expected(file) else { continue };
        let Some(sum) = expected.sum else { continue };
        let (mut content, mut size) = (sum.begin(), 0);
        let read = open(&path).and_then(|opened| {
            copy(opened, |bytes| {
                content.update(bytes);
                size += bytes.len() as u64;
            })
        });
        if read.is_ok() && size == expected.size && sum.is(content) {
            kept.set(file);
            files.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(size, Ordering::Relaxed);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Is it the link to one of the tablespaces, to where that is?
fn is_link_of(tablespaces: &[Tablespace], path: &Path, name: &[u8]) -> bool {
    let oid = name.strip_prefix(b"pg_tblspc/");
    let mut known = tablespaces.iter();
    let found = oid.and_then(|oid| known.find(|tablespace| tablespace.oid.as_bytes() == oid));
    let location = found.and_then(|tablespace| tablespace.location.as_ref());
    location.is_some_and(|location| fs::read_link(path).is_ok_and(|link| link == *location))
}

/// Remove what the table does not know; blocks. What it knows is kept or will be replaced. Everything goes to `owner`.
pub(super) fn clean(
    target: &Path,
    tablespaces: &[Tablespace],
    major: u32,
    table: Option<&Table>,
    owner: Option<Owner>,
) -> Result<()> {
    let mut look = |path: &Path, name: &[u8], is_directory: bool| {
        let is_known = table.is_some_and(|table| table.find(name).is_some());
        let meta = path
            .symlink_metadata()
            .map_err(|error| Error::io("read", path, error))?;
        let stays =
            is_link_of(tablespaces, path, name) || name == MARKER.as_bytes() || (is_known && !meta.is_symlink());
        if stays {
            return match owner {
                Some(owner) => std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
                    .map_err(|error| Error::io("set the owner of", path, error)),
                None => Ok(()),
            };
        }
        let removed = match is_directory {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        };
        match removed {
            // Something that is to stay is in it.
            Err(error) if is_directory && error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.map_err(|error| Error::io("remove", path, error)),
        }
    };
    let roots = roots(target, tablespaces, major)?;
    roots.iter().try_for_each(|(path, name)| walk(path, name, &mut look))
}
