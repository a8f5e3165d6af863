//! The tail of a repository: what is stored of segments that are not archived whole, and what is left of others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Inventory;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::layout::{self, Key, TailChunk};
use crate::repository::tail::Cover;
use crate::wal::Segment;
use walarchive_storage::{Listed, Store};

/// The object of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailObject {
    /// What it has.
    pub chunk: TailChunk,
    /// Stored bytes.
    pub size: u64,
    /// When it was stored.
    pub written: DateTime<Utc>,
}

impl TailObject {
    /// Its key.
    pub fn key(&self) -> Key {
        self.chunk.key()
    }
}

/// All that is below the folder of the tail.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// By segment, epoch and place.
    pub chunks: Vec<TailObject>,
    /// The epochs that were taken, with their stored bytes.
    pub epochs: BTreeMap<u64, u64>,
    covers: BTreeMap<Segment, Cover>,
}

impl Tail {
    /// To be called before the archived segments are listed: chunks go when their segment is there whole, so one that is seen in neither
    /// place is in none.
    pub(super) async fn load(store: &Store) -> Result<Self> {
        let (mut chunks, mut epochs) = (Vec::new(), BTreeMap::new());
        let look = |listed: Listed| {
            if let Some(chunk) = TailChunk::of_key(&listed.key) {
                chunks.push(TailObject {
                    chunk,
                    size: listed.size,
                    written: listed.last_modified,
                });
            } else if let Some(epoch) = layout::epoch_of_tail(&listed.key)
                && listed.key == layout::tail_epoch(epoch)
            {
                epochs.insert(epoch, listed.size);
            }
        };
        store.each(&layout::TAIL_FOLDER, look).await?;
        Ok(Tail::new(chunks, epochs))
    }

    /// From parts, in any order.
    pub fn new(mut chunks: Vec<TailObject>, epochs: BTreeMap<u64, u64>) -> Self {
        chunks.sort_unstable_by_key(|object| object.chunk);
        let of_segments = chunks.chunk_by(|one, other| one.chunk.segment == other.chunk.segment);
        let covers = of_segments.filter_map(|objects| {
            let cover = Cover::of(objects.iter().map(|object| (object.chunk, object.written)))?;
            Some((objects.first()?.chunk.segment, cover))
        });
        Tail {
            covers: covers.collect(),
            chunks,
            epochs,
        }
    }

    /// The objects of the chunks that cover a segment.
    pub(crate) fn objects(&self, cover: &Cover) -> Vec<TailObject> {
        let object = |chunk: &TailChunk| {
            let at = self.chunks.binary_search_by_key(chunk, |object| object.chunk);
            at.ok().map(|at| self.chunks[at])
        };
        cover.chunks.iter().filter_map(object).collect()
    }
}

/// Up to where a timeline can be had by its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TailEnd {
    /// The end of the WAL in it.
    pub end_lsn: Lsn,
    /// When that was stored, by the clock of the store.
    pub stored: DateTime<Utc>,
    /// The run of the server that stored it.
    pub epoch: u64,
}

impl Inventory {
    /// What recovery reads of that segment from the tail; none if it is archived whole, as that goes first.
    pub fn cover(&self, segment: Segment) -> Option<&Cover> {
        self.tail.covers.get(&segment).filter(|_| !self.has(segment))
    }

    /// All of them that recovery may read, by segment.
    pub fn covers(&self) -> impl DoubleEndedIterator<Item = (Segment, &Cover)> {
        let covers = self.tail.covers.iter().map(|(segment, cover)| (*segment, cover));
        covers.filter(|(segment, _)| !self.has(*segment))
    }

    /// Is all of the segment in the archive, whole or in chunks?
    pub fn is_there(&self, segment: Segment) -> bool {
        self.has(segment) || self.cover(segment).is_some_and(|cover| self.is_complete(cover))
    }

    /// Do the chunks have all of their segment?
    pub(crate) fn is_complete(&self, cover: &Cover) -> bool {
        cover.end() >= self.segment_size.bytes()
    }

    /// Where the WAL ends that the chunks of that segment have.
    pub(crate) fn end_of(&self, segment: Segment, cover: &Cover) -> Lsn {
        let bytes = cover.end().min(self.segment_size.bytes());
        Lsn(segment.start(self.segment_size).0.saturating_add(bytes))
    }

