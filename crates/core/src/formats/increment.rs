//! The member of a delta backup that holds some pages of a relation's file: an increment on the file of the parent.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `wi1U` |
//! | 8 | the size of the file, in bytes |
//! | 4 | how many pages follow |
//! | 4 each | their numbers within the file |
//! | 8192 each | the pages, in the order of the numbers |
//!
//! Numbers are little endian. It is applied by making the file as long as its size says, and writing each page at its place.

use std::io::{self, Read};

use crate::error::{Error, Result};

/// `BLCKSZ`, in bytes.
pub const PAGE_BYTES: u64 = 8192;

/// The first bytes of an increment.
pub const MAGIC: [u8; 4] = *b"wi1U";

/// The bytes before the numbers.
const FIXED_BYTES: u64 = 16;

/// The largest file that an increment can stand for, in bytes: four times a segment of `--with-segsize=16`.
const FILE_LIMIT: u64 = 64 << 30;

/// The header of an increment: the size of the file, and the pages that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementHeader {
    /// Of the file as it is to be, in bytes: a multiple of [`PAGE_BYTES`].
    pub file_size: u64,
    /// The numbers of the pages. Ours are ascending, and each below `file_size / PAGE_BYTES`; WAL-G's come in any order, and
    /// those that were appended while it read are beyond the end: replay of the WAL appends them again.
    pub blocks: Vec<u32>,
}

impl IncrementHeader {
    /// The bytes of the whole member: header and pages.
    pub fn member_size(&self) -> u64 {
        Self::size_of(self.blocks.len() as u64)
    }

    /// The bytes of a member with so many pages.
    pub fn size_of(pages: u64) -> u64 {
        FIXED_BYTES + pages * (4 + PAGE_BYTES)
    }

    /// The bytes before the first page.
    pub fn header_size(&self) -> u64 {
        FIXED_BYTES + self.blocks.len() as u64 * 4
    }

    /// As the member begins.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.header_size() as usize);
        bytes.extend(MAGIC);
        bytes.extend(self.file_size.to_le_bytes());
        bytes.extend((self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            bytes.extend(block.to_le_bytes());
        }
        bytes
    }

    /// Read the header of a member of `member_size` bytes; what follows are the pages. [`Error::Damaged`] names `member`
    /// if it is not one; nothing that it says of lengths is believed before it agrees with the size of the member.
    pub fn read_from(source: &mut impl Read, member_size: u64, member: &str) -> Result<io::Result<Self>> {
        let damaged = |reason: &str| Err(Error::damaged(member, reason));
        let mut fixed = [0; FIXED_BYTES as usize];
        if member_size < FIXED_BYTES {
            return damaged("It is too short for an increment.");
        }
        if let Err(error) = source.read_exact(&mut fixed) {
            return Ok(Err(error));
        }
        let (magic, rest) = fixed.split_at(4);
        let (size, count) = rest.split_at(8);
        if magic != MAGIC {
            return damaged("It does not begin as an increment does.");
        }
        let file_size = size.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let count = count.try_into().map_or(u32::MAX, u32::from_le_bytes);
        if file_size > FILE_LIMIT || !file_size.is_multiple_of(PAGE_BYTES) {
            return damaged("The size of the file in it cannot be that of a relation's file.");
        }
        if u64::from(count) > FILE_LIMIT / PAGE_BYTES {
            return damaged("It has more pages than a file can have.");
        }
        if member_size != Self::size_of(u64::from(count)) {
            return damaged("Its length does not agree with the number of its pages.");
        }
        // Memory grows with the real content, not with the promised one.
        let mut numbers = Vec::new();
        let wanted = u64::from(count) * 4;
        match source.take(wanted).read_to_end(&mut numbers) {
            Ok(read) if (read as u64) < wanted => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let (numbers, _) = numbers.as_chunks::<4>();
        let blocks = numbers.iter().copied().map(u32::from_le_bytes).collect();
        Ok(Ok(IncrementHeader { file_size, blocks }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], member_size: u64) -> Result<io::Result<IncrementHeader>> {
        IncrementHeader::read_from(&mut &bytes[..], member_size, "member")
    }

    #[test]
    fn the_bytes_are_those_of_the_format_page() {
        let header = IncrementHeader {
            file_size: 5 * 8192,
            blocks: vec![1, 4],
        };
        let bytes = header.to_bytes();
        assert_eq!(
            bytes,
            [
                0x77, 0x69, 0x31, 0x55, 0, 0xA0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0
            ]
        );
        assert_eq!(header.member_size(), 24 + 2 * 8192);
        assert_eq!(
            read(&bytes, header.member_size()).expect("right").expect("read"),
            header
        );
        assert!(
            read(&bytes[..20], header.member_size())
                .expect("no claim is wrong")
                .is_err()
        );
    }

    #[test]
    fn no_length_is_believed() {
        let good = IncrementHeader {
            file_size: 2 * 8192,
            blocks: vec![0],
        };
        let size = good.member_size();
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.to_bytes();
            bytes[at] = byte;
            bytes
        };
        for (bytes, size) in [
            (good.to_bytes(), size - 1),
            (good.to_bytes(), 15),
            (changed(0, 0), size),
            // A size that is no multiple of a page, and one that is enormous; too many pages.
            (changed(4, 1), size),
            (changed(11, 0xFF), size),
            (changed(15, 0xFF), size),
        ] {
            assert!(matches!(read(&bytes, size), Err(Error::Damaged { .. })), "{bytes:?}");
        }
    }

    /// WAL-G takes the size of the file before it reads the file.
    #[test]
    fn pages_that_were_appended_meanwhile_are_no_damage() {
        let header = IncrementHeader {
            file_size: 2 * 8192,
            blocks: vec![3, 1, 2],
        };
        let read = read(&header.to_bytes(), header.member_size());
        assert_eq!(read.expect("right").expect("read"), header);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, size: u64) {
            let _ = read(&bytes, size);
        }
    }
}
