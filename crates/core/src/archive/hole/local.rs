//! The server takes its own file if the archive has none. Is that one whole?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::control_file::ControlFile;
use crate::lsn::Lsn;
use crate::wal::{FirstPage, LONG_HEADER_BYTES, PageHeader, SHORT_HEADER_BYTES, Segment, SegmentSize, WalWalker};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Records begin at multiples of it.
const ALIGNMENT: usize = 8;

/// Bytes of a record's header, and of those the ones before its checksum.
const RECORD_BYTES: usize = 24;
const BEFORE_CHECKSUM: usize = 20;

/// `xl_info` and `xl_rmid` of a record that ends a segment early.
const XLOG_SWITCH: u8 = 0x40;
const RM_XLOG: u8 = 0;

/// Does this file have all WAL of the segment? One that came half by streaming has zeros behind that, or pages of the segment that
/// the file had been before.
pub(super) fn is_whole(path: &Path, segment: Segment, control: &ControlFile) -> bool {
    let read = |file: File| content_of(&file, segment, control.segment_size, control.system_identifier);
    matches!(File::open(path).and_then(read), Ok(Content::Whole))
}

/// Does this file have at least the beginning of the segment? One that is kept for later use still has that of an older segment.
pub(super) fn is_begun(path: &Path, segment: Segment, control: &ControlFile) -> bool {
    let look = |file: File| first_page(&file, segment, control.segment_size, control.system_identifier);
    let opened = File::open(path).and_then(look);
    opened.is_ok_and(|header| header.is_some())
}

/// The header of its first page, if it is this segment's.
fn first_page(
    file: &File,
    segment: Segment,
    size: SegmentSize,
    system_identifier: u64,
) -> io::Result<Option<FirstPage>> {
    let mut header = [0; LONG_HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let page = FirstPage::parse(&header);
    let checked = page.check(segment, size, Some(system_identifier));
    Ok(checked.is_ok().then_some(page))
}

/// What a file with the name of a segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::archive) enum Content {
    /// All WAL of the segment.
    Whole,
    /// The beginning of it, so many bytes, and zeros.
    Beginning(u64),
    /// Something else.
    Other,
}

/// The same as [`is_whole`] of a file that is open.
pub(in crate::archive) fn content_of(
    file: &File,
    segment: Segment,
    size: SegmentSize,
    system_identifier: u64,
) -> io::Result<Content> {
    let Some(first) = first_page(file, segment, size, system_identifier)? else {
        return Ok(Content::Other);
    };
    if file.metadata()?.len() != size.bytes() {
        return Ok(Content::Other);
    }
    let Some(page_bytes) = first.page_bytes() else {
        return Ok(Content::Other);
    };
    let mut page = vec![0; page_bytes as usize];
    let mut at = size.bytes();
    loop {
        at -= page_bytes;
        file.read_exact_at(&mut page, at)?;
        if let Some(last) = page.iter().rposition(|byte| *byte != 0) {
            let (header, end) = (PageHeader::parse(&page), at + last as u64 + 1);
            let address = segment.start(size).0.saturating_add(at);
            let is_of_segment = header.magic == first.magic() && header.address == Lsn(address);
            let is_full = at + page_bytes == size.bytes() && is_full(&page);
            return Ok(match is_of_segment {
                true if is_full || ends_with_switch(file, end - 1, page_bytes)? => Content::Whole,
                true => Content::Beginning(end),
                false => Content::Other,
            });
        }
        if at == 0 {
            return Ok(Content::Other);
        }
    }
}

/// Is all WAL of the segment before `end` in order, and does no complete record come behind that? What is cut off behind the last
/// complete record, or had been in the file before, is none.
pub(in crate::archive) fn ends_at(
    file: &File,
    segment: Segment,
    size: SegmentSize,
    system_identifier: u64,
    end: Lsn,
) -> io::Result<bool> {
    let walker = || WalWalker::new(size, Some(system_identifier));
    let walk = |mut walker: WalWalker| {
        walker.begin(segment);
        let (mut at, mut buffer) = (0, vec![0; BUFFER_BYTES]);
        while at < size.bytes() {
            let bytes = file.read_at(&mut buffer, at)?;
            if bytes == 0 {
                break;
            }
            walker.feed(&buffer[..bytes]);
            at += bytes as u64;
        }
        Ok::<_, io::Error>(walker.cut())
    };
    Ok(walk(walker().until(end))?.problem.is_none() && walk(walker())?.last_record < Some(end))
}

/// Do the records of a page that is not the first of its segment reach its end? What comes by streaming, or from the tail, ends behind a
/// record.
fn is_full(page: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = page.get(at..at + 4).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let header = PageHeader::parse(page);
    let rest = match header.continues_record() {
        true => (header.remaining as usize).next_multiple_of(ALIGNMENT),
        false => 0,
    };
    let mut at = SHORT_HEADER_BYTES + rest;
    while at < page.len() {
        let length = word(at);
        if length < RECORD_BYTES {
            return false;
        }
        at += length.next_multiple_of(ALIGNMENT);
    }
    true
}

