//! The spool: segments that were fetched ahead, each whole and checked, and notes between the processes that use it.
//!
//! It is a directory in `pg_wal`, so that a file gets from there to where the server wants it by a rename. Its name begins so that
//! `pg_basebackup`, `pg_rewind` and our own backup leave it out. A whole segment is named after the segment, the repository that
//! it came from, and its checksum: `SEGMENT.REPOSITORY.CRC32C`. One that is being fetched is `SEGMENT.part`, locked by
//! whoever fetches it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use walarchive_storage::StorageConfig;

use super::part::{self, Part, Stop};
use crate::archive::fetch;
use crate::data_dir::{SPOOL, above_pg_wal, is_data_dir};
use crate::error::{Error, Result};
use crate::wal::{LONG_HEADER_BYTES, Segment, SegmentSize, WalFileName};

/// The names of notes on segments that were not given out begin so.
pub(super) const ABSENT: &str = "absent-";

/// The same of notes on what the tail had of one.
pub(super) const GIVEN: &str = "given-";

/// What recovery asked for last.
const ASKED: &str = "asked";

/// What it got last.
pub(super) const SERVED: &str = "served";

/// What was not there when it was looked for ahead of recovery.
pub(super) const MISSING: &str = "missing";

/// Locked by whoever fetches ahead.
const PREFETCHER: &str = "prefetcher";

/// Locked by the server's worker as long as it can fetch ahead: others leave it to the worker.
const WORKER: &str = "worker";

/// A segment on its way that has not grown for so long is not waited for.
const STALLED: Duration = Duration::from_secs(5);

/// Between two looks at a segment that is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Bytes that are read at once: few, as their memory is new in each call of `wal-fetch`.
const CHUNK: usize = 64 << 10;

/// The spool of a data directory, for one repository.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
    repository: u32,
}

/// The answer of [`Spool::take`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The segment is where it was wanted.
    Served,
    /// It is not in the spool.
    Missing,
    /// It is being fetched.
    Underway,
    /// It was being fetched, and did not come.
    GivenUp,
    /// It was there and cannot be used, for this reason. It was removed.
    Damaged(String),
}

/// What recovery asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) segment: Segment,
    /// When.
    pub(super) at: SystemTime,
    /// From the repository of this spool?
    pub(super) is_of_this_repository: bool,
}

impl Spool {
    /// The spool in this `pg_wal`, for segments from this repository.
    pub fn new(wal_directory: &Path, storage: &StorageConfig) -> Self {
        // What was fetched without a key proves nothing to somebody who has one.
        let key = match storage.encryption.names_a_key() && !storage.encryption.accept_plain {
            true => " with a key",
            false => "",
        };
        let repository = format!("{} {}{key}", storage.url.trim_end_matches('/'), storage.options);
        Spool {
            directory: wal_directory.join(SPOOL),
            repository: crc32c::crc32c(repository.as_bytes()),
        }
    }

