//! The visibility maps of the primary, and pages of the standby.
//!
//! Without data checksums VACUUM marks a page as all-visible, in the page and in the map, and leaves the page's LSN as it was
//! (`visibilitymap_set`). The map comes whole, and the page may be the standby's old one, which does not know. Whoever changed
//! that page would not clear it in the map, and index-only scans would show what is gone.
//!
//! So the page is marked, too. It has the rows that the primary's has, or WAL that the standby will replay changes it. To clear the
//! bit in the map instead is not enough: with an image of the map's page in that WAL it would come back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::page::{HEADER_BYTES, Marked, PAGE_BYTES, mark_all_visible};
use crate::places::relation;
use crate::restore::directory::tree::Tree;
use crate::restore::directory::walk::{DirectoryEntry, walk};
use crate::stored::facts::Stored;
use crate::stored::member::MemberPath;
use crate::stored::table::Table;

/// The bytes of a map's page that have bits.
const MAP_BYTES: usize = PAGE_BYTES - HEADER_BYTES;

/// `HEAPBLOCKS_PER_BYTE`: two bits for each page of the table.
const PAGES_PER_BYTE: u64 = 4;

/// Mark the pages that the standby had as every map says; blocks.
pub(super) fn agree(
    tree: &Tree,
    table: &Table,
    segment_pages: u32,
    major: u32,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut look = |entry: &DirectoryEntry<'_>| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match map_of(entry.path) {
            Some((heap, first)) if !entry.is_directory => Map {
                tree,
                table,
                segment_pages,
                heap: &heap,
                first: first * u64::from(segment_pages),
            }
            .agree(entry.path),
            _ => Ok(()),
        }
    };
    walk(tree.target(), tree.tablespaces(), tree.wal(), major, &mut look)
}

/// The path of the table's first file, and which of the map's files it is, if it is one of a map.
fn map_of(path: &[u8]) -> Option<(String, u64)> {
    let path = std::str::from_utf8(path).ok()?;
    let (directory, name) = path.rsplit_once('/')?;
    let (node, "vm") = relation(name)? else { return None };
    let segment = name.split_once('.').map_or(Ok(0), |(_, segment)| segment.parse());
    Some((format!("{directory}/{node}"), segment.ok()?))
}

struct Map<'a> {
    tree: &'a Tree,
    table: &'a Table,
    segment_pages: u32,
    /// The path of the table's first file.
    heap: &'a str,
    /// The number of the map's page with which this file of it begins.
    first: u64,
}

/// A file of the table.
struct Heap {
    segment: u64,
    /// None if it came whole, with its marks.
    file: Option<File>,
    /// To write the marks.
    marks: Option<File>,
}

impl Map<'_> {
    fn agree(&self, path: &[u8]) -> Result<()> {
        let path = member(path)?;
        let (map, full) = self.tree.open_file(&path)?;
        let failed = |operation, error| Error::io(operation, &full, error);
        let pages = map.metadata().map_err(|error| failed("read", error))?.len() / PAGE_BYTES as u64;
        let (mut page, mut heap) = (vec![0; PAGE_BYTES], None);
        for number in 0..pages {
            let at = number * PAGE_BYTES as u64;
            map.read_exact_at(&mut page, at)
                .map_err(|error| failed("read", error))?;
            if self.agree_page(&mut page, self.first + number, &mut heap)? {
                let (writable, _) = self.tree.open_in_place(&path)?;
                writable
                    .write_all_at(&page, at)
                    .map_err(|error| failed("write", error))?;
            }
        }
        Ok(())
    }

    /// Mark what a page of the map says. The bits of pages that are not there are cleared: returns whether there were any.
    fn agree_page(&self, page: &mut [u8], number: u64, heap: &mut Option<Heap>) -> Result<bool> {
        let mut is_changed = false;
        for (at, bits) in page[HEADER_BYTES..]
            .iter_mut()
            .enumerate()
            .filter(|(_, bits)| **bits != 0)
        {
            for part in 0..PAGES_PER_BYTE {
                let mask = 3u8 << (part * 2);
                let block = (number * MAP_BYTES as u64 + at as u64) * PAGES_PER_BYTE + part;
                if *bits & mask != 0 && !self.mark(block, heap)? {
                    *bits &= !mask;
                    is_changed = true;
                }
            }
        }
        Ok(is_changed)
    }

    /// Mark that page of the table. Returns whether it is there. A page that came is as the map says.
    fn mark(&self, block: u64, heap: &mut Option<Heap>) -> Result<bool> {
        let segment_pages = u64::from(self.segment_pages.max(1));
        let segment = block / segment_pages;
        if heap.as_ref().is_none_or(|heap| heap.segment != segment) {
            *heap = Some(self.heap(segment)?);
        }
        let Some(Heap {
            file: Some(file),
            marks,
            ..
        }) = heap
        else {
            return Ok(true);
        };
        let at = block % segment_pages * PAGE_BYTES as u64;
        let failed = |operation, error| Error::io(operation, self.heap, error);
        let mut header = [0; HEADER_BYTES];
        match file.read_exact_at(&mut header, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.map_err(|error| failed("read", error))?,
        }
        match mark_all_visible(&mut header) {
            Marked::Already => {}
            Marked::Now => {
                let marks = match marks {
                    Some(marks) => marks,
                    None => marks.insert(self.tree.open_in_place(&member(self.file_of(segment).as_bytes())?)?.0),
                };
                marks
                    .write_all_at(&header, at)
                    .map_err(|error| failed("write", error))?;
            }
            Marked::NoPage => return Ok(false),
        }
        Ok(true)
    }

    fn heap(&self, segment: u64) -> Result<Heap> {
        let path = self.file_of(segment);
        let number = self.table.find(path.as_bytes());
        let is_whole = number.is_none_or(|number| self.table.stored(number) != Some(Stored::Increment));
        let file = match is_whole {
            true => None,
            false => Some(self.tree.open_file(&member(path.as_bytes())?)?.0),
        };
        Ok(Heap {
            segment,
            file,
            marks: None,
        })
    }

    /// The path of that file of the table.
    fn file_of(&self, segment: u64) -> String {
        match segment {
            0 => self.heap.to_owned(),
            segment => format!("{}.{segment}", self.heap),
        }
    }
}

fn member(path: &[u8]) -> Result<MemberPath> {
    MemberPath::parse(path).map_err(|reason| Error::damaged(String::from_utf8_lossy(path).into_owned(), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_tells_its_table() {
        for (path, expected) in [
            ("base/5/16384_vm", Some(("base/5/16384", 0))),
            ("pg_tblspc/1/PG_15_1/5/7_vm.2", Some(("pg_tblspc/1/PG_15_1/5/7", 2))),
            ("global/1262_vm", Some(("global/1262", 0))),
            ("base/5/16384_fsm", None),
            ("base/5/16384", None),
            ("vm", None),
        ] {
            let expected = expected.map(|(heap, segment)| (heap.to_owned(), segment));
            assert_eq!(map_of(path.as_bytes()), expected, "{path}");
        }
    }
}
