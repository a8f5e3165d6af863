//! Waiting, and waking others.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use pgrx::pg_sys;

/// The latch of a process, as a plain number for shared memory. Zero: none.
///
/// Latches of processes with a `PGPROC` live in shared memory, at the same address in every process and for as long as the
/// server runs. If its process has ended, the latch may belong to another process; to set it is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latch(usize);

impl Latch {
    /// No latch.
    pub const NONE: Latch = Latch(0);

    /// This process's own.
    pub fn mine() -> Self {
        // SAFETY: MyLatch is set once when the process starts and points to this process's PGPROC from then on.
        Latch(unsafe { pg_sys::MyLatch } as usize)
    }

    /// Wake the process that waits on it.
    pub fn set(self) {
        if self.0 != 0 {
            // SAFETY: the pointer was another process's MyLatch, which stays valid as said above.
            unsafe { pg_sys::SetLatch(self.0 as *mut pg_sys::Latch) };
        }
    }
}

/// The wait event in `pg_stat_activity` of a process that waits here: the kind of a background process, or whether a statement waits
/// for the store or for a backup.
#[cfg(any(feature = "pg17", feature = "pg18"))]
fn wait_event(for_store: bool) -> u32 {
    use std::cell::Cell;
    thread_local! {
        // The numbers that PostgreSQL gave the events. Index 1 is for waits for the store. Only the main thread uses this.
        static KNOWN: Cell<[u32; 2]> = const { Cell::new([0; 2]) };
    }
    let mut known = KNOWN.get();
    let slot = usize::from(for_store);
    if known[slot] == 0 {
        let name = match kind_of_process() {
            Kind::Archiver => c"WalarchiveUpload",
            Kind::Worker("walarchive uploader") => c"WalarchiveUploaderMain",
            Kind::Worker("walarchive scheduler") => c"WalarchiveSchedulerMain",
            Kind::Worker("walarchive prefetcher") => c"WalarchivePrefetcherMain",
            Kind::Worker("walarchive backup") => c"WalarchiveBackupMain",
            _ if for_store => c"WalarchiveStore",
            _ => c"WalarchiveBackup",
        };
        // SAFETY: a process that waits on its latch is attached to shared memory, where PostgreSQL keeps a copy of the name.
        known[slot] = unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) };
        KNOWN.set(known);
    }
    known[slot]
}

/// Before 17 an extension's wait events had no names.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn wait_event(_for_store: bool) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// The kind of this process.
#[cfg(any(feature = "pg17", feature = "pg18"))]
enum Kind {
    Archiver,
    /// A background worker of this type.
    Worker(&'static str),
    Backend,
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn kind_of_process() -> Kind {
    // SAFETY: set once when the process starts; the entry of a background worker lives as long as the process.
    unsafe {
        if pg_sys::MyBackendType == pg_sys::BackendType::B_ARCHIVER {
            return Kind::Archiver;
        }
        match pg_sys::MyBgworkerEntry.as_ref() {
            Some(entry) => Kind::Worker(
                std::ffi::CStr::from_ptr(entry.bgw_type.as_ptr())
                    .to_str()
                    .unwrap_or_default(),
            ),
            None => Kind::Backend,
        }
    }
}

/// Wait until this process's latch is set, `readable` has something to read, or the time is up. The latch is reset. Ends the
/// process when the postmaster is gone.
pub fn wait(readable: Option<BorrowedFd<'_>>, timeout: Option<Duration>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if readable.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    if timeout.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    let socket = readable.map_or(pg_sys::PGINVALID_SOCKET, |fd| fd.as_raw_fd());
    let timeout = timeout.map_or(-1, |timeout| {
        timeout.as_millis().clamp(1, i32::MAX as u128) as std::ffi::c_long
    });
    // SAFETY: MyLatch is this process's own, the descriptor is open while it is borrowed, and this is the main thread.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            socket,
            timeout,
            wait_event(readable.is_some()),
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
