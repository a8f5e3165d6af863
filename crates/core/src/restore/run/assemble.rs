//! Files that are put together from the increments of several backups, the newest first, each page once.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::error::Result;
use crate::formats::increment::PAGE_BYTES;
use crate::restore::directory::output::Output;

/// Pages that are written at a time.
const RUN_PAGES: u64 = 32;

/// A file with pages that are not written yet.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pages: u64,
    left: u64,
    written: Written,
    /// From this page on nothing counts that older backups have: one of the backups that were read has the file only up to here,
    /// so that was cut off.
    limit: u64,
    beyond: Beyond,
    /// The share of the written pages in the CRC-32C of the file: CRCs of parts add up, in any order of the parts.
    crc: u32,
    /// Of the newest member.
    pub(crate) mode: u32,
}

/// Where the pages are that a file has beyond the size that an older backup knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// In the backups: ours have all pages beyond the size of the parent.
    Stored,
    /// In the backups, or in none of them, and then they are zeros. WAL-G may have found the changed pages in the WAL, and a page
    /// by which a relation was extended is not in the WAL before something is in it.
    Zeros,
}

/// Which pages are written. Most files are small.
#[derive(Debug)]
enum Written {
    Few(u64),
    Many(Box<[u64]>),
}

impl Written {
    fn word(&mut self, page: u64) -> &mut u64 {
        match self {
            Written::Few(word) => word,
            Written::Many(words) => &mut words[(page / 64) as usize],
        }
    }
}

impl Unfinished {
    /// A file of so many pages; none of them is written yet.
    pub(crate) fn new(pages: u64, mode: u32, beyond: Beyond) -> Self {
        Unfinished {
            pages,
            left: pages,
            limit: pages,
            beyond,
            written: match pages {
                0..=64 => Written::Few(0),
                _ => Written::Many(vec![0; pages.div_ceil(64) as usize].into()),
            },
            crc: 0,
            mode,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Pages without content.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Of the whole file, once it is complete.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    /// Is content for that page still wanted?
    fn wants(&mut self, page: u64) -> bool {
        page < self.limit && *self.written.word(page) >> (page % 64) & 1 == 0
    }

    /// The backup whose pages were put last has the file with so many pages.
    pub(crate) fn cut(&mut self, pages: u64) {
        if self.beyond == Beyond::Zeros {
            // The file has its size already, with holes, which read as zeros. No manifest has a CRC to compare.
            for page in pages..self.limit {
                if self.wants(page) {
                    self.mark(page);
                }
            }
        }
        self.limit = self.limit.min(pages);
    }

    fn mark(&mut self, page: u64) {
        *self.written.word(page) |= 1 << (page % 64);
        self.left -= 1;
    }

    /// Add the CRC of a run of pages that ends before page `end`.
    fn add(&mut self, crc: u32, end: u64) {
        // The size of a file is bounded where it is read.
        self.crc ^= crc32c::crc32c_combine(crc, 0, ((self.pages - end) * PAGE_BYTES) as usize);
    }
}

/// Writes pages that follow each other at once.
pub(crate) struct Pages<'a> {
    file: &'a mut Unfinished,
    output: &'a Output,
    run: Vec<u8>,
    /// The page after the run.
    end: u64,
    /// Bytes that were written.
    pub(crate) bytes: u64,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(file: &'a mut Unfinished, output: &'a Output) -> Self {
        Pages {
            file,
            output,
            run: Vec::new(),
            end: 0,
            bytes: 0,
        }
    }

    /// The content of a page, which counts unless a newer one is there.
    pub(crate) fn put(&mut self, page: u64, content: &[u8]) -> Result<()> {
        if !self.file.wants(page) {
            return Ok(());
        }
        if page != self.end || self.run.len() as u64 >= RUN_PAGES * PAGE_BYTES {
            self.flush()?;
        }
        self.file.mark(page);
        self.run.extend_from_slice(content);
        self.end = page + 1;
        Ok(())
    }

    /// Write what is left. Must be called at the end.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        let begin = self.end * PAGE_BYTES - self.run.len() as u64;
        self.output.write_at(&self.run, begin)?;
        self.file.add(crc32c::crc32c(&self.run), self.end);
        self.bytes += self.run.len() as u64;
        self.run.clear();
        Ok(())
    }
}

/// All unfinished files, by their number.
#[derive(Debug, Default)]
pub(crate) struct Assembly(Mutex<HashMap<u32, Unfinished>>);

impl Assembly {
    /// Take a file out, to work on it.
    pub(crate) fn take(&self, file: usize) -> Option<Unfinished> {
        self.0.lock().remove(&(file as u32))
    }

