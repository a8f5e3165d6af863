//! The pages of a segment of which only the beginning is there.

use super::pages::{PageHeader, SHORT_HEADER_BYTES};
use super::{FirstPage, LONG_HEADER_BYTES, Segment, SegmentSize};
use crate::lsn::Lsn;

/// Checks that each page is that of its place, as the bytes of a segment come in. Records are not looked at.
#[derive(Debug)]
pub(crate) struct PageHeaders {
    segment: Segment,
    /// That of the cluster, if it is known.
    system_identifier: Option<u64>,
    /// What the first page tells: the size of the segment and of its pages, and the magic number.
    first: Option<(SegmentSize, u64, u16)>,
    /// Bytes that came.
    at: u64,
    /// The header of the present page, as far as it came.
    header: Vec<u8>,
    /// A page was never written: the segment ends before it.
    has_ended: bool,
}

impl PageHeaders {
    /// Of this segment, from its beginning on.
    pub(crate) fn new(segment: Segment, system_identifier: Option<u64>) -> Self {
        PageHeaders {
            segment,
            system_identifier,
            first: None,
            at: 0,
            header: Vec::with_capacity(LONG_HEADER_BYTES),
            has_ended: false,
        }
    }

    /// The size of the segment, once its first page has told it.
    pub(crate) fn size(&self) -> Option<SegmentSize> {
        self.first.map(|(size, ..)| size)
    }

    /// Look at the next bytes. The reason why they are not of this segment, if they are not.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let (in_page, page_bytes) = match self.first {
                None => (self.at, u64::MAX),
                Some((_, page_bytes, _)) => (self.at % page_bytes, page_bytes),
            };
            let length = match self.at - in_page {
                0 => LONG_HEADER_BYTES,
                _ => SHORT_HEADER_BYTES,
            };
            let room = match usize::try_from(in_page) {
                Ok(begun) if begun < length => length - begun,
                _ => usize::try_from(page_bytes - in_page).unwrap_or(usize::MAX),
            };
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            if in_page < length as u64 {
                self.header.extend_from_slice(now);
                if self.header.len() == length {
                    self.check(self.at - in_page)?;
                    self.header.clear();
                }
            }
            self.at += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn check(&mut self, page: u64) -> Result<(), String> {
        let Some((size, _, magic)) = self.first else {
            return self.begin();
        };
        // Behind the record that ends a segment early there is nothing.
        if self.header.iter().all(|byte| *byte == 0) {
            self.has_ended = true;
            return Ok(());
        }
        let address = Lsn(self.segment.start(size).0.saturating_add(page));
        if self.has_ended {
            return Err(format!("There is a page at {address}, and none before it."));
        }
        let header = PageHeader::parse(&self.header);
        header.check(address, false, magic)?;
        if header.timeline > self.segment.timeline {
            return Err(format!(
                "The page at {address} is of timeline {}, the segment of {}.",
                header.timeline, self.segment.timeline
            ));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        let Some(header) = self.header.first_chunk::<LONG_HEADER_BYTES>() else {
            return Err("It has no page header.".to_owned());
        };
        let page = FirstPage::parse(header);
        let no_header = || "Its first page has no WAL page header.".to_owned();
        let size = SegmentSize::new(page.segment_bytes.into()).map_err(|_| no_header())?;
        page.check(self.segment, size, self.system_identifier)?;
        let page_bytes = page.page_bytes().ok_or_else(no_header)?;
        self.first = Some((size, page_bytes, page.magic()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_BYTES;
    use super::super::generator::{Generator, SIZE_BYTES, SYSTEM_IDENTIFIER, segments, size};
    use super::*;

    /// In pieces of so many bytes.
    fn feed(segment: Segment, bytes: &[u8], piece: usize) -> Result<PageHeaders, String> {
        let mut headers = PageHeaders::new(segment, Some(SYSTEM_IDENTIFIER));
        for piece in bytes.chunks(piece) {
            headers.feed(piece)?;
        }
        Ok(headers)
    }

    #[test]
    fn what_is_there_of_a_segment_passes_wherever_it_ends() {
        let (segment, bytes) = segments(1, 7, 1).swap_remove(0);
        for end in [
            40,
            41,
            PAGE_BYTES - 1,
            PAGE_BYTES,
            PAGE_BYTES + 23,
            PAGE_BYTES + 24,
            300_001,
            SIZE_BYTES,
        ] {
            for piece in [1, 13, PAGE_BYTES, SIZE_BYTES] {
                let headers = feed(segment, &bytes[..end], piece).expect("all is well");
                assert_eq!(headers.size(), Some(size()), "{end} {piece}");
            }
        }
        assert_eq!(
            feed(segment, &bytes[..39], 8).expect("nothing is wrong yet").size(),
            None
        );

        let mut switched = Generator::new(1, 7);
        switched.restore_point("x");
        switched.switch();
        let (segment, bytes) = switched.segments().swap_remove(0);
        feed(segment, &bytes, 1000).expect("zeros behind the switch");
    }

    #[test]
    fn pages_of_another_place_are_told() {
        let (segment, bytes) = segments(2, 7, 1).swap_remove(0);
        let (next, other) = segments(2, 8, 1).swap_remove(0);
        let refused = |segment, bytes: &[u8]| feed(segment, bytes, 1000).expect_err("refused");
        let replaced = |at: usize, by: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + by.len()].copy_from_slice(by);
            bytes
        };
        assert!(refused(next, &bytes).contains("The first page is of LSN"));
        let at = 3 * PAGE_BYTES;
        let of_other = replaced(at, &other[at..2 * at]);
        assert!(refused(segment, &of_other).contains("says that it is at"));
        assert!(refused(segment, &replaced(at, &bytes[..PAGE_BYTES])).contains("flags"));
        assert!(refused(segment, &replaced(at, &[1, 2])).contains("magic number"));
        assert!(refused(segment, &replaced(at + 4, &[3])).contains("timeline 3"));
        let hole = replaced(at, &[0; PAGE_BYTES]);
        assert!(refused(segment, &hole).contains("and none before it"));
        assert!(refused(segment, &[0; 100]).contains("no WAL page header"));
        let foreign = PageHeaders::new(segment, Some(1)).feed(&bytes[..100]);
        assert!(foreign.expect_err("refused").contains("system identifier"));
    }
}
