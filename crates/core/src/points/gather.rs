//! Finding the points, in the index, and in the WAL that is not in it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::block::{Block, Noted, Place};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::inventory::{Inventory, RecoveryWindow, WalObject, recovery_windows, walk, walk_tail};
use crate::wal::{TimelineHistory, WalFileName, WalWalker};
use walarchive_storage::Store;

/// Blocks that are read at a time.
const CONCURRENCY: usize = 4;

/// What was stored so long before a time has nothing from after it, and what begins so long after a time nothing from before it:
/// clocks differ, and are set.
const SKEW: TimeDelta = TimeDelta::hours(1);

/// So many points are kept at most: a large archive must not fill the memory. Of more commits some are left out.
const MOST: usize = 200_000;

/// What to do with WAL that is not in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Read it.
    Read,
    /// Leave it out.
    Skip,
}

/// The kind of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// Of `pg_create_restore_point()`.
    RestorePoint,
    /// One of the commits.
    Commit,
}

impl PointKind {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            PointKind::RestorePoint => "restore_point",
            PointKind::Commit => "commit",
        }
    }
}

/// A point to which somebody may want to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Its kind.
    pub kind: PointKind,
    /// Of a restore point.
    pub name: Option<String>,
    /// When it was.
    pub time: Option<DateTime<Utc>>,
    /// Where its record begins.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: u32,
    /// A backup and the WAL that leads to the point are there.
    pub restorable: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The points, by timeline and position.
    pub points: Vec<Point>,
    /// Segments that are not in the index, and were not read.
    pub skipped: u64,
}

impl Found {
    /// Leave out every other commit.
    fn thin(&mut self) {
        let mut is_odd = false;
        self.points.retain(|point| match point.kind {
            PointKind::RestorePoint => true,
            PointKind::Commit => {
                is_odd = !is_odd;
                is_odd
            }
        });
        // Nobody makes so many restore points.
        self.points.truncate(MOST);
    }
}

/// Find the points from one time to another. What is read of the WAL is noted by `notes`, as far as it may write.
pub async fn gather(
    store: &Store,
    notes: &Store,
    inventory: &Inventory,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    missing: Missing,
) -> Result<Found> {
    let mut timelines: BTreeMap<u32, BTreeMap<Place, Vec<WalObject>>> = BTreeMap::new();
    for object in &inventory.wal {
        let WalFileName::Segment(segment) = object.name else {
            continue;
        };
        if from.is_none_or(|from| object.written >= from - SKEW) {
            let place = Place::of(segment, inventory.segment_size);
            let blocks = timelines.entry(segment.timeline).or_default();
            blocks.entry(place).or_default().push(*object);
        }
    }
    let (first, last) = (
        from.unwrap_or(DateTime::<Utc>::MIN_UTC),
        to.unwrap_or(DateTime::<Utc>::MAX_UTC),
    );
    let is_within = |point: &Point| point.time.is_none_or(|time| (first..=last).contains(&time));
    let mut found = Found::default();
    for (timeline, blocks) in timelines {
        let history = inventory.history(timeline);
        let mut work = futures::stream::iter(blocks)
            .map(|(place, objects)| block(store, notes, inventory, place, objects, missing, to))
            .buffered(CONCURRENCY);
        while let Some(known) = work.try_next().await? {
            found.skipped += known.skipped;
            let wanted = known.noted.into_iter().flat_map(|noted| points(noted, &history));
            found.points.extend(wanted.filter(is_within));
            if found.points.len() > MOST {
                found.thin();
            }
            if known.is_beyond {
                break;
            }
        }
    }
    if missing == Missing::Read {
        for (timeline, noted) in of_tail(store, inventory, from).await? {
            let history = inventory.history(timeline);
            found.points.extend(points(noted, &history).filter(is_within));
        }
    }
    // The segment with a fork is there twice, and so is what is in it before the fork.
    found.points.sort_by_key(|point| (point.timeline, point.lsn));
    found.points.dedup_by_key(|point| (point.timeline, point.lsn));
    let windows = recovery_windows(inventory);
    for point in &mut found.points {
        point.restorable = windows.iter().any(|window| leads_to(inventory, window, point));
    }
    Ok(found)
}

/// What is in the tail, by timeline. It is never noted: more of it comes.
async fn of_tail(store: &Store, inventory: &Inventory, from: Option<DateTime<Utc>>) -> Result<Vec<(u32, Noted)>> {
    let size = inventory.segment_size;
    let mut found = Vec::new();
    for (segment, cover) in inventory.covers() {
        if from.is_some_and(|from| cover.stored < from - SKEW) {
            continue;
        }
        let walker = WalWalker::new(size, inventory.system_identifier);
        let (_, walked) = walk_tail(store, inventory.tail.objects(cover), walker, size).await?;
        found.extend(walked.map(|walked| (segment.timeline, Noted::from(&walked))));
    }
    Ok(found)
}

