//! How far the reading of a backup is.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// How far a restore is; read it from any thread.
#[derive(Debug, Default)]
pub struct ReadProgress {
    /// Stored bytes that were downloaded.
    pub bytes_done: AtomicU64,
    /// Stored bytes to download.
    pub bytes_total: AtomicU64,
    /// Bytes that were written into files.
    pub bytes_written: AtomicU64,
    /// Files that are complete.
    pub files_done: AtomicU64,
    /// The directories are not what they were any more, and not what they are to be: no server can start on them.
    pub is_writing: AtomicBool,
}
