//! The scheduler starts a backup when `walarchive.backup_schedule` says so. `walarchive_core::schedule` decides when; this is the
//! part that knows the server. The scheduler is a worker of its own, because looking into the repository may take long, and neither
//! the archiver nor a backup may wait for that.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::prelude::*;
use walarchive_core::repository::inventory;
use walarchive_core::schedule::{self, Attempts, Decision, Reason, Schedule};
use walarchive_core::{Error, Result};

use super::drills::Drills;
use crate::bridge::{self, Bridge, Flow};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::launch;
use crate::pg::latch::{self, Latch};
use crate::pg::{process, server};
use crate::shmem::{self, BACKUP, BackupWanted, Failure, Kind, LastBackup, Outcome, SCHEDULING, Text, now_us};

/// The longest wait before the clock is read again: it may be set, and the machine may sleep.
const RECHECK: Duration = Duration::from_secs(60);

/// How often a standby looks whether it has been promoted.
const PROMOTION: Duration = Duration::from_secs(5);

/// How soon the death of a backup worker is noticed.
const LIVENESS: Duration = Duration::from_secs(1);

/// A list of the repository is good for this long.
const FRESH: Duration = Duration::from_secs(10);

/// The longest that listing the backups may take.
const LISTING: Duration = Duration::from_secs(600);

/// After a failure the scheduler tries again after the first pause, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

pub(super) struct Scheduler {
    /// The settings that the plan is made for: their generation, and the schedule.
    basis: Option<(u64, Schedule)>,
    /// None until the repository was asked when the newest backup was taken.
    plan: Option<Attempts>,
    /// When it was asked last.
    listed: Instant,
    /// The last backup that the plan knows of.
    seen: u64,
    /// The last backup that this process started.
    started: Option<(u64, DynamicBackgroundWorker)>,
    /// The next scheduled time during a backup that is running.
    due: Option<DateTime<Utc>>,
    /// The running backup that made another one be missed, if the log was told so.
    missed: u64,
    /// The error that the log was told last, and the pause after it.
    trouble: Option<(String, Duration)>,
    /// Restore drills, which have a schedule of their own.
    drills: Drills,
}

impl Scheduler {
    pub(super) fn new() -> Self {
        Scheduler {
            basis: None,
            plan: None,
            listed: Instant::now(),
            seen: 0,
            started: None,
            due: None,
            missed: 0,
            trouble: None,
            drills: Drills::new(),
        }
    }

    /// Work until the server tells the worker to end.
    pub(super) fn run(&mut self) {
        while !process::shutdown_requested() {
            if process::reload_requested() {
                process::reload_configuration();
            }
            let pause = match self.turn() {
                Ok(pause) => {
                    if self.trouble.take().is_some() {
                        log!("walarchive: backups can be scheduled again");
                    }
                    pause
                }
                Err(_) if process::shutdown_requested() => break,
                Err(error) => self.complain(&error),
            };
            let pause = pause.min(self.drills.turn());
            // Without a schedule this process starts no threads.
            match &self.basis {
                None => latch::wait(None, Some(pause)),
                Some(_) => Bridge::get().wait(Some(pause)),
            }
        }
    }

    /// Do what is to be done now. Returns how long to wait.
    fn turn(&mut self) -> Result<Duration> {
        let Some(schedule) = guc::backup_schedule() else {
            return Ok(self.rest(RECHECK));
        };
        let in_recovery = server::in_recovery();
        if in_recovery && !guc::backup_on_standby() {
            return Ok(self.rest(PROMOTION));
        }
        if server::archive_mode() == "off" && !in_recovery {
            return Err(Error::config(
                "WAL archiving is not enabled, and no backup can be restored without WAL",
                "Set archive_mode to on and archive_library to walarchive, and restart the server.",
            ));
        }
        let settings = ArchiveSettings::for_writing()?;
        let basis = Some((settings.generation(), schedule.clone()));
        if self.basis != basis {
            self.basis = basis;
            self.plan = None;
        }
        if self.is_busy() {
            self.note_missed(&schedule);
            publish(Some(schedule.after(Utc::now())));
            return Ok(LIVENESS);
        }
        self.due = None;
        let mut plan = match self.plan.take() {
            Some(plan) => plan,
            None => Attempts::new(self.list(&settings)?, Utc::now()),
        };
        self.learn_ends(&mut plan, &schedule);
        let mut decision = plan.next(&schedule, Utc::now());
        // Another server may have taken a backup since. If the repository cannot be read, the backup reports why.
        if matches!(decision, Decision::Due(_))
            && self.listed.elapsed() > FRESH
            && let Ok(newest) = self.list(&settings)
        {
            plan.learn(newest, Utc::now());
            decision = plan.next(&schedule, Utc::now());
        }
        self.plan = Some(plan);
        if process::shutdown_requested() {
            return Err(Error::Cancelled);
        }
        let now = Utc::now();
        match decision {
            Decision::Wait(until) => {
                publish(Some(until));
                Ok((until - now).to_std().unwrap_or_default().min(RECHECK))
            }
            Decision::Due(reason) => {
                Self::may_write(&settings)?;
                publish(Some(schedule.after(now)));
                self.start(reason);
                Ok(LIVENESS)
            }
        }
    }

    /// Nothing is to be planned.
    fn rest(&mut self, pause: Duration) -> Duration {
        self.basis = None;
        self.plan = None;
        publish(None);
        pause
    }

