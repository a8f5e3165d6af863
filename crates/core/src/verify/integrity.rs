//! Is every segment there, from the oldest backup to the server's position?

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Archiving, Live, VerifyStatus};
use crate::error::{Error, Result};
use crate::repository::inventory::{BackupInfo, Inventory, SegmentRange};
use crate::wal::{Segment, TimelineHistory};

/// The state of a segment, in WAL-G's words. Unlike WAL-G, which guesses from a concurrency setting, this knows what waits and
/// what is being uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SegmentStatus {
    /// It is in the repository.
    Found,
    /// It is not archived whole, and the tail has all of it; or what there is of it, if it is the last one.
    Tail,
    /// It is complete, and waits for its turn.
    MissingDelayed,
    /// It is being uploaded.
    MissingUploading,
    /// It is nowhere: no restore gets past it.
    MissingLost,
}

impl SegmentStatus {
    /// Can a restore get past it, or to its end if it is the last one?
    fn is_there(self) -> bool {
        matches!(self, SegmentStatus::Found | SegmentStatus::Tail)
    }

    /// The words.
    pub fn as_str(self) -> &'static str {
        match self {
            SegmentStatus::Found => "FOUND",
            SegmentStatus::Tail => "TAIL",
            SegmentStatus::MissingDelayed => "MISSING_DELAYED",
            SegmentStatus::MissingUploading => "MISSING_UPLOADING",
            SegmentStatus::MissingLost => "MISSING_LOST",
        }
    }
}

/// The answer, in WAL-G's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// OK if all was found, FAILURE if a segment is lost; WARNING if some are not there yet, or if there is nothing to look
    /// at.
    pub status: VerifyStatus,
    /// In order of the WAL.
    pub details: Vec<IntegrityRow>,
}

/// Consecutive segments with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegrityRow {
    /// Which ones.
    pub segments: SegmentRange,
    /// Their state.
    pub status: SegmentStatus,
}

/// With the field names of WAL-G.
impl Serialize for IntegrityRow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row {
            timeline_id: u32,
            start_segment: String,
            end_segment: String,
            segments_count: u64,
            status: SegmentStatus,
        }
        let row = Row {
            timeline_id: self.segments.first.timeline,
            start_segment: self.segments.first.to_string(),
            end_segment: self.segments.last.to_string(),
            segments_count: self.segments.count,
            status: self.status,
        };
        row.serialize(serializer)
    }
}

impl Integrity {
    /// All ranges that are not in the repository.
    pub fn missing(&self) -> Vec<SegmentRange> {
        let missing = self.details.iter().filter(|row| !row.status.is_there());
        missing.map(|row| row.segments).collect()
    }

    /// Those of them that are nowhere.
    pub fn lost(&self) -> Vec<SegmentRange> {
        let lost = self
            .details
            .iter()
            .filter(|row| row.status == SegmentStatus::MissingLost);
        lost.map(|row| row.segments).collect()
    }
}

/// A part of the way that leads to the server's position: segments of one timeline, numbered from LSN 0.
struct Stretch {
    timeline: u32,
    first: u64,
    end: u64,
}

/// Look at all segments from the oldest backup on, backwards through the timelines from the server's position; the segment
/// of that is not complete and does not count, but for its tail if it is stored. Without a server, to the newest segment of the
/// repository.
///
/// WAL begins with the oldest backup that keeps more than what it needs itself, as permanent ones do not; what they need is
/// looked at too. With such alone it begins with the newest of them, without any with the first segment there is.
pub fn integrity(inventory: &Inventory, live: &Live) -> Integrity {
    let wanted = |history: &TimelineHistory, end: u64, stretches: &[Stretch]| {
        let backups = backups_on(inventory, history);
        let number = |backup: &BackupInfo| backup.metadata.start_lsn.0 / inventory.segment_size.bytes();
        let own_only = |backup: &&&BackupInfo| inventory.keeps_its_own_wal_only(backup);
        let points = || backups.iter().filter(own_only);
        let oldest = backups
            .iter()
            .filter(|backup| !own_only(backup))
            .map(|backup| number(backup))
            .min();
        let start = oldest
            .or_else(|| points().map(|backup| number(backup)).max())
            .or_else(|| first_known(inventory, live, stretches));
        let start = start.unwrap_or(end);
        let mut wanted: Vec<(u64, u64)> = points()
            .filter_map(|backup| {
                let last = inventory.needed(backup)?.last.number(inventory.segment_size);
                (number(backup) < start).then(|| (number(backup), (last + 1).min(start)))
            })
            .collect();
        wanted.sort_unstable();
        wanted.push((start, end));
        wanted
    };
    let way = way(inventory, live);
    over(
        inventory,
        live,
        way.map(|(history, end)| {
            let stretches = stretches(inventory, &history, end);
            let wanted = wanted(&history, end, &stretches);
            Way { stretches, wanted }
        }),
    )
}

