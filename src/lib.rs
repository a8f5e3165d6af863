//! walarchive: continuous archiving inside the PostgreSQL server.
//!
//! The way of a WAL segment: the archiver calls [`archive`], which asks the queue in [`shmem`]; the [`worker`] has
//! uploaded it already, or does so now, with `walarchive_core::archive`; the archiver wakes and answers true. The way of a
//! backup: a function in [`api`], or the scheduler in [`worker`], starts a backup worker, which copies with
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

use crate::shmem::{ARCHIVING, BACKUP, SCHEDULING};

pgrx::pg_module_magic!();

/// Called by PostgreSQL when it loads the library: in the postmaster when preloaded, else in the process that needs it.
#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    pg::process::disable_backtraces();
    guc::define();
    if pg::server::preloading() {
        pg_shmem_init!(ARCHIVING = shmem::initial_archiving());
        pg_shmem_init!(BACKUP = shmem::initial_backup());
        pg_shmem_init!(SCHEDULING = shmem::initial_scheduling());
        shmem::set_preloaded();
        worker::register();
        error::warn_of_wal_g();
    }
}
