//! Leaving the page cache of the system as it was: a backup reads everything once, and what it alone has brought into the
//! cache would drive out what the server reads all the time.
//!
//! What was in the cache before stays there, what was not is dropped soon after it has been copied. Which is which has to be
//! asked for before the kernel reads ahead. `POSIX_FADV_DONTNEED` alone cannot do
//! that, as it drops the server's pages too. `POSIX_FADV_NOREUSE` and `RWF_DONTCACHE` were not measured.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Bytes that are asked for at a time. As the next window is asked for when the reading reaches this one, it is also the most
/// that the kernel may read ahead without being taken for the server: `read_ahead_kb` of the disk is 128 as a rule, and some
/// MB on large arrays.
const WINDOW: u64 = 64 << 20;

/// Bytes that are dropped at a time. The kernel keeps what it reads in folios of up to 2 MB, aligned to their size, and drops
/// only those that are in the stretch as a whole.
const STRIDE: u64 = 8 << 20;

/// Which pages of a stretch of a file are in the page cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// The size of the system's pages, in bytes.
    pub page_bytes: u64,
    /// Of each page whether it is there.
    pub pages: Vec<bool>,
}

/// Finds that out for `length` bytes from `offset` on, which is a multiple of the system's page size. This takes a system call,
/// and no safe function for it is known.
pub type FindResident = fn(file: &File, offset: u64, length: u64) -> io::Result<Residency>;

/// The effect on the cache of reading one file.
#[derive(Debug)]
pub(crate) struct Footprint {
    find: FindResident,
    /// How this window, by its number, was before it was read, and the next one.
    before: VecDeque<(u64, Residency)>,
    /// From here on, in bytes, nothing has been dropped yet.
    kept: u64,
    /// Up to here the file was read.
    reached: u64,
}

impl Footprint {
    pub(crate) fn new(find: FindResident) -> Self {
        Footprint {
            find,
            before: VecDeque::new(),
            kept: 0,
            reached: 0,
        }
    }

    /// To be called before bytes at that position of a file of `size` bytes are read, up to the next multiple of 64 MB.
    pub(crate) fn look(&mut self, file: &File, position: u64, size: u64) -> io::Result<()> {
        if position / STRIDE != self.kept / STRIDE {
            self.wipe(file)?;
            self.kept = position - position % STRIDE;
        }
        let current = position / WINDOW;
        let wanted = current..current + 2;
        self.before.retain(|(window, _)| wanted.contains(window));
        for window in wanted {
            let start = window * WINDOW;
            if start < size && !self.before.iter().any(|(known, _)| *known == window) {
                let found = (self.find)(file, start, WINDOW.min(size - start))?;
                self.before.push_back((window, found));
            }
        }
        Ok(())
    }

    /// To be called when the bytes up to that position have been read.
    pub(crate) fn read(&mut self, end: u64) {
        self.reached = end;
    }

    /// Drop the pages that were not there before, as far as that has not been done. To be called when no more is read.
    pub(crate) fn wipe(&mut self, file: &File) -> io::Result<()> {
        for range in self.cold(self.kept, self.reached) {
            let (Ok(start), Ok(bytes)) = (range.start.try_into(), (range.end - range.start).try_into()) else {
                break;
            };
            posix_fadvise(file, start, bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        self.kept = self.reached;
        Ok(())
    }

    /// The parts of this stretch that were not in the cache. If the system cannot tell, a part counts as cached.
    fn cold(&self, position: u64, end: u64) -> Vec<Range<u64>> {
        let mut cold: Vec<Range<u64>> = Vec::new();
        for (window, residency) in &self.before {
            let start = window * WINDOW;
            for (page, is_resident) in (0..).zip(&residency.pages) {
                let page = start + page * residency.page_bytes..start + (page + 1) * residency.page_bytes;
                let page = page.start.max(position)..page.end.min(end);
                if *is_resident || page.is_empty() {
                    continue;
                }
                match cold.last_mut() {
                    Some(last) if last.end == page.start => last.end = page.end,
                    _ => cold.push(page),
                }
            }
        }
        cold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every third page is resident.
    fn some(_: &File, offset: u64, length: u64) -> io::Result<Residency> {
        let first = offset / 4096;
        Ok(Residency {
            page_bytes: 4096,
            pages: (first..first + length.div_ceil(4096))
                .map(|page| page % 3 == 2)
                .collect(),
        })
    }

    #[test]
    fn what_was_not_there_is_dropped() {
        let file = tempfile::tempfile().expect("a file");
        let mut footprint = Footprint::new(some);
        let size = 3 * WINDOW + 5000;
        footprint.look(&file, 0, size).expect("looked");
        let pages = |ranges: Vec<Range<u64>>| -> Vec<(u64, u64)> {
            ranges
                .into_iter()
                .map(|range| (range.start / 4096, range.end / 4096))
                .collect()
        };
        assert_eq!(pages(footprint.cold(0, 6 * 4096)), [(0, 2), (3, 5)]);
        assert_eq!(pages(footprint.cold(2 * 4096, 4 * 4096)), [(3, 4)]);
        // Over the border of the two windows that are known, and beyond them.
        let border = WINDOW / 4096;
        assert_eq!(border % 3, 1);
        let over = footprint.cold(WINDOW - 4096, WINDOW + 4096);
        assert_eq!(pages(over), [(border - 1, border + 1)]);
        assert_eq!(footprint.cold(2 * WINDOW, 2 * WINDOW + 4096), []);
        footprint.look(&file, 3 * WINDOW, size).expect("looked");
        assert_eq!(footprint.before.len(), 1, "no window begins behind the end");
        // The last page is not whole.
        let cold = footprint.cold(3 * WINDOW, size);
        assert_eq!((cold.len(), cold.first()), (1, Some(&(3 * WINDOW..size))));
    }

    #[test]
    fn it_is_dropped_in_whole_strides() {
        let file = tempfile::tempfile().expect("a file");
        let (mut footprint, size) = (Footprint::new(some), 3 * STRIDE + 5000);
        let mut kept = Vec::new();
        for position in (0..size).step_by(STRIDE as usize / 2) {
            footprint.look(&file, position, size).expect("looked");
            kept.push(footprint.kept / (STRIDE / 2));
            footprint.read((position + STRIDE / 2).min(size));
        }
        assert_eq!(kept, [0, 0, 2, 2, 4, 4, 6]);
        footprint.wipe(&file).expect("dropped");
        assert_eq!(footprint.kept, size);
        // Back, in the middle of a stride.
        footprint.look(&file, STRIDE + 8192, size).expect("looked");
        assert_eq!(footprint.kept, STRIDE);
    }

    #[test]
    fn what_cannot_be_found_out_is_said() {
        let file = tempfile::tempfile().expect("a file");
        let mut footprint = Footprint::new(|_, _, _| Err(io::Error::from(io::ErrorKind::Unsupported)));
        assert!(footprint.look(&file, 0, 1).is_err());
        assert!(footprint.wipe(&file).is_ok(), "nothing is dropped");
    }
}
