//! The WAL archive: one file in, one file out.
//!
//! The way of a segment: [`ready_files`] finds it in `archive_status`, [`Archive::push`] checks, compresses and stores it,
//! [`fetch`] brings it back, or [`prefetch`] has done so before.

pub mod backfill;
mod compare;
mod cut;
mod fetch;
mod fork;
mod frames;
mod hole;
mod identity;
mod making;
mod memory;
mod notes;
mod pace;
pub mod prefetch;
mod push;
mod ready;
pub mod received;
mod rewind;
mod segment;
mod series;
mod source;
pub mod tail;

pub use fetch::{Fetched, fetch, fetch_in, fetch_part, read_through};
pub use fork::{Share, known_share, share_of};
pub use hole::{Behind, Gap, Hole, find_hole, is_next};
pub use identity::identity_of;
pub use memory::Memory;
pub use pace::Pace;
pub use push::{Archive, Pushed};
pub use ready::ready_files;
pub use rewind::{Rewindable, fetch_for_rewind};
pub use segment::{Answer, Asking, fetch_segment};
pub use source::Fingerprint;

#[cfg(test)]
mod tests;
