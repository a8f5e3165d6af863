//! Starting the worker of a backup.

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker};
use walarchive_core::Error;

use crate::error;
use crate::pg::process;
use crate::shmem::{self, Failure};

/// Start the worker of the backup that was reserved under this number. If no worker is free, the backup has failed.
pub fn launch(number: u64) -> Result<DynamicBackgroundWorker, Error> {
    let loaded = BackgroundWorkerBuilder::new("walarchive backup")
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
        .load_dynamic();
    loaded.map_err(|_| {
        let error = Error::refused(
            "no background worker is free for the backup",
            "Raise max_worker_processes.",
        );
        // The caller reports it to the client and the log.
        let _ = shmem::conclude(number, Err(&Failure::from(&error)));
        error
    })
}

/// The worker ended before it reported an outcome: the backup has failed.
pub fn never_started(number: u64) {
    let error = Error::server("the backup worker did not start", "See the server's log.");
    if let Some(failure) = shmem::conclude(number, Err(&Failure::from(&error))) {
        error::warn("backup failed", &failure);
    }
}