/// The same from the start of one backup on, which must lead to the server's position.
pub fn integrity_since(inventory: &Inventory, live: &Live, backup: &BackupInfo) -> Result<Integrity> {
    let Some((history, end)) = way(inventory, live) else {
        return Ok(over(inventory, live, None));
    };
    let start = backup.metadata.start_lsn;
    let leads = backup
        .timeline
        .is_some_and(|timeline| history.leads_from(timeline, start));
    if !leads || backup.damaged.is_some() {
        return Err(Error::refused(
            format!(
                "backup \"{}\" does not lead to timeline {}",
                backup.name, history.timeline
            ),
            "Name a backup of this timeline, or of one that it was forked from after the backup.",
        ));
    }
    let way = Way {
        stretches: stretches(inventory, &history, end),
        wanted: vec![(start.0 / inventory.segment_size.bytes(), end)],
    };
    Ok(over(inventory, live, Some(way)))
}

/// The way to the server's position, and the numbers of segments that are wanted on it: a first one, and the one before which
/// they end.
struct Way {
    stretches: Vec<Stretch>,
    wanted: Vec<(u64, u64)>,
}

/// Look at what is wanted.
fn over(inventory: &Inventory, live: &Live, way: Option<Way>) -> Integrity {
    let mut details = Vec::new();
    if let Some(Way { stretches, wanted }) = way {
        let mut done = 0;
        let tail = wanted
            .last()
            .zip(stretches.last())
            .map(|((_, end), last)| (last.timeline, *end));
        for (first, end) in wanted {
            for stretch in &stretches {
                let (first, end) = (first.max(stretch.first).max(done), end.min(stretch.end));
                if first < end {
                    look(inventory, live, stretch.timeline, first, end, &mut details);
                }
            }
            done = end.max(done);
        }
        if let Some((timeline, number)) = tail
            && inventory
                .cover(Segment::from_number(timeline, number, inventory.segment_size))
                .is_some()
        {
            add(inventory, timeline, number, number, SegmentStatus::Tail, &mut details);
        }
    }
    if live.archiving == Archiving::Elsewhere {
        // The archiver goes in order, and cannot be asked: segments after the last one may be on their way.
        let last = details.iter().rposition(|row| row.status.is_there());
        let after = last.map_or(details.len(), |last| last + 1);
        details[after..]
            .iter_mut()
            .for_each(|row| row.status = SegmentStatus::MissingDelayed);
    }
    Integrity {
        status: status(&details),
        details,
    }
}

fn status(details: &[IntegrityRow]) -> VerifyStatus {
    let worst = details.iter().map(|row| match row.status {
        SegmentStatus::Found | SegmentStatus::Tail => VerifyStatus::Ok,
        SegmentStatus::MissingDelayed | SegmentStatus::MissingUploading => VerifyStatus::Warning,
        SegmentStatus::MissingLost => VerifyStatus::Failure,
    });
    worst.max().unwrap_or(VerifyStatus::Warning)
}

/// The timeline at the end of the way, and the number of the segment after its end.
fn way(inventory: &Inventory, live: &Live) -> Option<(TimelineHistory, u64)> {
    if let Some(position) = live.position {
        let number = position.lsn.0 / inventory.segment_size.bytes();
        let known = live
            .history
            .clone()
            .filter(|history| history.timeline == position.timeline);
        let history = known.unwrap_or_else(|| inventory.history(position.timeline));
        return Some((history, number));
    }
    let timelines = inventory.timelines();
    let end = |timeline: u32| {
        let last = inventory.there(timeline).last().map(|last| last + 1);
        let begun = inventory.begun(timeline).next_back().map(|(number, _)| number);
        last.max(begun)
    };
    let mut newest = timelines.into_iter().rev();
    newest.find_map(|timeline| Some((inventory.history(timeline), end(timeline)?)))
}