    /// The spool beside the file that a server wants, if that is in the `pg_wal` of a data directory.
    pub fn beside(target: &Path, storage: &StorageConfig) -> Option<Self> {
        above_pg_wal(target).filter(|data_dir| is_data_dir(data_dir))?;
        Some(Self::new(target.parent()?, storage))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn repository(&self) -> u32 {
        self.repository
    }

    /// Move a segment to `target`, if it is here and whole.
    pub fn take(&self, segment: Segment, target: &Path, system_identifier: Option<u64>) -> Taken {
        let Some((path, sum)) = self.whole(segment) else {
            return match self.is_underway(segment) {
                true => Taken::Underway,
                false => Taken::Missing,
            };
        };
        let result = is_intact(&path, segment, sum, system_identifier)
            .and_then(|()| fs::rename(&path, target).map_err(|error| format!("It cannot be renamed: {error}.")));
        match result {
            Ok(()) => Taken::Served,
            Err(reason) => {
                let _ = fs::remove_file(&path);
                Taken::Damaged(reason)
            }
        }
    }

    /// The same; a segment that is being fetched is waited for as long as it grows.
    pub fn take_when_there(&self, segment: Segment, target: &Path, system_identifier: Option<u64>) -> Taken {
        let size = || self.part(segment).metadata().map_or(0, |meta| meta.len());
        let (mut known, mut grown, mut was_underway) = (0, Instant::now(), false);
        loop {
            match self.take(segment, target, system_identifier) {
                // It was not there, and is looked for once more. Who asks by himself knows as soon.
                Taken::Underway if size() == 0 && self.was_missing(segment) => return Taken::GivenUp,
                Taken::Underway if grown.elapsed() < STALLED => was_underway = true,
                // Between two looks it was finished, or given up.
                Taken::Missing if self.whole(segment).is_some() => {}
                Taken::Missing if was_underway => return Taken::GivenUp,
                taken => return taken,
            }
            std::thread::sleep(LOOK_AGAIN);
            let now = size();
            if now != known {
                (known, grown) = (now, Instant::now());
            }
        }
    }

    /// Note what recovery asks for.
    pub fn note(&self, segment: Segment) -> Result<()> {
        let path = self.directory.join(ASKED);
        let text = format!("{segment} {:08x}\n", self.repository);
        let write = |file: &mut File| file.write_all(text.as_bytes());
        let open = || OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let opened = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create().and_then(|()| open()),
            opened => opened,
        };
        let written = opened.and_then(|mut file| write(&mut file));
        written.map_err(|error| Error::io("write", path, error))
    }

    pub(super) fn asked(&self) -> Option<Asked> {
        let file = File::open(self.directory.join(ASKED)).ok()?;
        let at = file.metadata().ok()?.modified().ok()?;
        let mut text = String::new();
        file.take(64).read_to_string(&mut text).ok()?;
        let (segment, repository) = text.trim_end().split_once(' ')?;
        Some(Asked {
            segment: segment.parse().ok()?,
            at,
            is_of_this_repository: u32::from_str_radix(repository, 16) == Ok(self.repository),
        })
    }

    /// Be the one that fetches ahead, as long as the file is open; none if somebody else is.
    pub fn claim(&self) -> Option<File> {
        self.lock(PREFETCHER)
    }

    /// Make others leave it to this process, as long as the file is open; none if another worker does.
    pub fn claim_for_worker(&self) -> Option<File> {
        self.lock(WORKER)
    }

    /// Does the server's worker fetch ahead?
    pub fn has_worker(&self) -> bool {
        self.is_locked(WORKER)
    }

    /// Does anybody fetch ahead?
    pub fn has_prefetcher(&self) -> bool {
        self.is_locked(PREFETCHER) || self.has_worker()
    }

    /// How long ago somebody began to fetch ahead, or tried to.
    pub fn last_claim(&self) -> Option<Duration> {
        let changed = self.directory.join(PREFETCHER).metadata().ok()?.modified().ok()?;
        changed.elapsed().ok()
    }

    fn lock(&self, name: &str) -> Option<File> {
        self.create().ok()?;
        let path = self.directory.join(name);
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let file = file.ok()?;
        file.try_lock().ok()?;
        // Somebody may have removed the spool between the two, and the lock would be one of nothing.
        let (ours, there) = (file.metadata().ok()?, fs::metadata(&path).ok()?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return None;
        }
        // See `last_claim`.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    fn is_locked(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.directory.join(name)) else {
            return false;
        };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    pub(super) fn create(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn part(&self, segment: Segment) -> PathBuf {
        self.directory.join(format!("{segment}.{}", part::SUFFIX))
    }

    fn is_underway(&self, segment: Segment) -> bool {
        self.is_locked(&format!("{segment}.{}", part::SUFFIX))
    }

    /// A new file for a segment that is being fetched.
    pub(super) fn begin(&self, segment: Segment, size: SegmentSize, stop: &Stop) -> Result<Part> {
        let whole = self.directory.join(format!("{segment}.{:08x}", self.repository));
        let path = self.part(segment);
        Part::create(&path, &whole, size.bytes(), stop).map_err(|error| Error::io("create", path, error))
    }

    fn whole(&self, segment: Segment) -> Option<(PathBuf, u32)> {
        let found = |entry: fs::DirEntry| {
            let (found, repository, sum) = parse(&entry)?;
            (found == segment && repository == self.repository).then(|| (entry.path(), sum))
        };
        fs::read_dir(&self.directory).ok()?.flatten().find_map(found)
    }

    /// The whole segments from this repository.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let of_ours = |(segment, repository, _)| (repository == self.repository).then_some(segment);
        entries.filter_map(|entry| parse(&entry).and_then(of_ours)).collect()
    }

