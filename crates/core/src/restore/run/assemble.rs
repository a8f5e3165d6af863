//! Files that are put together from the increments of several backups, the newest first, each page once.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::shift::shift;
use crate::error::Result;
use crate::formats::increment::PAGE_BYTES;
use crate::restore::directory::output::Output;

/// So many pages of a file, from a multiple of this number on, are written at once at most. More at once cost more each.
const WINDOW_PAGES: u32 = 32;

/// So many times the pages that are there may be written at once, with zeros between them.
const SPREAD: u32 = 3;

const PAGE: usize = PAGE_BYTES as usize;

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

    /// Is nothing of that page's window written, and could all of it be?
    fn is_blank(&mut self, page: u64) -> bool {
        let first = page - page % u64::from(WINDOW_PAGES);
        let end = first + u64::from(WINDOW_PAGES);
        end <= self.limit && *self.written.word(first) >> (first % 64) & u64::from(u32::MAX) == 0
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
        self.crc ^= shift(crc, self.pages - end);
    }
}

/// The pages of an increment, in its order, so many at a time as are read together.
pub(crate) fn pieces(blocks: &[u32]) -> impl Iterator<Item = &[u32]> {
    let windows = blocks.chunk_by(|a, b| a / WINDOW_PAGES == b / WINDOW_PAGES);
    // There may be more if some come twice.
    windows.flat_map(|window| window.chunks(WINDOW_PAGES as usize))
}

/// The bytes of the buffer for one of them.
pub(crate) fn room(blocks: &[u32]) -> usize {
    blocks.len().saturating_mul(SPREAD as usize).min(WINDOW_PAGES as usize) * PAGE
}

