//! A file that is packed, and what became of it.

use std::fs::File;
use std::path::Path;

use crate::backup::read::pages::PageFacts;
use crate::backup::read::walk::Attributes;

/// A file that is being packed.
pub(crate) struct Input<'a> {
    /// Relative to the data directory.
    pub(crate) path: &'a Path,
    /// The same, whole.
    pub(crate) full: &'a Path,
    pub(crate) file: &'a File,
    /// In bytes, when it was opened.
    pub(crate) size: u64,
    pub(crate) owner: &'a Attributes,
}

/// The outcome for a file that was to be an increment.
#[derive(Debug)]
pub(crate) struct Incremented {
    /// Of the whole file, if the parent's pages and these make the same bytes for sure.
    pub(crate) sum: Option<Vec<u8>>,
    pub(crate) found: PageFacts,
}
