//! Keys of the tail: WAL of segments that are not archived yet, in chunks.

use super::Key;
use crate::wal::{Segment, WalFileName};

/// Chunks of WAL of segments that are not archived yet.
pub static TAIL_FOLDER: Key = Key::known("walarchive_005/tail");

/// The epochs of those chunks.
pub static TAIL_EPOCHS_FOLDER: Key = Key::known("walarchive_005/tail/epoch");

const SUFFIX: &str = ".zst";

/// A part of the WAL of a segment, as its key names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TailChunk {
    /// The segment.
    pub segment: Segment,
    /// The run of the server that stored it: later runs have higher numbers.
    pub epoch: u64,
    /// Where it begins in the segment, in bytes.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
}

impl TailChunk {
    /// The key of its object.
    pub fn key(&self) -> Key {
        let TailChunk {
            segment,
            epoch,
            start,
            end,
        } = self;
        Key::built(format!(
            "{}/{epoch:08}-{start:08X}-{end:08X}{SUFFIX}",
            tail_of(*segment)
        ))
    }

    /// The chunk with this key, if it is that of one.
    pub fn of_key(key: &str) -> Option<Self> {
        let (folder, name) = key.strip_prefix(&*TAIL_FOLDER)?.strip_prefix('/')?.split_once('/')?;
        let Ok(WalFileName::Segment(segment)) = folder.parse() else {
            return None;
        };
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let epoch = parts.next()?.parse().ok()?;
        let mut offset = || u64::from_str_radix(parts.next()?, 16).ok();
        let (start, end) = (offset()?, offset()?);
        let chunk = TailChunk {
            segment,
            epoch,
            start,
            end,
        };
        // Not what only looks like one: numbers with a sign, other digits, or more parts.
        (start < end && chunk.key() == key).then_some(chunk)
    }
}

/// The folder of the chunks of a segment.
pub fn tail_of(segment: Segment) -> Key {
    Key::built(format!("{TAIL_FOLDER}/{segment}"))
}

/// That a run of a server has taken this number.
pub fn tail_epoch(epoch: u64) -> Key {
    Key::built(format!("{TAIL_EPOCHS_FOLDER}/{epoch:08}.json"))
}

/// The number, if the key is that of one that was taken.
pub fn epoch_of_tail(key: &str) -> Option<u64> {
    let name = key.strip_prefix(&*TAIL_EPOCHS_FOLDER)?.strip_prefix('/')?;
    name.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_chunks_are_read_as_they_are_written() {
        let Ok(WalFileName::Segment(segment)) = "00000001000000020000000A".parse() else {
            panic!("a segment");
        };
        let chunk = TailChunk {
            segment,
            epoch: 12,
            start: 0x1_0000,
            end: 0x100_0000,
        };
        let key = "walarchive_005/tail/00000001000000020000000A/00000012-00010000-01000000.zst";
        assert_eq!(chunk.key(), key);
        assert_eq!(TailChunk::of_key(key), Some(chunk));
        for other in [
            "walarchive_005/tail/00000001000000020000000A/00000012-00010000.zst",
            "walarchive_005/tail/00000001000000020000000A/00000012-00010000-00010000.zst",
            "walarchive_005/tail/00000001000000020000000A/00000012-00010000-01000000-0.zst",
            "walarchive_005/tail/00000001000000020000000A/00000012-00010000-0100000a.zst",
            "walarchive_005/tail/00000001000000020000000A/x/00000012-00010000-01000000.zst",
            "walarchive_005/tail/00000001000000020000000A.partial/00000012-00010000-01000000.zst",
            "walarchive_005/tail/epoch/00000012.json",
        ] {
            assert_eq!(TailChunk::of_key(other), None, "{other}");
        }
        assert_eq!(epoch_of_tail(&tail_epoch(123_456_789)), Some(123_456_789));
        assert_eq!(epoch_of_tail(key), None);
    }
}