/// Writes pages into a file.
pub(crate) struct Pages<'a> {
    file: &'a mut Unfinished,
    output: &'a Output,
    /// Bytes that were written.
    pub(crate) bytes: u64,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(file: &'a mut Unfinished, output: &'a Output) -> Self {
        Pages { file, output, bytes: 0 }
    }

    /// The contents of pages with these numbers, one behind the other. Each counts unless a newer one is there. Those that follow
    /// each other in the file, too, are written at once, from where they are.
    pub(crate) fn put(&mut self, numbers: impl IntoIterator<Item = u64>, contents: &[u8]) -> Result<()> {
        let (mut run, mut end) = (0..0, 0);
        for (number, at) in numbers.into_iter().zip((0..).step_by(PAGE)) {
            let is_wanted = self.file.wants(number);
            let continues = is_wanted && number == end;
            if !run.is_empty() && !continues {
                self.write(end, &contents[run])?;
                run = 0..0;
            }
            if is_wanted {
                self.file.mark(number);
                let start = if run.is_empty() { at } else { run.start };
                (run, end) = (start..at + PAGE, number + 1);
            }
        }
        match run.is_empty() {
            true => Ok(()),
            false => self.write(end, &contents[run]),
        }
    }

    /// The same for one of the [`pieces`] of an increment, whose contents the buffer begins with. It has [`room`], and they may
    /// be moved in it.
    ///
    /// Where many pages of a window have changed, and those between them have not, small writes are what costs most. So the
    /// former are written together, with zeros between them, in the place of which the pages of older backups come.
    pub(crate) fn put_piece(&mut self, blocks: &[u32], buffer: &mut [u8]) -> Result<()> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(());
        };
        let (count, is_ascending) = (blocks.len() as u32, blocks.is_sorted_by(|a, b| a < b));
        let is_spread = is_ascending && last - first >= count && last - first < count * SPREAD;
        if !is_spread || !self.file.is_blank(u64::from(*first)) {
            return self.put(blocks.iter().copied().map(u64::from), buffer);
        }
        // The last one first: none is moved to where another one still is.
        let mut end = (last - first + 1) as usize * PAGE;
        let size = end;
        for (index, block) in blocks.iter().enumerate().rev() {
            let at = (block - first) as usize * PAGE;
            buffer.copy_within(index * PAGE..(index + 1) * PAGE, at);
            buffer[at + PAGE..end].fill(0);
            end = at;
        }
        for run in blocks.chunk_by(|a, b| a + 1 == *b) {
            let (at, bytes) = ((run[0] - first) as usize * PAGE, run.len() * PAGE);
            run.iter().for_each(|block| self.file.mark(u64::from(*block)));
            self.add(u64::from(run[0]) + run.len() as u64, &buffer[at..at + bytes]);
        }
        self.output.write_at(&buffer[..size], u64::from(*first) * PAGE_BYTES)
    }

    /// Write pages that follow each other, and end before page `end`.
    fn write(&mut self, end: u64, run: &[u8]) -> Result<()> {
        self.output.write_at(run, end * PAGE_BYTES - run.len() as u64)?;
        self.add(end, run);
        Ok(())
    }

    /// Pages that follow each other, and end before page `end`, are marked and have their place in the file.
    fn add(&mut self, end: u64, run: &[u8]) {
        self.file.add(crc32c::crc32c(run), end);
        self.bytes += run.len() as u64;
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

    /// An increment of pages that are full of one byte each.
    fn put_all(writer: &mut Pages<'_>, mut pages: &[(u64, u8)]) {
        let blocks: Vec<u32> = pages.iter().map(|(page, _)| *page as u32).collect();
        let mut buffer = vec![0xDD; room(&blocks)];
        for piece in pieces(&blocks) {
            let (some, rest) = pages.split_at(piece.len());
            for ((_, byte), place) in some.iter().zip(buffer.chunks_mut(PAGE)) {
                place.fill(*byte);
            }
            writer.put_piece(piece, &mut buffer).expect("written");
            pages = rest;
        }
    }

    #[test]
    fn ten_pages_then_four_then_eight() {
        for beyond in [Beyond::Zeros, Beyond::Stored] {
            let mut file = Unfinished::new(8, 0, beyond);
            let put = |file: &mut Unfinished, pages: std::ops::Range<u64>, size| {
                let mut writer = Pages::new(file, &Output::Nowhere);
                let contents = vec![1; pages.clone().count() * PAGE_BYTES as usize];
                writer.put(pages, &contents).expect("written");
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
                let known: Vec<_> = increment.iter().copied().filter(|(page, _)| page < pages).collect();
                put_all(&mut writer, &known);
                file.cut(*pages);
            }
            prop_assert!(file.is_complete());
            output.keep(0o600, Flush::AtTheEnd).expect("kept");
            let content = std::fs::read(place.path().join("1")).expect("read");
            let pages: Vec<u8> = content.chunks(PAGE_BYTES as usize).map(|page| page[0]).collect();
            prop_assert_eq!(pages, expected);
        }

        /// With many pages in their order, of which some are written together with what is between them.
        #[test]
        fn what_is_written_between_pages_is_not_left(
            pages in 60u64..140,
            base in prop_oneof![0u64..140, Just(140)],
            masks in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 1, 1, 1, 1, 1]), 140), 1..4),
        ) {
            let place = tempfile::tempdir().expect("a directory");
            let tree = Tree::open(Directories::default(), place.path(), &[], None).expect("open");
            let path = MemberPath::parse(b"1").expect("a path");
            let output = Output::File(tree.create_file(&path).expect("created"));
            output.set_size(pages * PAGE_BYTES).expect("written");
            let mut file = Unfinished::new(pages, 0, Beyond::Zeros);
            let mut expected = vec![None; pages as usize];
            let whole: Vec<u8> = (0..140).map(|page| u8::from(page < base)).collect();
            for (increment, mask) in (1..).zip(masks.iter().chain([&whole])) {
                let some: Vec<(u64, u8)> = (0..pages)
                    .filter(|page| mask[*page as usize] == 1)
                    .map(|page| (page, increment * 16 + (page % 16) as u8))
                    .collect();
                let mut writer = Pages::new(&mut file, &output);
                put_all(&mut writer, &some);
                let before = expected.iter().flatten().count();
                some.iter().for_each(|(page, byte)| _ = expected[*page as usize].get_or_insert(*byte));
                let after = expected.iter().flatten().count();
                prop_assert_eq!(writer.bytes, (after - before) as u64 * PAGE_BYTES);
                prop_assert_eq!(file.left(), pages - after as u64);
            }
            file.cut(base);
            prop_assert!(file.is_complete());
            output.keep(0o600, Flush::AtTheEnd).expect("kept");
            let content = std::fs::read(place.path().join("1")).expect("read");
            let is_full = expected.iter().all(Option::is_some);
            let expected: Vec<u8> = expected.iter().flat_map(|byte| [byte.unwrap_or(0); PAGE]).collect();
            prop_assert!(content == expected);
            prop_assert!(!is_full || file.crc() == crc32c::crc32c(&content));
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
                put_all(&mut writer, increment);
                for (page, byte) in increment {
                    if let Some(page) = expected.get_mut(*page as usize) {
                        page.get_or_insert(*byte);
                    }
                }
                prop_assert_eq!(file.left(), expected.iter().filter(|page| page.is_none()).count() as u64);
            }
            prop_assert!(file.is_complete());
            let content: Vec<u8> = expected.iter().flat_map(|byte| [byte.unwrap_or(0); PAGE_BYTES as usize]).collect();
            prop_assert_eq!(file.crc(), crc32c::crc32c(&content));
        }
    }
}
