//! What the tail has compressed of a segment serves the whole segment, too: frames of zstd one behind the other are one stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::wal::Segment;

/// The segment that is being written, and the one before it, which is being archived.
const SEGMENTS: usize = 2;

/// Compressed bytes that are kept of a segment. WAL that compresses so badly is compressed again.
const MOST_BYTES: usize = 16 << 20;

/// A part of a segment, compressed by zstd, and not encrypted.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Where it begins in the segment, in bytes.
    pub(super) start: u64,
    /// Where it ends.
    pub(super) end: u64,
    /// CRC-32C of the WAL in it.
    pub(super) crc: u32,
    /// The frame.
    pub(super) content: Bytes,
}

/// Frames of the latest segments. Those of a segment begin with its beginning and have no gap.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<BTreeMap<Segment, Vec<Frame>>>);

impl Frames {
    /// Keep a frame. It takes the place of those that it covers; one that would leave a gap is not kept.
    pub(super) fn keep(&self, segment: Segment, frame: Frame) {
        let mut kept = self.0.lock();
        let frames = kept.entry(segment).or_default();
        frames.retain(|known| known.start < frame.start);
        if frames.last().map_or(0, |last| last.end) == frame.start {
            frames.push(frame);
        }
        if frames.iter().map(|frame| frame.content.len()).sum::<usize>() > MOST_BYTES {
            frames.clear();
        }
        while kept.len() > SEGMENTS {
            kept.pop_first();
        }
    }

    /// What is kept of a segment.
    pub(super) fn of(&self, segment: Segment) -> Vec<Frame> {
        self.0.lock().get(&segment).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::WalFileName;

    fn segment(name: &str) -> Segment {
        match name.parse() {
            Ok(WalFileName::Segment(segment)) => segment,
            other => panic!("{other:?}"),
        }
    }

    fn frame(start: u64, end: u64) -> Frame {
        Frame {
            start,
            end,
            crc: 0,
            content: Bytes::from_static(b"x"),
        }
    }

    fn ends(frames: &[Frame]) -> Vec<u64> {
        frames.iter().map(|frame| frame.end).collect()
    }

    #[test]
    fn frames_have_no_gap_and_a_merged_one_takes_the_place_of_others() {
        let (frames, one) = (Frames::default(), segment("000000010000000000000001"));
        for (start, end) in [(0, 10), (10, 20), (25, 30), (20, 30), (10, 40)] {
            frames.keep(one, frame(start, end));
        }
        assert_eq!(ends(&frames.of(one)), [10, 40]);
        let other = segment("000000010000000000000002");
        frames.keep(other, frame(10, 20));
        assert!(frames.of(other).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let frames = Frames::default();
        let one = segment("000000010000000000000001");
        for name in [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000003",
        ] {
            frames.keep(segment(name), frame(0, 10));
        }
        assert!(frames.of(one).is_empty());
        let large = Frame {
            content: vec![0; MOST_BYTES].into(),
            ..frame(0, 10)
        };
        frames.keep(one, large);
        frames.keep(one, frame(10, 20));
        assert!(frames.of(one).is_empty());
    }
}
