//! Starting the worker of a backup, and any other that the server starts when it is asked to.

use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker};
use walarchive_core::{Error, Result};

use crate::error;
use crate::pg::{latch, process};
use crate::shmem::{self, BACKUP, Failure};

/// How long to wait for a free worker. Queries in parallel use them too, and leave them soon.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How soon a worker is noticed that is free again.
const LOOK: Duration = Duration::from_millis(50);

/// Start the worker of the backup that was reserved under this number. If it cannot be started, the backup has failed.
pub fn launch(number: u64) -> Result<DynamicBackgroundWorker> {
    let worker = || {
        BackgroundWorkerBuilder::new("walarchive backup")
            .set_type("walarchive backup")
            .set_library("walarchive")
            .set_function("walarchive_backup_main")
            // For functions of the server that need a process with a connection. There is no SQL, and no database.
            .enable_spi_access()
            // On a standby, too.
            .set_start_time(BgWorkerStartTime::ConsistentState)
            .set_restart_time(None)
            .set_notify_pid(process::my_pid())
            .set_extra(&number.to_string())
    };
    let is_unwanted = || process::interrupt_pending() || BACKUP.share().cancelled;
    start(worker, &mut PATIENCE.clone(), is_unwanted).inspect_err(|error| {
        // The caller reports it to the client and the log.
        let _ = shmem::conclude(number, Err(&Failure::from(error)));
    })
}

/// Start a worker as soon as one is free. What is left of the patience is written back. None is started once it is unwanted.
pub fn start(
    worker: impl Fn() -> BackgroundWorkerBuilder,
    patience: &mut Duration,
    is_unwanted: impl Fn() -> bool,
) -> Result<DynamicBackgroundWorker> {
    loop {
        if is_unwanted() {
            return Err(Error::Cancelled);
        }
        if let Ok(started) = worker().load_dynamic() {
            return Ok(started);
        }
        if patience.is_zero() {
            return Err(Error::refused(
                "no background worker is free",
                "Raise max_worker_processes.",
            ));
        }
        let began = Instant::now();
        latch::wait(None, Some(LOOK));
        *patience = patience.saturating_sub(began.elapsed());
    }
}

/// The worker ended before it reported an outcome: the backup has failed.
pub fn never_started(number: u64) {
    let error = Error::server("the backup worker did not start", "See the server's log.");
    if let Some(failure) = shmem::conclude(number, Err(&Failure::from(&error))) {
        error::warn("backup failed", &failure);
    }
}
