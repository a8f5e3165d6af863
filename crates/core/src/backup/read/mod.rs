//! Reading a data directory while the server writes into it.

pub(crate) mod cache;
pub(crate) mod configuration;
pub(crate) mod corrupt;
pub(crate) mod essential;
pub(crate) mod files;
pub(crate) mod links;
pub(crate) mod pages;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod unlogged;
pub(crate) mod walk;
