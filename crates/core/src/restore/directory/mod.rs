//! The directories of a restore: what is in them, whose they are, and writing into them. All below them is reached by
//! descriptors, component by component, and never through a link.

pub(crate) mod bare;
pub(crate) mod condition;
pub(crate) mod directories;
pub(crate) mod existing;
pub(crate) mod links;
pub(crate) mod locations;
pub(crate) mod output;
pub(crate) mod owner;
pub(crate) mod root;
pub(crate) mod space;
pub(crate) mod system;
pub(crate) mod tablespaces;
pub(crate) mod tree;
pub(crate) mod vacant;
pub(crate) mod wal_directory;
pub(crate) mod walk;
