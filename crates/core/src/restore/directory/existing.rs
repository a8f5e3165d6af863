//! Restoring into a directory that is not empty: it has the same cluster, or the rest of an interrupted restore.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::sys::stat::{FileStat, SFlag};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::directories::Directories;
use super::links::{MappedLink, refused_by_delta};
use super::owner::Owner;
use super::root::{Root, is_kind};
use super::tablespaces::Tablespace;
use super::tree::Tree;
use super::walk::{DirectoryEntry, walk};
use crate::data_dir::{BACKUP_MANIFEST, is_wal_directory_name, wal_directory_name};
use crate::error::{Error, Result};
use crate::files::copy;
use crate::places::is_of_server;
use crate::printable::counted;
use crate::stored::level::Bits;
use crate::stored::member::{MARKER, is_always_new};
use crate::stored::survey::BLOCK;
use crate::stored::table::Table;

/// Files that are open at a time and wait to be compared.
const WAITING: usize = 64;

/// The directory as it is to become.
#[derive(Clone, Copy)]
pub(crate) struct Intended<'a> {
    pub(crate) tablespaces: &'a [Tablespace],
    pub(crate) links: &'a [MappedLink],
    /// Of the server.
    pub(crate) major: u32,
    /// The files; none if it is not known which there are.
    pub(crate) table: Option<&'a Table>,
}

/// Figures about the directory as it was found.
#[derive(Debug)]
pub(crate) struct Existing {
    /// The files and directories that are as in the backup.
    pub(crate) kept: Bits,
    pub(crate) figures: Figures,
}

/// The figures about the directory as it was found.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) kept_files: u64,
    pub(crate) kept_bytes: u64,
    /// Files and links that are not in the backup.
    pub(crate) removed: u64,
    /// Those of them that are in `pg_wal`.
    pub(crate) removed_wal: u64,
    /// Files, and their bytes, of databases that come back without their content, and have one here.
    pub(crate) emptied: u64,
    pub(crate) emptied_bytes: u64,
    /// The bytes that need no more room, by the tablespace of their directory: those that kept files take, and those that
    /// become free in the file system of that directory as the others are removed.
    pub(crate) room: Room,
}

type Room = BTreeMap<Option<u32>, u64>;

impl Figures {
    /// The losses in the databases that are not restored, as a sentence.
    pub(crate) fn note_of_others(&self) -> Option<String> {
        (self.emptied > 0).then(|| {
            format!(
                "The content of {} ({} bytes) of other databases in the directory is lost: files of zeros take their place.",
                counted(self.emptied, "file"),
                self.emptied_bytes
            )
        })
    }

    /// The losses that come with it, as a sentence; for a server of this major version.
    pub(crate) fn note(&self, major: u32) -> Option<String> {
        let wal = wal_directory_name(major);
        (self.removed_wal > 0).then(|| {
            format!(
                "The restore removes {} from {wal}. WAL that is not archived is lost with them: copy {wal} first if you need it.",
                counted(self.removed_wal, "file")
            )
        })
    }
}

/// A file that has the size that it should have.
struct Candidate {
    content: File,
    number: usize,
    tablespace: Option<u32>,
    /// The bytes that become free if it is not kept.
    freed: u64,
}

/// State that the threads share.
#[derive(Default)]
struct Compared {
    files: u64,
    bytes: u64,
    room: Room,
}

/// Compare what is there with the manifest, in so many threads; blocks. Writes nothing. Without a table nothing is kept.
pub(crate) fn compare(
    found: &Directories,
    intended: Intended<'_>,
    owner: Option<Owner>,
    threads: usize,
) -> Result<Option<Existing>> {
    let Some(target) = &found.target else { return Ok(None) };
    let wal = found.wal.as_ref().and_then(|wal| wal.root.as_ref());
    let kept = Bits::none(intended.table.map_or(0, Table::len));
    let compared = Mutex::new(Compared::default());
    let (sender, receiver) = sync_channel::<Candidate>(WAITING);
    let receiver = Mutex::new(receiver);
    let mut figures = std::thread::scope(|scope| {
        if let Some(table) = intended.table {
            for _ in 0..threads.max(1) {
                scope.spawn(|| compare_files(table, &receiver, &kept, &compared));
            }
        }
        let mut survey = Survey {
            intended,
            wal,
            owner,
            kept: &kept,
            compared: &compared,
            // The threads end when it goes out of scope.
            candidates: sender,
            figures: Figures::default(),
        };
        let mut look = |entry: &DirectoryEntry<'_>| survey.look(entry);
        walk(target, &found.tablespaces, wal, intended.major, &mut look)?;
        Ok::<_, Error>(survey.figures)
    })?;
    let compared = compared.into_inner();
    figures.kept_files = compared.files;
    figures.kept_bytes = compared.bytes;
    figures.room = compared.room;
    Ok(Some(Existing { kept, figures }))
}

