//! The names of the relations of each database, so that a restore can be told tables by name. A process cannot change its
//! database, so each database has a short worker of its own. None of the names is needed for the backup, so nothing of this fails
//! it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::prelude::*;
use walarchive_core::backup::{Database, DatabaseNames, RelationNames};
use walarchive_core::formats::files_metadata::Rank;
use walarchive_core::{Error, Result};

use super::job::{interrupted, is_cancelled};
use crate::error::{self, Severity};
use crate::launch;
use crate::pg::{Datum, latch, process, relations, server};
use crate::shmem::{BACKUP, Failure};

/// How long one database may take, and all together: the copying has not begun yet.
const DEADLINE: Duration = Duration::from_secs(30);
const DEADLINE_OF_ALL: Duration = Duration::from_secs(120);

/// A worker's end also sets the latch.
const LOOK: Duration = Duration::from_millis(50);

/// More than the names of any database take, in bytes, compressed.
const LIMIT: u64 = 256 << 20;

/// The server removes files of this name when it starts, and no backup has them.
const PREFIX: &str = "base/pgsql_tmp/pgsql_tmp.walarchive";

/// The names of the relations of all databases, of those of them that can be asked.
pub(super) fn collect(databases: &[Database]) -> Result<RelationNames> {
    let mut names = RelationNames::default();
    let mut refused = Vec::new();
    let (began, mut patience) = (Instant::now(), launch::PATIENCE);
    let mut databases: Vec<&Database> = databases.iter().collect();
    databases.sort_by_key(|database| database.oid);
    for database in databases {
        let Ok(name) = std::str::from_utf8(&database.name) else {
            continue;
        };
        if !database.is_valid {
            continue;
        }
        interrupted()?;
        let spool = Spool::of(process::my_pid(), database.oid);
        let _remove = Remove(&spool);
        let asked = match began.elapsed() < DEADLINE_OF_ALL {
            true => ask(database.oid, &mut patience).and_then(|()| names.add_bytes(database.oid, spool.read()?)),
            false => Err(Error::timeout("list the relations of", name, DEADLINE_OF_ALL)),
        };
        match asked {
            Ok(()) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => refused.push((name, error)),
        }
    }
    if let Some(notice) = error::unnamed(&refused) {
        error::log_line(Severity::Log, notice.message.as_str());
        BACKUP.exclusive().unnamed = notice;
    }
    Ok(names)
}

/// Have a worker list the relations of a database, and wait for its end.
fn ask(oid: u32, patience: &mut Duration) -> Result<()> {
    let worker = Running(Some(start(oid, patience)?));
    let began = Instant::now();
    while worker.is_running() {
        interrupted()?;
        if began.elapsed() > DEADLINE {
            return Err(Error::timeout(
                "list the relations of",
                format!("database {oid}"),
                DEADLINE,
            ));
        }
        latch::wait(None, Some(LOOK));
    }
    Ok(())
}

/// A worker, which is told to end if nobody waits for it any more.
struct Running(Option<DynamicBackgroundWorker>);

impl Running {
    fn is_running(&self) -> bool {
        let status = self.0.as_ref().map(DynamicBackgroundWorker::pid);
        matches!(status, Some(Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running()
            && let Some(worker) = self.0.take()
        {
            worker.terminate();
        }
    }
}

fn start(oid: u32, patience: &mut Duration) -> Result<DynamicBackgroundWorker> {
    let extra = format!("{} {} {oid}", BACKUP.share().number, process::my_pid());
    let worker = || {
        BackgroundWorkerBuilder::new("walarchive names")
            .set_type("walarchive names")
            .set_library("walarchive")
            .set_function("walarchive_names_main")
            // For a process with a database. There is no SQL.
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::ConsistentState)
            .set_restart_time(None)
            .set_notify_pid(process::my_pid())
            .set_extra(&extra)
    };
    launch::start(worker, patience, is_cancelled)
}

/// Entry point of the worker of one database. Its extra text is the number of the backup, the process of its worker, and the OID
/// of the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_names_main(_argument: Datum) {
    process::handle_backend_signals();
    let extra = BackgroundWorker::get_extra().to_owned();
    let mut numbers = extra.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(std::result::Result::ok);
    let (Some(number), Some(pid), Some(oid)) = (next(), next(), next()) else {
        return;
    };
    let (Ok(pid), Ok(oid)) = (i32::try_from(pid), u32::try_from(oid)) else {
        return;
    };
    process::connect_to_database(oid);
    let listed = list().and_then(|names| {
        interrupted()?;
        // Nobody would remove the file of a backup that is no more.
        let (is_running, current) = {
            let job = BACKUP.share();
            (job.phase.is_running(), job.number)
        };
        match is_running && current == number {
            true => Spool::of(pid, oid).write(&names),
            false => Ok(()),
        }
    });
    if let Err(error) = listed {
        error::warn("could not list the relations of a database", &Failure::from(&error));
    }
}

/// Of the database of this process, compressed.
fn list() -> Result<Vec<u8>> {
    let mut names = DatabaseNames::default();
    relations::each(|relation| {
        let rank = match relation.is_part {
            true => Rank::Part,
            false => Rank::Top,
        };
        names.push(
            &relation.schema,
            &relation.name,
            relation.oid,
            relation.relfilenode,
            rank,
        )
    })?;
    names.into_bytes()
}

/// The file by which a worker gives the names to the backup. Only the server's user can reach it.
struct Spool(PathBuf);

impl Spool {
    fn of(backup_pid: i32, oid: u32) -> Self {
        Spool(server::data_directory().join(format!("{PREFIX}.{backup_pid}.{oid}")))
    }

    fn write(&self, names: &[u8]) -> Result<()> {
        let written = || {
            make_directory(self.0.parent().unwrap_or(Path::new("")))?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.0)?;
            file.write_all(names)
        };
        written().map_err(|error: io::Error| Error::io("write", &self.0, error))
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let read = fs::File::open(&self.0).and_then(|file| file.take(LIMIT).read_to_end(&mut names));
        match read {
            Ok(_) => Ok(names),
            // The worker has told the server's log why.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::server(
                "the worker ended without an answer",
                "See the server's log.",
            )),
            Err(error) => Err(Error::io("read", &self.0, error)),
        }
    }
}

/// Removes the file in the end, also after an ERROR.
struct Remove<'a>(&'a Spool);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        // It is not there if the worker did not get so far.
        let _ = fs::remove_file(&self.0.0);
    }
}

/// As the server makes it: with the permissions of the other directories.
fn make_directory(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory.parent().unwrap_or(directory))?.mode();
    match fs::DirBuilder::new().mode(mode & 0o777).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
