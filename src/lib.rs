//! walarchive: continuous archiving inside the PostgreSQL server.
//!
//! The path of a WAL segment: the archiver calls [`archive`], which asks the queue in [`shmem`]. The uploader in [`worker`] has
//! uploaded the segment already, or does so now, with `walarchive_core::archive`. Then the archiver wakes and returns true. The
//! path of a backup: a function in [`api`], or the scheduler in [`worker`], starts a backup worker, which copies the files with
//! `walarchive_core::backup`.

mod api;
mod archive;
mod bridge;
mod error;
mod guc;
mod launch;
mod pg;
mod shmem;
mod worker;

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::shmem::{ARCHIVING, Archiving, BACKUP, BackupJob, SCHEDULING, Scheduling};

pgrx::pg_module_magic!();

/// PostgreSQL calls this when it loads the library: in the postmaster if it is preloaded, otherwise in the process that needs it.
#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    pg::process::disable_backtraces();
    guc::define();
    if pg::server::preloading() {
        pg_shmem_init!(ARCHIVING = Archiving::EMPTY);
        pg_shmem_init!(BACKUP = BackupJob::NONE);
        pg_shmem_init!(SCHEDULING = Scheduling::EMPTY);
        shmem::set_preloaded();
        worker::register();
        error::warn_of_wal_g();
    }
}
