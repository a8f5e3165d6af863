//! Is shared memory there?

use std::sync::atomic::{AtomicBool, Ordering};

use walarchive_core::Error;

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Shared memory was asked for: the library is preloaded. Called in the postmaster; its children inherit it.
pub fn set_preloaded() {
    PRELOADED.store(true, Ordering::Relaxed);
}

/// Is shared memory there? Without it neither lock may be touched.
pub fn require_preloaded() -> Result<(), Error> {
    if PRELOADED.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(Error::config(
        "walarchive is not preloaded",
        "Add walarchive to shared_preload_libraries and restart the server.",
    ))
}