    /// When the last of what recovery reads of that segment was stored.
    pub(crate) fn stored_at(&self, segment: Segment) -> Option<DateTime<Utc>> {
        match self.cover(segment) {
            Some(cover) => Some(cover.stored),
            None => self.object_of(segment).map(|object| object.written),
        }
    }

    /// Stored bytes of what recovery reads of that segment.
    pub(crate) fn stored_bytes(&self, segment: Segment) -> u64 {
        match (self.object_of(segment), self.cover(segment)) {
            (None, Some(cover)) => {
                let objects = self.tail.objects(cover);
                objects.iter().fold(0, |sum, object| sum.saturating_add(object.size))
            }
            _ => self.object_read(segment).map_or(0, |object| object.size),
        }
    }

    /// Numbers of the segments of a timeline all of which is there, whole or in chunks, in order.
    pub(crate) fn there(&self, timeline: u32) -> Cow<'_, [u64]> {
        let whole = self.segments(timeline);
        let complete: Vec<u64> = self
            .of_timeline(timeline)
            .filter(|(_, cover)| self.is_complete(cover))
            .map(|(number, _)| number)
            .collect();
        if complete.is_empty() {
            return Cow::Borrowed(whole);
        }
        let mut there = [whole, &complete].concat();
        there.sort_unstable();
        Cow::Owned(there)
    }

    /// The segments of a timeline of which the tail has the beginning only, by number.
    pub(crate) fn begun(&self, timeline: u32) -> impl DoubleEndedIterator<Item = (u64, &Cover)> {
        self.of_timeline(timeline).filter(|(_, cover)| !self.is_complete(cover))
    }

    fn of_timeline(&self, timeline: u32) -> impl DoubleEndedIterator<Item = (u64, &Cover)> {
        let of_it = self.covers().filter(move |(segment, _)| segment.timeline == timeline);
        of_it.map(|(segment, cover)| (segment.number(self.segment_size), cover))
    }

    /// Up to where a timeline can be had by its tail, if that follows what is archived of it.
    pub fn tail_end(&self, timeline: u32) -> Option<TailEnd> {
        let (number, cover) = self.of_timeline(timeline).next_back()?;
        let fork = || {
            let (_, switch) = self.history(timeline).parent()?;
            Some(switch.0 / self.segment_size.bytes())
        };
        let follows = match self.there(timeline).last() {
            Some(last) => (*last..=last + 1).contains(&number),
            None => fork().is_none_or(|fork| fork == number),
        };
        follows.then(|| TailEnd {
            end_lsn: self.end_of(Segment::from_number(timeline, number, self.segment_size), cover),
            stored: cover.stored,
            epoch: cover.epoch(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BackupInfo, RecoveryWindow, WalObject, recovery_windows};
    use super::*;
    use crate::codec::Format;
    use crate::wal::{SegmentSize, TimelineHistory, WalFileName};

    const MB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MB).expect("a size")
    }

    fn time(minute: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minute as i64)
    }

    fn object(name: WalFileName, minute: u64) -> WalObject {
        WalObject {
            name,
            format: Format::Zstd,
            size: 1,
            written: time(minute),
        }
    }

    /// Segments by timeline and number, archived in the minute of that number; chunks by timeline, number and end, all of them stored in
    /// minute 100; a backup in segment 2; timeline 2 left 1 within segment 5.
    fn inventory(segments: &[(u32, u64)], tail: &[(u32, u64, u64)]) -> Inventory {
        let segment = |(timeline, number): &(u32, u64)| Segment::from_number(*timeline, *number, size());
        let mut wal: Vec<WalObject> = segments
            .iter()
            .map(|at| object(WalFileName::Segment(segment(at)), at.1))
            .collect();
        wal.push(object(WalFileName::History(2), 5));
        let mut backup = BackupInfo::example(&format!("base_{}", segment(&(1, 2))));
        backup.metadata.start_lsn = Lsn(2 * MB + 40);
        backup.metadata.finish_lsn = Lsn(2 * MB + 400);
        backup.metadata.finish_time = time(2);
        let history = TimelineHistory {
            timeline: 2,
            ancestors: vec![(1, Lsn(5 * MB + 100))],
        };
        let mut inventory = Inventory::new(size(), vec![backup], wal, BTreeMap::from([(2, history)]));
        let chunk = |(timeline, number, end): &(u32, u64, u64)| TailObject {
            chunk: TailChunk {
                segment: segment(&(*timeline, *number)),
                epoch: 7,
                start: 0,
                end: *end,
            },
            size: 10,
            written: time(100),
        };
        inventory.tail = Tail::new(tail.iter().map(chunk).collect(), BTreeMap::new());
        inventory
    }

    /// Timeline, end, minute of the end, and what is missing behind it.
    fn windows(segments: &[(u32, u64)], tail: &[(u32, u64, u64)]) -> Vec<(u32, u64, i64, Option<String>)> {
        let row = |window: RecoveryWindow| {
            let minute = (window.end_time - DateTime::UNIX_EPOCH).num_minutes();
            let missing = window.missing.map(|missing| missing.to_string());
            (window.timeline, window.end_lsn.0, minute, missing)
        };
        let windows = recovery_windows(&inventory(segments, tail));
        windows.into_iter().map(row).collect()
    }

    fn name(number: u64) -> Option<String> {
        Some(Segment::from_number(1, number, size()).to_string())
    }

    #[test]
    fn a_window_ends_where_the_tail_behind_it_does() {
        let whole = [(1, 2), (1, 3)];
        assert_eq!(windows(&whole, &[(1, 4, 100)]), [(1, 4 * MB + 100, 100, None)]);
        // What is archived whole goes first.
        assert_eq!(windows(&whole, &[(1, 3, 100)]), [(1, 4 * MB, 3, None)]);
        // Segments all of which is in the tail are as good as whole ones, at the end and between.
        assert_eq!(windows(&whole, &[(1, 4, MB), (1, 5, 8)]), [(1, 5 * MB + 8, 100, None)]);
        assert_eq!(windows(&[(1, 2), (1, 4)], &[(1, 3, MB)]), [(1, 5 * MB, 4, None)]);
        // A part is none where more WAL comes, be it of the tail.
        let hole = [(1, 3 * MB, 2, name(3))];
        assert_eq!(windows(&[(1, 2), (1, 4)], &[(1, 3, MB - 8)]), hole);
        assert_eq!(windows(&[(1, 2)], &[(1, 3, 100), (1, 4, 100)]), hole);
        assert_eq!(windows(&[(1, 2)], &[(1, 4, 100)]), hole);
        // Of a new timeline, nothing but its tail is there.
        let promoted = windows(&[(1, 2), (1, 3), (1, 4)], &[(2, 5, 200)]);
        assert_eq!(promoted, [(1, 5 * MB, 4, None), (2, 5 * MB + 200, 100, None)]);
    }

    #[test]
    fn a_tail_is_shown_if_it_follows() {
        let end = |segments: &[_], tail: &[_], timeline| {
            inventory(segments, tail).tail_end(timeline).map(|end| end.end_lsn.0)
        };
        assert_eq!(end(&[(1, 3)], &[(1, 4, 100)], 1), Some(4 * MB + 100));
        assert_eq!(end(&[(1, 3)], &[(1, 4, MB), (1, 5, 8)], 1), Some(5 * MB + 8));
        assert_eq!(end(&[(1, 3)], &[(1, 4, MB)], 1), Some(5 * MB));
        assert_eq!(end(&[(1, 3)], &[(1, 5, 8)], 1), None, "there is a hole before it");
        assert_eq!(
            end(&[(1, 3), (1, 4)], &[(1, 4, 100)], 1),
            None,
            "its segment is archived"
        );
        assert_eq!(end(&[(1, 3), (1, 4)], &[(1, 3, 100)], 1), None);
        assert_eq!(end(&[(1, 4)], &[(2, 5, 200)], 2), Some(5 * MB + 200));
        assert_eq!(end(&[(1, 4)], &[(2, 6, 200)], 2), None, "it begins behind the fork");
        let shown = super::super::TimelineInfo::all(&inventory(&[(1, 2), (1, 4)], &[(1, 3, MB), (1, 5, 8)]));
        assert_eq!((shown[0].missing_segments.len(), shown[0].segments_count), (0, 2));
        let json = serde_json::to_value(&shown[0]).expect("JSON");
        assert_eq!(
            (&json["tail"]["end_lsn"], &json["tail"]["epoch"]),
            (&(5 * MB + 8).into(), &7.into())
        );
    }
}
