//! The timelines that lead to where a server is: which one has which part of its WAL.

use crate::lsn::Lsn;
use crate::wal::{Segment, SegmentSize, TimelineHistory};

/// The history of the timeline that a server is on, and the size of its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    history: TimelineHistory,
    size: SegmentSize,
}

impl Branch {
    /// Of the server's timeline. The history is none for a timeline that has no ancestors.
    pub fn new(timeline: u32, history: Option<TimelineHistory>, size: SegmentSize) -> Self {
        let history = history.unwrap_or(TimelineHistory {
            timeline,
            ancestors: Vec::new(),
        });
        Branch { history, size }
    }

    /// The server's timeline.
    pub fn timeline(&self) -> u32 {
        self.history.timeline
    }

    /// `wal_segment_size`.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// All timelines that have a history file: the ancestors but for the first one, and the server's.
    pub fn with_history(&self) -> impl Iterator<Item = u32> {
        let ancestors = self.history.ancestors.iter().map(|(timeline, _)| *timeline).skip(1);
        let own = (!self.history.ancestors.is_empty()).then_some(self.history.timeline);
        ancestors.chain(own)
    }

    /// The first byte of the segment with that position.
    pub fn segment_start(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.size.bytes())
    }

    /// The segment that begins there. A segment in which one timeline leaves another belongs to the later one, which has all of it.
    pub fn segment_at(&self, start: Lsn) -> Segment {
        let end = start.0.saturating_add(self.size.bytes());
        let ancestors = self.history.ancestors.iter();
        let ancestor = ancestors.clone().find(|(_, switch)| end <= switch.0);
        let timeline = ancestor.map_or(self.history.timeline, |(timeline, _)| *timeline);
        Segment::containing(timeline, start, self.size)
    }

    /// Where it goes on after WAL of that timeline up to that position, which is the end of a segment. None: that WAL is not of
    /// this server's history.
    pub fn after(&self, timeline: u32, end: Lsn) -> Option<Lsn> {
        if timeline == self.history.timeline {
            return Some(end);
        }
        let ancestors = &self.history.ancestors;
        let (_, switch) = ancestors.iter().find(|(ancestor, _)| *ancestor == timeline)?;
        Some(end.min(self.segment_start(*switch)))
    }

    /// The timeline that the server's one has left, and where; none if it has no ancestors.
    pub fn parent(&self) -> Option<(u32, Lsn)> {
        self.history.parent()
    }

    /// The number of the last segment that belongs to an ancestor; none for the server's own timeline, which goes on.
    pub fn last_on(&self, timeline: u32) -> Option<u64> {
        let (_, switch) = self
            .history
            .ancestors
            .iter()
            .find(|(ancestor, _)| *ancestor == timeline)?;
        (switch.0 / self.size.bytes()).checked_sub(1)
    }

    /// Is that segment, in a repository, one that recovery to the server's timeline reads?
    pub fn reads(&self, segment: Segment) -> bool {
        segment == self.segment_at(segment.start(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// 1 MB segments. Timeline 2 leaves 1 in the middle of the segment at 3 MB, and 4 leaves 2 at the end of that at 5 MB.
    fn branch() -> Branch {
        let ancestors = vec![(1, Lsn(3 * MB + 100)), (2, Lsn(6 * MB))];
        let size = SegmentSize::new(MB).expect("a size");
        Branch::new(4, Some(TimelineHistory { timeline: 4, ancestors }), size)
    }

    #[test]
    fn a_segment_belongs_to_the_latest_timeline_that_has_all_of_it() {
        let timelines: Vec<u32> = (1..8).map(|at| branch().segment_at(Lsn(at * MB)).timeline).collect();
        assert_eq!(timelines, [1, 1, 2, 2, 2, 4, 4]);
        assert_eq!(branch().with_history().collect::<Vec<_>>(), [2, 4]);
        let first = Branch::new(1, None, SegmentSize::DEFAULT);
        assert_eq!(first.with_history().count(), 0);
        assert_eq!(first.segment_at(Lsn(0)).timeline, 1);
        let read = |name: &str| branch().reads(name.parse().expect("a segment"));
        assert!(read("000000010000000000000002") && read("000000020000000000000003"));
        assert!(!read("000000010000000000000003") && !read("000000030000000000000004"));
    }

    #[test]
    fn what_came_beyond_the_fork_comes_again() {
        assert_eq!(branch().after(1, Lsn(2 * MB)), Some(Lsn(2 * MB)));
        assert_eq!(branch().after(1, Lsn(3 * MB)), Some(Lsn(3 * MB)));
        assert_eq!(branch().after(1, Lsn(9 * MB)), Some(Lsn(3 * MB)));
        assert_eq!(branch().after(2, Lsn(9 * MB)), Some(Lsn(6 * MB)));
        assert_eq!(branch().after(4, Lsn(9 * MB)), Some(Lsn(9 * MB)));
        assert_eq!(branch().after(3, Lsn(2 * MB)), None);
        assert_eq!(branch().after(5, Lsn(9 * MB)), None);
    }
}
