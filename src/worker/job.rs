//! Common parts of the steps of a backup worker.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::prelude::*;
use walarchive_core::{Error, Result};

use crate::bridge::{self, Flow};
use crate::pg::process;
use crate::shmem::{ARCHIVING, BACKUP, Failure, Phase};

/// How often the figures of `walarchive_progress` are updated.
pub(super) const REFRESH: Duration = Duration::from_millis(200);

/// An error, an ERROR or a panic as a failure. An ERROR leaves a transaction and its locks behind; they are released here.
pub(super) fn attempt<T>(work: impl FnOnce() -> Result<T>) -> Result<T, Box<Failure>> {
    let done = PgTryBuilder::new(AssertUnwindSafe(|| {
        work().map_err(|error| Box::new(Failure::from(&error)))
    }))
    .catch_others(|caught| Err(Box::new(Failure::from(&caught))))
    .catch_rust_panic(|caught| Err(Box::new(Failure::from(&caught))))
    .execute();
    if done.is_err() {
        process::abort_transaction();
    }
    done
}

/// One step that may be aborted at any point.
pub(super) fn step<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    bridge::run(work, Some(REFRESH), || {
        give_way();
        if interrupted().is_err() { Flow::Stop } else { Flow::Wait }
    })
    .unwrap_or(Err(Error::Cancelled))
}

/// Leave the link to WAL that is late, or no longer. In every wait: what is held back comes to no end by itself.
pub(super) fn give_way() {
    bridge::brake().hold(ARCHIVING.share().needs_the_link());
}

/// An error if the backup was cancelled.
pub(super) fn interrupted() -> Result<()> {
    if is_cancelled() {
        return Err(Error::Cancelled);
    }
    process::check_for_interrupts();
    Ok(())
}

/// Is the backup to end?
pub(super) fn is_cancelled() -> bool {
    process::die_pending() || process::cancel_pending() || BACKUP.share().cancelled
}

/// Publish the phase of the backup.
pub(super) fn set_phase(phase: Phase) {
    BACKUP.exclusive().phase = phase;
}
