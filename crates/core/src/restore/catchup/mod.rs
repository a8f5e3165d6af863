//! Bring a standby up that has fallen behind: the pages that changed since, and whole files, go over its stopped data
//! directory.
//!
//! Only the server's data is touched: its configuration, its log and whatever else is in the directory stay. `global/pg_control`
//! is taken away first and comes last, so that no server starts on a directory that is not brought up completely. The same
//! command goes on after an interruption: what it writes is the same the second time.

pub(super) mod apply;
mod data;
mod member;
pub(super) mod plan;
mod room;
mod shared;
mod standby;
mod survey;
mod visible;