/// Does the record that has the last byte that is not zero end the segment?
fn ends_with_switch(file: &File, last: u64, page_bytes: u64) -> io::Result<bool> {
    // Records begin at multiples of 8, and this one is 24 bytes long.
    let mut end = (last / 8 + 1) * 8;
    let mut record = [0; RECORD_BYTES];
    let mut missing = RECORD_BYTES;
    while missing > 0 {
        // A record goes on behind the header of the next page.
        let page = (end - 1) / page_bytes * page_bytes;
        let header = if page == 0 {
            LONG_HEADER_BYTES as u64
        } else {
            SHORT_HEADER_BYTES as u64
        };
        let begin = (page + header).max(end.saturating_sub(missing as u64));
        if begin < end {
            let bytes = (end - begin) as usize;
            file.read_exact_at(&mut record[missing - bytes..missing], begin)?;
            missing -= bytes;
        }
        if page == 0 && missing > 0 {
            return Ok(false);
        }
        end = page;
    }
    let word = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let is_switch = word(0) as usize == RECORD_BYTES && record[16] & 0xF0 == XLOG_SWITCH && record[17] == RM_XLOG;
    Ok(is_switch && crc32c::crc32c(&record[..BEFORE_CHECKSUM]) == word(BEFORE_CHECKSUM))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};
    use crate::wal::generator::{Generator, segments};

    const MB: u64 = 1 << 20;
    const PAGE: usize = 8192;

    fn size() -> SegmentSize {
        SegmentSize::new(MB).expect("a size")
    }

    /// The first pages of a segment, and zeros behind them.
    pub fn pages(segment: Segment, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; MB as usize];
        for number in 0..count {
            let page = &mut bytes[number * PAGE..(number + 1) * PAGE];
            page.fill(7);
            page[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
            page[2..4].copy_from_slice(&(if number == 0 { 2u16 } else { 0 }).to_le_bytes());
            page[4..8].copy_from_slice(&segment.timeline.to_le_bytes());
            let address = segment.start(size()).0 + (number * PAGE) as u64;
            page[8..16].copy_from_slice(&address.to_le_bytes());
            if number == 0 {
                page[24..32].copy_from_slice(&SYSTEM_IDENTIFIER.to_le_bytes());
                page[32..36].copy_from_slice(&(MB as u32).to_le_bytes());
                page[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
            }
        }
        bytes
    }

    fn switch() -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[0] = RECORD_BYTES as u8;
        record[8] = 0x28;
        record[16] = XLOG_SWITCH;
        let sum = crc32c::crc32c(&record[..BEFORE_CHECKSUM]);
        record[BEFORE_CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        record
    }

    #[test]
    fn a_half_segment_is_not_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        std::fs::write(dir.path().join("global/pg_control"), sample(MB as u32, 288)).expect("written");
        let control = ControlFile::read(dir.path()).expect("read");
        let segment: Segment = "000000010000000000000004".parse().expect("a segment");
        let path = dir.path().join("segment");
        let is = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            is_whole(&path, segment, &control)
        };
        let all = (MB as usize) / PAGE;
        let whole = pages(segment, all);
        assert!(is(&whole) && is_begun(&path, segment, &control));
        assert!(!is(&whole[..whole.len() - PAGE]), "it is too short");
        assert!(!is(&pages(segment, 3)), "zeros behind it");
        assert!(is_begun(&path, segment, &control));
        let mut used_again = pages("000000010000000000000002".parse().expect("a segment"), all);
        std::fs::write(&path, &used_again).expect("written");
        assert!(!is_begun(&path, segment, &control), "kept for later use");
        used_again[..3 * PAGE].copy_from_slice(&pages(segment, 3)[..3 * PAGE]);
        assert!(!is(&used_again), "older pages behind it");

        let mut switched = pages(segment, 3);
        switched[2 * PAGE + 80..3 * PAGE].fill(0);
        assert!(!is(&switched), "no record ends it");
        switched[2 * PAGE + 80..2 * PAGE + 104].copy_from_slice(&switch());
        assert!(is(&switched), "a switch ends it");
        switched[2 * PAGE + 88] = 1;
        assert!(!is(&switched), "the record is damaged");
        // The record goes on on the next page.
        let mut split = pages(segment, 4);
        split[3 * PAGE + 24..4 * PAGE].fill(0);
        split[3 * PAGE - 8..3 * PAGE].copy_from_slice(&switch()[..8]);
        split[3 * PAGE + 24..3 * PAGE + 40].copy_from_slice(&switch()[8..]);
        assert!(is(&split));
    }

    /// The tail may end in the last page.
    #[test]
    fn a_segment_that_lacks_the_end_of_its_last_page_is_not_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = segments(1, 4, 1).swap_remove(0).1;
        let segment: Segment = "000000010000000000000004".parse().expect("a segment");
        let is = |bytes: &[u8]| {
            let path = dir.path().join("segment");
            std::fs::write(&path, bytes).expect("written");
            let file = File::open(path).expect("opened");
            content_of(&file, segment, size(), SYSTEM_IDENTIFIER).expect("read")
        };
        assert_eq!(is(&whole), Content::Whole);
        let cut = |end: usize| [&whole[..end], &vec![0; whole.len() - end][..]].concat();
        let mut wal = Generator::new(1, 4);
        // Records of 32 bytes, up to somewhere in the last page.
        while wal.position() < 5 * MB - 4000 {
            wal.record(10, 0, &[7; 8]);
        }
        let end = (wal.position() - 4 * MB) as usize;
        wal.fill(1);
        let small = wal.segments().swap_remove(0).1;
        assert_eq!(is(&small), Content::Whole);
        let cut_small = [&small[..end], &vec![0; small.len() - end][..]].concat();
        assert!(matches!(is(&cut_small), Content::Beginning(_)), "up to {end}");
        assert_eq!(
            is(&cut(whole.len() - PAGE)),
            Content::Beginning((whole.len() - PAGE) as u64),
            "all but the last page"
        );
        let mut foreign = whole.clone();
        foreign[0] ^= 1;
        assert_eq!(is(&foreign), Content::Other);
        assert_eq!(is(&whole[..300_000]), Content::Other);
    }
}
