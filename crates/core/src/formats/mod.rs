//! The files of a repository, as serde sees them.

pub(crate) mod excerpt;
pub mod files_metadata;
pub(crate) mod guarded;
pub mod increment;
pub mod manifest;
mod places;
mod sentinel;
mod time;
mod user_data;

pub use places::{Configuration, ConfigurationFile, FollowedLink, LeftOut};
pub use sentinel::{ExtendedMetadata, Sentinel, TablespaceLocation, TablespaceSpec};
pub use user_data::UserData;

/// More than any sentinel or `metadata.json` has beside the files metadata that WAL-G before 2.0 kept in the sentinel, in bytes.
pub const SENTINEL_LIMIT: u64 = 1 << 20;

/// Enough for a sentinel with the files metadata of a large cluster, in bytes.
pub(crate) const OLD_SENTINEL_LIMIT: u64 = 256 << 20;

/// WAL-G before 2.0 kept the files metadata under these keys of a sentinel.
pub(crate) const FILES_OF_SENTINEL: [&str; 3] = ["Files", "TarFileSets", "DatabasesByNames"];

/// More files than any cluster has, with some 50 bytes of memory for each where all are to be known at a time. A backup of more
/// is not taken.
pub(crate) const FILES_LIMIT: usize = 1 << 24;