    /// Put it back.
    pub(crate) fn put(&self, file: usize, unfinished: Unfinished) {
        self.0.lock().insert(file as u32, unfinished);
    }

    /// How many there are, and one of them with the number of its pages without content.
    pub(crate) fn rest(&self) -> (usize, Option<(usize, u64)>) {
        let files = self.0.lock();
        let first = files.iter().min_by_key(|(file, _)| **file);
        (
            files.len(),
            first.map(|(file, unfinished)| (*file as usize, unfinished.left())),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::restore::directory::directories::Directories;
    use crate::restore::directory::tree::Flush;
    use crate::restore::directory::tree::Tree;
    use crate::stored::member::MemberPath;

    #[test]
    fn ten_pages_then_four_then_eight() {
        for beyond in [Beyond::Zeros, Beyond::Stored] {
            let mut file = Unfinished::new(8, 0, beyond);
            let put = |file: &mut Unfinished, pages: std::ops::Range<u64>, size| {
                let mut writer = Pages::new(file, &Output::Nowhere);
                for page in pages {
                    writer.put(page, &[1; PAGE_BYTES as usize]).expect("written");
                }
                writer.flush().expect("written");
                file.cut(size);
                file.left()
            };
            assert_eq!(put(&mut file, 0..0, 8), 8);
            assert_eq!(put(&mut file, 0..0, 4), if beyond == Beyond::Zeros { 4 } else { 8 });
            // A page that must not be missing stays missing.
            assert_eq!(put(&mut file, 0..10, 10), if beyond == Beyond::Zeros { 0 } else { 4 });
        }
    }

    proptest! {
        /// As restores from the oldest backup on do it: each version gets its size, and then its pages.
        #[test]
        fn what_was_cut_off_does_not_come_back(
            base in prop::collection::vec(1u8.., 0..90),
            versions in prop::collection::vec((0u64..90, prop::collection::vec((0u64..100, 1u8..), 0..20)), 1..5),
        ) {
            let mut expected = base.clone();
            for (pages, increment) in versions.iter().rev() {
                expected.resize(*pages as usize, 0);
                let known = increment.iter().filter(|(page, _)| page < pages);
                // The first one of the same number counts.
                known.rev().for_each(|(page, byte)| expected[*page as usize] = *byte);
            }
            let place = tempfile::tempdir().expect("a directory");
            let tree = Tree::open(Directories::default(), place.path(), &[], None).expect("open");
            let path = MemberPath::parse(b"1").expect("a path");
            let output = Output::File(tree.create_file(&path).expect("created"));
            output.set_size(versions[0].0 * PAGE_BYTES).expect("written");
            let mut file = Unfinished::new(versions[0].0, 0, Beyond::Zeros);
            let base: Vec<(u64, u8)> = (0..).zip(base).collect();
            for (pages, increment) in versions.iter().chain([&(base.len() as u64, base.clone())]) {
                let mut writer = Pages::new(&mut file, &output);
                for (page, byte) in increment.iter().filter(|(page, _)| page < pages) {
                    writer.put(*page, &[*byte; PAGE_BYTES as usize]).expect("written");
                }
                writer.flush().expect("written");
                file.cut(*pages);
            }
            prop_assert!(file.is_complete());
            output.keep(0o600, Flush::AtTheEnd).expect("kept");
            let content = std::fs::read(place.path().join("1")).expect("read");
            let pages: Vec<u8> = content.chunks(PAGE_BYTES as usize).map(|page| page[0]).collect();
            prop_assert_eq!(pages, expected);
        }

        #[test]
        fn the_newest_page_counts_and_checksums_add_up(
            pages in 0u64..150,
            increments in prop::collection::vec(prop::collection::vec((0u64..160, any::<u8>()), 0..40), 0..4),
        ) {
            let mut expected = vec![None; pages as usize];
            let mut file = Unfinished::new(pages, 0, Beyond::Stored);
            let whole: Vec<(u64, u8)> = (0..155).map(|page| (page, 0xEE)).collect();
            for increment in increments.iter().chain([&whole]) {
                let mut writer = Pages::new(&mut file, &Output::Nowhere);
                for (page, byte) in increment {
                    writer.put(*page, &[*byte; PAGE_BYTES as usize]).expect("written");
                    if let Some(page) = expected.get_mut(*page as usize) {
                        page.get_or_insert(*byte);
                    }
                }
                writer.flush().expect("written");
                prop_assert_eq!(file.left(), expected.iter().filter(|page| page.is_none()).count() as u64);
            }
            prop_assert!(file.is_complete());
            let content: Vec<u8> = expected.iter().flat_map(|byte| [byte.unwrap_or(0); PAGE_BYTES as usize]).collect();
            prop_assert_eq!(file.crc(), crc32c::crc32c(&content));
        }
    }
}
