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

/// A worker that dies without a word is noticed at the latest after this.
const LIVENESS: Duration = Duration::from_secs(1);

/// The first notice that the backup waits for WAL comes after this, the others at twice the distance each.
const FIRST_NOTICE: Duration = Duration::from_secs(5);

/// The longest that a statement waits for the deletion after its backup, which is complete.
const RETENTION: Duration = Duration::from_secs(30);

/// The longest that a cancelled statement waits for its backup to clean up.
const CLEANUP: Duration = Duration::from_secs(75);

/// Take a base backup. Returns its name; with `wait => false` NULL, at once.
///
/// Whether it is a full or a delta backup is a matter of `walarchive.delta_max_steps`, unless `full_backup => true` asks for a full
/// one, or `delta_from` names the backup upon which a delta is to be taken.
///
/// The backup is taken by a background worker: it goes on when the client disconnects, and ends when the statement is
/// cancelled.
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
    // What is wrong with the settings is said here, not by a worker later.
    or_raise(ArchiveSettings::for_writing());
    if !server::in_recovery() && !server::is_archive_library() {
        let waits = "archive_library is not walarchive; the backup waits until somebody else archives its WAL into the repository";
        error::warning(PgSqlErrorCode::ERRCODE_WARNING, waits, "", "");
    }
    let user_data = user_data.map(|json| json.0.to_string()).unwrap_or_default();
    if user_data.len() > USER_DATA_BYTES {
        argument(Err(Error::config(
            format!(
                "user_data has {} bytes, no more than {USER_DATA_BYTES} are possible",
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
    let worker = or_raise(launch::launch(number));
    if !wait {
        error::notice("the backup runs in the background; see walarchive_progress and walarchive_backups");
        return None;
    }
    Some(wait_for(number, &worker).into())
}

fn kind(full: bool, delta_from: Option<&str>) -> Result<Kind, Error> {
    match (full, delta_from) {
        (true, Some(_)) => Err(Error::config(
            "a backup cannot be full and a delta",
            "Give either full_backup or delta_from.",
        )),
        (true, None) => Ok(Kind::Full),
        (false, None) => Ok(Kind::Configured),
        (false, Some(name)) if name.len() > NAME_BYTES => Err(Error::NoBackup {
            message: "there is no backup with so long a name".to_owned(),
            hint: "See walarchive_backups.".to_owned(),
        }),
        (false, Some(name)) => Ok(Kind::Upon(Text::new(name))),
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
            // Another one has begun since, so this one ended while nobody looked.
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
                // Before anything is told, as PostgreSQL looks for interrupts then.
                process::forget_cancel();
                error::notice(&format!(
                    "the cancel came too late: backup \"{}\" is complete",
                    job.name.as_str()
                ));
                return succeeded(&job);
            }
        }
        // A cancelled statement ends here; and so does a terminated session, whose backup goes on.
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
    job.name.as_str().to_owned()
}

/// The statement was cancelled: end the backup, and wait until it has cleaned up. No interrupt is served meanwhile. Of a backup
/// that is complete nothing but the deletion after it is ended, and nobody waits for that.
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
    let told = "the backup has been told to end, and is still removing what it has stored";
    error::warning(PgSqlErrorCode::ERRCODE_WARNING, told, "", "");
}

/// While it lives, this session waits for a backup, and tells its client and the log how that ended.
struct Waiting(u64);

impl Waiting {
    fn begin(number: u64) -> Self {
        static AT_EXIT: Once = Once::new();
        // The session may end without coming back here.
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

/// Tells the client which kind of backup it is, if there was a choice, and that waiting for WAL takes long, without filling its
/// screen.
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

    /// To be asked only about a backup that is complete: for how long it is known to be so.
    fn since_complete(&mut self) -> Duration {
        self.complete_since.get_or_insert_with(Instant::now).elapsed()
    }

    fn look(&mut self, job: &BackupJob) {
        // Before the first look into the archive it is not known for what it waits.
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
                "all files are copied; waiting since {} s for WAL segment \"{}\" to be archived",
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
