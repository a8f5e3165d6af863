//! Shared memory: plain data under three locks, which nobody holds while waiting or doing I/O, nor two of them at once.

mod backup;
mod places;
mod queue;
mod reservation;
mod schedule;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::PGRXSharedMemory;
use walarchive_core::Error;

use crate::pg::latch::Latch;

pub use backup::{BackupJob, Kind, NAME_BYTES, Phase, USER_DATA_BYTES, Work};
pub use places::{ARCHIVING, BACKUP, SCHEDULING};
pub use queue::{Ahead, Answer, FileName, FileNumbers, MAX_CONCURRENCY, Queue};
pub use reservation::{BackupWanted, conclude, forget_requester, reserve};
pub use schedule::{LastBackup, LastRetention, Outcome, Scheduling};
pub use text::Text;

/// Why something failed, in the terms of a server message.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// PostgreSQL's encoding of the SQLSTATE.
    pub sqlstate: i32,
    /// Somebody wished it, so that nothing has gone wrong. A deadline that has passed has the same SQLSTATE.
    pub canceled: bool,
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
        canceled: false,
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

/// A worker that has nothing to do looks around every ten seconds. Microseconds.
const LONGEST_QUIET_US: i64 = 45_000_000;

/// What the archiver and the worker share.
#[derive(Debug, Clone, Copy)]
pub struct Archiving {
    /// The worker's process ID; 0 when none lives.
    pub worker_pid: i32,
    /// Wakes the worker.
    pub worker: Latch,
    /// Since when the worker runs: microseconds since 1970.
    pub worker_started_us: i64,
    /// Grows each time the worker looks around.
    pub worker_beats: u64,
    /// When it did last: microseconds since 1970.
    pub worker_beat_us: i64,
    /// The archiver has seen that the worker does not move; the worker takes that back.
    pub worker_stuck: bool,
    /// Bytes that the uploads of WAL have moved in a second, lately.
    pub bytes_per_second: u64,
    /// WAL waits for a slow link: who can wait shall leave it the link.
    pub behind: bool,
    /// The worker was told to end, which means that the server stops: microseconds since 1970, 0 if it was not.
    pub stopping_us: i64,
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
        worker_beats: 0,
        worker_beat_us: 0,
        worker_stuck: false,
        bytes_per_second: 0,
        behind: false,
        stopping_us: 0,
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

    /// The worker moves.
    pub fn beat(&mut self) {
        self.worker_beats = self.worker_beats.wrapping_add(1);
        self.worker_beat_us = now_us();
        self.worker_stuck = false;
    }

    /// Is there a worker that does not move, by what is known without asking it?
    pub fn is_stuck(&self) -> bool {
        let quiet_us = now_us().saturating_sub(self.worker_beat_us);
        self.worker_pid != 0 && (self.worker_stuck || quiet_us > LONGEST_QUIET_US)
    }

    /// Shall transfers that can wait leave the link to WAL?
    pub fn needs_the_link(&self) -> bool {
        self.behind && !self.is_stuck()
    }

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
