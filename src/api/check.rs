//! `walarchive_check`.

use pgrx::prelude::*;
use walarchive_core::Error;
use walarchive_core::check::{self, Check};
use walarchive_core::storage::Store;

use super::LOOK;
use crate::bridge::{self, Flow};
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::text::SqlText;
use crate::pg::{process, server};
use crate::shmem::{self, ARCHIVING};

/// Is everything there that archiving needs? One row for each thing that was looked at: first the server, then the store.
/// What is written into the store is removed again.
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
    let mut checks = vec![preload(), archive_mode(), wal_level(), archive_library(), worker()];
    match ArchiveSettings::current() {
        Ok(settings) => {
            checks.push(Check::ok(
                "settings",
                format!("storage is \"{}\"", settings.storage.url),
            ));
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
            "wal_level is minimal: its WAL restores no backup",
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

fn worker() -> Check {
    let name = "worker";
    if shmem::require_preloaded().is_err() {
        return Check::failed(
            name,
            "there is no worker",
            "It starts with the server once walarchive is preloaded.",
        );
    }
    let pid = ARCHIVING.share().worker_pid;
    match pid {
        0 => Check::warning(
            name,
            "the worker is not running: the archiver uploads by itself, one file at a time",
            "The server starts it again within a few seconds; if not, see the server's log, and max_worker_processes.",
        ),
        pid => Check::ok(name, format!("the worker runs with process ID {pid}")),
    }
}

fn store(settings: ArchiveSettings) -> Vec<Check> {
    let identity = server::identity();
    let archive = bridge::archive(&settings).ok();
    let timeline = server::wal_position().0;
    let work = async move {
        match Store::open(&settings.storage) {
            Ok(store) => {
                let mut checks = check::check_store(&store, Some(&identity)).await;
                // Where the store itself fails there is nothing more to be learned.
                if checks.iter().any(|check| check.name == "newest backup") {
                    let writer = archive.as_ref().and_then(|archive| archive.writer());
                    checks.extend(check::check_lease(&store, writer.map(|writer| &**writer), Some(timeline)).await);
                }
                checks
            }
            Err(error) => vec![Check::of_error("store", &error)],
        }
    };
    let checked = bridge::run(work, Some(LOOK), || {
        process::check_for_interrupts();
        Flow::Wait
    });
    or_raise(checked.ok_or(Error::Cancelled))
}
