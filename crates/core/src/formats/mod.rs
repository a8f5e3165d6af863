//! The files of a repository, as serde sees them.

pub mod files_metadata;
pub(crate) mod guarded;
pub mod increment;
pub mod manifest;
mod sentinel;
mod time;

pub use sentinel::{ExtendedMetadata, Sentinel, TablespaceLocation, TablespaceSpec};

/// More than any sentinel has without the files metadata that WAL-G before 2.0 kept in it, and enough for that of a large
/// cluster: a bound for what is read into memory, in bytes.
pub const SENTINEL_LIMIT: u64 = 256 << 20;
