//! Packing one tar: read, sum up, compress. Runs on a thread that may block.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::DateTime;
use nix::fcntl::OFlag;
use tokio_util::sync::CancellationToken;

use super::input::Input;
use super::limiter::Limiter;
use super::notes::{Notes, Packed};
use super::stream::{Counted, sink_error};
use super::tar_stream::TarStream;
use crate::backup::delta::{Delta, Way, is_paged};
use crate::backup::progress::BackupProgress;
use crate::backup::read::cache::FindResident;
use crate::backup::read::corrupt::Findings;
use crate::backup::read::files::FileEntry;
use crate::backup::read::links::Links;
use crate::backup::read::pages::PageReader;
use crate::backup::read::source::{SourceFacts, changed};
use crate::backup::read::walk::{Attributes, Directory};
use crate::backup::read::{rules, unlogged};
use crate::encrypted::{Wrapped, Wrapping};
use crate::error::{Error, Result};
use crate::formats::files_metadata::{FileDescription, Identity};
use crate::formats::manifest::{ChecksumAlgorithm, Checksummer, ManifestFile, hex};
use crate::lsn::Lsn;
use crate::repository::layout::Key;
use walarchive_storage::Upload;

/// The bytes that are read, summed up and compressed at a time: whole pages.
pub(crate) const CHUNK: usize = 256 << 10;

/// State that all tars of a backup share.
pub(crate) struct Shared {
    pub(crate) data_dir: PathBuf,
    /// The start of the backup.
    pub(crate) start: Lsn,
    /// Known once the copying has begun.
    pub(crate) source: OnceLock<SourceFacts>,
    /// Likewise, of a delta backup.
    pub(crate) delta: OnceLock<Delta>,
    pub(crate) corrupt: Findings,
    pub(crate) find_resident: Option<FindResident>,
    pub(crate) wrapping: Wrapping,
    pub(crate) algorithm: ChecksumAlgorithm,
    /// The bytes that are read.
    pub(crate) limiter: Limiter,
    /// The bytes that are handed to the store.
    pub(crate) network: Limiter,
    pub(crate) all_corrupt_pages: bool,
    pub(crate) links: Links,
    pub(crate) progress: Arc<BackupProgress>,
    /// Cancelled with the backup, and when another tar failed.
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Are the bytes that an increment leaves out those of the parent, if they were verified?
    pub(crate) fn is_provable(&self) -> bool {
        self.source.get().is_some_and(|source| source.data_checksums) && self.delta.get().is_some_and(Delta::same_bytes)
    }
}

/// A tar that is being packed.
pub(crate) struct Packer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tar: TarStream<Sink>,
    /// The URL of the tar, for messages.
    object: String,
    pub(crate) packed: Notes,
    pub(crate) buffer: Vec<u8>,
    /// Bytes of the next member that the progress has counted already.
    pub(crate) ahead: u64,
}

type Count = Box<dyn Fn(u64) + Send>;
type Sink = Wrapped<Counted<Upload, Count>>;

/// Which time is a file read?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Verifies the pages if they have checksums, and else notes what a later delta backup has to know.
    First,
    /// The pages were looked at before.
    Again,
}

impl Packer {
    /// Begin the tar with this key and URL, which is compressed by so many threads beside this one.
    pub(crate) fn new(
        shared: Arc<Shared>,
        (key, object): (&Key, String),
        upload: Upload,
        threads: u32,
    ) -> Result<Self> {
        let counter = Arc::clone(&shared);
        let counted = Counted {
            inner: upload,
            count: Box::new(move |bytes| {
                counter.progress.stored(bytes);
                // A cancel is seen by whoever reads next.
                let _ = counter.network.wait_for(bytes, &counter.stop);
            }) as Count,
        };
        let encoder = shared.wrapping.begin(key, counted, threads);
        let encoder = encoder.map_err(|error| sink_error(&object, error))?;
        Ok(Packer {
            tar: TarStream::new(encoder),
            object,
            packed: Notes::default(),
            buffer: vec![0; CHUNK],
            ahead: 0,
            shared,
        })
    }

    /// Add a directory.
    pub(crate) fn directory(&mut self, directory: &Directory) -> Result<()> {
        let name = member_name(&directory.path);
        let written = self.tar.directory(name.as_bytes(), &directory.owner);
        self.written(written)?;
        self.member(&name, &described(&directory.owner))
    }

