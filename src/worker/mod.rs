//! The background workers. The uploader, which uploads WAL, and the scheduler run as long as the server, the prefetcher as long as
//! the server recovers. A backup has a worker of its own.

mod ahead;
mod backfill;
mod backup;
mod drills;
mod held;
mod job;
mod keep;
mod keys;
mod lag;
mod lease;
mod names;
mod points;
mod prefetch;
mod repository;
mod retention;
mod scheduler;
mod session;
mod synchronous;
mod tail;
mod upload;

use std::ffi::c_int;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use walarchive_core::archive::prefetch::Spool;
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::recovery_state::is_in_recovery;

use crate::pg::latch::Latch;
use crate::pg::{Datum, memory, process, server};
use crate::shmem::{ARCHIVING, SCHEDULING, Synchronous, Tail, now_us};

/// PostgreSQL waits this long before it starts a worker again that has died.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Ask the postmaster for the workers that need no request. The uploader runs from the server's start on, also on a standby. The
/// scheduler starts when a backup can be taken; on a standby that is when it accepts connections.
pub fn register() {
    BackgroundWorkerBuilder::new("walarchive uploader")
        .set_type("walarchive uploader")
        .set_library("walarchive")
        .set_function("walarchive_uploader_main")
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
    // Other servers have a worker more for other work, unless one that was killed has left something behind.
    let data_dir = server::data_directory();
    if is_in_recovery(&data_dir) || Spool::is_in(&data_dir.join(PG_WAL)) {
        register_prefetcher();
    }
}

/// Ask the postmaster for the prefetcher, which runs as long as the server recovers.
fn register_prefetcher() {
    BackgroundWorkerBuilder::new("walarchive prefetcher")
        .set_type("walarchive prefetcher")
        .set_library("walarchive")
        .set_function("walarchive_prefetcher_main")
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(RESTART_AFTER))
        .enable_shmem_access(None)
        .load();
}

/// Entry point of the prefetcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_prefetcher_main(_argument: Datum) {
    process::handle_worker_signals();
    match prefetch::Worker::new().run() {
        // With the exit code of 0 that follows, the postmaster forgets the worker.
        prefetch::End::Promoted => {}
        prefetch::End::Told => process::exit_for_restart(),
    }
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

/// The scheduler is gone: no backup is planned any more.
#[pg_guard]
unsafe extern "C-unwind" fn forget_scheduler(_code: c_int, _argument: Datum) {
    let mut scheduling = SCHEDULING.exclusive();
    scheduling.scheduler = Latch::NONE;
    scheduling.next_us = 0;
    scheduling.next_drill_us = 0;
    scheduling.drill_wanted = false;
    scheduling.drill_running = false;
}

/// Entry point of the uploader.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn walarchive_uploader_main(_argument: Datum) {
    process::handle_worker_signals();
    // It has no threads yet.
    memory::keep_little();
    process::at_exit(forget_uploader);
    {
        let mut archiving = ARCHIVING.exclusive();
        archiving.queue.abandon_uploads();
        archiving.uploader_pid = process::my_pid();
        archiving.uploader = Latch::mine();
        archiving.uploader_started_us = now_us();
        archiving.stopping_us = 0;
        archiving.tail = Tail::NONE;
        archiving.beat();
    }
    upload::Uploader::new().run();
    // An exit code of 0 would tell the postmaster never to start it again.
    process::exit_for_restart();
}

/// The uploader is gone: from here on the archiver uploads by itself.
#[pg_guard]
unsafe extern "C-unwind" fn forget_uploader(_code: c_int, _argument: Datum) {
    let archiver = {
        let mut archiving = ARCHIVING.exclusive();
        archiving.uploader_pid = 0;
        archiving.uploader = Latch::NONE;
        archiving.uploader_stuck = false;
        archiving.bytes_per_second = 0;
        archiving.behind = false;
        archiving.synchronous = Synchronous::OFF;
        if process::shutdown_requested() {
            archiving.stopping_us = now_us();
        }
        archiving.queue.abandon_uploads();
        archiving.archiver
    };
    archiver.set();
}
