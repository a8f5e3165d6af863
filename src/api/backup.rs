//! `walarchive_backup_push` and `walarchive_progress`.

use std::ffi::c_int;
use std::sync::Once;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::prelude::*;
use walarchive_core::Error;

use super::{argument, bigint, required, timestamp};
use crate::error::{self, or_raise, raise};
use crate::guc::ArchiveSettings;
use crate::launch;
use crate::pg::latch::{self, Latch};
use crate::pg::text::{SqlJson, SqlText};
use crate::pg::{Datum, process, server};
use crate::shmem::{self, BACKUP, BackupJob, BackupWanted, Kind, NAME_BYTES, Phase, Text, USER_DATA_BYTES, now_us};

/// How soon the death of the worker is noticed.
const LIVENESS: Duration = Duration::from_secs(1);

/// The first notice that the backup waits for WAL comes after this. The time between notices doubles.
const FIRST_NOTICE: Duration = Duration::from_secs(5);

/// The longest that a statement waits for the deletion after its backup, which is complete.
const RETENTION: Duration = Duration::from_secs(30);

/// The longest that a cancelled statement waits for its backup to clean up.
const CLEANUP: Duration = Duration::from_secs(75);

/// Take a base backup. Returns its name, or NULL at once with `wait => false`.
///
/// `walarchive.delta_max_steps` decides whether it is a full or a delta backup, unless `full_backup => true` asks for a full one, or
/// `delta_from` names the backup that a delta is to be based on.
///
/// A background worker takes the backup. It goes on if the client disconnects, and ends if the statement is cancelled.
#[pg_extern(volatile, parallel_unsafe)]
fn walarchive_backup_push(
    permanent: default!(Option<bool>, "false"),
    user_data: default!(Option<SqlJson>, "NULL"),
    wait: default!(Option<bool>, "true"),
    full_backup: default!(Option<bool>, "false"),
    delta_from: default!(Option<SqlText>, "NULL"),
) -> Option<SqlText> {
    let (permanent, wait) = (required("permanent", permanent), required("wait", wait));
    let full = required("full_backup", full_backup);
    or_raise(shmem::require_preloaded());
    let kind = argument(kind(full, delta_from.as_ref().map(|name| name.0.as_str())));
    // So that the client is told of wrong settings, and not only the log.
    or_raise(ArchiveSettings::for_writing());
    if !server::in_recovery() && !server::is_archive_library() {
        let waits = "archive_library is not walarchive, so the backup waits until another program archives its WAL into the repository";
        error::warning(PgSqlErrorCode::ERRCODE_WARNING, waits, "", "");
    }
    let user_data = user_data.map(|json| json.0.to_string()).unwrap_or_default();
    if user_data.len() > USER_DATA_BYTES {
        argument(Err(Error::config(
            format!(
                "user_data has {} bytes, and at most {USER_DATA_BYTES} are allowed",
                user_data.len()
            ),
            "Keep large data elsewhere, and a reference to it here.",
        )))
    }
    let wanted = BackupWanted {
        scheduled: false,
        kind,
        permanent,
        user_data: &user_data,
        requester: if wait { Latch::mine() } else { Latch::NONE },
    };
    let number = shmem::reserve(wanted).unwrap_or_else(|running| raise(&running));
    let worker = or_raise(launch::launch(number).inspect_err(|_| process::check_for_interrupts()));
    if !wait {
        error::notice("the backup runs in the background; see walarchive_progress and walarchive_backups");
        return None;
    }
    Some(wait_for(number, &worker).into())
}

fn kind(full: bool, delta_from: Option<&str>) -> Result<Kind, Error> {
    match (full, delta_from) {
        (true, Some(_)) => Err(Error::config(
            "a backup cannot be both full and a delta",
            "Give either full_backup or delta_from.",
        )),
        (true, None) => Ok(Kind::Full),
        (false, None) => Ok(Kind::Configured),
        (false, Some(name)) if name.len() > NAME_BYTES => Err(Error::NoBackup {
            message: "the name of the backup is too long".to_owned(),
            hint: "See walarchive_backups.".to_owned(),
        }),
        (false, Some(name)) => Ok(Kind::Delta(Text::new(name))),
    }
}

fn wait_for(number: u64, worker: &DynamicBackgroundWorker) -> String {
    let _waiting = Waiting::begin(number);
    let mut notices = Notices::new();
    loop {
        let job = *BACKUP.share();
        if job.number == number {
            notices.tell_choice(&job);
        }
        match job.phase {
            // Another backup has begun, so this one ended between two looks.
            _ if job.number != number => or_raise(Err(Error::Cancelled)),
            Phase::Done => return succeeded(&job),
            Phase::Failed => raise(&job.failure),
            Phase::Retention if notices.since_complete() > RETENTION => {
                error::notice(&format!(
                    "backup \"{}\" is complete; walarchive.retention is still being applied in the background",
                    job.name.as_str()
                ));
                return succeeded(&job);
            }
            _ => {}
        }
        if job.worker_pid == 0 && matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)) {
            launch::never_started(number);
            continue;
        }
        if process::cancel_pending() && !process::die_pending() {
            cancel(number);
            let job = *BACKUP.share();
            if job.number == number && job.complete {
                // Before the notice, because PostgreSQL looks for interrupts when it sends one.
                process::forget_cancel();
                error::notice(&format!(
                    "the cancellation came too late: backup \"{}\" is complete",
                    job.name.as_str()
                ));
                return succeeded(&job);
            }
        }
        // A cancelled statement ends here. A terminated session ends, too, and its backup goes on.
        process::check_for_interrupts();
        notices.look(&job);
        latch::wait(None, Some(LIVENESS));
    }
}

