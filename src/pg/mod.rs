//! The FFI room: everything that touches PostgreSQL's C API unsafely is in here, behind functions that are safe to call
//! from the process's main thread.

pub mod archive_abi;
pub mod backup_worker;
pub mod io_priority;
pub mod latch;
pub mod lsn;
pub mod online_backup;
pub mod page_cache;
pub mod process;
pub mod server;
pub mod settings;
pub mod shared;
pub mod sockets;
pub mod text;

pub use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
pub use pgrx::pg_sys::{Datum, Oid};
