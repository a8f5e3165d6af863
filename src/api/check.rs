//! `walarchive_check`.

use std::time::{Duration, Instant};

use pgrx::prelude::*;
use walarchive_core::Error;
use walarchive_core::check::{self, Check};
use walarchive_core::data_dir::PG_WAL;
use walarchive_storage::Store;

use super::status::waiting;
use super::{LOOK, synchronous};
use crate::bridge::{self, Flow};
use crate::error::or_raise;
use crate::guc::{self, ArchiveSettings};
use crate::pg::text::SqlText;
use crate::pg::{latch, process, server};
use crate::shmem::{self, ARCHIVING};

/// How soon the uploader looks around when it is woken, on a busy machine.
const REACTION: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// If a file has waited for longer, uploads do not keep up.
const OLD: Duration = Duration::from_secs(600);

/// Check everything that archiving needs. One row for each check: first of the server, then of the store. Objects that it writes into
/// the store are removed again.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_check() -> TableIterator<
    'static,
    (
        name!(check_name, SqlText),
        name!(status, SqlText),
        name!(detail, SqlText),
        name!(hint, Option<SqlText>),
        name!(latency_ms, Option<f64>),
    ),
> {
    let mut checks = vec![
        preload(),
        archive_mode(),
        wal_level(),
        archive_library(),
        uploader(),
        archiver(),
    ];
    checks.extend(synchronous::check());
    checks.extend(tail());
    match ArchiveSettings::current() {
        Ok(settings) => {
            checks.push(Check::ok(
                "settings",
                format!("storage is \"{}\"", settings.storage.url),
            ));
            if let Err(error) = guc::refuse_plain_text() {
                checks.push(Check::of_error("encryption", &error));
            }
            checks.extend(store(settings));
        }
        Err(error) => checks.push(Check::of_error("settings", &error)),
    }
    TableIterator::new(checks.into_iter().map(|check| {
        let latency = check.latency_ms();
        let (name, status) = (check.name.into(), check.status.as_str().into());
        (name, status, check.detail.into(), check.hint.map(SqlText), latency)
    }))
}

fn preload() -> Check {
    match shmem::require_preloaded() {
        Ok(()) => Check::ok("preload", "walarchive is preloaded"),
        Err(error) => Check::of_error("preload", &error),
    }
}

fn archive_mode() -> Check {
    let name = "archive_mode";
    match server::archive_mode().as_str() {
        "off" => Check::failed(
            name,
            "archive_mode is off: nothing is archived",
            "Set archive_mode = on and restart the server.",
        ),
        "on" if server::in_recovery() => {
            Check::ok(name, "archive_mode is on: this standby archives once it is promoted")
        }
        mode => Check::ok(name, format!("archive_mode is {mode}")),
    }
}

fn wal_level() -> Check {
    match server::setting(c"wal_level").as_str() {
        "minimal" => Check::failed(
            "wal_level",
            "wal_level is minimal: no backup can be restored with its WAL",
            "Set wal_level = replica and restart the server.",
        ),
        level => Check::ok("wal_level", format!("wal_level is {level}")),
    }
}

fn archive_library() -> Check {
    let name = "archive_library";
    if server::is_archive_library() {
        return Check::ok(name, "archive_library is walarchive");
    }
    let library = server::setting(c"archive_library");
    Check::failed(
        name,
        match library.is_empty() {
            true => "archive_library is not set: archive_command archives, not walarchive".to_owned(),
            false => format!("archive_library is \"{library}\", not walarchive"),
        },
        "Set archive_library = 'walarchive' and reload the configuration; from PostgreSQL 16 on archive_command must be empty.",
    )
}

fn uploader() -> Check {
    let name = "uploader";
    if shmem::require_preloaded().is_err() {
        return Check::failed(
            name,
            "the uploader is not running",
            "It starts with the server when walarchive is in shared_preload_libraries.",
        );
    }
    let pid = ARCHIVING.share().uploader_pid;
    match pid {
        0 => Check::warning(
            name,
            "the uploader is not running, so the archiver uploads one file at a time by itself",
            "The server starts it again within a few seconds; if not, see the server's log, and max_worker_processes.",
        ),
        pid if moves(pid) => Check::ok(name, format!("the uploader runs with process ID {pid}")),
        pid => Check::failed(
            name,
            format!(
                "the walarchive uploader (process ID {pid}) does not respond, so the archiver uploads one file at a time by itself"
            ),
            "The store is not the reason. Look at the state of that process; if it was stopped (SIGSTOP), let it go on (SIGCONT).",
        ),
    }
}

/// Does the uploader look around when it is woken? One that has just started or ended counts as if it did.
fn moves(pid: i32) -> bool {
    let (beats, uploader) = {
        let archiving = ARCHIVING.share();
        (archiving.uploader_beats, archiving.uploader)
    };
    let until = Instant::now() + REACTION;
    uploader.set();
    while Instant::now() < until {
        {
            let archiving = ARCHIVING.share();
            if archiving.uploader_beats != beats || archiving.uploader_pid != pid {
                return true;
            }
        }
        latch::wait(None, Some(LOOK_AGAIN));
        process::check_for_interrupts();
    }
    false
}

