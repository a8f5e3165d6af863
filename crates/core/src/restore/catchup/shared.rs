//! What all threads that unpack share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use crate::restore::directory::tree::Tree;
use crate::stored::level::Bits;
use crate::stored::progress::ReadProgress;
use crate::stored::table::Table;

/// State that all tars share.
pub(super) struct Shared {
    pub(super) tree: Tree,
    pub(super) table: Arc<Table>,
    /// The members that were met.
    pub(super) seen: Bits,
    pub(super) label: AtomicBool,
    pub(super) progress: Arc<ReadProgress>,
    pub(super) cancel: CancellationToken,
}
