//! Files that are put together from the increments of several backups, the newest first, each page once.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::output::Output;
use crate::error::Result;
use crate::formats::increment::PAGE_BYTES;

/// Pages that are written at a time.
const RUN_PAGES: u64 = 32;

/// A file of which some pages are not written yet.
#[derive(Debug)]
pub(super) struct Unfinished {
    pages: u64,
    left: u64,
    written: Written,
    /// Of the pages that are written, as far as they go into the CRC-32C of the file: CRCs of parts add up, whatever the
    /// order in which the parts come.
    crc: u32,
    /// Of the newest member.
    pub(super) mode: u32,
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
    /// A file of so many pages, none of which is written.
    pub(super) fn new(pages: u64, mode: u32) -> Self {
        Unfinished {
            pages,
            left: pages,
            written: match pages {
                0..=64 => Written::Few(0),
                _ => Written::Many(vec![0; pages.div_ceil(64) as usize].into()),
            },
            crc: 0,
            mode,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Pages without content.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Of the whole file, once it is complete.
    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    /// Is content for that page still wanted?
    fn wants(&mut self, page: u64) -> bool {
        page < self.pages && *self.written.word(page) >> (page % 64) & 1 == 0
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
pub(super) struct Pages<'a> {
    file: &'a mut Unfinished,
    output: &'a Output,
    run: Vec<u8>,
    /// The page after the run.
    end: u64,
    /// Bytes that were written.
    pub(super) bytes: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn new(file: &'a mut Unfinished, output: &'a Output) -> Self {
        Pages {
            file,
            output,
            run: Vec::new(),
            end: 0,
            bytes: 0,
        }
    }

    /// The content of a page, which counts unless a newer one is there.
    pub(super) fn put(&mut self, page: u64, content: &[u8]) -> Result<()> {
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
    pub(super) fn flush(&mut self) -> Result<()> {
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
pub(super) struct Assembly(Mutex<HashMap<u32, Unfinished>>);

impl Assembly {
    /// Take a file out, to work on it.
    pub(super) fn take(&self, file: usize) -> Option<Unfinished> {
        self.0.lock().remove(&(file as u32))
    }

    /// Put it back.
    pub(super) fn put(&self, file: usize, unfinished: Unfinished) {
        self.0.lock().insert(file as u32, unfinished);
    }

    /// How many there are, and one of them with the number of its pages without content.
    pub(super) fn rest(&self) -> (usize, Option<(usize, u64)>) {
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

    proptest! {
        #[test]
        fn the_newest_page_counts_and_checksums_add_up(
            pages in 0u64..150,
            increments in prop::collection::vec(prop::collection::vec((0u64..160, any::<u8>()), 0..40), 0..4),
        ) {
            let mut expected = vec![None; pages as usize];
            let mut file = Unfinished::new(pages, 0);
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
