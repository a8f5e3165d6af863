//! The backup that is running, or the last one: how its worker and the backend that asked for it speak to each other.

use super::Failure;
use super::text::Text;
use crate::pg::latch::Latch;

/// The largest `user_data`, in bytes of JSON.
pub const USER_DATA_BYTES: usize = 8192;

/// Where a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No backup has run since the server started.
    None,
    /// The worker is being started.
    Starting,
    /// Waiting for the checkpoint with which it starts.
    Checkpoint,
    /// Files are being copied.
    Copying,
    /// Label, manifest and metadata are being written.
    Finishing,
    /// Waiting until the WAL that it needs is archived.
    WaitingForWal,
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
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }

    /// Is somebody at work?
    pub fn is_running(self) -> bool {
        !matches!(self, Phase::None | Phase::Done | Phase::Failed)
    }
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
}

/// The one backup.
#[derive(Debug, Clone, Copy)]
pub struct BackupJob {
    /// Counts up with each backup, so that nobody takes another one's result for his own.
    pub number: u64,
    /// Where it is.
    pub phase: Phase,
    /// Told to end.
    pub cancelled: bool,
    /// The worker, while it runs.
    pub worker_pid: i32,
    /// Who waits for it, if anybody does.
    pub requester: Latch,
    /// Wakes the worker.
    pub worker: Latch,
    /// Asked for.
    pub permanent: bool,
    /// Asked for; JSON.
    pub user_data: Text<USER_DATA_BYTES>,
    /// When it was asked for: microseconds since 1970.
    pub started_us: i64,
    /// When copying began: microseconds since 1970.
    pub copying_us: i64,
    /// Its name, once it has one.
    pub name: Text<64>,
    /// How far it is.
    pub work: Work,
    /// The first WAL file that is missing in the archive, while it waits.
    pub waiting_for: Text<40>,
    /// Why it failed.
    pub failure: Failure,
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
        permanent: false,
        user_data: Text::EMPTY,
        started_us: 0,
        copying_us: 0,
        name: Text::EMPTY,
        work: Work {
            bytes_done: 0,
            bytes_total: 0,
            files_done: 0,
            files_total: 0,
            bytes_stored: 0,
        },
        waiting_for: Text::EMPTY,
        failure: Failure::NONE,
    };
}
