//! WAL that comes as a stream: what a server sends becomes segments, and these are archived as the server's own files are.
//!
//! [`Branch`] says where a stream begins, [`Spool`] makes files of what comes, [`Stored`] finds where the archive ends, and
//! [`Storing`] stores one file after the other and tells how far it is.

mod branch;
mod spool;
mod stored;
mod storing;

pub use branch::Branch;
pub use spool::{Received, Spool};
pub use stored::Stored;
pub use storing::{Pace, Progress, Storing};
