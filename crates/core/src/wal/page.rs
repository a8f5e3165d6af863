//! The header of a segment's first page (`XLogLongPageHeaderData` in PostgreSQL's `access/xlog_internal.h`).

use std::ops::RangeInclusive;

use super::{Segment, SegmentSize};

/// The bytes of the long page header.
pub const LONG_HEADER_BYTES: usize = 40;

/// `XLOG_BLCKSZ` that PostgreSQL can be built with.
const PAGE_SIZES: RangeInclusive<u64> = 1024..=65536;

/// `XLP_LONG_HEADER`: set on the first page of every segment.
const LONG_HEADER_FLAG: u16 = 0x0002;

/// `XLOG_PAGE_MAGIC` of PostgreSQL 9.6 and later.
const MAGIC: RangeInclusive<u16> = 0xD093..=0xD1FF;

/// `XLOG_PAGE_MAGIC` of PostgreSQL 12.
const MAGIC_OF_12: u16 = 0xD101;

/// Was WAL with this magic number written by PostgreSQL 12 or later?
pub(super) fn is_since_12(magic: u16) -> bool {
    magic >= MAGIC_OF_12
}

/// The description of itself in the first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPage {
    magic: u16,
    info: u16,
    timeline: u32,
    address: u64,
    /// The cluster that wrote the segment.
    pub system_identifier: u64,
    /// `wal_segment_size` of the cluster, in bytes.
    pub segment_bytes: u32,
    page_bytes: u32,
}

impl FirstPage {
    /// Read the header. WAL is in the byte order of the machine that wrote it; only little endian ones are known.
    pub fn parse(header: &[u8; LONG_HEADER_BYTES]) -> Self {
        let field = |at: usize, bytes: usize| {
            header[at..at + bytes]
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        FirstPage {
            magic: field(0, 2) as u16,
            info: field(2, 2) as u16,
            timeline: field(4, 4) as u32,
            address: field(8, 8),
            system_identifier: field(24, 8),
            segment_bytes: field(32, 4) as u32,
            page_bytes: field(36, 4) as u32,
        }
    }

    /// `XLOG_PAGE_MAGIC`, which all pages of a segment have.
    pub(crate) fn magic(&self) -> u16 {
        self.magic
    }

    /// The bytes of each page, if that is what PostgreSQL can be built with.
    pub(crate) fn page_bytes(&self) -> Option<u64> {
        Some(u64::from(self.page_bytes)).filter(|bytes| bytes.is_power_of_two() && PAGE_SIZES.contains(bytes))
    }

    /// The PostgreSQL major version that wrote the page (`XLOG_PAGE_MAGIC`), if it is one that is known; see
    /// [`version`](crate::version).
    pub fn major_version(&self) -> Option<u32> {
        match self.magic {
            0xD093 => Some(9),
            0xD097 => Some(10),
            0xD098 => Some(11),
            0xD101 => Some(12),
            0xD106 => Some(13),
            0xD10D => Some(14),
            0xD110 => Some(15),
            0xD113 => Some(16),
            0xD116 => Some(17),
            0xD118 => Some(18),
            _ => None,
        }
    }

    /// Is this the first page of `segment`, of a cluster with segments of `size`? The reason, if not. `system_identifier`
    /// is compared where the caller knows it.
    pub fn check(&self, segment: Segment, size: SegmentSize, system_identifier: Option<u64>) -> Result<(), String> {
        // Newer majors than the table are let through: their header is where it was, and the other fields are checked.
        if !MAGIC.contains(&self.magic) || self.info & LONG_HEADER_FLAG == 0 {
            return Err(format!(
                "The first page has no WAL page header (magic {:04X}, flags {:04X}).",
                self.magic, self.info
            ));
        }
        if let Some(expected) = system_identifier.filter(|expected| *expected != self.system_identifier) {
            return Err(format!(
                "The file belongs to system identifier {}, this cluster to {expected}.",
                self.system_identifier
            ));
        }
        if u64::from(self.segment_bytes) != size.bytes() {
            return Err(format!(
                "The file is of a cluster with WAL segments of {} bytes, this cluster's are of {}.",
                self.segment_bytes,
                size.bytes()
            ));
        }
        let start = segment.start(size);
        if self.address != start.0 {
            return Err(format!(
                "The first page is of LSN {}, the file's name says {start}.",
                crate::Lsn(self.address)
            ));
        }
        // The first segment of a timeline begins with pages of its parent, so a lower timeline is normal.
        if self.timeline > segment.timeline {
            return Err(format!(
                "The first page is of timeline {}, the file's name says {}.",
                self.timeline, segment.timeline
            ));
        }
        Ok(())
    }
}