    /// Add a file of the data directory, as long as it is when it is opened. The server goes on writing in the meantime, and
    /// replay of the WAL puts that right: what is appended later is left out, and what was cut off becomes zeros. A file
    /// that vanished is left out, and so is one of a relation that has turned out to be unlogged. Pages are verified if they
    /// have checksums; [`Error::CorruptPages`] if one is wrong and that is to end the backup.
    pub(crate) fn file(&mut self, entry: &FileEntry) -> Result<()> {
        let full = self.shared.data_dir.join(&entry.path);
        let opened = match unlogged::is_known_now(&self.shared.data_dir, &entry.path)? {
            true => None,
            false => open(&self.shared.links, &entry.path, &full)?,
        };
        let Some((file, before)) = opened else {
            self.shared.progress.vanished(entry.size);
            return Ok(());
        };
        let (size, owner) = (before.len(), Attributes::from(&before));
        self.shared.progress.resized(entry.size, size);
        let input = Input {
            path: &entry.path,
            full: &full,
            file: &file,
            size,
            owner: &owner,
        };
        let delta = self.shared.delta.get();
        let way = delta.map_or(Way::Full, |delta| delta.way(input.path, size));
        let incremented = self.increment(&input, way)?;
        let mut description = described(&owner);
        description.is_incremented = incremented.is_some();
        let (sum, found) = match incremented {
            Some(incremented) => (incremented.sum, incremented.found),
            None => {
                let mut reader = self.reader(&input, Reading::First)?;
                let next = |buffer: &mut [u8]| reader.next(buffer).map(|run| run.map_or(0, |run| run.bytes.len()));
                let sum = self.content(input.path, size, &owner, next)?;
                (Some(sum), reader.into_facts())
            }
        };
        let after = file.metadata().map_err(|error| Error::io("read", &full, error))?;
        let source = self.shared.source.get();
        (description.corrupt_blocks, description.all_visible) = (found.corrupt, found.all_visible);
        if let Some(found) = &description.corrupt_blocks {
            self.shared.corrupt.add(input.path, found, &self.shared.progress)?;
        } else if source.is_some_and(|source| source.shows_writes(&before, &after)) {
            // A corrupt file has no identity: it is to be read, and found, by the next backup too.
            let checksum = sum.as_ref();
            description.identity = Some(Identity {
                size,
                inode: before.ino(),
                changed: changed(&before),
                checksum: checksum.map_or_else(String::new, |sum| format!("{}:{}", self.shared.algorithm, hex(sum))),
            });
        }
        self.record(input.path, size, sum, &description)
    }

    /// A reader of the file from its beginning on.
    pub(crate) fn reader(&self, input: &Input<'_>, reading: Reading) -> Result<PageReader> {
        let file = input.file.try_clone();
        let file = file.map_err(|error| Error::io("open", input.full, error))?;
        let source = self.shared.source.get();
        let verified = source
            .filter(|source| source.data_checksums && reading == Reading::First)
            .and_then(|source| source.first_page(input.path));
        let (path, first, start) = (input.full.to_owned(), verified.unwrap_or(0), self.shared.start);
        let reader = PageReader::new(file, path, first, input.size, start, verified.is_some());
        let reader = match reading == Reading::First && self.notes_all_visible(input.path) {
            true => reader.noting_all_visible(),
            false => reader,
        };
        let reader = match self.shared.all_corrupt_pages {
            true => reader.naming_all_corrupt(),
            false => reader,
        };
        Ok(reader.sparing(self.shared.find_resident))
    }

    /// Are the pages of a file to be noted that are all-visible? With data checksums their LSNs tell that.
    pub(crate) fn notes_all_visible(&self, path: &Path) -> bool {
        let checksums = self.shared.source.get().is_some_and(|source| source.data_checksums);
        let compares = self.shared.delta.get().is_none_or(Delta::compares_all_visible);
        !checksums && compares && is_paged(path)
    }

    /// Add a file from memory, under its path in the data directory.
    pub(crate) fn bytes(&mut self, path: &Path, mut content: &[u8], owner: &Attributes) -> Result<()> {
        let size = content.len() as u64;
        let next = |buffer: &mut [u8]| {
            let (taken, rest) = content.split_at(content.len().min(buffer.len()));
            buffer[..taken.len()].copy_from_slice(taken);
            content = rest;
            Ok(taken.len())
        };
        let sum = self.content(path, size, owner, next)?;
        self.record(path, size, Some(sum), &described(owner))
    }

