//! Continuous archiving, base backups and restore for PostgreSQL, with no PostgreSQL inside.
//!
//! The extension and the `walarchive` binary are thin layers over this crate. Data runs one way through it: the verbs
//! ([`archive`], [`backup`], [`restore`], [`verify`]) use the [`repository`] and the file [`formats`]; these use
//! `walarchive_storage` and the [`codec`]; these use [`wal`] names and [`error`]s. Only [`repository::layout`] builds object
//! keys.

#![forbid(unsafe_code)]

pub mod archive;
pub mod backup;
mod blocking;
pub mod check;
pub mod codec;
pub mod control_file;
pub mod copy;
pub mod data_dir;
mod encrypted;
pub mod error;
mod files;
pub mod formats;
pub mod lease;
pub mod lsn;
pub mod objects;
mod page;
mod places;
pub mod points;
pub mod printable;
pub mod recovery_state;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod rotate;
pub mod schedule;
pub mod server_config;
mod stored;
pub mod threads;
pub mod verify;
pub mod version;
pub mod wal;
pub mod wal_g;

pub use error::{Error, REPORT_IT, Result, StorageError, Turn};
pub use lsn::Lsn;