/// Looks at one entry of the directory after the other.
struct Survey<'a> {
    intended: Intended<'a>,
    wal: Option<&'a Root>,
    owner: Option<Owner>,
    kept: &'a Bits,
    compared: &'a Mutex<Compared>,
    candidates: SyncSender<Candidate>,
    figures: Figures,
}

impl Survey<'_> {
    fn look(&mut self, entry: &DirectoryEntry<'_>) -> Result<()> {
        // Of the two of our own one stays until the end, and the other is replaced.
        let is_own = [MARKER, BACKUP_MANIFEST].iter().any(|own| entry.path == own.as_bytes());
        if is_own || entry.is_link_of(self.intended.tablespaces) || entry.is_link_to_wal(self.wal) {
            return Ok(());
        }
        let number = self.intended.number_of(entry);
        if entry.is_directory {
            return self.look_at_directory(entry, number);
        }
        self.look_at_file(entry, number)
    }

    /// The table's entry under that number, if the file may stay.
    fn known<'a>(&'a self, entry: &DirectoryEntry<'_>, number: Option<usize>) -> Option<(&'a Table, usize)> {
        self.intended.table.zip(number).filter(|_| !is_always_new(entry.path))
    }

    fn look_at_directory(&self, entry: &DirectoryEntry<'_>, number: Option<usize>) -> Result<()> {
        check_place(entry, self.intended.tablespaces, self.intended.links)?;
        // Only of a manifest it is sure that it lists all files, so that this is the place of a directory.
        let known = self.known(entry, number);
        if let Some((_, number)) = known.filter(|(table, number)| is_directory(table, *number)) {
            self.kept.set(number);
        }
        Ok(())
    }

    fn look_at_file(&mut self, entry: &DirectoryEntry<'_>, number: Option<usize>) -> Result<()> {
        let stat = entry.stat()?;
        // The target of a link is new, so this one is replaced.
        let is_wanted = entry.is_in_place_of(self.intended.links);
        if is_kind(&stat, SFlag::S_IFLNK) && !is_wanted && is_of_server(Path::new(OsStr::from_bytes(entry.path))) {
            return Err(refused_by_delta(&entry.full(), entry.target().as_deref()));
        }
        let freed = entry.frees(&stat);
        match self.to_compare(entry, number, &stat).zip(entry.open()) {
            Some((number, content)) => {
                // The receivers go on until this ends.
                let _ = self.candidates.send(Candidate {
                    content,
                    number,
                    tablespace: entry.tablespace,
                    freed,
                });
            }
            None => *self.compared.lock().room.entry(entry.tablespace).or_default() += freed,
        }
        let is_left_out = |(table, number): (&Table, usize)| table.is_left_out(number);
        // One that takes no space is of zeros already.
        if stat.st_blocks > 0 && self.intended.table.zip(number).is_some_and(is_left_out) {
            self.figures.emptied += 1;
            self.figures.emptied_bytes += stat.st_size as u64;
        }
        if number.is_none() {
            self.figures.removed += 1;
            let top = entry.path.split(|byte| *byte == b'/').next().unwrap_or_default();
            let is_wal = is_wal_directory_name(top);
            self.figures.removed_wal += u64::from(is_wal);
        }
        Ok(())
    }

    /// The number of a file that may be as it should be.
    fn to_compare(&self, entry: &DirectoryEntry<'_>, number: Option<usize>, stat: &FileStat) -> Option<usize> {
        // Root gives no file away that has another name elsewhere.
        let may_be_kept = is_kind(stat, SFlag::S_IFREG) && (self.owner.is_none() || stat.st_nlink == 1);
        let (table, number) = self.known(entry, number).filter(|_| may_be_kept)?;
        is_as_large(table, number, stat.st_size as u64).then_some(number)
    }
}

