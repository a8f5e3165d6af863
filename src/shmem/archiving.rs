//! State that the archiver and the uploader share.

use std::time::Duration;

use pgrx::PGRXSharedMemory;

use super::backfill::Backfill;
use super::clock::now_us;
use super::failure::Failure;
use super::queue::{FileName, Queue};
use super::synchronous::Synchronous;
use super::tail::Tail;
use super::text::Text;
use crate::pg::latch::Latch;

/// Figures since the server started.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Files that were archived, as the archiver was told.
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

/// An uploader that has nothing to do looks around every ten seconds. Microseconds.
const LONGEST_QUIET_US: i64 = 45_000_000;

/// State that the archiver and the uploader share.
#[derive(Debug, Clone, Copy)]
pub struct Archiving {
    /// The uploader's process ID; 0 if it does not run.
    pub uploader_pid: i32,
    /// Wakes the uploader.
    pub uploader: Latch,
    /// When the uploader started: microseconds since 1970.
    pub uploader_started_us: i64,
    /// Grows each time the uploader looks around.
    pub uploader_beats: u64,
    /// When it did last: microseconds since 1970.
    pub uploader_beat_us: i64,
    /// The archiver has found the uploader stuck. The uploader clears this.
    pub uploader_stuck: bool,
    /// Bytes per second that the uploads of WAL have moved lately.
    pub bytes_per_second: u64,
    /// WAL waits for a slow link: other transfers are to leave the link to it.
    pub behind: bool,
    /// When the uploader was told to end, which means that the server stops: microseconds since 1970, 0 if it was not.
    pub stopping_us: i64,
    /// Wakes the archiver.
    pub archiver: Latch,
    /// Grows when this server comes to hold the lease of the repository.
    pub lease_gains: u64,
    /// The files.
    pub queue: Queue,
    /// The figures.
    pub counters: Counters,
    /// WAL that nobody asks for.
    pub backfill: Backfill,
    /// The synchronous standby.
    pub synchronous: Synchronous,
    /// WAL of the present segment.
    pub tail: Tail,
}

impl Archiving {
    /// The state at the start.
    pub const EMPTY: Archiving = Archiving {
        uploader_pid: 0,
        uploader: Latch::NONE,
        uploader_started_us: 0,
        uploader_beats: 0,
        uploader_beat_us: 0,
        uploader_stuck: false,
        bytes_per_second: 0,
        behind: false,
        stopping_us: 0,
        archiver: Latch::NONE,
        lease_gains: 0,
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
        backfill: Backfill::NONE,
        synchronous: Synchronous::OFF,
        tail: Tail::NONE,
    };

    /// The uploader looks around.
    pub fn beat(&mut self) {
        self.uploader_beats = self.uploader_beats.wrapping_add(1);
        self.uploader_beat_us = now_us();
        self.uploader_stuck = false;
    }

    /// Is the uploader stuck, as far as that is known without asking it?
    pub fn is_stuck(&self) -> bool {
        let quiet_us = now_us().saturating_sub(self.uploader_beat_us);
        self.uploader_pid != 0 && (self.uploader_stuck || quiet_us > LONGEST_QUIET_US)
    }

    /// Are transfers that can wait to leave the link to WAL?
    pub fn needs_the_link(&self) -> bool {
        self.behind && !self.is_stuck()
    }

    /// The server stops, and nothing was archived for so long. None: it does not.
    pub fn stopping_for(&self) -> Option<Duration> {
        if self.stopping_us == 0 {
            return None;
        }
        let since = self.stopping_us.max(self.counters.last_archived_us);
        let waited = u64::try_from(now_us().saturating_sub(since)).unwrap_or(0);
        Some(Duration::from_micros(waited))
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
