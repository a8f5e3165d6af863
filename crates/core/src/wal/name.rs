//! The names of the files that PostgreSQL hands to its archiver.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// `wal_segment_size`: a power of two from 1 MB to 1 GB, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// PostgreSQL's default, 16 MB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// A size in bytes, if PostgreSQL could have been built for it.
    pub fn new(bytes: u64) -> Result<Self> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(SegmentSize(size)),
            _ => Err(Error::config(
                format!("{bytes} is not a WAL segment size"),
                "A WAL segment size is a power of two from 1 MB to 1 GB.",
            )),
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

/// One segment of the WAL: its timeline and the two numbers of its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Timeline.
    pub timeline: u32,
    /// The middle eight digits: the upper half of the LSN.
    pub log: u32,
    /// The last eight digits: the segment within those 4 GB.
    pub seg: u32,
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub fn containing(timeline: u32, lsn: Lsn, size: SegmentSize) -> Self {
        Self::from_number(timeline, lsn.0 / size.bytes(), size)
    }

    /// The segment with the given number, counted from LSN 0.
    pub fn from_number(timeline: u32, number: u64, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        Segment {
            timeline,
            log: (number / per_log) as u32,
            seg: (number % per_log) as u32,
        }
    }

    /// Its number, counted from LSN 0.
    pub fn number(self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.segments_per_log() + u64::from(self.seg)
    }

    /// The LSN of its first byte; the last one that there is for a name that no server would choose.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number(size).saturating_mul(size.bytes()))
    }

    /// The following segment of the same timeline.
    pub fn next(self, size: SegmentSize) -> Self {
        Self::from_number(self.timeline, self.number(size) + 1, size)
    }

    /// The segments from that of `start` to that of the last byte before `end`, in order; at least one.
    pub fn range(timeline: u32, start: Lsn, end: Lsn, size: SegmentSize) -> Vec<Self> {
        let number = |lsn| Self::containing(timeline, lsn, size).number(size);
        let first = number(start);
        let last = number(Lsn(end.0.saturating_sub(1)));
        (first..=last.max(first))
            .map(|at| Self::from_number(timeline, at, size))
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != 24 {
            return None;
        }
        let part = |range| text.get(range).and_then(hex8);
        let segment = Segment {
            timeline: part(0..8)?,
            log: part(8..16)?,
            seg: part(16..24)?,
        };
        (segment.timeline != 0).then_some(segment)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.seg)
    }
}

impl FromStr for Segment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Segment::parse(text).ok_or_else(|| not_a_wal_file(text))
    }
}

/// The name of a file that goes into the WAL archive, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A complete segment.
    Segment(Segment),
    /// The incomplete last segment of a timeline that was left by a promotion.
    Partial(Segment),
    /// A timeline history file.
    History(u32),
    /// A backup history file: the first segment of a backup, and the offset in it.
    BackupHistory(Segment, u32),
}

impl WalFileName {
    /// Its timeline; that of a history file is the one that it leads to.
    pub fn timeline(&self) -> u32 {
        match self {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
                segment.timeline
            }
            WalFileName::History(timeline) => *timeline,
        }
    }

    /// The segment of a complete or partial segment file.
    pub fn segment(&self) -> Option<Segment> {
        match self {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => Some(*segment),
            WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
        }
    }
}

/// The archiver's order: timeline history files first, then by name.
impl Ord for WalFileName {
    fn cmp(&self, other: &Self) -> Ordering {
        let is_history = |name: &Self| matches!(name, WalFileName::History(_));
        is_history(other)
            .cmp(&is_history(self))
            .then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

impl PartialOrd for WalFileName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFileName::Segment(segment) => write!(f, "{segment}"),
            WalFileName::Partial(segment) => write!(f, "{segment}.partial"),
            WalFileName::History(timeline) => write!(f, "{timeline:08X}.history"),
            WalFileName::BackupHistory(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('.') {
            None => Segment::parse(text).map(WalFileName::Segment),
            Some((stem, "partial")) => Segment::parse(stem).map(WalFileName::Partial),
            Some((stem, "history")) => hex8(stem).filter(|timeline| *timeline != 0).map(WalFileName::History),
            Some((stem, rest)) => rest
                .strip_suffix(".backup")
                .and_then(|offset| Some(WalFileName::BackupHistory(Segment::parse(stem)?, hex8(offset)?))),
        };
        parsed.ok_or_else(|| not_a_wal_file(text))
    }
}

fn hex8(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn not_a_wal_file(text: &str) -> Error {
    Error::InvalidWal {
        file: text.to_owned(),
        reason: "The name is neither that of a WAL segment nor of a history file.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_name_comes_back() {
        for text in [
            "000000010000000A000000FF",
            "000000010000000A000000FF.partial",
            "0000000B.history",
            "000000010000000A000000FF.00000028.backup",
        ] {
            assert_eq!(text.parse::<WalFileName>().expect("a name").to_string(), text);
        }
        for text in [
            "",
            "0",
            "000000010000000a000000ff",
            "000000000000000A000000FF",
            "000000010000000A000000FF.part",
            "../000000010000000A000000",
            "000000010000000A000000FF.backup",
            "00000000.history",
            "xlogtemp.1",
            "000000010000000A000000FF.00000028.backup.x",
            "é0000010000000A000000FF",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_archiver_takes_history_files_first() {
        let mut names: Vec<WalFileName> = [
            "000000020000000000000001",
            "000000010000000000000009",
            "00000003.history",
            "00000002.history",
        ]
        .iter()
        .map(|name| name.parse().expect("a name"))
        .collect();
        names.sort();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "00000002.history",
                "00000003.history",
                "000000010000000000000009",
                "000000020000000000000001"
            ]
        );
    }

    #[test]
    fn a_name_beyond_all_lsns_is_no_overflow() {
        let segment: Segment = "00000001FFFFFFFFFFFFFFFF".parse().expect("a segment");
        assert_eq!(segment.start(SegmentSize::DEFAULT), Lsn(u64::MAX));
    }

    proptest! {
        #[test]
        fn segments_number_and_name_agree(timeline in 1u32.., lsn: u64, power in 20u32..=30) {
            let size = SegmentSize::new(1 << power).expect("a size");
            let segment = Segment::containing(timeline, Lsn(lsn), size);
            prop_assert_eq!(segment.to_string().parse::<Segment>().expect("a segment"), segment);
            prop_assert_eq!(Segment::from_number(timeline, segment.number(size), size), segment);
            prop_assert!(segment.start(size).0 <= lsn && lsn - segment.start(size).0 < size.bytes());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,48}") {
            let _ = text.parse::<WalFileName>();
        }
    }
}
