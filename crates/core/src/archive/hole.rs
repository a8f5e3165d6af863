//! A segment that the archive does not have: the end of the archive, or a hole in it?
//!
//! Recovery takes "not there" for the end. If later WAL is there, it would end too early, and nobody would know.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use chrono::{DateTime, Utc};
use walarchive_storage::{Listed, Store};

use crate::control_file::ControlFile;
use crate::data_dir::PG_CONTROL;
use crate::error::Result;
use crate::repository::inventory::{key_before, read_history};
use crate::repository::layout;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

pub(super) mod local;

/// More timelines after the one of the segment are not looked at.
const MOST_TIMELINES: usize = 64;

/// More than any history file has, in bytes.
const HISTORY_LIMIT: u64 = 1 << 20;

/// WAL is missing that is not the end of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The file that is there and comes after it.
    pub later: WalFileName,
    /// When that file was stored.
    pub stored: DateTime<Utc>,
}

/// What is where a segment is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// Nothing comes after it: the end.
    End,
    /// Something does.
    Hole(Hole),
    /// The segment is there by now.
    Closed,
}

/// What a listing of the archive shows from a segment on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// The segment itself.
    itself: bool,
    /// A later segment of the same timeline.
    later: Option<(Segment, DateTime<Utc>)>,
    /// The history files of later timelines.
    histories: Vec<(u32, DateTime<Utc>)>,
}

impl Behind {
    /// Look into the archive.
    pub async fn look(store: &Store, segment: Segment) -> Result<Self> {
        match store.lists_in_order() {
            true => look_in_order(store, segment).await,
            false => look_at_all(store, segment).await,
        }
    }

    /// Is the segment itself there, in whatever format?
    pub(super) fn has_segment(&self) -> bool {
        self.itself
    }
}

/// Is this segment the next one of a server whose WAL directory this is? It has all WAL of the timeline up to there, and nothing of
/// the segment itself.
pub fn is_next(segment: Segment, wal_directory: &Path, control: &ControlFile) -> bool {
    let begun = |segment: Segment| local::is_begun(&wal_directory.join(segment.to_string()), segment, control);
    let number = segment.number(control.segment_size);
    let before = |number| Segment::from_number(segment.timeline, number, control.segment_size);
    !begun(segment) && number.checked_sub(1).is_some_and(|number| begun(before(number)))
}

/// The archive does not have `segment`, which recovery wants to have as `target`, in the `pg_wal` of `data_dir`. Is that a hole?
/// It is none if the server has the whole segment itself, or will ask for it on the older timeline that it is of. `tail`: the next
/// segment of the same timeline that the tail has something of. `behind`: what was looked for already.
pub async fn find_hole(
    store: &Store,
    segment: Segment,
    tail: Option<(Segment, DateTime<Utc>)>,
    behind: Option<Behind>,
    (target, data_dir): (&Path, &Path),
) -> Result<Gap> {
    // Without one no server recovers there. One that cannot be read says nothing, and recovery must not end by that.
    if !data_dir.join(PG_CONTROL).try_exists().unwrap_or(true) {
        return Ok(Gap::End);
    }
    let control = ControlFile::read(data_dir)?;
    let size = control.segment_size;
    let wal_directory = target.parent().unwrap_or(data_dir);
    if local::is_whole(&wal_directory.join(segment.to_string()), segment, &control) {
        return Ok(Gap::End);
    }
    let behind = match behind {
        Some(behind) => behind,
        None => Behind::look(store, segment).await?,
    };
    if behind.itself {
        return Ok(Gap::Closed);
    }
    let hole = |(later, stored)| Hole {
        later: WalFileName::Segment(later),
        stored,
    };
    let hole = match behind.later.map(hole) {
        None => branches_later(store, segment, &behind.histories, size).await?,
        found => found,
    }
    .or(tail.map(hole));
    match hole {
        Some(hole) if !is_before_timeline(store, segment, wal_directory, size).await? => Ok(Gap::Hole(hole)),
        _ => Ok(Gap::End),
    }
}

