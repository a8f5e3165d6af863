//! The points to which a repository can be restored: restore points by name, and commits with their times.
//!
//! They stand in the WAL. Reading all of it takes long, so an index is kept: an object for each block of segments, which a server
//! writes after it has archived them, and whoever reads WAL that is not in it yet. One object for each segment would double the
//! requests that archiving costs. The index is a note: without it, or with a part of it, the WAL tells the same.

mod block;
mod gather;
mod local;

pub use block::blocks_of;
pub use gather::{Found, Missing, Point, PointKind, gather};
pub use local::{Local, index};
