//! The WAL archive: one file in, one file out.
//!
//! The way of a segment: [`ready_files`] finds it in `archive_status`, [`Archive::push`] checks, compresses and stores it,
//! [`fetch`] brings it back.

mod fetch;
mod identity;
mod memory;
mod pace;
mod push;
mod ready;
pub mod received;
mod rewind;
mod series;
mod source;

pub use fetch::{Fetched, fetch, read_through};
pub use identity::identity_of;
pub use memory::Memory;
pub use pace::Pace;
pub use push::{Archive, Pushed};
pub use ready::ready_files;
pub use rewind::{Rewindable, fetch_for_rewind};
pub use source::Fingerprint;

#[cfg(test)]
mod tests;