fn leads_to(inventory: &Inventory, window: &RecoveryWindow, point: &Point) -> bool {
    let is_on_way = inventory.history(window.timeline).leads_from(point.timeline, point.lsn);
    is_on_way && (window.start_lsn..window.end_lsn).contains(&point.lsn)
}

/// What is before the fork belongs to the timeline that was left there.
fn points(noted: Noted, history: &TimelineHistory) -> impl Iterator<Item = Point> {
    let owner = |lsn: Lsn| {
        let left = history.ancestors.iter().find(|(_, switch)| lsn < *switch);
        left.map_or(history.timeline, |(ancestor, _)| *ancestor)
    };
    let named = noted.restore_points.into_iter().map(|named| Point {
        kind: PointKind::RestorePoint,
        name: Some(named.name),
        time: named.time,
        lsn: named.lsn,
        timeline: owner(named.lsn),
        restorable: false,
    });
    let commits = noted.commits.into_iter().map(|(lsn, micros)| Point {
        kind: PointKind::Commit,
        name: None,
        time: DateTime::from_timestamp_micros(micros),
        lsn,
        timeline: owner(lsn),
        restorable: false,
    });
    let mut all: Vec<Point> = named.chain(commits).collect();
    all.sort_by_key(|point| point.lsn);
    all.into_iter()
}

/// What is known of the objects of a block.
struct Known {
    /// In order.
    noted: Vec<Noted>,
    /// So many are not known.
    skipped: u64,
    /// What comes next was written after the time that was asked for.
    is_beyond: bool,
}

/// Does it begin long after a time?
fn begins_after(noted: &Noted, time: DateTime<Utc>) -> bool {
    let of_commits = noted.commits.iter().map(|(_, micros)| *micros);
    let of_points = noted.restore_points.iter().filter_map(|point| point.time);
    let earliest = of_commits.chain(of_points.map(|time| time.timestamp_micros())).min();
    earliest.is_some_and(|earliest| earliest > (time + SKEW).timestamp_micros())
}

