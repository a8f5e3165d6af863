//! The background workers: the one that uploads WAL for as long as the server runs, and the one of a backup.

mod ahead;
mod backup;
mod session;
mod upload;

use std::ffi::c_int;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use crate::pg::latch::Latch;
use crate::pg::{Datum, process};
use crate::shmem::{ARCHIVING, now_us};

/// After the worker died, PostgreSQL waits this long before it starts it again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Ask the postmaster for the upload worker. It runs from the server's start on, so on a standby too.
pub fn register() {
    BackgroundWorkerBuilder::new("walarchive worker")
        .set_type("walarchive worker")
        .set_library("walarchive")
        .set_function("walarchive_worker_main")
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(RESTART_AFTER))
        .enable_shmem_access(None)
        .load();
}

/// Entry point of the upload worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_worker_main(_argument: Datum) {
    process::handle_worker_signals();
    process::at_exit(forget_worker);
    {
        let mut archiving = ARCHIVING.exclusive();
        archiving.queue.abandon_uploads();
        archiving.worker_pid = process::my_pid();
        archiving.worker = Latch::mine();
        archiving.worker_started_us = now_us();
    }
    upload::Uploader::new().run();
    // An exit code of 0 would tell the postmaster never to start it again.
    process::exit_for_restart();
}

/// From here on the archiver uploads by itself.
#[pg_guard]
unsafe extern "C-unwind" fn forget_worker(_code: c_int, _argument: Datum) {
    let archiver = {
        let mut archiving = ARCHIVING.exclusive();
        archiving.worker_pid = 0;
        archiving.worker = Latch::NONE;
        archiving.queue.abandon_uploads();
        archiving.archiver
    };
    archiver.set();
}
