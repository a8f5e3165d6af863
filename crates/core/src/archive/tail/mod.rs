//! The tail: WAL of the segment that is still being written goes into the store, so that little of it is lost with the server.
//!
//! What lies where is told in [`repository::tail`](crate::repository::tail). A server begins an epoch with each start, and whenever
//! its recovery has ended. [`Shipper`] stores what was flushed to disk since it did so last. The whole segment goes its own way, and
//! never waits for this. [`Cleaner`] removes the chunks once the whole segment is there. Until then recovery gets what they have:
//! [`Tail`] finds them, and [`fetch_tail`] puts them together.

mod chunk;
mod clean;
mod epoch;
mod gap;
mod look;
mod pending;
mod plan;
mod position;
mod read;
mod ship;

pub use clean::Cleaner;
pub use look::Tail;
pub use pending::segments_before;
pub use position::Position;
pub use read::{Brought, Limits, fetch_tail};
pub use ship::{Shipped, Shipper};

#[cfg(test)]
mod tests;
