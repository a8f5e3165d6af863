//! Shared memory: plain data under three locks, which nobody holds while waiting or doing I/O, nor two of them at once.

mod backup;
mod queue;
mod schedule;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::PGRXSharedMemory;
use walarchive_core::Error;

use crate::pg::latch::Latch;

pub use crate::pg::shared::{ARCHIVING, BACKUP, SCHEDULING};
pub use backup::{
    BackupJob, Kind, NAME_BYTES, Phase, USER_DATA_BYTES, Wanted, Work, conclude, forget_requester, reserve,
};
pub use queue::{Ahead, Answer, FileName, FileNumbers, MAX_CONCURRENCY, Queue};
pub use schedule::{LastBackup, LastRetention, Outcome, Scheduling};
pub use text::Text;

/// Why something failed, in the terms of a server message.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// PostgreSQL's encoding of the SQLSTATE.
    pub sqlstate: i32,
    /// The primary message.
    pub message: Text<512>,
    /// DETAIL.
    pub detail: Text<768>,
    /// HINT.
    pub hint: Text<512>,
}

impl Failure {
    /// Nothing failed.
    pub const NONE: Failure = Failure {
        sqlstate: 0,
        message: Text::EMPTY,
        detail: Text::EMPTY,
        hint: Text::EMPTY,
    };
}

/// Figures since the server started.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Files that the archiver was told to be archived.
    pub archived: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Bytes of the files that were read for archiving.
    pub bytes_in: u64,
    /// Bytes of the objects that were written for them.
    pub bytes_out: u64,
    /// The last file that was archived.
    pub last_archived: FileName,
    /// When: microseconds since 1970.
    pub last_archived_us: i64,
    /// The last failure.
    pub last_error: Text<512>,
    /// When: microseconds since 1970.
    pub last_error_us: i64,
}

/// What the archiver and the worker share.
#[derive(Debug, Clone, Copy)]
pub struct Archiving {
    /// The worker's process ID; 0 when none lives.
    pub worker_pid: i32,
    /// Wakes the worker.
    pub worker: Latch,
    /// Since when the worker runs: microseconds since 1970.
    pub worker_started_us: i64,
    /// Wakes the archiver.
    pub archiver: Latch,
    /// The files.
    pub queue: Queue,
    /// The figures.
    pub counters: Counters,
}

impl Archiving {
    const EMPTY: Archiving = Archiving {
        worker_pid: 0,
        worker: Latch::NONE,
        worker_started_us: 0,
        archiver: Latch::NONE,
        queue: Queue::EMPTY,
        counters: Counters {
            archived: 0,
            failed: 0,
            bytes_in: 0,
            bytes_out: 0,
            last_archived: Text::EMPTY,
            last_archived_us: 0,
            last_error: Text::EMPTY,
            last_error_us: 0,
        },
    };

    /// Note that something failed.
    pub fn note_failure(&mut self, failure: &Failure) {
        self.counters.failed += 1;
        self.counters.last_error = failure.message;
        self.counters.last_error_us = now_us();
    }
}

// SAFETY: plain data without pointers to process-local memory, `Copy`, and valid in every process of the server.
unsafe impl PGRXSharedMemory for Archiving {}
// SAFETY: likewise.
unsafe impl PGRXSharedMemory for BackupJob {}
// SAFETY: likewise.
unsafe impl PGRXSharedMemory for Scheduling {}

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// What [`ARCHIVING`] starts with.
pub fn initial_archiving() -> Archiving {
    Archiving::EMPTY
}

/// What [`BACKUP`] starts with.
pub fn initial_backup() -> BackupJob {
    BackupJob::NONE
}

/// What [`SCHEDULING`] starts with.
pub fn initial_scheduling() -> Scheduling {
    Scheduling::EMPTY
}

/// Shared memory was asked for: the library is preloaded. Called in the postmaster; its children inherit it.
pub fn set_preloaded() {
    PRELOADED.store(true, Ordering::Relaxed);
}

/// Is shared memory there? Without it neither lock may be touched.
pub fn require_preloaded() -> Result<(), Error> {
    if PRELOADED.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(Error::config(
        "walarchive is not preloaded",
        "Add walarchive to shared_preload_libraries and restart the server.",
    ))
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
