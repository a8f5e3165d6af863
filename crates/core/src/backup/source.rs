//! The data directory as the copying finds it.

use std::path::Path;

use crate::control_file::ControlFile;
use crate::error::Result;
use crate::page::{self, PAGE_BYTES};

/// What the server's control file says of the files of relations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// `RELSEG_SIZE`.
    pub(super) segment_pages: u32,
    /// Are there checksums that can be verified?
    pub(super) data_checksums: bool,
}

impl Source {
    /// Look at it, after `pg_backup_start` and before the first file is read.
    pub(super) fn look(data_dir: &Path) -> Result<Self> {
        let control = ControlFile::read(data_dir)?;
        let known_pages = control.page_bytes as usize == PAGE_BYTES;
        if control.data_checksums && !known_pages {
            tracing::warn!(
                bytes = control.page_bytes,
                "the checksums of pages of this size are not verified"
            );
        }
        Ok(Source {
            segment_pages: control.relation_segment_pages,
            data_checksums: control.data_checksums && known_pages,
        })
    }

    /// The number of a file's first page in its relation, by the path relative to the data directory; none if it has no pages.
    pub(super) fn first_page(&self, path: &Path) -> Option<u32> {
        page::first_page(path, self.segment_pages)
    }
}
