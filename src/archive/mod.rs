//! The archive module: what PostgreSQL's archiver calls.

mod abi;
mod module;
mod tail;
