//! Comparing the two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use walarchive_storage::{Brake, Motion, Store};

use super::local::Line;
use super::stored::{self, Listing};
use crate::archive::{Archive, Pushed};
use crate::blocking::blocking;
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::inventory::{SegmentRange, gaps, read_continuous};
use crate::repository::{cluster, layout};
use crate::wal::{Segment, WalFileName};

/// So many segments before the oldest one in `pg_wal` are looked at. A gap further back is an old loss.
const LOOK_BACK: u64 = 1024;

/// A file of `pg_wal` that is to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// In `pg_wal`.
    file: WalFileName,
    /// The archive gets it under this name.
    name: WalFileName,
}

impl Wanted {
    /// The name that it gets in the archive.
    pub fn name(&self) -> WalFileName {
        self.name
    }

    /// Is it this one file that cannot be archived, so that others can?
    pub fn is_to_blame(&self, line: &Line, error: &Error) -> bool {
        match error {
            Error::InvalidWal { .. } | Error::Conflict { .. } => true,
            // It has vanished, or its disk cannot be read there.
            Error::Io { path, .. } => *path == self.path(line),
            _ => error.is_content(),
        }
    }

    fn path(&self, line: &Line) -> PathBuf {
        line.pg_wal.join(self.file.to_string())
    }

    /// Where it begins; none for a history file, which the server never removes.
    pub fn start(&self, line: &Line) -> Option<Lsn> {
        self.file.segment().map(|segment| segment.start(line.size()))
    }

    fn of(file: WalFileName) -> Self {
        Wanted { file, name: file }
    }
}

/// What a promoted server has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// To be archived, oldest first.
    pub wanted: Vec<Wanted>,
    /// Neither in the archive nor in `pg_wal`.
    pub lost: Vec<SegmentRange>,
}

/// Which segments of before the promotion are not in the archive? Only where the archive has some of that history already: the
/// archive of a clone, which begins anew, does not need what was before.
pub async fn look(store: &Store, line: &Line) -> Result<Backlog> {
    let Some((_, switch)) = line.switch() else {
        return Ok(Backlog::default());
    };
    cluster::owned(store, &line.identity).await?;
    let end = switch.0 / line.size().bytes();
    let (local, cut_off) = {
        let line = line.clone();
        blocking(move || Ok((line.before(end)?, line.cut_off()))).await?
    };
    let first = local.first().copied().unwrap_or(end);
    let window = first.saturating_sub(LOOK_BACK);
    // Nobody asks a second time, so no order is relied on.
    let there = stored::numbers(store, line, window, end, Listing::Whole).await?;
    let mut there: BTreeSet<u64> = there.into_keys().collect();
    if there.is_empty() {
        match stored::newest_before(store, line, end).await? {
            Some(newest) => there.insert(newest),
            None => return Ok(Backlog::default()),
        };
    }
    let mut lost = lost_ranges(line, &there, &local, end);
    if !lost.is_empty() {
        let continuous = read_continuous(store).await?;
        lost = lost
            .into_iter()
            .filter_map(|range| meant(line, &continuous, range))
            .collect();
    }
    let anchor = there.first().copied().unwrap_or(end);
    let missing = local
        .into_iter()
        .filter(|number| *number > anchor && !there.contains(number));
    // Recovery looks for the newest timeline one by one, and finds none beyond a history that is missing.
    let mut wanted = Vec::new();
    for history in line.histories() {
        if !stored::has(store, &history).await? {
            wanted.push(Wanted::of(history));
        }
    }
    wanted.extend(missing.map(|number| Wanted::of(WalFileName::Segment(line.numbered(number)))));
    if let Some(segment) = cut_off {
        let (file, name) = (WalFileName::Segment(segment), WalFileName::Partial(segment));
        if !stored::has(store, &file).await? && !stored::has(store, &name).await? {
            wanted.push(Wanted { file, name });
        }
    }
    Ok(Backlog { wanted, lost })
}