/// What is known of the objects of a block, up to a time. What is read is noted.
async fn block(
    store: &Store,
    notes: &Store,
    inventory: &Inventory,
    place: Place,
    objects: Vec<WalObject>,
    missing: Missing,
    to: Option<DateTime<Utc>>,
) -> Result<Known> {
    let size = inventory.segment_size;
    let mut block = Block::read(store, place).await?;
    let noted = block.segments.len();
    let mut walker = WalWalker::new(size, inventory.system_identifier);
    let mut last = None;
    let mut was_late = false;
    let mut known = Known {
        noted: Vec::new(),
        skipped: 0,
        is_beyond: false,
    };
    for object in objects {
        let Some(segment) = object.name.segment() else { continue };
        let at = segment.number(size);
        let mut found = block.segments.get(&at).cloned();
        if found.is_none() && missing == Missing::Read {
            // A record that begins in the segment before would not be seen whole.
            let before = (at > 0 && last != Some(at - 1))
                .then(|| crate::wal::Segment::from_number(segment.timeline, at - 1, size))
                .and_then(|before| inventory.object_of(before));
            if let Some(before) = before {
                (walker, _) = walk(store, *before, walker, size).await?;
            }
            let walked;
            (walker, walked) = walk(store, object, walker, size).await?;
            last = Some(at);
            found = walked.as_ref().map(Noted::from);
            // A damaged one may be archived anew: it is not noted.
            if let (Some(walked), Some(noted)) = (&walked, &found)
                && walked.problem.is_none()
            {
                block.segments.insert(at, noted.clone());
            }
        }
        match found {
            Some(found) => {
                // One alone may be of a server whose clock was ahead.
                let is_late = to.is_some_and(|to| begins_after(&found, to));
                known.is_beyond = is_late && was_late;
                was_late = is_late;
                known.noted.push(found);
            }
            None => known.skipped += 1,
        }
        if known.is_beyond {
            break;
        }
    }
    if block.segments.len() > noted {
        block.write(notes, place).await?;
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use walarchive_testkit::meddler::{Act, Meddler, Op};

    use super::*;
    use crate::codec::{Compression, Format};
    use crate::repository::layout;
    use crate::wal::generator::Generator;
    use crate::wal::{Segment, WalFileName};

    struct Case {
        store: Store,
        read: Arc<Mutex<Vec<String>>>,
    }

    impl Case {
        fn new() -> Self {
            let meddler = Meddler::new(Arc::default());
            let read = Arc::<Mutex<Vec<String>>>::default();
            let seen = read.clone();
            meddler.rule(move |op, key| {
                if op == Op::Get && key.starts_with("wal_005/0") {
                    seen.lock().push(key.to_owned());
                }
                Act::Pass
            });
            let store = Store::of(Arc::new(meddler), "memory:");
            Case { store, read }
        }

        async fn archive(&self, segments: Vec<(Segment, Vec<u8>)>) {
            for (segment, bytes) in segments {
                let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
                std::io::Write::write_all(&mut encoder, &bytes).expect("compressed");
                let key = layout::wal(&WalFileName::Segment(segment), Format::Zstd);
                let content = encoder.finish().expect("compressed");
                self.store.put(&key, content.into()).await.expect("written");
            }
        }

        async fn gather(&self, to: Option<DateTime<Utc>>) -> Found {
            let mut inventory = Inventory::load(&self.store).await.expect("loaded");
            inventory.system_identifier = None;
            self.read.lock().clear();
            let notes = self.store.clone();
            let found = gather(&self.store, &notes, &inventory, None, to, Missing::Read).await;
            found.expect("gathered")
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_written_after_the_time_is_not_read() {
        let case = Case::new();
        let begun: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
        let mut wal = Generator::new(1, 2);
        for hour in 0..20 {
            wal.commit(begun + TimeDelta::hours(hour));
            wal.switch();
        }
        case.archive(wal.segments()).await;
        let found = case.gather(Some(begun + TimeDelta::hours(3))).await;
        assert_eq!((found.points.len(), found.skipped), (4, 0), "{found:?}");
        let segments = || {
            let read = case.read.lock();
            let names: std::collections::BTreeSet<String> = read.iter().cloned().collect();
            names.len()
        };
        // Hours 0 to 6: a commit of up to an hour later may be followed by one of before, and so may a single one of later.
        assert_eq!(segments(), 7, "{:?}", case.read.lock());
        assert_eq!(case.gather(None).await.points.len(), 20);
        assert_eq!(case.gather(None).await.points.len(), 20);
        assert_eq!(segments(), 0, "all is in the index");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_before_a_fork_is_shown_once() {
        let case = Case::new();
        let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
        let mut wal = Generator::new(1, 2);
        wal.commit(time);
        wal.restore_point("fork");
        let fork = Lsn(wal.position());
        wal.commit(time + TimeDelta::minutes(1));
        wal.switch();
        let parent = wal.segments();
        let mut wal = Generator::new(2, 2);
        wal.commit(time);
        wal.restore_point("fork");
        wal.commit(time + TimeDelta::minutes(2));
        wal.restore_point("later");
        wal.switch();
        let child = wal.segments();
        let history = format!("1\t{fork}\tat restore point\n");
        let key = layout::wal(&WalFileName::History(2), Format::Plain);
        case.store.put(&key, history.into()).await.expect("written");
        for is_parent_there in [false, true] {
            if is_parent_there {
                case.archive(parent.clone()).await;
            } else {
                case.archive(child.clone()).await;
            }
            let found = case.gather(None).await;
            let of = |timeline| {
                let points = found.points.iter().filter(move |point| point.timeline == timeline);
                points.map(|point| point.lsn < fork).collect::<Vec<bool>>()
            };
            let of_parent = match is_parent_there {
                true => vec![true, true, false],
                false => vec![true, true],
            };
            assert_eq!((of(1), of(2)), (of_parent, vec![false, false]), "{found:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn points_in_the_tail_are_found_where_wal_is_read() {
        let case = Case::new();
        let begun: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
        let mut wal = Generator::new(1, 2);
        wal.commit(begun);
        wal.switch();
        wal.restore_point("before");
        let end = wal.position() % crate::wal::generator::SIZE_BYTES as u64;
        wal.switch();
        let segments = wal.segments();
        case.archive(segments[..1].to_vec()).await;
        let (segment, bytes) = &segments[1];
        let chunk = layout::TailChunk {
            segment: *segment,
            epoch: 1,
            start: 0,
            end,
        };
        let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
        std::io::Write::write_all(&mut encoder, &bytes[..end as usize]).expect("compressed");
        let content = encoder.finish().expect("compressed");
        case.store.put(&chunk.key(), content.into()).await.expect("written");
        let found = case.gather(None).await;
        let names: Vec<Option<&str>> = found.points.iter().map(|point| point.name.as_deref()).collect();
        assert_eq!(names, [None, Some("before")], "{found:?}");
        let inventory = Inventory::load(&case.store).await.expect("loaded");
        let indexed = gather(&case.store, &case.store, &inventory, None, None, Missing::Skip).await;
        assert_eq!(
            indexed.expect("gathered").points.len(),
            1,
            "the index has what is archived"
        );
    }
}