    /// Remove all segments but those whole ones of this repository that are wanted, and those that are being fetched.
    pub(super) fn retain(&self, is_wanted: impl Fn(Segment) -> bool) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let keep = match parse(&entry) {
                Some((segment, repository, _)) => repository == self.repository && is_wanted(segment),
                None if name.ends_with(part::SUFFIX) => self.is_locked(&name),
                None => {
                    [ABSENT, GIVEN].iter().any(|note| name.starts_with(note))
                        || [ASKED, SERVED, MISSING, PREFETCHER, WORKER].contains(&&*name)
                }
            };
            if !keep {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Remove the spool, for the one that has the claim. A segment that is being fetched does not come any more. If the worker of
    /// a server that was started meanwhile has the spool, it stays.
    pub(super) fn remove(&self) {
        if let Some(_worker) = self.claim_for_worker() {
            remove(&self.directory);
        }
    }

    /// Remove the spool, if nobody fetches ahead.
    pub fn remove_unused(&self) {
        if !self.directory.exists() || self.has_prefetcher() {
            return;
        }
        if let Some(_claim) = self.claim() {
            self.remove();
        }
    }

    /// Is the spool of any repository in this `pg_wal`?
    pub fn is_in(wal_directory: &Path) -> bool {
        wal_directory.join(SPOOL).exists()
    }

    /// Remove the spool of any repository from this `pg_wal`.
    pub fn remove_from(wal_directory: &Path) {
        remove(&wal_directory.join(SPOOL));
    }
}

fn remove(directory: &Path) {
    // Somebody may write a note meanwhile.
    for _ in 0..3 {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return,
        }
    }
}

/// Segment, repository and checksum of a whole segment's name.
fn parse(entry: &fs::DirEntry) -> Option<(Segment, u32, u32)> {
    let name = entry.file_name();
    let mut parts = name.to_str()?.split('.');
    let segment = parts.next()?.parse().ok()?;
    let mut number = || {
        parts
            .next()
            .filter(|text| text.len() == 8)
            .and_then(|text| u32::from_str_radix(text, 16).ok())
    };
    let found = (segment, number()?, number()?);
    parts.next().is_none().then_some(found)
}

/// Is this the segment, as it was when it was fetched? The reason, if not. It is read only if it may have changed since.
fn is_intact(path: &Path, segment: Segment, sum: u32, system_identifier: Option<u64>) -> Result<(), String> {
    let failed = |error: io::Error| format!("It cannot be read: {error}.");
    let mut file = File::open(path).map_err(failed)?;
    let name = WalFileName::Segment(segment);
    let (mut header, mut bytes, mut found) = (Vec::with_capacity(LONG_HEADER_BYTES), 0, 0);
    let meta = file.metadata().map_err(failed)?;
    if part::is_sealed(&meta, sum) {
        let begin = (&file).take(LONG_HEADER_BYTES as u64).read_to_end(&mut header);
        begin.map_err(failed)?;
        return fetch::check(&name, meta.len(), &header, system_identifier);
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        header.extend(&buffer[..read.min(LONG_HEADER_BYTES - header.len())]);
        bytes += read as u64;
        found = crc32c::crc32c_append(found, &buffer[..read]);
    }
    if found != sum {
        return Err(format!("Its checksum is {found:08x}, and was {sum:08x}."));
    }
    fetch::check(&name, bytes, &header, system_identifier)
}
