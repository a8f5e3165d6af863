//! This process: its signals, its interrupts, its end.

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;

/// Was an orderly end requested by SIGTERM?
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag that signal handlers of this thread set; volatile as such a flag must be read.
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

/// Has the configuration changed since this process read it?
pub fn reload_pending() -> bool {
    // SAFETY: as above.
    unsafe { (&raw const pg_sys::ConfigReloadPending).read_volatile() != 0 }
}

/// Has the statement been cancelled (by the user or by a timeout)?
pub fn cancel_pending() -> bool {
    // SAFETY: as above.
    unsafe { (&raw const pg_sys::QueryCancelPending).read_volatile() != 0 }
}

/// Is the backend, or the worker with a database connection, told to end?
pub fn die_pending() -> bool {
    // SAFETY: as above.
    unsafe { (&raw const pg_sys::ProcDiePending).read_volatile() != 0 }
}

/// PostgreSQL's CHECK_FOR_INTERRUPTS: handles barriers and cancellations. Raises an ERROR where one is due.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Signal handlers of a worker without a database connection: SIGHUP and SIGTERM set flags and the latch.
pub fn handle_worker_signals() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
}

/// Signal handlers of a worker that runs SQL: SIGTERM ends it at the next interrupt check, as it ends a backend.
pub fn handle_backend_signals() {
    unsafe extern "C-unwind" fn terminate(signal: i32) {
        // SAFETY: PostgreSQL's own handler for this signal, which only sets flags and the latch.
        unsafe { pg_sys::die(signal) };
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    // SAFETY: the process is a background worker's main thread, where handlers are to be set.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(terminate));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(terminate));
    }
}

/// Did SIGHUP come since the last call?
pub fn reload_requested() -> bool {
    BackgroundWorker::sighup_received()
}

/// Read the configuration files again.
pub fn reload_configuration() {
    // SAFETY: called from the main loop of a background worker, where PostgreSQL asks for it to be called.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}

/// Connect this background worker to a database, as the bootstrap superuser; to `postgres` if its OID is the invalid one.
pub fn connect_to_database(database: pg_sys::Oid) {
    match database {
        pg_sys::Oid::INVALID => BackgroundWorker::connect_worker_to_spi(Some("postgres"), None),
        database => BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None),
    }
}

/// After a caught ERROR: leave the transaction that it interrupted, if there is one, and release its locks.
pub fn abort_transaction() {
    // SAFETY: what PostgreSQL's own main loops do after an ERROR; this worker has a database connection.
    unsafe { pg_sys::AbortCurrentTransaction() };
}

/// The database of this backend.
pub fn my_database() -> pg_sys::Oid {
    // SAFETY: set once when the backend starts.
    unsafe { pg_sys::MyDatabaseId }
}

/// The process ID.
pub fn my_pid() -> i32 {
    // SAFETY: set once when the process starts.
    unsafe { pg_sys::MyProcPid }
}

/// Have `callback` run when this process leaves shared memory, however it ends (but for SIGKILL).
pub fn at_exit(callback: unsafe extern "C-unwind" fn(i32, pg_sys::Datum)) {
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(callback), pg_sys::Datum::from(0)) };
}

/// End this background worker so that the postmaster starts it again.
pub fn exit_for_restart() -> ! {
    // SAFETY: the orderly end of a process, from its main thread.
    unsafe { pg_sys::proc_exit(1) };
    #[allow(unreachable_code, reason = "18 declares proc_exit as a function that returns")]
    {
        unreachable!("proc_exit does not return")
    }
}
