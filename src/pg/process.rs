//! This process: its signals, its interrupts, its end.

use std::ffi::CStr;

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;

use super::Oid;

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

/// The work that was to be cancelled has ended: the cancellation comes too late, like one that arrives after a statement.
pub fn forget_cancel() {
    // SAFETY: as above; the flag is set by signal handlers of this thread, and cleared by whoever has served it.
    unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) };
}

/// Is the backend, or the worker with a database connection, told to end?
pub fn die_pending() -> bool {
    // SAFETY: as above.
    unsafe { (&raw const pg_sys::ProcDiePending).read_volatile() != 0 }
}

/// Is this process to end, or to give up what it does?
pub fn interrupt_pending() -> bool {
    cancel_pending() || die_pending() || shutdown_requested()
}

/// PostgreSQL's CHECK_FOR_INTERRUPTS: handles barriers and cancellations. It may raise an ERROR.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Run work during which no cancellation and no termination is served. It must be short. An ERROR in it ends that.
pub fn hold_interrupts<T>(work: impl FnOnce() -> T) -> T {
    let count = &raw mut pg_sys::InterruptHoldoffCount;
    // SAFETY: a counter of this thread, as HOLD_INTERRUPTS and RESUME_INTERRUPTS count; an ERROR sets it to 0.
    unsafe { *count += 1 };
    let done = work();
    // SAFETY: likewise.
    unsafe { *count = (*count).saturating_sub(1) };
    done
}

/// Signal handlers of a worker without a database connection: SIGHUP and SIGTERM set flags and the latch.
pub fn handle_worker_signals() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
}

/// Signal handlers of a worker with a connection: SIGTERM ends it at the next interrupt check, as it ends a backend.
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

/// Connect this background worker to the server as the bootstrap superuser, but to no database: it sees the shared catalogs,
/// and no setting that was made for a database or a role.
pub fn connect_without_database() {
    BackgroundWorker::connect_worker_to_spi(None, None);
    // This process runs no SQL. If a function of the server looks up a name in spite of that, it finds no objects of users.
    set(c"search_path", c"pg_catalog, pg_temp");
    // A backup waits for its checkpoint without a limit, but for a lock on the catalog only so long.
    set(c"lock_timeout", c"60s");
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    set(c"transaction_timeout", c"0");
}

/// Connect this background worker to the database with this OID as the bootstrap superuser, whether it allows connections or not.
/// What the database's owner has set for it changes nothing of what a scan of catalogs does. It runs no SQL, and no library or
/// trigger that a session would begin with.
pub fn connect_to_database(oid: u32) {
    let flags = pg_sys::BGWORKER_BYPASS_ALLOWCONN;
    // SAFETY: a background worker's main thread, before it has a connection. An ERROR ends the process.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(Oid::from(oid), Oid::INVALID, flags) };
    set(c"search_path", c"pg_catalog, pg_temp");
    set(c"lock_timeout", c"60s");
    // Else the start of a transaction could wait for others.
    set(c"default_transaction_isolation", c"read committed");
    set(c"default_transaction_deferrable", c"off");
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    set(c"transaction_timeout", c"0");
}

/// Change a setting for the rest of this process.
fn set(name: &CStr, value: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
    // SAFETY: C strings that live for ever; the settings exist in this version.
    unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source) };
}

/// Run work in a transaction of this background worker, which takes no snapshot by itself. An ERROR leaves it open: see
/// [`abort_transaction`].
pub fn transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the main thread of a worker with a connection, which is in no transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
    let done = work();
    // SAFETY: likewise; the transaction is the one that was started above.
    unsafe { pg_sys::CommitTransactionCommand() };
    done
}

/// After a caught ERROR: abort the transaction that it interrupted, if there is one, and release its locks.
pub fn abort_transaction() {
    // SAFETY: what PostgreSQL's own main loops do after an ERROR; this worker has a database connection.
    unsafe { pg_sys::AbortCurrentTransaction() };
}

/// The process ID.
pub fn my_pid() -> i32 {
    // SAFETY: set once when the process starts.
    unsafe { pg_sys::MyProcPid }
}

/// Run `callback` when this process leaves shared memory, however it ends, except by SIGKILL.
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

/// pgrx adds a backtrace to the DETAIL of an ERROR, for client and log, if `RUST_BACKTRACE` is set, which may be meant for other
/// programs. Rust asks for that once per process, and child processes inherit the answer. Call this before there are threads.
pub fn disable_backtraces() {
    const NAME: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(NAME);
    // SAFETY: the process has one thread, and the variable is as it was when this returns.
    unsafe {
        std::env::set_var(NAME, "0");
        // Rust remembers the answer.
        drop(std::backtrace::Backtrace::capture());
        match before {
            Some(value) => std::env::set_var(NAME, value),
            None => std::env::remove_var(NAME),
        }
    }
}

/// Is this the archiver or a worker, and not the session of a client?
pub fn is_in_background() -> bool {
    use pg_sys::BackendType::{B_ARCHIVER, B_BG_WORKER};
    // SAFETY: set once when the process starts.
    let kind = unsafe { pg_sys::MyBackendType };
    kind == B_ARCHIVER || kind == B_BG_WORKER
}
