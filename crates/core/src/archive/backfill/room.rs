//! Room on the disk of `pg_wal`: without any the server stops, and what it keeps for the archive is worth less than that.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::wal::SegmentSize;

/// Segments that the server can always write.
const SEGMENTS_LEFT: u64 = 3;

/// The share of the file system that stays free, and the most of that in bytes.
const SHARE_LEFT: u64 = 20;
const MOST_LEFT: u64 = 1 << 30;

/// How many bytes must become free on the file system of this directory; none if there is room enough.
pub fn lacking(pg_wal: &Path, size: SegmentSize) -> Option<u64> {
    let stat = statvfs(pg_wal).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    lacking_of(bytes(stat.blocks()), bytes(stat.blocks_available()), size)
}

fn lacking_of(all: u64, free: u64, size: SegmentSize) -> Option<u64> {
    let left = (all / SHARE_LEFT).min(MOST_LEFT).max(SEGMENTS_LEFT * size.bytes());
    left.checked_sub(free).filter(|lacking| *lacking > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_stays_free_and_always_some_segments() {
        const MB: u64 = 1 << 20;
        let size = SegmentSize::new(16 * MB).expect("a size");
        let lacking = |all: u64, free: u64| lacking_of(all * MB, free * MB, size).map(|bytes| bytes / MB);
        assert_eq!(lacking(10_000, 500), None);
        assert_eq!(lacking(10_000, 400), Some(100));
        assert_eq!(lacking(10_000_000, 1024), None);
        assert_eq!(lacking(10_000_000, 1000), Some(24));
        assert_eq!(lacking(100, 48), None);
        assert_eq!(lacking(100, 8), Some(40));
    }
}
