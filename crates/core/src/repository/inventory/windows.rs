//! From when to when a repository can be restored.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{BackupInfo, Inventory, MissingSegments, SegmentRange, runs};
use crate::lsn::Lsn;
use crate::repository::tail::Cover;
use crate::wal::{Segment, SegmentSize, TimelineHistory};

/// A stretch of time: the cluster can be restored to any moment of it, with this timeline as the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryWindow {
    /// The timeline on which it ends: `recovery_target_timeline`.
    pub timeline: u32,
    /// When the oldest backup in it ended.
    pub start_time: DateTime<Utc>,
    /// The last commit in its WAL; when the last of it was stored, if there is none in the last segments.
    pub end_time: DateTime<Utc>,
    /// Where that backup ended.
    pub start_lsn: Lsn,
    /// Where its WAL ends: that of its last segment which is archived whole, or of the tail behind it.
    pub end_lsn: Lsn,
    /// The oldest backup in it.
    pub backup_name: String,
    /// How many backups can be restored into it.
    pub backups: usize,
    /// The segments that are missing or unreadable after it; none if nothing is archived after it.
    pub missing: Option<MissingSegments>,
}

/// All of them, by timeline and time. `end_time` is when the last of it was stored: who can read the WAL corrects it.
pub fn recovery_windows(inventory: &Inventory) -> Vec<RecoveryWindow> {
    let timelines = inventory.timelines().into_iter();
    timelines
        .flat_map(|timeline| of_timeline(inventory, timeline))
        .collect()
}

/// The WAL that recovery to one timeline reads: of each ancestor what is before the fork.
pub(super) struct Way {
    /// Timeline, and the number of the first segment that is read of it; ancestors first.
    parts: Vec<(u32, u64)>,
    history: TimelineHistory,
}

impl Way {
    fn to(inventory: &Inventory, timeline: u32) -> Self {
        Way::of(inventory.segment_size, &inventory.history(timeline))
    }

    pub(super) fn of(size: SegmentSize, history: &TimelineHistory) -> Self {
        let mut parts = Vec::new();
        let mut from = 0;
        for (ancestor, switch) in &history.ancestors {
            parts.push((*ancestor, from));
            from = switch.0 / size.bytes();
        }
        parts.push((history.timeline, from));
        Way {
            parts,
            history: history.clone(),
        }
    }

    fn end_of_part(&self, index: usize) -> u64 {
        self.parts.get(index + 1).map_or(u64::MAX, |(_, next)| *next)
    }

    /// The segment at its very end, if the tail has the beginning of that only.
    pub(super) fn begun<'a>(&self, inventory: &'a Inventory) -> Option<(u64, &'a Cover)> {
        let mut parts = self.parts.iter().enumerate().rev();
        let begun = parts.find_map(|(index, (timeline, from))| {
            let (from, end) = (*from, self.end_of_part(index));
            let mut begun = inventory.begun(*timeline).rev();
            begun.find(|(number, _)| (from..end).contains(number))
        });
        begun.filter(|(number, _)| self.present(inventory).last().is_none_or(|last| last < *number))
    }

    /// Which segments of it are there and may be readable, in order.
    pub(super) fn present<'a>(&'a self, inventory: &'a Inventory) -> impl Iterator<Item = u64> + 'a {
        self.parts
            .iter()
            .enumerate()
            .flat_map(move |(index, (timeline, from))| {
                let end = self.end_of_part(index);
                let numbers = inventory.there(*timeline).into_owned().into_iter();
                let size = inventory.segment_size;
                let is_readable =
                    move |number: &u64| !inventory.is_unreadable(Segment::from_number(*timeline, *number, size));
                numbers.filter(move |number| (*from..end).contains(number) && is_readable(number))
            })
    }

    /// The timeline that has the segment of that number.
    pub(super) fn timeline_of(&self, number: u64) -> u32 {
        self.timelines_of(number).next().unwrap_or(self.history.timeline)
    }

    /// Those that can have it, the newest first.
    pub(super) fn timelines_of(&self, number: u64) -> impl Iterator<Item = u32> {
        let parts = self.parts.iter().rev().filter(move |(_, from)| *from <= number);
        parts.map(|(timeline, _)| *timeline)
    }
}

fn of_timeline(inventory: &Inventory, timeline: u32) -> Vec<RecoveryWindow> {
    let size = inventory.segment_size;
    let way = Way::to(inventory, timeline);
    let runs = runs(way.present(inventory));
    let begun = way.begun(inventory);
    let usable = |backup: &&BackupInfo| {
        inventory.is_restorable(backup)
            && backup
                .timeline
                .is_some_and(|at| way.history.leads_from(at, backup.metadata.finish_lsn))
    };
    let backups: Vec<&BackupInfo> = inventory.backups.iter().filter(usable).collect();
    let mut windows = Vec::new();
    for (index, (first, last)) in runs.iter().enumerate() {
        let tail = begun.filter(|(number, _)| *number == last + 1);
        let end = tail.map_or(*last, |(number, _)| number);
        // A window that ends on an ancestor is the ancestor's.
        if way.timeline_of(end) != timeline {
            continue;
        }
        let inside = |backup: &&&BackupInfo| {
            let end = backup.metadata.finish_lsn.0.saturating_sub(1) / size.bytes();
            (*first..=*last).contains(&end)
        };
        let Some(oldest) = backups
            .iter()
            .filter(inside)
            .min_by_key(|backup| backup.metadata.finish_lsn)
        else {
            continue;
        };
        let next = runs.get(index + 1).map(|(next, _)| *next);
        let next = next.or(begun.map(|(number, _)| number).filter(|number| *number > last + 1));
        let segment = Segment::from_number(timeline, end, size);
        windows.push(RecoveryWindow {
            timeline,
            start_time: oldest.finished(),
            end_time: inventory.stored_at(segment).unwrap_or_default().max(oldest.finished()),
            start_lsn: oldest.metadata.finish_lsn,
            end_lsn: match tail {
                Some((_, cover)) => inventory.end_of(segment, cover),
                None => Lsn((last + 1) * size.bytes()),
            },
            backup_name: oldest.name.clone(),
            backups: backups.iter().filter(inside).count(),
            missing: next.map(|next| SegmentRange::new(timeline, last + 1, next - 1, size).into()),
        });
    }
    windows
}
