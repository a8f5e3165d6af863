//! The backup that is running, or the last one. Its worker and the session that asked for it communicate through this.

use pgrx::PGRXSharedMemory;

use super::failure::Failure;
use super::text::Text;
use crate::pg::latch::Latch;

/// The largest `user_data`, in bytes of JSON.
pub const USER_DATA_BYTES: usize = 8192;

/// The longest name of a parent that can be asked for, in bytes.
pub const NAME_BYTES: usize = 128;

/// A worker that has not started by then never will. Microseconds.
const STARTUP_US: i64 = 60_000_000;

/// The phase of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No backup has run since the server started.
    None,
    /// The worker is being started.
    Starting,
    /// Waiting for its first checkpoint.
    Checkpoint,
    /// Files are being copied.
    Copying,
    /// Label, manifest and metadata are being written.
    Finishing,
    /// Waiting until the WAL that it needs is archived.
    WaitingForWal,
    /// Its sentinel is being written; then it is complete.
    Committing,
    /// It is complete, and `walarchive.retention` is being applied.
    Retention,
    /// It is complete.
    Done,
    /// It failed or was cancelled.
    Failed,
}

impl Phase {
    /// As `walarchive_progress` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::None => "none",
            Phase::Starting => "starting",
            Phase::Checkpoint => "waiting for checkpoint",
            Phase::Copying => "copying files",
            Phase::Finishing => "writing manifest",
            Phase::WaitingForWal => "waiting for WAL",
            Phase::Committing => "writing sentinel",
            Phase::Retention => "applying retention",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }

    /// Is a backup being taken?
    pub fn is_running(self) -> bool {
        !matches!(self, Phase::None | Phase::Done | Phase::Failed)
    }
}

/// Which kind of backup is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Follow the settings.
    Configured,
    /// A full one.
    Full,
    /// A delta based on the backup of this name.
    Delta(Text<NAME_BYTES>),
}

/// Bytes and files, done and to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to read, as planned.
    pub bytes_total: u64,
    /// Files read.
    pub files_done: u64,
    /// Files to read, as planned.
    pub files_total: u64,
    /// Bytes handed to the store.
    pub bytes_stored: u64,
    /// Pages with a wrong checksum.
    pub corrupt_pages: u64,
    /// Bytes per second read lately; 0 while that is not known.
    pub bytes_per_second: u64,
}

/// The one backup.
#[derive(Debug, Clone, Copy)]
pub struct BackupJob {
    /// Grows with each backup, so that no session takes the result of another backup for that of its own.
    pub number: u64,
    /// Its phase.
    pub phase: Phase,
    /// Told to end.
    pub cancelled: bool,
    /// The worker, while it runs.
    pub worker_pid: i32,
    /// The session that waits for it, if there is one.
    pub requester: Latch,
    /// Wakes the worker.
    pub worker: Latch,
    /// Did the scheduler ask for it?
    pub scheduled: bool,
    /// Is the worker connected to the server?
    pub connected: bool,
    /// Is its sentinel written? Then it has succeeded, whatever happens.
    pub complete: bool,
    /// Asked for.
    pub kind: Kind,
    /// The kind that it has become, and why, if there was a choice.
    pub choice: Text<512>,
    /// Asked for.
    pub permanent: bool,
    /// Asked for; JSON.
    pub user_data: Text<USER_DATA_BYTES>,
    /// When it was asked for: microseconds since 1970.
    pub started_us: i64,
    /// Its name, once it has one.
    pub name: Text<64>,
    /// How far it is.
    pub work: Work,
    /// The first WAL file that is missing in the archive, while it waits.
    pub waiting_for: Text<40>,
    /// Why it failed.
    pub failure: Failure,
    /// A warning about it, although it did not fail.
    pub warning: Failure,
    /// Entries of the data directory that are not in it.
    pub notice: Failure,
    /// Databases whose tables it cannot name.
    pub unnamed: Failure,
}

impl BackupJob {
    /// None.
    pub const NONE: BackupJob = BackupJob {
        number: 0,
        phase: Phase::None,
        cancelled: false,
        worker_pid: 0,
        requester: Latch::NONE,
        worker: Latch::NONE,
        scheduled: false,
        connected: false,
        complete: false,
        kind: Kind::Configured,
        choice: Text::EMPTY,
        permanent: false,
        user_data: Text::EMPTY,
        started_us: 0,
        name: Text::EMPTY,
        work: Work {
            bytes_done: 0,
            bytes_total: 0,
            files_done: 0,
            files_total: 0,
            bytes_stored: 0,
            corrupt_pages: 0,
            bytes_per_second: 0,
        },
        waiting_for: Text::EMPTY,
        failure: Failure::NONE,
        warning: Failure::NONE,
        notice: Failure::NONE,
        unnamed: Failure::NONE,
    };

    /// Is the place taken? Not by a backup whose worker never came up.
    pub fn is_taken(&self, now_us: i64) -> bool {
        let stillborn = self.phase == Phase::Starting && self.worker_pid == 0 && now_us - self.started_us > STARTUP_US;
        self.phase.is_running() && !stillborn
    }

    /// The present work of this backup, as a sentence.
    pub fn describe(&self) -> String {
        let backup = match self.name.to_option() {
            Some(name) => format!("backup \"{name}\""),
            None => "a backup".to_owned(),
        };
        match (self.worker_pid, self.phase) {
            (0, _) => "It has been asked for, and its process is being started.".to_owned(),
            (pid, Phase::Retention) => {
                format!("Process {pid} has completed {backup} and applies walarchive.retention.")
            }
            (pid, phase) => format!("Process {pid} is taking {backup}: {}.", phase.name()),
        }
    }
}

// SAFETY: plain data without pointers to process-local memory, `Copy`, and valid in every process of the server.
unsafe impl PGRXSharedMemory for BackupJob {}

#[cfg(test)]
mod tests {
    use super::{BackupJob, Phase, Text};

    #[test]
    fn a_running_backup_is_described_by_what_is_known_of_it() {
        let mut job = BackupJob {
            phase: Phase::Starting,
            ..BackupJob::NONE
        };
        assert_eq!(
            job.describe(),
            "It has been asked for, and its process is being started."
        );
        (job.worker_pid, job.phase) = (17, Phase::Checkpoint);
        assert_eq!(job.describe(), "Process 17 is taking a backup: waiting for checkpoint.");
        (job.name, job.phase) = (Text::new("base_1"), Phase::Copying);
        assert_eq!(job.describe(), "Process 17 is taking backup \"base_1\": copying files.");
        job.phase = Phase::Retention;
        assert_eq!(
            job.describe(),
            "Process 17 has completed backup \"base_1\" and applies walarchive.retention."
        );
    }
}
