//! Room on the disk of `pg_wal`: the server needs it more than the spool.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::wal::SegmentSize;

/// What the spool takes at most, in bytes, if a segment is not larger.
const MOST_BYTES: u64 = 1 << 30;

/// Segments that the server can always write.
const SEGMENTS_LEFT: u64 = 3;

/// The share of the file system that stays free, and the most of that in bytes.
const SHARE_LEFT: u64 = 20;
const MOST_LEFT: u64 = 1 << 30;

/// How many segments of this size there may be in the spool, if the setting allows `most`.
pub(super) fn segments(most: usize, size: SegmentSize) -> usize {
    let fitting = usize::try_from(MOST_BYTES / size.bytes()).unwrap_or(usize::MAX);
    most.min(fitting.max(1))
}

/// The bytes that are free, if there is too little room for so many more segments.
pub(super) fn lacking(directory: &Path, segments: usize, size: SegmentSize) -> Option<u64> {
    let stat = statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let free = bytes(stat.blocks_available());
    let left = (bytes(stat.blocks()) / SHARE_LEFT)
        .min(MOST_LEFT)
        .max(SEGMENTS_LEFT * size.bytes());
    (free < left.saturating_add(size.bytes().saturating_mul(segments as u64))).then_some(free)
}
