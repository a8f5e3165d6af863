//! How far recovery gets with the WAL of an archive, and what is missing where it ends.

use chrono::{DateTime, Utc};

use super::windows::Way;
use super::{Inventory, SegmentRange, runs};
use crate::lsn::Lsn;
use crate::repository::tail::Cover;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// So many holes beyond the first one are named.
const OTHERS: usize = 100;

/// The point at which a recovery ends that begins with a backup and goes along a timeline's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline of the last WAL that it reads; that of the backup if it reads none.
    pub timeline: u32,
    /// Where that WAL ends.
    pub end: Lsn,
    /// The WAL that it reads, in order; ranges of different timelines follow each other.
    pub read: Vec<SegmentRange>,
    /// What it reads of the last of these from the tail, as that has the beginning of it only.
    pub tail: Option<Cover>,
    /// The hole there; none if nothing that it should read comes after it.
    pub hole: Option<Hole>,
    /// The segment there, if it is in the archive and cannot be read.
    pub unreadable: Option<Segment>,
}

/// A hole in the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The segments that are missing, of the timeline that has them.
    pub missing: SegmentRange,
    /// The end of the WAL after it, on the timeline that recovery should come to.
    pub beyond: Lsn,
    /// That timeline.
    pub timeline: u32,
    /// When the first segment after it was stored, by the store's clock: one that is missing may still be on its way.
    pub after_written: DateTime<Utc>,
    /// Further holes behind it; of very many the first ones.
    pub others: Vec<SegmentRange>,
}

impl Reach {
    /// Of recovery that begins with the segment that has `start` on `timeline` and follows `history`.
    pub fn of(inventory: &Inventory, timeline: u32, start: Lsn, history: &TimelineHistory) -> Self {
        let size = inventory.segment_size;
        let way = Way::of(size, history);
        let first = start.0 / size.bytes();
        let mut read: Vec<SegmentRange> = Vec::new();
        let (mut next, mut at) = (first, timeline);
        let (mut unreadable, mut tail) = (None, None);
        // The server takes a segment of the newest timeline that can have it.
        while let Some(found) = way
            .timelines_of(next)
            .next()
            .filter(|newest| *newest >= at && inventory.is_there(Segment::from_number(*newest, next, size)))
        {
            let segment = Segment::from_number(found, next, size);
            if inventory.is_unreadable(segment) {
                unreadable = Some(segment);
                break;
            }
            at = found;
            extend(&mut read, found, next, size);
            next += 1;
        }
        let begun = way.begun(inventory).filter(|(number, _)| *number >= next);
        let is_begun = begun.is_some_and(|(number, _)| number == next && way.timeline_of(number) >= at);
        let behind = way.present(inventory).filter(|number| *number > next);
        let behind = runs(behind.chain(begun.map(|(number, _)| number).filter(|number| *number > next)));
        let range = |first, last| SegmentRange::new(way.timeline_of(first), first, last, size);
        let hole = behind.first().zip(behind.last()).map(|((following, _), (_, last))| {
            let (following, last) = (*following, *last);
            let others = behind.windows(2).take(OTHERS);
            let segment = |number| Segment::from_number(way.timeline_of(number), number, size);
            let of_tail = |number| inventory.cover(segment(number));
            Hole {
                missing: range(next, following - 1),
                others: others.map(|pair| range(pair[0].1 + 1, pair[1].0 - 1)).collect(),
                beyond: match of_tail(last) {
                    Some(cover) => inventory.end_of(segment(last), cover),
                    None => Lsn((last + 1).saturating_mul(size.bytes())),
                },
                timeline: way.timeline_of(last),
                after_written: inventory.stored_at(segment(following)).unwrap_or(DateTime::UNIX_EPOCH),
            }
        });
        let mut end = Lsn(next.saturating_mul(size.bytes()));
        if let Some((_, cover)) = begun.filter(|_| is_begun && hole.is_none() && unreadable.is_none()) {
            at = way.timeline_of(next);
            end = inventory.end_of(Segment::from_number(at, next, size), cover);
            tail = Some(cover.clone());
            extend(&mut read, at, next, size);
        }
        // If that has none yet, the server gets of an older one's what is before the fork: see `archive::share_of`.
        let older = way.timelines_of(next).skip(1).filter(|older| *older >= at);
        let found = older.map(|older| Segment::from_number(older, next, size));
        let found = found.filter(|segment| {
            let object = inventory.object_read(*segment);
            object.map_or(inventory.cover(*segment).is_some(), |object| !object.is_cut_off(size))
        });
        let forks = |segment: Segment| {
            let left = history.ancestors.iter().find(|(left, _)| *left == segment.timeline);
            left.map(|(_, switch)| (segment, *switch))
        };
        let is_at_end = hole.is_none() && unreadable.is_none() && tail.is_none();
        if let Some((segment, switch)) = found.filter_map(forks).next().filter(|_| is_at_end) {
            let cover = inventory
                .cover(segment)
                .filter(|_| inventory.object_read(segment).is_none());
            let fork = cover.map_or(switch, |cover| inventory.end_of(segment, cover).min(switch));
            if fork > end {
                (at, end) = (segment.timeline, fork);
                tail = cover.cloned();
                extend(&mut read, at, next, size);
            }
        }
        Reach {
            timeline: at,
            end,
            read,
            tail,
            hole,
            unreadable,
        }
    }

