//! Which pages of a relation's file were changed since the parent was taken.
//!
//! By the LSN of each page: that of the last WAL record that changed it. The parent's copy of a page whose LSN is below the
//! parent's start is the same page, but for hints that a server without data checksums writes as it likes. A page that was
//! being written while it was read may show its old LSN: it was changed after this backup's start then, and the WAL from
//! there on writes it again. It is the same with what is read twice, and differs.
//!
//! Some things are not left to the LSN. A page that is all zero has none; one whose LSN is 0 was written by no record. The
//! metapage of an SP-GiST index holds a cache that the server changes without a record (`SpGistUpdateMetaPage`).
//! Without data checksums VACUUM marks a page as all-visible, and says so in the visibility map, but leaves the LSN as it was
//! (`visibilitymap_set`). The map goes in whole, and must not say so of a page that does not know: whoever changed the page
//! then would not clear it in the map. So each backup notes which pages it holds marked, and a page is taken that is marked now
//! and not in the parent, or (VACUUM repairs a page without a record) the other way round. And a page with a wrong checksum may have lost its LSN, so it is taken as it is.
//! And of what is beyond the parent's copy of the file everything is changed, whatever the LSNs say: `CREATE DATABASE …
//! STRATEGY FILE_COPY` may have been copying the file, page by page, just when the parent read it. A page whose header is not
//! that of a page says nothing, and what the rest of the file says is not believed either: it goes in full.

use crate::error::Result;
use crate::formats::increment::IncrementHeader;
use crate::formats::manifest::{ChecksumAlgorithm, Checksummer};
use crate::lsn::Lsn;
use crate::page::{PAGE_BYTES, Page};

use crate::backup::read::pages::PageReader;
use crate::formats::files_metadata::AllVisible;

/// Pages that are kept in memory while the rest of the file is read, so that they need not be read again: 8 MB.
pub(crate) const KEPT: usize = 1024;

/// The question to each page of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// The parent's start: what was changed there or later is changed.
    pub(crate) since: Lsn,
    /// The parent has so many pages of the file: the others are changed.
    pub(crate) known: u32,
    /// The pages that are all-visible in the parent, if others may have become so without an LSN that tells.
    pub(crate) all_visible: Option<AllVisible>,
}

impl Question {
    /// Was this page, of that number in the file, changed? None if it is no page.
    fn ask(&self, number: u32, page: Page<'_>) -> Option<bool> {
        if page.is_all_zero() {
            return Some(true);
        }
        let lsn = page.lsn();
        page.has_plausible_header().then_some(
            number >= self.known
                || lsn >= self.since
                || lsn == Lsn(0)
                || page.is_spgist_meta()
                || self.is_marked_otherwise(number, page),
        )
    }

    fn is_marked_otherwise(&self, number: u32, page: Page<'_>) -> bool {
        let before = self.all_visible.as_ref();
        before.is_some_and(|before| page.is_all_visible() != before.contains(number))
    }
}

/// The result of reading a file once.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The numbers of the changed pages, ascending.
    pub(crate) blocks: Vec<u32>,
    /// The first [`KEPT`] of them, one after the other.
    pub(crate) kept: Vec<u8>,
    /// The CRCs of the others.
    pub(crate) others: Vec<u32>,
    /// Of the file's content.
    pub(crate) sum: Vec<u8>,
}

/// Read a file of `size` bytes, which are whole pages. None, as soon as that is known, if an increment would not be smaller
/// than the file, or cannot be made. `read` is told before each piece how many bytes it has.
pub(crate) fn scan(
    reader: &mut PageReader,
    size: u64,
    question: &Question,
    algorithm: ChecksumAlgorithm,
    buffer: &mut [u8],
    mut read: impl FnMut(u64) -> Result<()>,
) -> Result<Option<Scan>> {
    let mut scan = Scan {
        blocks: Vec::new(),
        kept: Vec::new(),
        others: Vec::new(),
        sum: Vec::new(),
    };
    let mut sum = Checksummer::new(algorithm);
    loop {
        let length = reader.next_length(buffer.len());
        if length > 0 {
            read(length as u64)?;
        }
        let Some(run) = reader.next(buffer)? else { break };
        sum.update(run.bytes);
        let (pages, _) = run.bytes.as_chunks::<PAGE_BYTES>();
        for (page, number) in pages.iter().zip(run.first..) {
            match question.ask(number, Page(page)) {
                None => return Ok(None),
                Some(false) if !reader.is_corrupt(number) => continue,
                Some(_) => scan.blocks.push(number),
            }
            if scan.blocks.len() <= KEPT {
                scan.kept.extend_from_slice(page);
            } else {
                scan.others.push(crc32c::crc32c(page));
            }
        }
        if !pays(scan.blocks.len(), size) {
            return Ok(None);
        }
    }
    scan.sum = sum.finish();
    Ok(Some(scan))
}

/// Is an increment of so many pages smaller than a file of `size` bytes?
pub(crate) fn pays(pages: usize, size: u64) -> bool {
    IncrementHeader::size_of(pages as u64) < size
}