    /// There is one backup at a time, whoever asked for it.
    fn is_busy(&mut self) -> bool {
        let (taken, number, worker_pid) = {
            let job = BACKUP.share();
            (job.is_taken(now_us()), job.number, job.worker_pid)
        };
        if taken
            && worker_pid == 0
            && let Some((started, worker)) = &self.started
            && *started == number
            && matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped))
        {
            launch::never_started(number);
            return false;
        }
        taken
    }

    /// A backup that cannot start because another one is running has an outcome, too: the other one may hang.
    fn note_missed(&mut self, schedule: &Schedule) {
        let now = Utc::now();
        let due = *self.due.get_or_insert_with(|| schedule.after(now));
        if now < due {
            return;
        }
        self.due = Some(schedule.after(now));
        let job = *BACKUP.share();
        // If that one is complete, and only retention is being applied, nothing was missed.
        if job.complete {
            return;
        }
        let missed = Error::refused(
            format!("no backup was started at {}", due.with_timezone(&chrono::Local)),
            "See walarchive_progress for what the running backup waits for; pg_terminate_backend() with its process ID ends it.",
        );
        let failure = Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_OBJECT_IN_USE as i32,
            detail: Text::new(&job.describe()),
            ..Failure::from(&missed)
        };
        if self.missed != job.number {
            self.missed = job.number;
            error::warn("a scheduled backup was missed", &failure);
        }
        let mut scheduling = SCHEDULING.exclusive();
        // The number stays: the outcome of the last backup is still to be learned.
        scheduling.last = LastBackup {
            outcome: Outcome::Missed,
            name: job.name,
            ended_us: now_us(),
            error: failure.message,
            ..scheduling.last
        };
    }

    /// When the newest backup of the repository was complete.
    fn list(&mut self, settings: &ArchiveSettings) -> Result<Option<DateTime<Utc>>> {
        let archive = bridge::archive(settings)?;
        let work = async move {
            let listing = inventory::list_backups(archive.store());
            match tokio::time::timeout(LISTING, listing).await {
                Ok(listed) => listed,
                Err(_elapsed) => Err(Error::timeout("list", archive.store().url(), LISTING)),
            }
        };
        let listed = bridge::run(work, None, || match process::shutdown_requested() {
            true => Flow::Stop,
            false => Flow::Wait,
        });
        let backups = listed.unwrap_or(Err(Error::Cancelled))?;
        self.listed = Instant::now();
        Ok(schedule::newest_backup(&backups, server::identity().system_identifier))
    }

    /// May this server write? If not, no backup is started.
    fn may_write(settings: &ArchiveSettings) -> Result<()> {
        let Ok(archive) = bridge::archive(settings) else {
            return Ok(());
        };
        let work = async move {
            archive.claim().await?;
            Ok(archive.writable().check_fence().await?)
        };
        let asked = bridge::run(work, None, || match process::shutdown_requested() {
            true => Flow::Stop,
            false => Flow::Wait,
        });
        match asked {
            // The backup itself will find other errors, and its outcome is counted.
            Some(Err(error)) if !matches!(error, Error::NotWriter { .. }) => Ok(()),
            asked => asked.unwrap_or(Err(Error::Cancelled)),
        }
    }

    /// Tell the plan how backups ended.
    fn learn_ends(&mut self, plan: &mut Attempts, schedule: &Schedule) {
        let last: LastBackup = SCHEDULING.share().last;
        if last.number == self.seen {
            return;
        }
        self.seen = last.number;
        let ended = DateTime::from_timestamp_micros(last.ended_us).unwrap_or_default();
        match last.outcome {
            Outcome::Succeeded => plan.succeeded(ended),
            Outcome::Canceled if last.scheduled => plan.cancelled(ended),
            Outcome::Failed if last.scheduled => plan.failed(schedule, ended),
            // Not of this scheduler: the client was told.
            Outcome::None | Outcome::Failed | Outcome::Canceled | Outcome::Missed => {}
        }
    }

    fn start(&mut self, reason: Reason) {
        let wanted = BackupWanted {
            scheduled: true,
            kind: Kind::Configured,
            permanent: false,
            user_data: "",
            requester: Latch::mine(),
        };
        // Another process may have been faster: its backup is the one of this time.
        let Ok(number) = shmem::reserve(wanted) else { return };
        let why = match reason {
            Reason::First => "there is none in the repository".to_owned(),
            Reason::Scheduled(time) => format!("it was due at {}", time.with_timezone(&chrono::Local)),
            Reason::Retry(1) => "the last attempt failed".to_owned(),
            Reason::Retry(failures) => format!("the last {failures} attempts failed"),
        };
        log!("walarchive: starting a scheduled backup: {why}");
        match launch::launch(number) {
            Ok(worker) => self.started = Some((number, worker)),
            // The server is stopping.
            Err(Error::Cancelled) => {}
            Err(error) => error::warn("could not start a scheduled backup", &Failure::from(&error)),
        }
    }

    /// Tell the log once, and `walarchive_status` as long as the error lasts.
    fn complain(&mut self, error: &Error) -> Duration {
        let failure = Failure::from(error);
        let pause = match &self.trouble {
            Some((told, pause)) if told == failure.message.as_str() => (*pause * 2).min(LONGEST_PAUSE),
            _ => {
                error::warn("backups cannot be scheduled", &failure);
                FIRST_PAUSE
            }
        };
        self.trouble = Some((failure.message.as_str().to_owned(), pause));
        let mut scheduling = SCHEDULING.exclusive();
        scheduling.next_us = 0;
        scheduling.trouble = failure.message;
        pause
    }
}

/// Publish the next time in `walarchive_status`.
fn publish(next: Option<DateTime<Utc>>) {
    let mut scheduling = SCHEDULING.exclusive();
    scheduling.next_us = next.map_or(0, |next| next.timestamp_micros());
    scheduling.trouble = Text::EMPTY;
}
