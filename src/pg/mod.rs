//! All unsafe calls of PostgreSQL's C API, behind functions that are safe to call from the process's main thread.

pub mod archiver;
pub mod latch;
pub mod lsn;
pub mod memory;
pub mod online_backup;
pub mod page_cache;
pub mod priority;
pub mod process;
pub mod relations;
pub mod report;
pub mod server;
pub mod settings;
pub mod shared;
pub mod slot;
pub mod standbys;
pub mod text;

pub use pgrx::pg_sys::panic::CaughtError;
pub use pgrx::pg_sys::{Datum, Oid};
