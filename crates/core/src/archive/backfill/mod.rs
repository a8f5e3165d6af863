//! WAL that a server has and the archive has not, and that no archiver asks for.
//!
//! A standby marks what it has streamed as archived, though only the primary archives it. If the primary dies before it has, those
//! segments are in the `pg_wal` of the standbys only. [`follow`] tells a standby what it must keep, and [`look`] tells a
//! server that was promoted what it must archive. Both answers come from the archive, from `pg_wal` and from the history of the
//! timeline, so they are the same after a crash.

mod follow;
mod local;
mod look;
mod room;
mod stored;

pub use follow::{Followed, follow};
pub use local::Line;
pub use look::{Backlog, Wanted, look};
pub use room::lacking;

#[cfg(test)]
mod tests;