    /// Add a member of `size` bytes, which `next` puts into the buffer that it is given, as many at a time as there is room
    /// for. Returns the checksum.
    pub(super) fn content(
        &mut self,
        path: &Path,
        size: u64,
        owner: &Attributes,
        mut next: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<Vec<u8>> {
        self.begin_member(path, size, owner)?;
        let mut sum = Checksummer::new(self.shared.algorithm);
        let mut left = size;
        while left > 0 {
            let wanted = left.min(CHUNK as u64);
            self.shared.limiter.wait_for(wanted, &self.shared.stop)?;
            let bytes = next(&mut self.buffer)?;
            debug_assert_eq!(bytes as u64, wanted, "of {}", path.display());
            sum.update(&self.buffer[..bytes]);
            let written = self.tar.content(&self.buffer[..bytes]);
            self.written(written)?;
            let counted = wanted.min(self.ahead);
            self.ahead -= counted;
            self.shared.progress.read(wanted - counted);
            left -= wanted;
        }
        let written = self.tar.pad(size);
        self.written(written)?;
        self.packed.bytes += size;
        Ok(sum.finish())
    }

    /// Begin the member of a file.
    pub(crate) fn begin_member(&mut self, path: &Path, size: u64, owner: &Attributes) -> Result<()> {
        let written = self.tar.file(member_name(path).as_bytes(), size, owner);
        self.written(written)
    }

    /// Note a file that was added.
    pub(super) fn record(
        &mut self,
        path: &Path,
        size: u64,
        sum: Option<Vec<u8>>,
        description: &FileDescription,
    ) -> Result<()> {
        self.note_file(&ManifestFile {
            path: path.to_owned(),
            size,
            last_modified: description.mtime,
            checksum: sum.map(|sum| (self.shared.algorithm, sum)),
        })?;
        self.member(&member_name(path), description)?;
        self.shared.progress.file();
        Ok(())
    }

    /// Add what `pg_backup_stop` returned: a member with no leading slash. It is in the manifest if a restore leaves it.
    pub(crate) fn label(&mut self, name: &str, content: &[u8], owner: &Attributes, is_restored: bool) -> Result<()> {
        let size = content.len() as u64;
        let written = self
            .tar
            .file(name.as_bytes(), size, owner)
            .and_then(|()| self.tar.content(content))
            .and_then(|()| self.tar.pad(size));
        self.written(written)?;
        self.packed.bytes += size;
        let description = described(owner);
        self.member(name.as_ref(), &description)?;
        if !is_restored {
            return Ok(());
        }
        let mut sum = Checksummer::new(self.shared.algorithm);
        sum.update(content);
        self.note_file(&ManifestFile {
            path: name.into(),
            size,
            last_modified: description.mtime,
            checksum: Some((self.shared.algorithm, sum.finish())),
        })
    }

    /// Write the end of the tar and hand it over.
    pub(crate) fn finish(self) -> Result<Packed> {
        let sink = self.tar.finish().and_then(Wrapped::finish);
        let stored = sink.and_then(|counted| {
            let stored = counted.inner.bytes();
            counted.inner.finish().map(|()| stored)
        });
        let stored = stored.map_err(|error| sink_error(&self.object, error))?;
        self.packed
            .close(stored)
            .map_err(|error| sink_error(&self.object, error))
    }

    /// Note a member.
    fn member(&mut self, name: &OsStr, description: &FileDescription) -> Result<()> {
        let noted = self.packed.member(name, description);
        self.written(noted)
    }

    /// Note a file for the manifest.
    fn note_file(&mut self, file: &ManifestFile) -> Result<()> {
        let noted = self.packed.file(file);
        self.written(noted)
    }

    pub(crate) fn written(&self, result: io::Result<()>) -> Result<()> {
        result.map_err(|error| sink_error(&self.object, error))
    }
}

pub(crate) fn member_name(path: &Path) -> OsString {
    let mut name = OsString::from("/");
    name.push(path);
    name
}

/// None if it is gone, or not a regular file any more. A link is followed at a place of the server's own only.
fn open(links: &Links, path: &Path, full: &Path) -> Result<Option<(File, Metadata)>> {
    let follow = match rules::is_of_server(path) {
        true => OFlag::empty(),
        false => OFlag::O_NOFOLLOW,
    };
    let flags = follow | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(full) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => match std::fs::symlink_metadata(full) {
            Ok(meta) if !follow.is_empty() && meta.is_symlink() => {
                links.leave_out(path, full, &meta);
                return Ok(None);
            }
            _ => return Err(Error::io("open", full, error)),
        },
    };
    let meta = file.metadata().map_err(|error| Error::io("read", full, error))?;
    if !meta.is_file() {
        links.leave_out(path, full, &meta);
        return Ok(None);
    }
    Ok(Some((file, meta)))
}

/// The part of a description that any member has.
pub(crate) fn described(owner: &Attributes) -> FileDescription {
    let (seconds, nanoseconds) = owner.modified;
    FileDescription {
        mtime: DateTime::from_timestamp(seconds, nanoseconds).unwrap_or_default(),
        ..FileDescription::default()
    }
}

#[cfg(test)]
mod tests;
