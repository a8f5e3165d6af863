//! Which segments recovery will ask for next, along the timelines that it knows.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// The history files in `pg_wal` are read again so often.
const FRESH: Duration = Duration::from_secs(2);

/// More than any history file has, in bytes.
const HISTORY_LIMIT: u64 = 1 << 20;

/// The histories that recovery has in its `pg_wal`: it restores that of its target timeline before anything else.
#[derive(Debug)]
pub(super) struct Road {
    wal_directory: PathBuf,
    size: SegmentSize,
    histories: Vec<TimelineHistory>,
    read: Option<Instant>,
}

impl Road {
    pub(super) fn new(wal_directory: PathBuf, size: SegmentSize) -> Self {
        Road {
            wal_directory,
            size,
            histories: Vec::new(),
            read: None,
        }
    }

    /// The segments that come after the one that recovery has asked for.
    pub(super) fn after(&mut self, asked: Segment, count: usize) -> Vec<Segment> {
        if self.read.is_none_or(|read| read.elapsed() >= FRESH) {
            self.histories = self.read_histories();
            self.read = Some(Instant::now());
        }
        follow(&self.histories, asked, count, self.size)
    }

    fn read_histories(&self) -> Vec<TimelineHistory> {
        let entries = fs::read_dir(&self.wal_directory).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let Ok(WalFileName::History(timeline)) = entry.file_name().to_str()?.parse() else {
                return None;
            };
            let is_small = entry.metadata().is_ok_and(|meta| meta.len() <= HISTORY_LIMIT);
            let text = fs::read_to_string(entry.path()).ok().filter(|_| is_small)?;
            TimelineHistory::parse(timeline, &text)
        };
        entries.filter_map(read).collect()
    }
}

fn follow(histories: &[TimelineHistory], asked: Segment, count: usize, size: SegmentSize) -> Vec<Segment> {
    let number = asked.number(size);
    let segment_of = |lsn| Segment::containing(1, lsn, size).number(size);
    // Recovery asks for the newest timeline first. One that is left before the segment that was asked for is not followed.
    let leads_on = |history: &&TimelineHistory| {
        let mut ancestors = history.ancestors.iter();
        ancestors.any(|(timeline, switch)| *timeline == asked.timeline && segment_of(*switch) > number)
    };
    let newest = histories.iter().filter(leads_on).max_by_key(|history| history.timeline);
    let begins: Vec<(u64, u32)> = newest.map_or_else(Vec::new, |history| {
        let later = history.ancestors.iter().skip(1).map(|(timeline, _)| *timeline);
        let later = later.chain([history.timeline]);
        let switches = history.ancestors.iter().map(|(_, switch)| segment_of(*switch));
        switches.zip(later).collect()
    });
    (number + 1..=number + count as u64)
        .map(|at| {
            let begun = begins.iter().rev().find(|(begin, _)| *begin <= at);
            let timeline = begun.map_or(asked.timeline, |(_, timeline)| (*timeline).max(asked.timeline));
            Segment::from_number(timeline, at, size)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(histories: &[TimelineHistory], asked: &str, count: usize) -> Vec<String> {
        let asked = asked.parse().expect("a segment");
        follow(histories, asked, count, SegmentSize::DEFAULT)
            .iter()
            .map(|segment| format!("{}:{}", segment.timeline, segment.number(SegmentSize::DEFAULT)))
            .collect()
    }

    #[test]
    fn the_next_segments_are_of_the_timeline_that_recovery_turns_to() {
        let history = |timeline, text: &str| TimelineHistory::parse(timeline, text).expect("a history");
        let two = history(2, "1\t0/5000028\tx\n");
        let three = history(3, "1\t0/5000028\tx\n2\t0/7000000\tx\n");
        assert_eq!(names(&[], "000000010000000000000003", 3), ["1:4", "1:5", "1:6"]);
        assert_eq!(
            names(&[two.clone(), three.clone()], "000000010000000000000003", 5),
            ["1:4", "2:5", "2:6", "3:7", "3:8"]
        );
        assert_eq!(
            names(&[three.clone(), two], "000000020000000000000005", 2),
            ["2:6", "3:7"]
        );
        // It was asked for although the other timeline begins there: that one is not followed.
        assert_eq!(names(&[three], "000000010000000000000005", 2), ["1:6", "1:7"]);
    }

    #[test]
    fn a_segment_that_ends_one_log_is_followed_by_the_next() {
        let found = follow(
            &[],
            "0000000100000000000000FF".parse().expect("a segment"),
            1,
            SegmentSize::DEFAULT,
        );
        assert_eq!(found[0].to_string(), "000000010000000100000000");
    }
}
