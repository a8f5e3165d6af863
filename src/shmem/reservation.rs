//! The reservation of the one place for a backup, and its outcome.

use pgrx::PgSqlErrorCode;

use super::backup::{BackupJob, Kind, Phase};
use super::clock::now_us;
use super::failure::Failure;
use super::places::{BACKUP, SCHEDULING};
use super::schedule::{LastBackup, Outcome};
use super::text::Text;
use crate::pg::latch::Latch;

/// The backup that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct BackupWanted<'a> {
    /// By the scheduler?
    pub scheduled: bool,
    /// Full or delta?
    pub kind: Kind,
    /// Retention must not delete it.
    pub permanent: bool,
    /// JSON, or empty; no longer than [`USER_DATA_BYTES`].
    pub user_data: &'a str,
    /// The session that waits for it.
    pub requester: Latch,
}

/// Reserve the one place for a backup, for a worker that is to be started. Returns the number of the backup, or why the place is
/// taken.
pub fn reserve(wanted: BackupWanted<'_>) -> Result<u64, Box<Failure>> {
    let now = now_us();
    let mut job = BACKUP.exclusive();
    if job.is_taken(now) {
        return Err(Box::new(Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_OBJECT_IN_USE as i32,
            canceled: false,
            message: Text::new("a backup is already running"),
            detail: Text::new(&job.describe()),
            hint: Text::new("Wait for it (see walarchive_progress), or cancel it with pg_cancel_backend()."),
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

/// Note how the backup of that number ended, and wake the process that waits for it. A backup that is complete has succeeded, also if
/// `result` is a failure. Only its worker calls this, or the process that started the worker if the worker is gone. Nothing happens if
/// the backup is not running. Returns a failure that the caller has to log.
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
    // Before the place is free, so that a process that finds it free finds this outcome.
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

/// The session that asked for the backup of that number does not wait for it any more.
pub fn forget_requester(number: u64) {
    let mut job = BACKUP.exclusive();
    if job.number == number && !job.scheduled {
        job.requester = Latch::NONE;
    }
}