/// From the oldest one in the archive up to `end`, what neither the archive nor `pg_wal` has.
fn lost_ranges(line: &Line, there: &BTreeSet<u64>, local: &[u64], end: u64) -> Vec<SegmentRange> {
    let Some(first) = there.first().copied().filter(|first| *first < end) else {
        return Vec::new();
    };
    let mut known = there.clone();
    known.extend(local);
    let known: Vec<u64> = known.into_iter().collect();
    let mut ranges = Vec::new();
    for (mut from, last) in gaps(&known, first, end - 1) {
        // A gap may reach from one timeline into the next one.
        while from <= last {
            let timeline = line.numbered(from).timeline;
            let to = line
                .branch
                .last_on(timeline)
                .map_or(last, |of_timeline| of_timeline.min(last));
            ranges.push(SegmentRange::new(timeline, from, to, line.size()));
            from = to + 1;
        }
    }
    ranges
}

/// The part of a gap in which WAL is meant to be: retention leaves gaps, too, and writes down where they end.
fn meant(line: &Line, continuous: &BTreeMap<u32, Segment>, range: SegmentRange) -> Option<SegmentRange> {
    let Some(since) = continuous.get(&range.first.timeline) else {
        return Some(range);
    };
    let number = |segment: &Segment| segment.number(line.size());
    let first = number(&range.first).max(number(since));
    let last = number(&range.last);
    (first <= last).then(|| SegmentRange::new(range.first.timeline, first, last, line.size()))
}

/// The start of the oldest segment in `pg_wal` that the archive lacks, of those from `from` up to the position `end` of the server.
/// If it lacks none, the start of the segment with that position. What is older than anything that the archive has of this history
/// does not count: the archive begins later. A store without a repository is an error, and never an archive that begins later.
///
/// With it comes how the newest segment that was seen is compressed; none if the archive has none of before that place.
pub(super) async fn first_unarchived(store: &Store, line: &Line, from: Lsn, end: Lsn) -> Result<(Lsn, Option<Format>)> {
    let size = line.size().bytes();
    let (from, end) = (from.0 / size, end.0 / size);
    let local = {
        let line = line.clone();
        blocking(move || line.before(end)).await?
    };
    let local = &local[local.partition_point(|number| *number < from)..];
    let first = local.first().copied().unwrap_or(end);
    // With the one before, which tells in most cases that the archive begins earlier.
    let there = stored::numbers(store, line, first.saturating_sub(1), end, Listing::Short).await?;
    let mut lacking = local.iter().copied().filter(|number| !there.contains_key(number));
    let found = match (lacking.next(), there.keys().next()) {
        (Some(number), Some(anchor)) if *anchor < number => Some(number),
        (Some(number), _) if has_any_before(store, line, number).await? => Some(number),
        (Some(_), Some(anchor)) => lacking.find(|number| number > anchor),
        (_, _) => None,
    };
    let format = there.last_key_value().map(|(_, format)| *format);
    Ok((Lsn(found.unwrap_or(end).saturating_mul(size)), format))
}

async fn has_any_before(store: &Store, line: &Line, number: u64) -> Result<bool> {
    let window = number.saturating_sub(LOOK_BACK);
    let near = stored::numbers(store, line, window, number, Listing::Short).await?;
    Ok(!near.is_empty() || stored::newest_before(store, line, number).await?.is_some())
}

impl Archive {
    /// A standby has seen the repository. Once it is promoted it begins no new one in its place where that can vanish without an
    /// error. If it has vanished already, this is an error.
    pub async fn remember_repository(&self) -> Result<()> {
        let Some(writer) = self.writer().filter(|_| self.store().may_vanish()) else {
            return Ok(());
        };
        let has_owner = self.store().size(&layout::CLUSTER).await?.is_some();
        writer.remember_in_recovery(has_owner).await
    }

    /// Archive a file of a backlog, as [`Archive::push`] does.
    pub async fn push_wanted(&self, line: &Line, wanted: &Wanted, brake: Brake) -> Result<Pushed> {
        self.push_file(wanted.path(line), &wanted.name, Arc::<Motion>::default(), brake)
            .await
    }
}
