//! The worker of one backup: from `pg_backup_start` to the sentinel. It outlives the session that asked for it.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use tokio_util::sync::CancellationToken;
use walarchive_core::backup::delta::{self, Choice, WantedParent};
use walarchive_core::backup::{
    Backup, BackupOptions, BackupProgress, BackupRequest, Database, PreparedBackup, Rate, discard,
};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::formats::UserData;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use super::job::{REFRESH, attempt, give_way, interrupted, is_cancelled, set_phase, step};
use super::repository::Repository;
use super::{names, retention, session};
use crate::bridge::{self, Bridge, Flow};
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::latch::Latch;
use crate::pg::online_backup::{self, OnlineBackup};
use crate::pg::{Datum, page_cache, priority, process, server};
use crate::shmem::{self, ARCHIVING, BACKUP, Failure, Kind, Phase, Text, Work};

/// The archived WAL is looked for first after this, and then less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const SELDOM_LOOK: Duration = Duration::from_secs(2);

/// As long as this server's own archiver says that it has not archived it, the store is asked only that often.
const HARDLY_A_LOOK: Duration = Duration::from_secs(10);

/// The longest time that a failed backup spends on removing its objects.
const CLEANUP: Duration = Duration::from_secs(60);

/// Attempts to write the sentinel, each with a deadline of its own.
const COMMIT_ATTEMPTS: u32 = 3;

/// The steps to undo if a backup fails, by an error or by an ERROR.
#[derive(Default)]
struct Begun {
    online: RefCell<Option<OnlineBackup>>,
    stored: RefCell<Option<(Store, String)>>,
}

/// Entry point of the backup worker; its extra text is the number of the backup.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_backup_main(_argument: Datum) {
    process::handle_backend_signals();
    // Before there are threads: they inherit it.
    if let Err(error) = priority::lower_io() {
        debug1!("walarchive: could not lower the priority of the backup's I/O: {error}");
    }
    {
        let mut job = BACKUP.exclusive();
        // This process started too late: another backup has begun since.
        if BackgroundWorker::get_extra() != job.number.to_string() || !job.phase.is_running() {
            return;
        }
        job.worker_pid = process::my_pid();
        job.worker = Latch::mine();
    }
    process::at_exit(fail_if_unfinished);
    process::connect_without_database();
    BACKUP.exclusive().connected = true;
    let begun = Begun::default();
    let outcome = attempt(|| take(&begun));
    if outcome.is_err() {
        if let Some(online) = begun.online.take() {
            leave_backup_mode(online);
        }
        if let Some((store, name)) = begun.stored.take() {
            clean_up(store, name);
        }
    }
    bridge::drain();
    if let Ok(name) = &outcome {
        error::log_line(Severity::Log, &format!("backup \"{name}\" is complete"));
        retention::apply(name);
    }
    conclude(outcome.as_deref().map_err(|failure| &**failure));
}

/// Note how the backup ended. The session that asked for the backup reports a failure to the log. If none waits, this process does.
fn conclude(result: Result<&str, &Failure>) {
    let number = BACKUP.share().number;
    if let Some(failure) = shmem::conclude(number, result) {
        error::warn("backup failed", &failure);
    }
}

/// The backup has failed: the server need not write full pages for it any more.
fn leave_backup_mode(online: OnlineBackup) {
    // A cancellation or the end of this process waits for that, too.
    if let Err(failure) = process::hold_interrupts(|| attempt(|| online.stop())) {
        // PostgreSQL does so when this process ends, with a WARNING of its own.
        debug1!("walarchive: could not leave backup mode: {}", failure.message.as_str());
    }
}

/// The process ends before it has reported an outcome: it was told to terminate, or PostgreSQL ended it.
#[pg_guard]
unsafe extern "C-unwind" fn fail_if_unfinished(_code: c_int, _argument: Datum) {
    let job = *BACKUP.share();
    if job.worker_pid != process::my_pid() {
        return;
    }
    let failure = if job.connected || process::die_pending() {
        Error::Cancelled
    } else {
        Error::server(
            "the backup worker could not connect to the server",
            "See the server's log.",
        )
    };
    conclude(Err(&Failure::from(&failure)));
}

