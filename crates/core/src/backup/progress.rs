//! How far a backup is, for whoever wants to look.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// The phase of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for the checkpoint of `pg_backup_start`.
    #[default]
    Starting,
    /// Walking the data directory.
    Planning,
    /// Packing and uploading.
    Copying,
    /// Writing the label, the manifest and the metadata.
    Finishing,
    /// Waiting until the WAL that the backup needs is archived.
    WaitingForWal,
    /// The sentinel is written.
    Done,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Starting,
        Phase::Planning,
        Phase::Copying,
        Phase::Finishing,
        Phase::WaitingForWal,
        Phase::Done,
    ];

    /// In words, for a view.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Planning => "planning",
            Phase::Copying => "copying",
            Phase::Finishing => "finishing",
            Phase::WaitingForWal => "waiting for wal",
            Phase::Done => "done",
        }
    }
}

/// Counters that the tasks of a backup share. Loads and stores are independent: a snapshot is near the truth, not a cut.
#[derive(Debug, Default)]
pub struct BackupProgress {
    phase: AtomicU8,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    files_done: AtomicU64,
    files_total: AtomicU64,
    stored: AtomicU64,
    corrupt_pages: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The present phase.
    pub phase: Phase,
    /// Bytes of files that were read.
    pub bytes_done: u64,
    /// Bytes of all files: of those that are to be read when the data directory was walked, of the others when they were
    /// read. At the end as many as were read. 0 before the walk.
    pub bytes_total: u64,
    /// Files that were read to their end.
    pub files_done: u64,
    /// Files that were found, without those that were gone when they were to be read; 0 before the walk.
    pub files_total: u64,
    /// Compressed bytes handed to the store.
    pub stored: u64,
    /// Pages with a wrong checksum.
    pub corrupt_pages: u64,
}

impl BackupProgress {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            phase: Phase::ALL[usize::from(self.phase.load(Relaxed))],
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            files_total: self.files_total.load(Relaxed),
            stored: self.stored.load(Relaxed),
            corrupt_pages: self.corrupt_pages.load(Relaxed),
        }
    }

    /// The steps set it themselves, except [`Phase::WaitingForWal`], which is the caller's to wait.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn set_total(&self, files: u64, bytes: u64) {
        self.files_total.store(files, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
    }

    /// A file was found to have another size than in the walk.
    pub(super) fn resized(&self, planned: u64, actual: u64) {
        // The sum wraps around, so that the difference may be negative.
        self.bytes_total.fetch_add(actual.wrapping_sub(planned), Relaxed);
    }

    /// One more file is to be read.
    pub(super) fn added(&self, bytes: u64) {
        self.files_total.fetch_add(1, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
    }

    /// A file was found to be gone.
    pub(super) fn vanished(&self, planned: u64) {
        self.files_total.fetch_sub(1, Relaxed);
        self.bytes_total.fetch_sub(planned, Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    pub(super) fn file(&self) {
        self.files_done.fetch_add(1, Relaxed);
    }

    pub(super) fn corrupt(&self, pages: u64) {
        self.corrupt_pages.fetch_add(pages, Relaxed);
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Relaxed);
    }
}
