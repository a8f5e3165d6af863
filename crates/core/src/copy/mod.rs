//! Copying backups and their WAL to another store, as they are.
//!
//! ```text
//! inventory of the source -> CopyPlan, which can be shown -> apply
//! ```
//!
//! Nothing is overwritten there, and an object that is there already is not sent again, so a copy that was interrupted goes on
//! where it ended. The WAL comes first, and the tail behind it, then the backups, each after those that it is based on, and of a backup its sentinel
//! last: what is listed there is whole. Before the WAL comes a claim for each backup, so that no deletion there takes away
//! what the backup will need.

mod apply;
mod claims;
mod plan;

pub use apply::{Copied, CopyOptions, CopyProgress, apply};
pub use plan::{CopyPlan, CopyRequest, plan};

#[cfg(test)]
mod encrypted;
#[cfg(test)]
mod tests;