/// The whole backup. `begun` collects what has to be undone if it fails.
fn take(begun: &Begun) -> Result<String> {
    let settings = ArchiveSettings::for_writing()?;
    if server::archive_mode() == "off" && !server::in_recovery() {
        return Err(Error::config(
            "WAL archiving is not enabled, and no backup can be restored without WAL",
            "Set archive_mode to on and archive_library to walarchive, and restart the server.",
        ));
    }
    let wanted = settings.storage.for_backup();
    let store = step(async move { Ok(Store::open_settled(&wanted).await?) })?;
    let archive = bridge::archive(&settings)?;
    let asked = Arc::clone(&archive);
    // A store that does not answer now is told at once.
    step(async move { asked.permit().await })?;
    let archive = bridge::be_patient(&settings, &archive)?;
    // The rest is done while the server makes its checkpoint.
    let claimed = Arc::clone(&archive);
    let claim = bridge::Begun::start(async move { claimed.claim().await });
    let store = bridge::writable(&archive, store.with_brake(bridge::brake().clone()));

    set_phase(Phase::Checkpoint);
    let (permanent, user_data, started_us) = {
        let job = BACKUP.share();
        (job.permanent, job.user_data.to_option(), job.started_us)
    };
    let user_data = user_data.and_then(|json| UserData::of_text(&json));
    // Before the checkpoint: a database that is moved after this is either in its new place when the backup starts, or its move is
    // replayed.
    let databases = online_backup::databases();
    let (mut request, online) = session::begin(permanent, user_data, started_us);
    *begun.online.borrow_mut() = Some(online);
    choose_parent(&store, &mut request)?;
    let (asked, wanted) = (store.clone(), request.clone());
    let create_only = step(async move {
        let claimed = async { claim.outcome().await.unwrap_or(Err(Error::Cancelled)) };
        let (create_only, ()) = tokio::try_join!(claimed, Backup::is_free(&asked, &wanted))?;
        Ok(create_only)
    })?;
    let store = store.knowing(create_only);
    let name = request.name();
    BACKUP.exclusive().name = Text::new(&name);
    let options = BackupOptions {
        compression: settings.compression,
        concurrency: guc::backup_concurrency(),
        tar_bytes: guc::tar_bytes(),
        rate_limit: guc::backup_rate_limit(),
        checksum_algorithm: guc::manifest_checksums(),
        wal_summaries: server::setting(c"summarize_wal") == "on",
        on_checksum_failure: guc::on_checksum_failure(),
        find_resident: Some(page_cache::resident),
        ..BackupOptions::default()
    };
    let progress = Arc::new(BackupProgress::default());
    let cancel = CancellationToken::new();
    let mut backup = {
        let (store, progress, cancel) = (store.clone(), Arc::clone(&progress), cancel.clone());
        // This is not aborted: the answer to the claim of the name must be known.
        whole(async move { Backup::begin_free(&store, request, options, progress, cancel).await })?
    };
    *begun.stored.borrow_mut() = Some((store.clone(), name));
    backup.name_databases(Database::oids_by_name(&databases));
    backup.databases_before(Database::oids(&databases));
    backup.name_relations(names::collect(&databases)?);
    let mut repository = Repository::new(settings, store.clone());
    let backup = copy(backup, &mut repository, &progress, &cancel)?;
    let prepared = finish(backup, &databases, begun, &progress)?;
    let prepared = wait_for_wal(prepared, &store, &mut repository)?;
    commit(prepared, begun)
}

/// Decide whether it is a delta, and what it is based on. If there was a choice, the client and the log are told.
fn choose_parent(store: &Store, request: &mut BackupRequest) -> Result<()> {
    let wanted = match BACKUP.share().kind {
        Kind::Configured => guc::configured_kind(),
        Kind::Full => WantedParent::Full,
        Kind::Delta(name) => WantedParent::Named(name.as_str().to_owned()),
    };
    let limit = match &wanted {
        WantedParent::Automatic { max_steps, .. } => format!(" of at most {max_steps}"),
        _ => String::new(),
    };
    let (store, asked, in_recovery) = (store.clone(), request.clone(), server::in_recovery());
    let choice = step(async move { delta::choose(&store, &asked, in_recovery, &wanted).await })?;
    let told = match choice {
        Choice::Full { why: None } => return Ok(()),
        Choice::Full { why: Some(why) } => format!("full backup: {why}"),
        Choice::Delta(parent) => {
            let told = format!(
                "delta backup based on \"{}\" (step {}{limit})",
                parent.name, parent.count
            );
            request.parent = Some(parent);
            told
        }
    };
    error::log_line(Severity::Log, &told);
    BACKUP.exclusive().choice = Text::new(&told);
    Ok(())
}

