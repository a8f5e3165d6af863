//! Carrying a plan out.

pub(crate) mod apply;
pub(crate) mod assemble;
pub(crate) mod complete;
pub(crate) mod context;
pub(crate) mod extract;
pub(crate) mod place;
pub(crate) mod prepare;
pub(crate) mod readback;
pub(crate) mod recovery;
mod shift;
pub(crate) mod stubs;
