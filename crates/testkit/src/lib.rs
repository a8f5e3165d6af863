//! Real PostgreSQL clusters and store servers for walarchive's tests.
//!
//! Everything here panics when it cannot do its work: it serves tests only, and a panic with a sentence is what a test
//! wants. Nothing sleeps and hopes: every wait has a condition and a deadline. Server programs run as the operating
//! system's user `postgres` when the tests run as root, since PostgreSQL refuses root.
//!
//! ```no_run
//! use walarchive_testkit::{Cluster, TestDir};
//!
//! let dir = TestDir::new();
//! let primary = Cluster::builder(&dir, "primary").setting("archive_mode", "on").start();
//! assert_eq!(primary.psql("SELECT 1"), "1");
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `WALARCHIVE_TEST_PG_CONFIG` | `pg_config` of the PostgreSQL to test, Debian's 15 if unset |
//! | `WALARCHIVE_TEST_OLD_PG` | the directory of an older server without clients, to be tested instead |
//! | `WALARCHIVE_TEST_KEEP` | if set, no test directory is removed |
//! | `WALARCHIVE_S3S_FS` | the program `s3s-fs`, else the one that `scripts/setup test` built |

mod azurite;
mod builder;
mod cluster;
mod dir;
mod gcs;
pub mod meddler;
mod mock;
mod moto;
mod old;
mod patroni;
mod pg;
pub mod pretender;
mod process;
mod proxy;
mod run;
mod s3;
pub mod sealed;
mod server;
mod session;
mod sftp;
mod sql;
mod store;
mod swift;
mod wait;

pub use azurite::AzuriteServer;
pub use builder::Builder;
pub use cluster::{Cluster, StopMode};
pub use dir::TestDir;
pub use gcs::GcsServer;
pub use mock::{Answer, HttpMock, Request, TlsFiles};
pub use moto::MotoServer;
pub use nix::sys::signal::Signal;
pub use patroni::{Etcd, PatroniNode};
pub use pg::Pg;
pub use process::{is_alive, kill_pid};
pub use proxy::{Fault, FaultProxy, Seen, StatusFault};
pub use run::{Background, Output, run};
pub use s3::S3Server;
pub use session::Session;
pub use sftp::{SftpServer, SshAgent, keygen};
pub use store::{Directory, StoreServer};
pub use swift::SwiftServer;
pub use wait::{PATIENCE, wait_until};
