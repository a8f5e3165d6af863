//! Threads of this process for what keeps a processor busy. They stand back for everything else that the machine has to do.

use std::sync::Arc;

use nix::sys::signal::SigSet;
use once_cell::sync::OnceCell;
use walarchive_core::threads::Threads;

use crate::pg::priority;

static THREADS: OnceCell<Arc<Threads>> = OnceCell::new();

/// From now on this process compresses WAL files in threads of their own, so many at once. A later call changes the number.
pub fn compress_apart(at_once: usize) {
    let start = || {
        let threads = Threads::new(
            at_once,
            || begin(priority::only_idle),
            || begin(priority::lower_thread),
            || begin(|| Ok(())),
        );
        Arc::new(threads.unwrap_or_else(|error| panic!("could not prepare walarchive's threads: {error}")))
    };
    THREADS.get_or_init(start).allow(at_once);
}

/// WAL is written faster than these threads can compress it in the time that others leave: they take their share, or need not any more.
pub fn hurry(in_a_hurry: bool) {
    if let Some(threads) = THREADS.get() {
        threads.hurry(in_a_hurry);
    }
}

/// Those threads, if this process has any.
pub(super) fn current() -> Option<Arc<Threads>> {
    THREADS.get().cloned()
}

/// Of a thread.
fn begin(stand_back: fn() -> nix::Result<()>) {
    // PostgreSQL's signals must reach the main thread. It cannot fail with a valid argument.
    let _ = SigSet::all().thread_block();
    if let Err(error) = stand_back() {
        tracing::debug!(%error, "the priority of a thread stays as it is");
    }
}