    /// How many segments it reads.
    pub fn segments(&self) -> u64 {
        self.read.iter().map(|range| range.count).sum()
    }
}

fn extend(read: &mut Vec<SegmentRange>, timeline: u32, number: u64, size: SegmentSize) {
    match read.last_mut() {
        Some(range) if range.first.timeline == timeline => {
            *range = SegmentRange::new(timeline, range.first.number(size), number, size);
        }
        _ => read.push(SegmentRange::new(timeline, number, number, size)),
    }
}

impl Inventory {
    /// The history of the timeline that a recovery from `timeline` reaches, as the server finds it: the newest one that history
    /// files lead to without one missing between.
    pub fn latest_history(&self, timeline: u32) -> TimelineHistory {
        let has_history = |timeline: &u32| {
            let name = WalFileName::History(*timeline);
            self.wal.iter().any(|object| object.name == name)
        };
        let newest = (timeline.saturating_add(1)..=u32::MAX).take_while(has_history).last();
        self.history(newest.unwrap_or(timeline))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::Format;
    use crate::repository::inventory::{Tail, TailObject, WalObject};
    use crate::repository::layout::TailChunk;

    const MB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MB).expect("a size")
    }

    /// Segments by timeline and number; timeline 2 left 1 within segment 5.
    fn inventory(segments: &[(u32, u64)]) -> Inventory {
        let object = |name| WalObject {
            name,
            format: Format::Zstd,
            size: 1,
            written: DateTime::UNIX_EPOCH,
        };
        let name =
            |(timeline, number): &(u32, u64)| WalFileName::Segment(Segment::from_number(*timeline, *number, size()));
        let mut wal: Vec<WalObject> = segments.iter().map(name).map(object).collect();
        wal.push(object(WalFileName::History(2)));
        let history = TimelineHistory {
            timeline: 2,
            ancestors: vec![(1, Lsn(5 * MB + 100))],
        };
        Inventory::new(size(), Vec::new(), wal, BTreeMap::from([(2, history)]))
    }

    fn reach(segments: &[(u32, u64)]) -> Reach {
        let inventory = inventory(segments);
        Reach::of(&inventory, 1, Lsn(2 * MB + 40), &inventory.latest_history(1))
    }

    #[test]
    fn recovery_ends_at_the_first_hole() {
        let whole = reach(&[(1, 2), (1, 3), (1, 4), (2, 5), (2, 6)]);
        assert_eq!((whole.timeline, whole.end, whole.segments()), (2, Lsn(7 * MB), 5));
        assert_eq!(whole.hole, None);
        let hole = |segments: &[(u32, u64)]| {
            let reach = reach(segments);
            let hole = reach.hole.expect("a hole");
            let missing = (hole.missing.first.to_string(), hole.missing.count);
            (reach.end.0 / MB, missing, hole.beyond.0 / MB, hole.timeline)
        };
        let name = |timeline: u32, number| Segment::from_number(timeline, number, size()).to_string();
        // On the old timeline, over the fork, and on the new one.
        assert_eq!(hole(&[(1, 2), (1, 4), (2, 5)]), (3, (name(1, 3), 1), 6, 2));
        assert_eq!(hole(&[(1, 2), (1, 3), (2, 6), (2, 7)]), (4, (name(1, 4), 2), 8, 2));
        assert_eq!(hole(&[(1, 2), (1, 3), (1, 4), (2, 6)]), (5, (name(2, 5), 1), 7, 2));
        // The old primary's own segment is of another branch.
        assert_eq!(
            hole(&[(1, 2), (1, 3), (1, 4), (1, 5), (2, 7)]),
            (5, (name(2, 5), 2), 8, 2)
        );
        // Nothing at all of the backup.
        assert_eq!(hole(&[(1, 3)]), (2, (name(1, 2), 1), 4, 1));
    }

    #[test]
    fn recovery_ends_before_an_object_without_content() {
        let mut inventory = inventory(&[(1, 2), (1, 3), (1, 4), (2, 5), (2, 6)]);
        let reach = |inventory: &Inventory| Reach::of(inventory, 1, Lsn(2 * MB + 40), &inventory.latest_history(1));
        for (at, hole) in [(5, Some(Lsn(7 * MB))), (6, None)] {
            let segment = Segment::from_number(2, at, size());
            let empty = |object: &WalObject| match object.name == WalFileName::Segment(segment) {
                true => WalObject { size: 0, ..*object },
                false => *object,
            };
            let wal = inventory.wal.iter().map(empty).collect();
            let broken = Inventory::new(size(), Vec::new(), wal, inventory.histories.clone());
            let reach = reach(&broken);
            assert_eq!((reach.end, reach.unreadable), (Lsn(at * MB), Some(segment)));
            assert_eq!(reach.hole.map(|hole| hole.beyond), hole);
        }
        // In another format it is cut off: recovery reads the first one.
        let segment = WalFileName::Segment(Segment::from_number(2, 5, size()));
        let plain = |size| WalObject {
            name: segment,
            format: Format::Plain,
            size,
            written: DateTime::UNIX_EPOCH,
        };
        inventory.wal.push(plain(MB - 1));
        let twice = Inventory::new(size(), Vec::new(), inventory.wal.clone(), inventory.histories.clone());
        assert_eq!(reach(&twice).end, Lsn(7 * MB));
        inventory.wal.retain(|object| object.name != segment);
        inventory.wal.push(plain(MB));
        inventory.wal.push(WalObject {
            format: Format::Lz4,
            ..plain(0)
        });
        let short = Inventory::new(size(), Vec::new(), inventory.wal.clone(), inventory.histories.clone());
        assert_eq!(reach(&short).end, Lsn(5 * MB));
    }

    #[test]
    fn what_nobody_should_read_is_no_hole() {
        // The old primary went on, and of the new timeline nothing is there yet.
        let old = reach(&[(1, 2), (1, 3), (1, 4), (1, 5), (1, 8)]);
        assert_eq!((old.timeline, old.end, old.hole), (1, Lsn(5 * MB + 100), None));
        // The partial segment has what is before the fork.
        let mut inventory = inventory(&[(1, 2), (1, 3), (1, 4)]);
        inventory.wal.push(WalObject {
            name: WalFileName::Partial(Segment::from_number(1, 5, size())),
            ..inventory.wal[0]
        });
        let inventory = Inventory::new(size(), Vec::new(), inventory.wal.clone(), inventory.histories.clone());
        let partial = Reach::of(&inventory, 1, Lsn(2 * MB + 40), &inventory.latest_history(1));
        assert_eq!(
            (partial.timeline, partial.end, partial.segments()),
            (1, Lsn(5 * MB + 100), 4)
        );
        let none = reach(&[]);
        assert_eq!((none.end, none.segments(), none.hole), (Lsn(2 * MB), 0, None));
    }

    #[test]
    fn the_tail_is_read_behind_all_that_is_whole() {
        let reach = |segments: &[(u32, u64)], tail: &[(u32, u64, u64)]| {
            let mut inventory = inventory(segments);
            let chunk = |(timeline, number, end): &(u32, u64, u64)| TailObject {
                chunk: TailChunk {
                    segment: Segment::from_number(*timeline, *number, size()),
                    epoch: 1,
                    start: 0,
                    end: *end,
                },
                size: 10,
                written: DateTime::UNIX_EPOCH,
            };
            inventory.tail = Tail::new(tail.iter().map(chunk).collect(), BTreeMap::new());
            let reach = Reach::of(&inventory, 1, Lsn(2 * MB + 40), &inventory.latest_history(1));
            let hole = reach.hole.as_ref().map(|hole| (hole.missing.count, hole.beyond.0));
            (
                reach.timeline,
                reach.end.0,
                reach.segments(),
                reach.tail.is_some(),
                hole,
            )
        };
        let whole = [(1, 2), (1, 3), (1, 4), (2, 5)];
        assert_eq!(reach(&whole, &[(2, 6, 80)]), (2, 6 * MB + 80, 5, true, None));
        assert_eq!(reach(&whole, &[(2, 6, MB), (2, 7, 8)]), (2, 7 * MB + 8, 6, true, None));
        assert_eq!(reach(&whole, &[(2, 6, MB)]), (2, 7 * MB, 5, false, None));
        // A hole is one, whatever the tail has of it or behind it.
        assert_eq!(
            reach(&whole, &[(2, 7, 8)]),
            (2, 6 * MB, 4, false, Some((1, 7 * MB + 8)))
        );
        let gap = [(1, 2), (1, 4), (2, 5)];
        assert_eq!(reach(&gap, &[(1, 3, 8)]), (1, 3 * MB, 1, false, Some((1, 6 * MB))));
        assert_eq!(reach(&gap, &[(1, 3, MB)]), (2, 6 * MB, 4, false, None));
        // Of the timeline that was left: what is before the fork, and no more.
        let old = [(1, 2), (1, 3), (1, 4)];
        assert_eq!(reach(&old, &[(1, 5, 64)]), (1, 5 * MB + 64, 4, true, None));
        assert_eq!(reach(&old, &[(1, 5, 200)]), (1, 5 * MB + 100, 4, true, None));
        assert_eq!(
            reach(&old, &[(1, 5, 200), (2, 5, 300)]),
            (2, 5 * MB + 300, 4, true, None)
        );
    }
}
