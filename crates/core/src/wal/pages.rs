//! The header of any WAL page (`XLogPageHeaderData` in PostgreSQL's `access/xlog_internal.h`).

use crate::lsn::Lsn;

/// `XLOG_BLCKSZ`, the bytes of a page: 8 kB unless PostgreSQL was built otherwise, which nobody distributes.
pub const PAGE_BYTES: usize = 8192;

/// The bytes of the header on pages that are not the first of their segment.
pub(crate) const SHORT_HEADER_BYTES: usize = 24;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES_RECORD: u16 = 0x0001;
/// `XLP_LONG_HEADER`: the first page of a segment.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: a crash left the record before incomplete, and this page begins a new one.
const OVERWRITES_RECORD: u16 = 0x0008;
/// `XLP_ALL_FLAGS`.
const ALL_FLAGS: u16 = 0x000F;

/// A page's description of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) magic: u16,
    info: u16,
    pub(super) timeline: u32,
    pub(crate) address: Lsn,
    /// Bytes of the record that goes on here.
    pub(crate) remaining: u32,
}

impl PageHeader {
    pub(crate) fn parse(page: &[u8]) -> Self {
        PageHeader {
            magic: u16::from_le_bytes(bytes(page, 0)),
            info: u16::from_le_bytes(bytes(page, 2)),
            timeline: u32::from_le_bytes(bytes(page, 4)),
            address: Lsn(u64::from_le_bytes(bytes(page, 8))),
            remaining: u32::from_le_bytes(bytes(page, 16)),
        }
    }

    pub(crate) fn continues_record(&self) -> bool {
        self.info & CONTINUES_RECORD != 0
    }

    pub(super) fn overwrites_record(&self) -> bool {
        self.info & OVERWRITES_RECORD != 0
    }

    /// Is this the page at `address`, which is or is not the first of its segment, of WAL with that magic number? The
    /// reason, if not.
    pub(super) fn check(&self, address: Lsn, first: bool, magic: u16) -> Result<(), String> {
        if self.magic != magic {
            return Err(format!(
                "The page at {address} has the magic number {:04X}, the pages before have {magic:04X}.",
                self.magic
            ));
        }
        if self.info & !ALL_FLAGS != 0 || (self.info & LONG_HEADER != 0) != first {
            return Err(format!("The page at {address} has the flags {:04X}.", self.info));
        }
        if self.address != address {
            return Err(format!("The page at {address} says that it is at {}.", self.address));
        }
        Ok(())
    }
}

/// Bytes at an offset that was checked; zeros beyond the end, so that no input makes this panic.
pub(super) fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}
