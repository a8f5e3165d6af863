//! `wal-show`: what is archived of each timeline.

use std::fmt;

use serde::Serialize;

use super::{BackupDetail, BackupInfo, Inventory, SegmentRange, TailEnd, gaps};
use crate::wal::Segment;

/// Of a timeline's segments, are some missing?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TimelineStatus {
    /// None that is known of.
    Ok,
    /// There are gaps.
    LostSegments,
}

impl TimelineStatus {
    /// As WAL-G writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            TimelineStatus::Ok => "OK",
            TimelineStatus::LostSegments => "LOST_SEGMENTS",
        }
    }
}

/// Segments that are not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingSegments {
    /// The first one.
    pub start_segment: String,
    /// The last one.
    pub end_segment: String,
    /// How many.
    pub segments_count: u64,
}

impl From<SegmentRange> for MissingSegments {
    fn from(range: SegmentRange) -> Self {
        MissingSegments {
            start_segment: range.first.to_string(),
            end_segment: range.last.to_string(),
            segments_count: range.count,
        }
    }
}

/// As a message says it: the segment, or the first and the last one.
impl fmt::Display for MissingSegments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.segments_count {
            1 => f.write_str(&self.start_segment),
            _ => write!(f, "{} to {}", self.start_segment, self.end_segment),
        }
    }
}

/// One timeline, with the field names of `wal-g wal-show --detailed-json`.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineInfo {
    /// The timeline.
    pub id: u32,
    /// Its parent; 0 if it is the first one, or its history file is not there.
    pub parent_id: u32,
    /// Where it was forked; 0 as above.
    pub switch_point_lsn: u64,
    /// The first segment; empty if none is archived.
    pub start_segment: String,
    /// The last one.
    pub end_segment: String,
    /// From the first one to where the last one should be.
    pub segment_range_size: u64,
    /// How many are there.
    pub segments_count: u64,
    /// The segments that are missing in between.
    pub missing_segments: Vec<MissingSegments>,
    /// The backups that were taken on it.
    pub backups: Vec<BackupDetail>,
    /// Is anything missing?
    pub status: TimelineStatus,
    /// Up to where the tail goes on behind the last segment, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<TailEnd>,
    /// Why its history file cannot be read, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged_history: Option<String>,
}

impl TimelineInfo {
    /// Every timeline of a repository, in order.
    pub fn all(inventory: &Inventory) -> Vec<Self> {
        let timelines = inventory.timelines().into_iter();
        timelines
            .map(|timeline| TimelineInfo::of(inventory, timeline))
            .collect()
    }

    fn of(inventory: &Inventory, timeline: u32) -> Self {
        let size = inventory.segment_size;
        let numbers = inventory.segments(timeline);
        let parent = inventory.history(timeline).parent();
        let name = |number: Option<&u64>| {
            number
                .map(|number| Segment::from_number(timeline, *number, size).to_string())
                .unwrap_or_default()
        };
        let range = expected(inventory, timeline);
        let missing: Vec<MissingSegments> = range
            .map(|(first, last)| lost(inventory, timeline, first, last))
            .unwrap_or_default()
            .into_iter()
            .map(|(first, last)| SegmentRange::new(timeline, first, last, size).into())
            .collect();
        let backups = inventory
            .backups
            .iter()
            .filter(|backup| backup.timeline == Some(timeline));
        TimelineInfo {
            id: timeline,
            parent_id: parent.map_or(0, |(parent, _)| parent),
            switch_point_lsn: parent.map_or(0, |(_, switch)| switch.0),
            start_segment: name(numbers.first()),
            end_segment: name(numbers.last()),
            segment_range_size: range.map_or(0, |(first, last)| last - first + 1),
            segments_count: numbers.len() as u64,
            status: match missing.is_empty() {
                true => TimelineStatus::Ok,
                false => TimelineStatus::LostSegments,
            },
            missing_segments: missing,
            backups: backups.map(|backup| BackupDetail::of(inventory, backup)).collect(),
            tail: inventory.tail_end(timeline),
            damaged_history: inventory.damaged_histories.get(&timeline).cloned(),
        }
    }
}

/// The numbers of the first and the last segment that a timeline should have: those that are there, and what leads to the
/// place where another timeline was forked from it. The segment of the fork itself goes on on the new timeline.
fn expected(inventory: &Inventory, timeline: u32) -> Option<(u64, u64)> {
    let numbers = inventory.there(timeline);
    let (first, last) = (*numbers.first()?, *numbers.last()?);
    let forks = inventory.histories.values().filter_map(|history| {
        let (parent, switch) = history.parent()?;
        (parent == timeline && !inventory.there(history.timeline).is_empty())
            .then(|| (switch.0 / inventory.segment_size.bytes()).saturating_sub(1))
    });
    // A fork before everything that is left of this timeline asks for nothing any more.
    let last = forks.filter(|fork| *fork >= first).fold(last, u64::max);
    Some((first, last))
}

/// The segments that are missing from one number to another, without those that retention has deleted: before the WAL that is
/// meant to be without gaps, only the segments that a backup needs are missed.
fn lost(inventory: &Inventory, timeline: u32, first: u64, last: u64) -> Vec<(u64, u64)> {
    let size = inventory.segment_size;
    let on_it = inventory
        .backups
        .iter()
        .filter(|backup| backup.timeline == Some(timeline));
    let (points, others): (Vec<&BackupInfo>, Vec<&BackupInfo>) =
        on_it.partition(|backup| inventory.keeps_its_own_wal_only(backup));
    let since = inventory.continuous.get(&timeline).map(|since| since.number(size));
    // WAL-G writes nothing down, but deletes after permanent backups, too.
    let since = since.or_else(|| {
        let starts = others.iter().map(|backup| backup.metadata.start_lsn.0 / size.bytes());
        starts.min().filter(|_| !points.is_empty())
    });
    let since = since.unwrap_or(first).clamp(first, last);
    let needed = points.iter().filter_map(|backup| inventory.needed(backup));
    let mut wanted: Vec<(u64, u64)> = needed
        .map(|needed| {
            (
                needed.first.number(size),
                needed.last.number(size).min(since.saturating_sub(1)),
            )
        })
        .filter(|(first, last)| first <= last)
        .collect();
    wanted.push((since, last));
    wanted.sort_unstable();
    let numbers = inventory.there(timeline);
    let mut lost = Vec::new();
    let mut next = 0;
    for (first, last) in wanted {
        if first.max(next) <= last {
            lost.extend(gaps(&numbers, first.max(next), last));
            next = last + 1;
        }
    }
    lost
}
