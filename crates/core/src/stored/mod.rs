//! Reading a stored backup: what it says of itself, and the members of its tars. Restore, verification and delta backups all
//! read through here.
//!
//! What a repository holds is not trusted: names are checked before they are used, and what is kept in memory is bounded.

pub(crate) mod chain;
pub(crate) mod configuration;
pub(crate) mod contents;
pub(crate) mod databases;
pub(crate) mod essential;
pub(crate) mod facts;
pub(crate) mod fetch;
pub(crate) mod level;
pub(crate) mod member;
pub(crate) mod members;
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod progress;
pub(crate) mod survey;
pub(crate) mod table;
pub(crate) mod tars;