impl Intended<'_> {
    /// The number of a file in the table; none for an entry that must go, as it is in the place of a link.
    fn number_of(&self, entry: &DirectoryEntry<'_>) -> Option<usize> {
        let is_placed = !entry.is_in_place_of_link(self.tablespaces) && !entry.is_in_place_of(self.links);
        self.table.filter(|_| is_placed)?.find(entry.path)
    }
}

/// No link can be made where a file system is mounted.
fn check_place(directory: &DirectoryEntry<'_>, tablespaces: &[Tablespace], links: &[MappedLink]) -> Result<()> {
    let is_wanted = directory.is_in_place_of(links);
    if !(is_wanted || directory.is_in_place_of_link(tablespaces)) || !directory.is_mounted(&directory.stat()?) {
        return Ok(());
    }
    if is_wanted {
        return Err(Error::refused(
            format!(
                "directory \"{}\" is on a file system that is mounted where the link of --link belongs",
                directory.full().display()
            ),
            "Unmount it, or leave out this --link.",
        ));
    }
    Err(Error::refused(
        format!(
            "directory \"{}\" is on a file system that is mounted where the link to a tablespace belongs",
            directory.full().display()
        ),
        "Unmount it; the tablespace's directory is elsewhere, where --tablespace-map OLD=NEW puts it.",
    ))
}

/// Is the number that of a directory?
fn is_directory(table: &Table, number: usize) -> bool {
    table.has_manifest && !table.is_listed(number)
}

/// Can its content be what it should be?
fn is_as_large(table: &Table, number: usize, size: u64) -> bool {
    let expected = table.expected(number);
    expected.is_some_and(|expected| expected.size == size && expected.sum.is_some()) && !table.is_left_out(number)
}

/// A file that cannot be read is fetched again.
fn compare_files(table: &Table, candidates: &Mutex<Receiver<Candidate>>, kept: &Bits, compared: &Mutex<Compared>) {
    loop {
        let next = candidates.lock().recv();
        let Ok(candidate) = next else { return };
        let expected = table.expected(candidate.number);
        let Some((size, sum)) = expected.and_then(|expected| Some((expected.size, expected.sum?))) else {
            continue;
        };
        let (mut content, mut read) = (sum.begin(), 0);
        let copied = copy(candidate.content, |bytes| {
            content.update(bytes);
            read += bytes.len() as u64;
        });
        let is_kept = copied.is_ok() && read == size && sum.is(content);
        let mut compared = compared.lock();
        let room = compared.room.entry(candidate.tablespace).or_default();
        if is_kept {
            *room += size.div_ceil(BLOCK).saturating_mul(BLOCK);
            compared.files += 1;
            compared.bytes += size;
            kept.set(candidate.number);
        } else {
            *room += candidate.freed;
        }
    }
}

/// Remove all but the files that are kept; blocks. Directories of the backup are made again, so that nothing of the old ones is
/// in their place and their room is free. Everything that stays goes to `owner`. After a cancel the files stay that are not
/// removed yet.
pub(crate) fn clean(
    tree: &Tree,
    intended: Intended<'_>,
    kept: Option<&Bits>,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut look = |entry: &DirectoryEntry<'_>| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let number = intended.number_of(entry);
        let is_kept = kept.zip(number).is_some_and(|(kept, number)| kept.get(number));
        let is_link = entry.is_link_of(intended.tablespaces) || entry.is_link_to_wal(tree.wal());
        let stays = is_kept || is_link || entry.path == MARKER.as_bytes();
        if !stays && entry.remove()? {
            return Ok(());
        }
        tree.owner().map_or(Ok(()), |owner| entry.give(owner))
    };
    walk(tree.target(), tree.tablespaces(), tree.wal(), intended.major, &mut look)
}
