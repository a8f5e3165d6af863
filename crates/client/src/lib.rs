//! Connections to a PostgreSQL server: where it is, who connects, and how, is found as libpq finds it.
//!
//! One session serves SQL and the replication protocol, since both begin alike and answer in the same messages. It sends only
//! simple queries. It knows nothing of walarchive's repository.
//!
//! - [`Params`] are what libpq's variables, the service file and the defaults say.
//! - [`Session`] is one connection. It is watched by [`Session::lost`] while nothing else is to be done.
//! - [`server`] has the statements that differ from version to version.
#![forbid(unsafe_code)]

mod check;
mod conninfo;
mod environment;
mod error;
mod hosts;
mod mode;
mod params;
mod passfile;
pub mod relations;
pub mod replication;
pub mod server;
mod service;
mod session;
pub mod slot;
mod startup;
mod stream;
mod tls;
mod wal_stream;
mod wire;

pub use check::check_conninfo;
pub use error::{Notice, Severity};
pub use mode::Mode;
pub use params::Params;
pub use postgres_protocol::escape::{escape_identifier, escape_literal};
pub use session::{Canceller, Door, Row, Session};
pub use wal_stream::{Flushed, WalPiece, WalStream};
