//! Waiting, and waking others.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use pgrx::pg_sys;

/// The latch of some process, as a plain number that may lie in shared memory. Zero: none.
///
/// Latches of processes with a `PGPROC` live in shared memory, at the same address in every process and for as long as the
/// server runs. One whose process is gone belongs to nobody or to another process; setting it is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latch(usize);

impl Latch {
    /// Nobody's.
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
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
