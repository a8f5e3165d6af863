//! One writer, known to the repository.
//!
//! # What is in the store
//! - `walarchive_005/lease/<epoch>.json` says who took the lease as that epoch, when, and how. It is written once, create-only,
//!   and stays: the highest epoch holds the lease, the others are the history of the repository's writers. No conditional update
//!   is needed, which few stores have, and a store that overwrites where it should not is found out by reading back.
//! - `walarchive_005/lease/<epoch>.alive.json` is rewritten by the holder every `walarchive.lease_interval`: a counter, and a
//!   token that is drawn each time.
//!
//! # Who is who
//! A data directory has a file, [`file`], with a random identity, the place where it is (the inodes of its own directories, the
//! path, the machine), and the last tokens that it wrote. It is in `pg_wal`, so no backup has it. A server is the same instance if the place is the
//! same and the store shows one of its own tokens: so neither a copy (another place) nor a snapshot on a cloned machine (the
//! original has drawn tokens since) passes for the original. A volume that came to another machine is one in between: it waits
//! for a moment in which nobody else renews.
//!
//! # No clock decides
//! A lease is stale when its counter has not moved during [`STALE`] intervals of whoever watches it, by his own `CLOCK_BOOTTIME`.
//! Times in the objects are for people only.
//!
//! # Fencing
//! Before each write, whoever writes looks into the file: it must have renewed within [`VALID`] intervals by `CLOCK_BOOTTIME`, which
//! goes on while a process is stopped or a machine sleeps. If it has not, it reads the lease again first, and renews. Before each
//! deletion, and as the first thing in a process, it looks for a higher epoch in any case; before another write when the last look
//! is older than [`LOOK`]. All processes of a server, and the binary beside it, share the file: any of them may renew, and what
//! one learns the others know. The file's lock is held while it is read and written, and never while the store is asked.

mod act;
mod branches;
mod clock;
mod decide;
mod fence;
mod flight;
mod followed;
mod instance;
mod place;
mod record;
mod refuse;
mod status;
#[cfg(test)]
mod tests;
mod turn;

pub use act::Writer;
pub use branches::{Branch, other_branches};
pub use clock::Moment;
pub use decide::{How, Situation};
pub use fence::follower;
pub use followed::Following;
pub use instance::{file, mark_restored, promised, request_take_over};
pub use record::{Alive, Holder, Lease};
pub use refuse::outlook;
pub use status::{LeaseStatus, status};

use std::time::Duration;

/// `walarchive.lease_interval`, unless told otherwise.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// The interval that the binary promises if no server renews: it is called for each segment only, and nobody knows when the
/// next one comes.
pub const INTERVAL_OF_BINARY: Duration = Duration::from_secs(900);

/// A lease whose counter has not moved during so many intervals is stale.
pub const STALE: u32 = 4;

/// A write other than a deletion is permitted when somebody of the same process has looked within this time whether the lease
/// was taken. So who was replaced stops soon, and long before its next renewal.
pub const LOOK: Duration = Duration::from_secs(5);

/// A holder may write for so many intervals after it has renewed: well before anybody can call the lease stale.
pub const VALID: u32 = 3;
