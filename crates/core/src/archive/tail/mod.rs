//! The tail: WAL of segments that are not archived yet.

mod look;
mod read;

pub use look::Tail;
pub use read::{Brought, fetch_tail};