/// How long ago an event was, in words.
fn ago(us: i64) -> String {
    match shmem::now_us().saturating_sub(us) / 1_000_000 {
        seconds @ ..120 => format!("{} s ago", seconds.max(0)),
        seconds @ ..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

/// Which files wait, how long, and why.
fn archiver() -> Check {
    let name = "archiver";
    if shmem::require_preloaded().is_err() || server::archive_mode() == "off" || !server::is_archive_library() {
        return Check::failed(
            name,
            "nothing is archived by walarchive",
            "See the rows \"preload\", \"archive_mode\" and \"archive_library\".",
        );
    }
    let waiting = match waiting(&server::data_directory().join(PG_WAL)) {
        Ok(waiting) => waiting,
        Err(error) => return Check::of_error(name, &error),
    };
    let counters = ARCHIVING.share().counters;
    let last = match counters.last_archived.to_option() {
        Some(file) => format!(
            "the last file, \"{file}\", was archived {}",
            ago(counters.last_archived_us)
        ),
        None => "no file has been archived since the server started".to_owned(),
    };
    if waiting.files == 0 {
        return Check::ok(name, format!("nothing waits; {last}"));
    }
    let (files, verb) = if waiting.files == 1 {
        ("file", "waits")
    } else {
        ("files", "wait")
    };
    let queue = format!(
        "{} {files} {verb}, the oldest was ready {}; {last}",
        waiting.files,
        ago(waiting.oldest_us)
    );
    // The uploader counts failures, and the archiver counts successes, so the later one decides.
    let fails = counters.last_error_us > counters.last_archived_us;
    let age = Duration::from_micros(u64::try_from(shmem::now_us().saturating_sub(waiting.oldest_us)).unwrap_or(0));
    match counters.last_error.to_option().filter(|_| fails) {
        Some(error) => Check::failed(
            name,
            format!("{queue}; the last error, {}: {error}", ago(counters.last_error_us)),
            "WAL stays in pg_wal until it is archived, and fills the disk. See the server's log for DETAIL and HINT of the error.",
        ),
        None if age > OLD => Check::warning(
            name,
            queue,
            "Uploads succeed, but the server writes WAL faster than they do. See bytes_per_second and drained_in in walarchive_status.",
        ),
        None => Check::ok(name, queue),
    }
}

/// Is the tail stored, can a backup be restored to it, and is `archive_timeout` of use beside it?
fn tail() -> Option<Check> {
    let name = "tail";
    shmem::require_preloaded().ok()?;
    let now = ARCHIVING.share().tail;
    if let Some(before) = now.gap.to_option() {
        let detail = format!("the archive lacks \"{before}\", which comes before the WAL that is stored now");
        let hint = "No backup of before can be restored to it. Take a base backup.";
        // Commits wait for what cannot be restored.
        return Some(match guc::synchronous() {
            true => Check::failed(name, detail, hint),
            false => Check::warning(name, detail, hint),
        });
    }
    let interval = guc::tail_interval()?;
    if let Some(error) = now.error.to_option() {
        return Some(Check::failed(
            name,
            format!(
                "new WAL of the present segment cannot be stored, {}: {error}",
                ago(now.error_us)
            ),
            "It stays in pg_wal, and is stored with its segment. See the server's log for DETAIL and HINT of the error.",
        ));
    }
    let stored = format!("new WAL is stored every {} ms", interval.as_millis());
    match server::setting(c"archive_timeout").as_str() {
        "0" => Some(Check::ok(name, stored)),
        timeout => Some(Check::warning(
            name,
            format!("{stored}, and archive_timeout is {timeout} s"),
            "archive_timeout may be 0: it only adds segments that are not full. Set it to 0, and reload.",
        )),
    }
}

fn store(settings: ArchiveSettings) -> Vec<Check> {
    let identity = server::identity();
    let archive = bridge::archive(&settings).ok();
    let timeline = server::wal_position().0;
    let is_synchronous = guc::synchronous() && !server::in_recovery();
    let work = async move {
        match Store::open(&settings.storage) {
            Ok(store) => {
                let mut checks = check::check_store(&store, Some(&identity)).await;
                if is_synchronous {
                    let restorable = check::check_synchronous(&store, &checks).await;
                    checks.extend(restorable);
                }
                // If the store itself fails, the other checks tell nothing.
                if checks.iter().any(|check| check.name == "newest backup") {
                    let writer = archive.as_ref().and_then(|archive| archive.writer());
                    checks.extend(check::check_lease(&store, writer.map(|writer| &**writer), Some(timeline)).await);
                }
                checks
            }
            Err(error) => vec![Check::of_error("store", &error.into())],
        }
    };
    let checked = bridge::run(work, Some(LOOK), || {
        process::check_for_interrupts();
        Flow::Wait
    });
    or_raise(checked.ok_or(Error::Cancelled))
}