fn succeeded(job: &BackupJob) -> String {
    if job.warning.message != Text::EMPTY {
        error::notify(&job.warning);
    }
    if job.notice.message != Text::EMPTY {
        error::tell(&job.notice);
    }
    if job.unnamed.message != Text::EMPTY {
        error::tell(&job.unnamed);
    }
    job.name.as_str().to_owned()
}

/// The statement was cancelled: end the backup, and wait until it has cleaned up. No interrupt is served in this time. If the
/// backup is complete, only the deletion after it ends, and nobody waits for that.
fn cancel(number: u64) {
    let worker = {
        let mut job = BACKUP.exclusive();
        if job.number != number {
            return;
        }
        job.cancelled = true;
        job.worker
    };
    worker.set();
    let deadline = Instant::now() + CLEANUP;
    while Instant::now() < deadline {
        let running = {
            let job = BACKUP.share();
            job.number == number && job.phase.is_running() && !job.complete
        };
        if !running {
            return;
        }
        latch::wait(None, Some(LIVENESS));
    }
    let told = "the backup was told to end, and is still removing its objects from the store";
    error::warning(PgSqlErrorCode::ERRCODE_WARNING, told, "", "");
}

/// While it lives, this session waits for a backup, and it is this session that reports how the backup ended.
struct Waiting(u64);

impl Waiting {
    fn begin(number: u64) -> Self {
        static AT_EXIT: Once = Once::new();
        // The session may end without returning here.
        AT_EXIT.call_once(|| process::at_exit(forget_at_exit));
        Waiting(number)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        shmem::forget_requester(self.0);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn forget_at_exit(_code: c_int, _argument: Datum) {
    let (number, requester) = {
        let job = BACKUP.share();
        (job.number, job.requester)
    };
    if requester == Latch::mine() {
        shmem::forget_requester(number);
    }
}

/// Tells the client the kind of the backup, if there was a choice, and that it waits for WAL, without filling the screen.
struct Notices {
    choice_is_told: bool,
    waiting_since: Option<Instant>,
    complete_since: Option<Instant>,
    next_after: Duration,
}

impl Notices {
    fn new() -> Self {
        Notices {
            choice_is_told: false,
            waiting_since: None,
            complete_since: None,
            next_after: FIRST_NOTICE,
        }
    }

    fn tell_choice(&mut self, job: &BackupJob) {
        if !self.choice_is_told
            && let Some(choice) = job.choice.to_option()
        {
            error::notice(&choice);
            self.choice_is_told = true;
        }
    }

    /// For how long the backup is known to be complete. Call this only for a backup that is.
    fn since_complete(&mut self) -> Duration {
        self.complete_since.get_or_insert_with(Instant::now).elapsed()
    }

    fn look(&mut self, job: &BackupJob) {
        // Before the first look into the archive the missing segment is not known.
        if job.phase != Phase::WaitingForWal || job.waiting_for == Text::EMPTY {
            return;
        }
        let waited = self.waiting_since.get_or_insert_with(Instant::now).elapsed();
        if waited < self.next_after {
            return;
        }
        self.next_after *= 2;
        let hint = if server::in_recovery() {
            "The primary archives it once the segment is complete; SELECT pg_switch_wal() there completes it."
        } else {
            "Check that the archiver works: see walarchive_status, pg_stat_archiver and the server's log."
        };
        error::notice_with_detail(
            &format!(
                "all files are copied; still waiting after {} s for WAL segment \"{}\" to be archived",
                waited.as_secs(),
                job.waiting_for.as_str()
            ),
            &format!("Cancelling discards the backup. {hint}"),
        );
    }
}

/// The running backup, if there is one.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backup_progress() -> TableIterator<
    'static,
    (
        name!(pid, Option<i32>),
        name!(backup_name, Option<SqlText>),
        name!(phase, SqlText),
        name!(bytes_done, i64),
        name!(bytes_total, i64),
        name!(bytes_stored, i64),
        name!(files_done, i64),
        name!(files_total, i64),
        name!(bytes_per_second, Option<i64>),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(estimated_stop_time, Option<TimestampWithTimeZone>),
        name!(waiting_for, Option<SqlText>),
        name!(corrupt_pages, i64),
    ),
> {
    or_raise(shmem::require_preloaded());
    let job = *BACKUP.share();
    if !job.phase.is_running() {
        return TableIterator::new(Vec::new());
    }
    let now = now_us();
    let copying = job.phase == Phase::Copying && job.work.bytes_per_second > 0;
    let rate = copying.then_some(job.work.bytes_per_second);
    let left = job.work.bytes_total.saturating_sub(job.work.bytes_done);
    let end = rate.map(|rate| {
        let left_us = u128::from(left) * 1_000_000 / u128::from(rate);
        now.saturating_add(i64::try_from(left_us).unwrap_or(i64::MAX / 2))
    });
    TableIterator::once((
        Some(job.worker_pid).filter(|pid| *pid != 0),
        job.name.to_option().map(SqlText),
        job.phase.name().into(),
        bigint(job.work.bytes_done),
        bigint(job.work.bytes_total),
        bigint(job.work.bytes_stored),
        bigint(job.work.files_done),
        bigint(job.work.files_total),
        rate.map(bigint),
        timestamp(job.started_us),
        end.and_then(timestamp),
        job.waiting_for
            .to_option()
            .filter(|_| job.phase == Phase::WaitingForWal)
            .map(SqlText),
        bigint(job.work.corrupt_pages),
    ))
}
