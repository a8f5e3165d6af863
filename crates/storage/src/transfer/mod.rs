//! Moving bytes.

pub(crate) mod collect;
pub(crate) mod deadlines;
pub(crate) mod motion;
pub(crate) mod parts;
pub(crate) mod reader;
pub(crate) mod retry;
pub(crate) mod upload;