/// One request for the timeline itself, and one for each timeline after it.
async fn look_in_order(store: &Store, segment: Segment) -> Result<Behind> {
    let mut behind = Behind::default();
    let mut after = key_before(segment);
    for _ in 0..MOST_TIMELINES {
        let mut next = None;
        let look = |listed: Listed| {
            let Some((name, _)) = layout::wal_of_object(&listed.key) else {
                return ControlFlow::Continue(());
            };
            match name {
                WalFileName::Segment(found) if found == segment => {
                    behind.itself = true;
                    ControlFlow::Break(())
                }
                WalFileName::Segment(found) if found > segment && found.timeline == segment.timeline => {
                    behind.later = Some((found, listed.last_modified));
                    ControlFlow::Break(())
                }
                WalFileName::History(timeline) if timeline > segment.timeline => {
                    behind.histories.push((timeline, listed.last_modified));
                    next = Some(timeline);
                    ControlFlow::Break(())
                }
                // The history of a timeline comes before its segments. If there is none, nobody can follow it.
                other if other.timeline() > segment.timeline => {
                    next = Some(other.timeline());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        };
        store.each_after(&layout::WAL_FOLDER, &after, look).await?;
        let Some(timeline) = next.filter(|_| behind.later.is_none()) else {
            break;
        };
        // Behind all names of that timeline: "Z" comes after all hexadecimal digits.
        after = format!("{}/{timeline:08X}Z", layout::WAL_FOLDER);
    }
    Ok(behind)
}

/// A directory is listed as a whole anyway.
async fn look_at_all(store: &Store, segment: Segment) -> Result<Behind> {
    let mut behind = Behind::default();
    let look = |listed: Listed| match layout::wal_of_object(&listed.key) {
        Some((WalFileName::Segment(found), _)) if found == segment => behind.itself = true,
        Some((WalFileName::Segment(found), _))
            if found > segment
                && found.timeline == segment.timeline
                && behind.later.is_none_or(|(later, _)| found < later) =>
        {
            behind.later = Some((found, listed.last_modified));
        }
        Some((WalFileName::History(timeline), _)) if timeline > segment.timeline => {
            behind.histories.push((timeline, listed.last_modified));
        }
        _ => {}
    };
    store.each(&layout::WAL_FOLDER, look).await?;
    behind.histories.sort_unstable();
    behind.histories.truncate(MOST_TIMELINES);
    Ok(behind)
}

/// Is there a timeline that left this one behind the segment? Then the segment was written.
async fn branches_later(
    store: &Store,
    segment: Segment,
    histories: &[(u32, DateTime<Utc>)],
    size: SegmentSize,
) -> Result<Option<Hole>> {
    for (timeline, stored) in histories {
        let Some(history) = history_in(store, *timeline).await? else {
            continue;
        };
        let mut ancestors = history.ancestors.iter();
        if ancestors.any(|(left, switch)| {
            *left == segment.timeline && Segment::containing(*left, *switch, size).number(size) > segment.number(size)
        }) {
            return Ok(Some(Hole {
                later: WalFileName::History(*timeline),
                stored: *stored,
            }));
        }
    }
    Ok(None)
}

/// Recovery asks for a segment on the newest timeline first, and then on those that it descends from. So one before the timeline's
/// first comes on another. The first one does not: on the parent it goes on with WAL that the timeline has left.
async fn is_before_timeline(store: &Store, segment: Segment, wal_directory: &Path, size: SegmentSize) -> Result<bool> {
    let Some(history) = own_history(store, segment.timeline, wal_directory).await? else {
        return Ok(false);
    };
    let first = |switch| Segment::containing(segment.timeline, switch, size).number(size);
    Ok(history
        .parent()
        .is_some_and(|(_, switch)| segment.number(size) < first(switch)))
}

/// The history of the timeline that recovery follows, which it has restored before.
pub(super) async fn own_history(store: &Store, timeline: u32, wal_directory: &Path) -> Result<Option<TimelineHistory>> {
    match history_file(timeline, wal_directory) {
        Some(history) => Ok(Some(history)),
        None if timeline == 1 => Ok(None),
        None => history_in(store, timeline).await,
    }
}

/// The same, if it is in the server's WAL directory.
pub(super) fn history_file(timeline: u32, wal_directory: &Path) -> Option<TimelineHistory> {
    let path = wal_directory.join(WalFileName::History(timeline).to_string());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(HISTORY_LIMIT).read_to_string(&mut text));
    read.ok().and_then(|_| TimelineHistory::parse(timeline, &text))
}

/// One that cannot be read says nothing.
async fn history_in(store: &Store, timeline: u32) -> Result<Option<TimelineHistory>> {
    match read_history(store, timeline).await {
        Ok(text) => Ok(text.and_then(|text| TimelineHistory::parse(timeline, &text))),
        Err(error) if error.is_content() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
