//! The archive callbacks: a WAL file name in, true or false out. True is only ever answered after the store has acknowledged
//! the file.

use std::time::{Duration, Instant};

use walarchive_core::Error;
use walarchive_core::archive::Fingerprint;
use walarchive_core::wal::WalFileName;

use crate::bridge::{self, Flow};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::latch::{self, Latch};
use crate::pg::{CaughtError, process, server};
use crate::shmem::{self, ARCHIVING, Answer, Failure, FileName, Text, now_us};

/// A worker that died is noticed at the latest after this.
const LIVENESS: Duration = Duration::from_secs(1);

/// Can files be archived with the present settings? Says what is missing; the archiver repeats it about once a minute.
pub fn check_configured() -> Result<(), String> {
    let checked = shmem::require_preloaded()
        .and_then(|()| ArchiveSettings::for_writing())
        .map(|_| ());
    checked.map_err(|refused| {
        error::warn("WAL cannot be archived", &Failure::from(&refused));
        format!("{refused}.")
    })
}

/// The archiver has started with this library.
#[cfg(not(feature = "pg15"))]
pub fn startup() {}

/// The archiver ends, or changes to another library: it waits for nothing any more.
pub fn shutdown() {
    if shmem::require_preloaded().is_ok() {
        let mut archiving = ARCHIVING.exclusive();
        archiving.archiver = Latch::NONE;
    }
    bridge::drain();
}

/// Archive one file of `pg_wal`. Never raises; a failure is a WARNING and false, and the archiver will come again.
pub fn archive_file(file: &str) -> bool {
    let archived = archive(file);
    // Waiting in here may have used up a wake-up that was meant for the archiver's own loop. After a success the loop looks
    // again anyway. After a failure it shall take its pause, but for new settings and the end of the server, when no worker lives any more: a
    // lost wake-up would hold the shutdown up for a minute then.
    if archived.is_ok() || !worker_lives() || process::reload_pending() {
        Latch::mine().set();
    }
    match archived {
        Ok(()) => true,
        Err(failure) => {
            error::warn(&format!("could not archive \"{file}\""), &failure);
            false
        }
    }
}

fn worker_lives() -> bool {
    shmem::require_preloaded().is_ok() && ARCHIVING.share().worker_pid != 0
}

/// A panic or an ERROR came out of a callback: a defect of this library, which must not take the archiver along.
pub fn report_unexpected(caught: &CaughtError) {
    error::warn("unexpected failure in the archiver", &Failure::from(caught));
}

fn archive(file: &str) -> Result<(), Box<Failure>> {
    let noted = |refused: Error| {
        let failure = Box::new(Failure::from(&refused));
        ARCHIVING.exclusive().note_failure(&failure);
        failure
    };
    shmem::require_preloaded().map_err(|refused| Box::new(Failure::from(&refused)))?;
    let name: WalFileName = file.parse().map_err(noted)?;
    let settings = ArchiveSettings::for_writing().map_err(noted)?;
    let path = server::data_directory().join("pg_wal").join(file);
    let numbers = Fingerprint::of(&path).map_err(noted)?.to_numbers();
    let deadline = Instant::now() + guc::archive_timeout();
    match ask_worker(&Text::new(file), &settings, numbers, deadline)? {
        Asked::Done => {}
        Asked::NoWorker => upload_here(&name, &settings, deadline).map_err(noted)?,
    }
    let mut archiving = ARCHIVING.exclusive();
    archiving.counters.archived += 1;
    archiving.counters.last_archived = Text::new(file);
    archiving.counters.last_archived_us = now_us();
    Ok(())
}

enum Asked {
    Done,
    NoWorker,
}

/// Hand the file to the worker and wait until it is done. Failures have been counted by the worker, but for those of this
/// function itself.
fn ask_worker(
    file: &FileName,
    settings: &ArchiveSettings,
    numbers: shmem::FileNumbers,
    deadline: Instant,
) -> Result<Asked, Box<Failure>> {
    let generation = settings.generation();
    loop {
        let (answer, worker) = {
            let mut archiving = ARCHIVING.exclusive();
            archiving.archiver = Latch::mine();
            let answer = archiving.queue.ask(file, generation, numbers);
            // While the settings change, the worker may have the new ones already: what it uploads is not what is asked for.
            let alone = archiving.worker_pid == 0 || process::reload_pending();
            if alone && matches!(answer, Answer::Wait) {
                archiving.queue.withdraw(file);
                return Ok(Asked::NoWorker);
            }
            (answer, archiving.worker)
        };
        match answer {
            Answer::Done => return Ok(Asked::Done),
            Answer::Failed(failure) => return Err(Box::new(failure)),
            Answer::Wait => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || process::shutdown_requested() {
            let refused = if left.is_zero() {
                Error::Timeout {
                    operation: "archive",
                    object: file.as_str().to_owned(),
                    deadline: guc::archive_timeout(),
                }
            } else {
                Error::Cancelled
            };
            let failure = Box::new(Failure::from(&refused));
            let mut archiving = ARCHIVING.exclusive();
            archiving.queue.withdraw(file);
            archiving.note_failure(&failure);
            return Err(failure);
        }
        worker.set();
        latch::wait(None, Some(left.min(LIVENESS)));
        process::check_for_interrupts();
    }
}

/// Upload within the archiver itself: at shutdown, when PostgreSQL has ended the worker before the last segments are
/// archived, and in the moment after a crash.
fn upload_here(name: &WalFileName, settings: &ArchiveSettings, deadline: Instant) -> Result<(), Error> {
    let archive = bridge::archive(settings)?;
    let directory = server::data_directory().join("pg_wal");
    let (file, object) = (*name, archive.store().object_url(&name.to_string()));
    let within = guc::archive_timeout();
    let work = async move { tokio::time::timeout_at(deadline.into(), archive.push(&directory, &file)).await };
    let outcome = bridge::run(work, Some(LIVENESS), || {
        process::check_for_interrupts();
        if process::shutdown_requested() {
            Flow::Stop
        } else {
            Flow::Wait
        }
    });
    let pushed = match outcome {
        Some(Ok(result)) => result?,
        Some(Err(_elapsed)) => {
            return Err(Error::Timeout {
                operation: "write",
                object,
                deadline: within,
            });
        }
        None => return Err(Error::Cancelled),
    };
    let mut archiving = ARCHIVING.exclusive();
    archiving.counters.bytes_in += pushed.file_bytes;
    archiving.counters.bytes_out += if pushed.already_there { 0 } else { pushed.stored_bytes };
    Ok(())
}
