//! The checksums of relation pages in a stream.

use crate::lsn::Lsn;
use crate::page::{NAMED, PAGE_BYTES, Page, Verdict};

/// Checks the pages of one file as its bytes come.
#[derive(Debug)]
pub(super) struct PageChecker {
    page: Vec<u8>,
    /// The number of the file's first page, in its relation.
    first: u32,
    /// That of the next one.
    next: u32,
    start: Lsn,
    pub(super) checked: u64,
    pub(super) bad: u64,
    /// Numbers of the first bad ones.
    pub(super) some: Vec<u32>,
}

impl PageChecker {
    /// For a file that begins with that page of its relation, in a backup that begins at `start`: a page that was changed
    /// later may be torn, and is written again from the WAL.
    pub(super) fn new(first: u32, start: Lsn) -> Self {
        PageChecker {
            page: Vec::with_capacity(PAGE_BYTES),
            first,
            next: first,
            start,
            checked: 0,
            bad: 0,
            some: Vec::new(),
        }
    }

    /// The next bytes of the file.
    pub(super) fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (taken, rest) = piece.split_at(piece.len().min(PAGE_BYTES - self.page.len()));
            self.page.extend_from_slice(taken);
            piece = rest;
            if let Some(page) = self.page.as_array() {
                let verdict = Page(page).verdict(self.next, self.start);
                self.count(verdict);
                self.page.clear();
                self.next = self.next.wrapping_add(1);
            }
        }
    }

    /// The next bytes are those of another page of the relation's file, by its number there.
    pub(super) fn go_to(&mut self, page: u32) {
        self.next = self.first.wrapping_add(page);
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::New | Verdict::Changed => return,
            Verdict::Right => {}
            Verdict::Wrong => {
                self.bad += 1;
                if self.some.len() < NAMED {
                    self.some.push(self.next);
                }
            }
        }
        self.checked += 1;
    }
}

/// The number of the first page in a relation's file, by its path below the data directory; none if it is no relation's.
pub(super) fn first_page(path: &[Vec<u8>], segment_pages: u32) -> Option<u32> {
    crate::page::first_page_of(path.iter().map(Vec::as_slice), segment_pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::sample;

    #[test]
    fn what_may_be_torn_or_was_never_used_is_not_looked_at() {
        let start = Lsn(0x300_0000);
        let mut used = sample(Lsn(2), 7, 1);
        let mut later = sample(start, 9, 2);
        later[5000] = 0;
        let mut checker = PageChecker::new(7, start);
        let all = [used, [0; PAGE_BYTES], later].concat();
        all.chunks(1000).for_each(|piece| checker.feed(piece));
        assert_eq!((checker.checked, checker.bad), (1, 0));
        used[5000] = 0;
        let mut checker = PageChecker::new(7, start);
        checker.feed(&used);
        assert_eq!((checker.checked, checker.bad, checker.some), (1, 1, vec![7]));
    }
}
