//! The data directory as the copying finds it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::control_file::ControlFile;
use crate::data_dir::PG_CONTROL;
use crate::error::{Error, Result};
use crate::page;
use crate::page::PAGE_BYTES;

/// By so much the last change of a file must be older than the reference. More than the coarsest time stamps of any file
/// system, which are FAT's of 2 s, in nanoseconds.
const MARGIN: i64 = 2_000_000_001;

/// Facts about a data directory that one needs to read its files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceFacts {
    /// `RELSEG_SIZE`.
    pub(crate) segment_pages: u32,
    /// Are there checksums that can be verified?
    pub(crate) data_checksums: bool,
    /// The file system of the data directory.
    device: u64,
    /// When the server wrote `pg_control` last, which it does in the checkpoint of `pg_backup_start`: a moment before the
    /// first file is read, by the clock of the file system itself, be that another machine's. In nanoseconds since 1970.
    reference: i64,
}

impl SourceFacts {
    /// Look at it, after `pg_backup_start` and before the first file is read.
    pub(crate) fn look(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(PG_CONTROL);
        let meta = std::fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        let control = ControlFile::read(data_dir)?;
        let known_pages = control.page_bytes as usize == PAGE_BYTES;
        if control.data_checksums && !known_pages {
            tracing::warn!(
                bytes = control.page_bytes,
                "the checksums of pages of this size are not verified"
            );
        }
        Ok(SourceFacts {
            segment_pages: control.relation_segment_pages,
            data_checksums: control.data_checksums && known_pages,
            device: meta.dev(),
            reference: changed(&meta),
        })
    }

    /// The number of a file's first page in its relation, by the path relative to the data directory; none if it has no pages.
    pub(crate) fn first_page(&self, path: &Path) -> Option<u32> {
        page::first_page(path, self.segment_pages)
    }

    /// A file was found so before it was read and after it. Would any later write show in the fields of [`Identity`]?
    ///
    /// A write gives the file the time of the clock, which moves in ticks, so two writes can leave the same time. Here the
    /// last change is before the reference by more than any tick, and the reading behind the reference: what is written
    /// after the reading leaves another time than the one that was found. Of another file system the clock may be another,
    /// so its files are not vouched for.
    ///
    /// [`Identity`]: crate::formats::files_metadata::Identity
    pub(crate) fn shows_writes(&self, before: &Metadata, after: &Metadata) -> bool {
        before.dev() == self.device
            && before.len() == after.len()
            && changed(before) == changed(after)
            && changed(before) < self.reference.saturating_sub(MARGIN)
    }
}

/// When the inode changed last, in nanoseconds since 1970.
pub(crate) fn changed(meta: &Metadata) -> i64 {
    meta.ctime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_vouched_for_only_if_no_write_can_hide() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        std::fs::write(&path, "content").expect("written");
        let before = std::fs::metadata(&path).expect("there");
        let source = |reference| SourceFacts {
            segment_pages: 131_072,
            data_checksums: true,
            device: before.dev(),
            reference,
        };
        let late = changed(&before) + 2_000_000_002;
        assert!(source(late).shows_writes(&before, &before));
        assert!(!source(late - 1).shows_writes(&before, &before), "too young");
        assert!(!source(0).shows_writes(&before, &before), "a clock that was set back");
        let elsewhere = SourceFacts {
            device: before.dev() + 1,
            ..source(late)
        };
        assert!(!elsewhere.shows_writes(&before, &before));
        std::fs::write(&path, "longer content").expect("written");
        let after = std::fs::metadata(&path).expect("there");
        assert!(!source(i64::MAX).shows_writes(&before, &after));
    }
}
