//! End-to-end tests of walarchive on real PostgreSQL servers; see `tests/`, a folder for each capability.

pub mod archiving;
pub mod drills;
pub mod encrypted;
pub mod failover;
pub mod held;
pub mod ledger;
pub mod link;
pub mod old;
pub mod push;
pub mod receive;
pub mod repository;
pub mod site;
pub mod synchronous;
pub mod verbs;
pub mod workload;
