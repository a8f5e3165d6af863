//! Fetch segments before recovery asks for them, so that a call of `restore_command` only renames a file.
//!
//! [`Prefetcher`] runs beside the server: in a worker of it or, where there is none, in a process of its own. It learns from a
//! note that [`Spool::note`] leaves what recovery asked for last, fetches what comes next into the [`Spool`], and
//! [`Spool::take`] gives it to the server.

mod absent;
mod again;
mod begin;
mod depth;
mod given;
mod looks;
mod missing;
mod part;
mod road;
mod room;
mod run;
mod spool;

pub use absent::{Absence, Running};
pub use run::{Ended, Prefetcher, Situation};
pub use spool::{Spool, Taken};

/// Segments that are fetched ahead unless a setting says otherwise.
pub const DEFAULT_SEGMENTS: usize = 8;

/// The largest value of the setting.
pub const MOST_SEGMENTS: usize = 128;

#[cfg(test)]
mod tests;
