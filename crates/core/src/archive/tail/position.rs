//! Where a server is.

use crate::lsn::Lsn;

/// How far a server has flushed its WAL to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its timeline.
    pub timeline: u32,
    /// The end of what is flushed.
    pub flushed: Lsn,
}
