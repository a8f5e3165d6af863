//! The background workers: the uploader, which uploads WAL, and the scheduler, for as long as the server runs, and the one of a
//! backup.

mod ahead;
mod backup;
mod job;
mod lease;
mod repository;
mod retention;
mod scheduler;
mod session;
mod upload;

use std::ffi::c_int;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use crate::pg::latch::Latch;
use crate::pg::{Datum, process};
use crate::shmem::{ARCHIVING, SCHEDULING, now_us};

/// After the worker died, PostgreSQL waits this long before it starts it again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Ask the postmaster for the uploader and the scheduler. The first runs from the server's start on, so on a standby too;
/// the other one as soon as there can be a backup, which on a standby is when it can be read from.
pub fn register() {
    BackgroundWorkerBuilder::new("walarchive uploader")
        .set_type("walarchive uploader")
        .set_library("walarchive")
        .set_function("walarchive_worker_main")
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(RESTART_AFTER))
        .enable_shmem_access(None)
        .load();
    BackgroundWorkerBuilder::new("walarchive scheduler")
        .set_type("walarchive scheduler")
        .set_library("walarchive")
        .set_function("walarchive_scheduler_main")
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(Some(RESTART_AFTER))
        .enable_shmem_access(None)
        .load();
}

/// Entry point of the scheduler.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_scheduler_main(_argument: Datum) {
    process::handle_worker_signals();
    process::at_exit(forget_scheduler);
    SCHEDULING.exclusive().scheduler = Latch::mine();
    scheduler::Scheduler::new().run();
    process::exit_for_restart();
}

/// Nobody plans anything any more.
#[pg_guard]
unsafe extern "C-unwind" fn forget_scheduler(_code: c_int, _argument: Datum) {
    let mut scheduling = SCHEDULING.exclusive();
    scheduling.scheduler = Latch::NONE;
    scheduling.next_us = 0;
}

/// Entry point of the uploader.
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
        archiving.stopping_us = 0;
        archiving.beat();
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
        archiving.worker_stuck = false;
        archiving.bytes_per_second = 0;
        archiving.behind = false;
        if process::shutdown_requested() {
            archiving.stopping_us = now_us();
        }
        archiving.queue.abandon_uploads();
        archiving.archiver
    };
    archiver.set();
}
