//! The plan of the scheduler, and the outcome of the last backup. The scheduler, the backup worker and `walarchive_status` share this.

use pgrx::PGRXSharedMemory;

use super::text::Text;
use crate::pg::latch::Latch;

/// How a backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// None has ended since the server started.
    None,
    /// It is complete.
    Succeeded,
    /// It failed, and is not in the repository.
    Failed,
    /// It was cancelled, and is not in the repository.
    Canceled,
    /// A scheduled backup could not be started, because another one was running.
    Missed,
}

impl Outcome {
    /// As `walarchive_status` shows it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Outcome::None => None,
            Outcome::Succeeded => Some("succeeded"),
            Outcome::Failed => Some("failed"),
            Outcome::Canceled => Some("canceled"),
            Outcome::Missed => Some("missed"),
        }
    }
}

/// The last backup that ended.
#[derive(Debug, Clone, Copy)]
pub struct LastBackup {
    /// As in `BackupJob`.
    pub number: u64,
    /// Was it a scheduled one?
    pub scheduled: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Its name, if it had one.
    pub name: Text<64>,
    /// When: microseconds since 1970.
    pub ended_us: i64,
    /// Why it failed.
    pub error: Text<512>,
}

/// How `walarchive.retention` was applied last.
#[derive(Debug, Clone, Copy)]
pub struct LastRetention {
    /// How that ended.
    pub outcome: Outcome,
    /// The deletions.
    pub summary: Text<512>,
    /// Why it failed, if it did.
    pub error: Text<512>,
    /// When: microseconds since 1970.
    pub ended_us: i64,
}

/// The last restore drill by `walarchive.drill_schedule`.
#[derive(Debug, Clone, Copy)]
pub struct LastDrill {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, if it did.
    pub error: Text<512>,
    /// When: microseconds since 1970.
    pub ended_us: i64,
}

/// Beside the running backup: what is planned, and how the last ones ended.
#[derive(Debug, Clone, Copy)]
pub struct Scheduling {
    /// Wakes the scheduler.
    pub scheduler: Latch,
    /// When the next backup is due: microseconds since 1970; 0 when none is.
    pub next_us: i64,
    /// Why no backup can be scheduled now.
    pub trouble: Text<512>,
    /// The last backup.
    pub last: LastBackup,
    /// The last deletion.
    pub retention: LastRetention,
    /// When the next restore drill is due: microseconds since 1970; 0 when none is.
    pub next_drill_us: i64,
    /// A session wants one now.
    pub drill_wanted: bool,
    /// One is at work.
    pub drill_running: bool,
    /// The last one.
    pub drill: LastDrill,
    /// When the last one ended that went well, on any host, as far as this server knows: microseconds since 1970.
    pub proven_us: i64,
}

impl Scheduling {
    /// Nothing has happened.
    pub const EMPTY: Scheduling = Scheduling {
        scheduler: Latch::NONE,
        next_us: 0,
        trouble: Text::EMPTY,
        last: LastBackup {
            number: 0,
            scheduled: false,
            outcome: Outcome::None,
            name: Text::EMPTY,
            ended_us: 0,
            error: Text::EMPTY,
        },
        retention: LastRetention {
            outcome: Outcome::None,
            summary: Text::EMPTY,
            error: Text::EMPTY,
            ended_us: 0,
        },
        next_drill_us: 0,
        drill_wanted: false,
        drill_running: false,
        drill: LastDrill {
            outcome: Outcome::None,
            error: Text::EMPTY,
            ended_us: 0,
        },
        proven_us: 0,
    };

    /// A drill went well then.
    pub fn saw_proven(&mut self, ended_us: i64) {
        self.proven_us = self.proven_us.max(ended_us);
    }
}

// SAFETY: plain data without pointers to process-local memory, `Copy`, and valid in every process of the server.
unsafe impl PGRXSharedMemory for Scheduling {}
