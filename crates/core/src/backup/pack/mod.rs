//! Packing files into tars, and sending these.

pub(crate) mod increment;
pub(crate) mod input;
pub(crate) mod limiter;
pub(crate) mod notes;
pub(crate) mod packer;
pub(crate) mod rate;
pub(crate) mod spool;
pub(crate) mod stream;
mod streamed;
pub(crate) mod tar_stream;
