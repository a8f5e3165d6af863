//! How far a rotation is.

use std::sync::atomic::AtomicU64;

/// How far it is. May be read at any time.
#[derive(Debug, Default)]
pub struct RotateProgress {
    /// Objects to look at, or to encrypt again.
    pub total: AtomicU64,
    /// Those that are done.
    pub done: AtomicU64,
    /// Stored bytes of those.
    pub bytes: AtomicU64,
}