/// Copy all files. This ends early if the archive has moved to another repository, because the backup would be useless.
fn copy(
    mut backup: Backup,
    repository: &mut Repository,
    progress: &Arc<BackupProgress>,
    cancel: &CancellationToken,
) -> Result<Backup> {
    set_phase(Phase::Copying);
    let mut rate = Rate::default();
    let name = backup.name().to_owned();
    let mut moved = None;
    let copied = async move { backup.copy().await.map(|()| backup) };
    // The work is told to end, and not aborted: the uploads under way have to end in the store, too.
    let copied = bridge::run(copied, Some(REFRESH), || {
        show(progress, &mut rate);
        if is_cancelled() || moved.is_some() {
            cancel.cancel();
            return grace();
        }
        process::check_for_interrupts();
        match repository.check(&name) {
            Err(error) if !error.is_transient() => moved = Some(error),
            // The next turn asks again.
            Ok(()) | Err(_) => {}
        }
        grace()
    });
    if let Some(error) = moved {
        return Err(error);
    }
    show(progress, &mut rate);
    copied.unwrap_or(Err(Error::Cancelled))
}

/// Leave backup mode, and write everything but the sentinel.
fn finish(
    mut backup: Backup,
    databases: &[Database],
    begun: &Begun,
    progress: &Arc<BackupProgress>,
) -> Result<PreparedBackup> {
    set_phase(Phase::Finishing);
    let online = begun.online.take();
    let stopped = session::end(online.ok_or_else(|| Error::defect("the server is not in backup mode"))?)?;
    let after = online_backup::databases();
    Database::check_places(databases, &after)?;
    backup.databases_after(Database::oids(&after));
    let prepared = step(async move { backup.finish(stopped).await })?;
    show(progress, &mut Rate::default());
    if prepared.corrupt_pages().pages > 0 {
        let warning = Failure::from(prepared.corrupt_pages());
        BACKUP.exclusive().warning = warning;
        error::notify(&warning);
    }
    let (left_out, count) = prepared.left_out();
    if let Some(notice) = error::left_out(left_out, count) {
        BACKUP.exclusive().notice = notice;
    }
    Ok(prepared)
}

