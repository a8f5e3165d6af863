//! The backup that is running, or the last one: how its worker and the backend that asked for it speak to each other.

use pgrx::PgSqlErrorCode;

use super::schedule::{LastBackup, Outcome};
use super::text::Text;
use super::{BACKUP, Failure, SCHEDULING, now_us};
use crate::pg::latch::Latch;

/// The largest `user_data`, in bytes of JSON.
pub const USER_DATA_BYTES: usize = 8192;

/// The longest name of a parent that can be asked for, in bytes.
pub const NAME_BYTES: usize = 128;

/// A worker that has not come up by then never will. Microseconds.
const STARTUP_US: i64 = 60_000_000;

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
    /// Its sentinel is being written, with which it is complete.
    Committing,
    /// It is complete, and what `walarchive.retention` does not keep is being deleted.
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

    /// Is somebody at work?
    pub fn is_running(self) -> bool {
        !matches!(self, Phase::None | Phase::Done | Phase::Failed)
    }
}

/// Which kind of backup is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// What the settings say.
    Configured,
    /// A full one.
    Full,
    /// A delta upon the backup of this name.
    Upon(Text<NAME_BYTES>),
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
    /// Bytes read in a second, lately; 0 while that is not known.
    pub bytes_per_second: u64,
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
    /// Did the scheduler ask for it?
    pub scheduled: bool,
    /// Is the worker connected to the server?
    pub connected: bool,
    /// Is its sentinel written? Then it has succeeded, whatever happens.
    pub complete: bool,
    /// Asked for.
    pub kind: Kind,
    /// What kind it has become, and why, if there was a choice.
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
    /// What has to be said of it although it did not fail.
    pub warning: Failure,
    /// What of the data directory is not in it.
    pub notice: Failure,
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
    };

    /// Is the place taken? Not by a backup whose worker never came up.
    pub fn is_taken(&self, now_us: i64) -> bool {
        let stillborn = self.phase == Phase::Starting && self.worker_pid == 0 && now_us - self.started_us > STARTUP_US;
        self.phase.is_running() && !stillborn
    }

    /// Who takes which backup, as a sentence.
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

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// By the scheduler?
    pub scheduled: bool,
    /// Full or delta?
    pub kind: Kind,
    /// Never to be deleted by retention.
    pub permanent: bool,
    /// JSON, or empty; no longer than [`USER_DATA_BYTES`].
    pub user_data: &'a str,
    /// Who waits for it.
    pub requester: Latch,
}

/// Take the one place that there is, for a worker that is to be started. Returns the number of the backup, or why there is no
/// place.
pub fn reserve(wanted: Wanted<'_>) -> Result<u64, Box<Failure>> {
    let now = now_us();
    let mut job = BACKUP.exclusive();
    if job.is_taken(now) {
        return Err(Box::new(Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_OBJECT_IN_USE as i32,
            canceled: false,
            message: Text::new("a backup is running already"),
            detail: Text::new(&job.describe()),
            hint: Text::new("Wait until it is done, see walarchive_progress, or cancel it with pg_cancel_backend()."),
        }));
    }
    let number = job.number + 1;
    *job = BackupJob {
        number,
        phase: Phase::Starting,
        requester: wanted.requester,
        scheduled: wanted.scheduled,
        kind: wanted.kind,
        permanent: wanted.permanent,
        user_data: Text::new(wanted.user_data),
        started_us: now,
        ..BackupJob::NONE
    };
    Ok(number)
}

/// Note how the backup of that number ended, and wake who waits. A backup that is complete has succeeded, whatever is said. Only
/// its worker calls this, or, once that is known to be gone, who started it. Nothing happens if the backup is not running.
/// Returns a failure of which nobody else tells the log.
pub fn conclude(number: u64, result: Result<&str, &Failure>) -> Option<Failure> {
    let job = *BACKUP.share();
    if job.number != number || !job.phase.is_running() {
        return None;
    }
    let (outcome, name, failure) = match result {
        Ok(name) => (Outcome::Succeeded, Text::new(name), Failure::NONE),
        Err(_) if job.complete => (Outcome::Succeeded, job.name, Failure::NONE),
        Err(failure) if failure.canceled => (Outcome::Canceled, job.name, *failure),
        Err(failure) => (Outcome::Failed, job.name, *failure),
    };
    // Before the place is free: who sees that sees this, too.
    let scheduler = {
        let mut scheduling = SCHEDULING.exclusive();
        scheduling.last = LastBackup {
            number,
            scheduled: job.scheduled,
            outcome,
            name,
            ended_us: now_us(),
            error: failure.message,
        };
        scheduling.scheduler
    };
    let requester = {
        let mut job = BACKUP.exclusive();
        job.name = name;
        job.failure = failure;
        job.phase = match outcome {
            Outcome::Succeeded => Phase::Done,
            _ => Phase::Failed,
        };
        job.worker_pid = 0;
        job.worker = Latch::NONE;
        job.requester
    };
    requester.set();
    scheduler.set();
    let is_untold = outcome != Outcome::Succeeded && (job.scheduled || requester == Latch::NONE);
    is_untold.then_some(failure)
}

/// Whoever asked for the backup of that number does not wait for it any more: who has asked, or nobody.
pub fn forget_requester(number: u64) {
    let mut job = BACKUP.exclusive();
    if job.number == number && !job.scheduled {
        job.requester = Latch::NONE;
    }
}

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
