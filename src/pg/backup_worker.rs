//! Starting the worker of a backup.

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::pg_sys;
use walarchive_core::Error;

use super::process;
use crate::shmem::{self, Failure};

/// Where the worker runs its SQL, which needs no particular database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// The one of this session.
    Mine,
    /// `postgres`, which every cluster has unless somebody dropped it.
    Postgres,
    /// `template1`, which every cluster has. While somebody is connected to it, no database can be created from it.
    Template1,
}

impl Database {
    /// As the worker's argument: an OID, or none for `postgres`, whose OID is not the same everywhere.
    fn argument(self) -> pg_sys::Datum {
        let oid = match self {
            Database::Mine => process::my_database(),
            Database::Postgres => pg_sys::Oid::INVALID,
            Database::Template1 => pg_sys::Oid::from(1),
        };
        pg_sys::Datum::from(u32::from(oid))
    }
}

/// Start the worker of the backup that was reserved under this number. If there is none to be had, the backup has failed.
pub fn launch(number: u64, database: Database) -> Result<DynamicBackgroundWorker, Error> {
    let loaded = BackgroundWorkerBuilder::new("walarchive backup")
        .set_type("walarchive backup")
        .set_library("walarchive")
        .set_function("walarchive_backup_main")
        .enable_spi_access()
        // On a standby, too.
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(None)
        .set_notify_pid(process::my_pid())
        .set_extra(&number.to_string())
        .set_argument(Some(database.argument()))
        .load_dynamic();
    loaded.map_err(|_| {
        let error = Error::config(
            "no background worker is free for the backup",
            "Raise max_worker_processes.",
        );
        shmem::conclude(number, Err(&Failure::from(&error)));
        error
    })
}

/// The worker ended before it had said anything: the backup has failed.
pub fn never_started(number: u64) {
    let error = Error::config("the backup worker did not start", "The server's log says why.");
    shmem::conclude(number, Err(&Failure::from(&error)));
}