/// A timeline's first segment begins with a copy of its parent's, so the parent's own is not needed.
fn stretches(inventory: &Inventory, history: &TimelineHistory, end: u64) -> Vec<Stretch> {
    let mut first = 0;
    let mut stretches = Vec::new();
    for (timeline, switch) in &history.ancestors {
        let end = (switch.0 / inventory.segment_size.bytes()).min(end);
        stretches.push(Stretch {
            timeline: *timeline,
            first,
            end,
        });
        first = end.max(first);
    }
    stretches.push(Stretch {
        timeline: history.timeline,
        first,
        end,
    });
    stretches
}

/// Backups that recovery can start from to get to the end of the way.
fn backups_on<'a>(inventory: &'a Inventory, history: &TimelineHistory) -> Vec<&'a BackupInfo> {
    let ours = |backup: &&BackupInfo| match (backup.metadata.system_identifier, inventory.system_identifier) {
        (Some(of_backup), Some(of_repository)) => of_backup == of_repository,
        _ => true,
    };
    let leads = |backup: &&BackupInfo| {
        let timeline = backup.timeline.filter(|_| backup.damaged.is_none());
        timeline.is_some_and(|timeline| history.leads_from(timeline, backup.metadata.start_lsn))
    };
    inventory.backups.iter().filter(ours).filter(leads).collect()
}

/// The first segment on the way that is known at all.
fn first_known(inventory: &Inventory, live: &Live, stretches: &[Stretch]) -> Option<u64> {
    let known = |stretch: &Stretch| {
        let numbers = known(inventory, live, stretch.timeline, stretch.first, stretch.end);
        numbers.first_key_value().map(|(number, _)| *number)
    };
    stretches.iter().find_map(known)
}

/// All segments of a timeline, from a number to before another, that are not lost.
fn known(inventory: &Inventory, live: &Live, timeline: u32, first: u64, end: u64) -> BTreeMap<u64, SegmentStatus> {
    let size = inventory.segment_size;
    let mut known = BTreeMap::new();
    // Better knowledge overwrites.
    for (segments, status) in [
        (&live.waiting, SegmentStatus::MissingDelayed),
        (&live.uploading, SegmentStatus::MissingUploading),
        (&live.found, SegmentStatus::Found),
    ] {
        let numbers = segments.iter().filter(|segment| segment.timeline == timeline);
        known.extend(numbers.map(|segment| (segment.number(size), status)));
    }
    known.retain(|number, _| (first..end).contains(number));
    let numbers = inventory.there(timeline);
    let from = numbers.partition_point(|number| *number < first);
    let present = numbers[from..].iter().take_while(|number| **number < end);
    known.extend(present.map(|number| {
        let segment = Segment::from_number(timeline, *number, size);
        match inventory.has(segment) || live.found.contains(&segment) {
            true => (*number, SegmentStatus::Found),
            false => (*number, SegmentStatus::Tail),
        }
    }));
    known
}

fn look(inventory: &Inventory, live: &Live, timeline: u32, first: u64, end: u64, details: &mut Vec<IntegrityRow>) {
    let mut next = first;
    for (number, status) in known(inventory, live, timeline, first, end) {
        if number > next {
            add(
                inventory,
                timeline,
                next,
                number - 1,
                SegmentStatus::MissingLost,
                details,
            );
        }
        add(inventory, timeline, number, number, status, details);
        next = number + 1;
    }
    if next < end {
        add(inventory, timeline, next, end - 1, SegmentStatus::MissingLost, details);
    }
}

/// Add segments, to the last row if they go on from there.
fn add(
    inventory: &Inventory,
    timeline: u32,
    first: u64,
    last: u64,
    status: SegmentStatus,
    details: &mut Vec<IntegrityRow>,
) {
    let size = inventory.segment_size;
    match details.last_mut() {
        Some(row)
            if row.status == status
                && row.segments.last.timeline == timeline
                && row.segments.last.number(size) + 1 == first =>
        {
            row.segments = SegmentRange::new(timeline, row.segments.first.number(size), last, size);
        }
        _ => details.push(IntegrityRow {
            segments: SegmentRange::new(timeline, first, last, size),
            status,
        }),
    }
}