/// Write the sentinel. From here on a cancellation comes too late: the backup is complete. If the answer of the store is lost, the
/// backup may exist, so nothing of it is removed.
fn commit(prepared: PreparedBackup, begun: &Begun) -> Result<String> {
    set_phase(Phase::Committing);
    let prepared = Arc::new(prepared);
    let mut attempt = 1;
    loop {
        let sentinel = Arc::clone(&prepared);
        match whole(async move { sentinel.commit().await }) {
            Ok(name) => {
                // At once: from here on the backup has succeeded, whatever happens.
                BACKUP.exclusive().complete = true;
                return Ok(name);
            }
            Err(error) if error.is_transient() && attempt < COMMIT_ATTEMPTS => {
                error::warn("could not write the sentinel, will try again", &Failure::from(&error));
                attempt += 1;
            }
            Err(error) if error.is_transient() && prepared.is_written() => {
                BACKUP.exclusive().complete = true;
                error::warn(
                    "the backup is complete, but could not be checked again",
                    &Failure::from(&error),
                );
                return Ok(prepared.name().to_owned());
            }
            Err(error) if error.is_transient() => {
                *begun.stored.borrow_mut() = None;
                error::warn(
                    &format!(
                        "backup \"{}\" is uploaded, but it is not known whether its sentinel was written",
                        prepared.name()
                    ),
                    &Failure::from(&error),
                );
                return Err(error);
            }
            // The server stops: the store may or may not have the sentinel.
            Err(Error::Cancelled) => {
                begun.stored.take();
                if prepared.is_written() {
                    BACKUP.exclusive().complete = true;
                    return Ok(prepared.name().to_owned());
                }
                return Err(Error::Cancelled);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Wait until every segment from the start of the backup to its end is in the archive. The backup goes on if the archive cannot be
/// reached for a while.
fn wait_for_wal(prepared: PreparedBackup, store: &Store, repository: &mut Repository) -> Result<PreparedBackup> {
    set_phase(Phase::WaitingForWal);
    let prepared = Arc::new(prepared);
    let mut pause = FIRST_LOOK;
    loop {
        let is_expected = wait_for_archiver(&prepared)?;
        let (asked, of) = (Arc::clone(&prepared), store.clone());
        let look = async move {
            match is_expected {
                true => asked.last_look(&of).await,
                false => asked.missing_segments(&of).await,
            }
        };
        let looked = repository.check(prepared.name()).and_then(|()| step(look));
        match looked {
            Ok(missing) => match missing.first() {
                None => break,
                Some(segment) => BACKUP.exclusive().waiting_for = Text::new(&segment.to_string()),
            },
            Err(error) if error.is_transient() => {
                error::warn(
                    "could not look for the WAL of the backup, will try again",
                    &Failure::from(&error),
                );
                pause = SELDOM_LOOK;
            }
            Err(error) => return Err(error),
        }
        let until = Instant::now() + pause;
        while Instant::now() < until {
            interrupted()?;
            Bridge::get().wait(Some(until.saturating_duration_since(Instant::now())));
        }
        pause = (pause * 2).min(SELDOM_LOOK);
    }
    Arc::try_unwrap(prepared).map_err(|_| Error::defect("the backup is still in use"))
}

/// As long as this server's own archiver has the last of the segments still to archive, the store is asked seldom. Returns whether
/// this server has archived it: then it should be there.
fn wait_for_archiver(prepared: &PreparedBackup) -> Result<bool> {
    let Some(last) = prepared.needed_segments().last().map(ToString::to_string) else {
        return Ok(false);
    };
    let status = server::data_directory().join(PG_WAL).join("archive_status");
    let (ready, done) = (
        status.join(format!("{last}.ready")),
        status.join(format!("{last}.done")),
    );
    // The archiver renames the file a moment after it has said so.
    let is_archived = || {
        let archived = ARCHIVING.share().counters.last_archived;
        archived.as_str().starts_with(&last[..8]) && archived.as_str() >= last.as_str()
    };
    let until = Instant::now() + HARDLY_A_LOOK;
    while ready.exists() && !is_archived() && Instant::now() < until {
        BACKUP.exclusive().waiting_for = Text::new(&last);
        interrupted()?;
        // The archiver wakes this process after each file.
        Bridge::get().wait(Some(REFRESH));
    }
    Ok(done.exists() || (ready.exists() && is_archived()))
}

/// One step that is not interrupted. Its requests have deadlines.
fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let each = || {
        give_way();
        grace()
    };
    bridge::run(work, Some(REFRESH), each).unwrap_or(Err(Error::Cancelled))
}

/// A worker that is told to end, as all are when the server stops, has this time to clean up. Retention removes the rest.
const GRACE: Duration = Duration::from_secs(3);

/// Go on with work that should be completed, unless the time for that is up.
fn grace() -> Flow {
    static TOLD: OnceCell<Instant> = OnceCell::new();
    if process::die_pending() && TOLD.get_or_init(Instant::now).elapsed() > GRACE {
        Flow::Stop
    } else {
        Flow::Wait
    }
}

/// Remove the objects of a backup that failed. A WARNING names what remains.
fn clean_up(store: Store, name: String) {
    // A promotion may have ended the backup. The objects that it stored as a standby are removed by the holder of the lease.
    let _ = ArchiveSettings::current().and_then(|settings| bridge::archive(&settings));
    let removed = {
        let name = name.clone();
        let work = async move { tokio::time::timeout(CLEANUP, discard(&store, &name)).await };
        bridge::run(work, Some(REFRESH), grace)
    };
    let left = match removed {
        Some(Ok(Ok(()))) => return,
        Some(Ok(Err(error))) => error,
        _ => Error::timeout("remove", &name, CLEANUP),
    };
    error::warn(
        &format!("leftovers of backup \"{name}\" remain in the repository"),
        &Failure::from(&left),
    );
}

fn show(progress: &BackupProgress, rate: &mut Rate) {
    give_way();
    let now = progress.snapshot();
    let bytes_per_second = rate.update(Instant::now(), now.bytes_done).unwrap_or(0);
    BACKUP.exclusive().work = Work {
        bytes_done: now.bytes_done,
        bytes_total: now.bytes_total,
        files_done: now.files_done,
        files_total: now.files_total,
        bytes_stored: now.stored,
        corrupt_pages: now.corrupt_pages,
        bytes_per_second,
    };
}
