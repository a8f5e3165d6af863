//! `global/pg_control`.

use crate::error::Result;
use std::path::Path;

/// placeholder until the real one is merged
#[derive(Debug)]
pub struct ControlFile {
    /// a
    pub system_identifier: u64,
    /// b
    pub wal_segment_bytes: u32,
}
impl ControlFile {
    /// a
    pub fn read(_: &Path) -> Result<Self> {
        Err(crate::Error::Cancelled)
    }
}
/// b
pub fn read_major_version(_: &Path) -> Result<u32> {
    Err(crate::Error::Cancelled)
}
