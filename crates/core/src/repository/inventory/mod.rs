//! The content of a repository: base backups, WAL, timelines. Verbs that look at all of it work on an [`Inventory`], which asks
//! the store once. Their decisions are pure functions of it, and tested as such.

mod ahead;
mod backups;
mod catchups;
mod continuous;
mod detail;
mod every;
mod marked;
mod near;
mod reach;
mod show;
mod tail;
mod tail_walk;
mod unfinished;
mod wal;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};

use crate::codec::Format;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::{cluster, layout};
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};
use walarchive_storage::Store;

pub(crate) use ahead::walk;
pub use ahead::{Contents, CreatedTablespace, MOST_READ, look_ahead, wal_from};
pub(crate) use backups::parse_name;
pub use backups::{BackupInfo, Delta, find_backup, list_backups, read_sentinel};
pub use catchups::{find_catchup, list_catchups, unfinished_catchups};
pub(crate) use continuous::{read as read_continuous, write as write_continuous};
pub use detail::BackupDetail;
pub use marked::find_by_user_data;
pub use near::missing_segments;
pub use near::of_backups;
pub(crate) use near::{before as key_before, segment_size};
pub use reach::{Hole, Reach};
pub use show::{MissingSegments, TimelineInfo, TimelineStatus};
pub(crate) use tail::Begun;
pub use tail::{Tail, TailEnd, TailGap, TailObject};
pub(crate) use tail_walk::walk_tail;
pub use unfinished::Unfinished;
pub use wal::{SegmentRange, WalObject, gaps, read_history, runs};
pub use windows::{RecoveryWindow, recovery_windows};

/// The lines of all history files together: enough for some thousand timelines.
const ANCESTORS_LIMIT: usize = 1 << 22;

/// Requests that are under way at a time.
const CONCURRENCY: usize = 8;

/// All that a repository holds, as one look at it found it.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// `wal_segment_size` of the cluster that wrote the WAL.
    pub segment_size: SegmentSize,
    /// Of that cluster, as `cluster.json` tells it, or else the WAL.
    pub system_identifier: Option<u64>,
    /// By start time.
    pub backups: Vec<BackupInfo>,
    /// Folders of backups without a sentinel, by name.
    pub unfinished: Vec<Unfinished>,
    /// Every WAL file, by timeline and position; history files before the segments of their timeline.
    pub wal: Vec<WalObject>,
    /// The timelines that have a history file that can be read.
    pub histories: BTreeMap<u32, TimelineHistory>,
    /// Those whose history file cannot be read, and why.
    pub damaged_histories: BTreeMap<u32, String>,
    /// From which segments on, by timeline, WAL is meant to be without gaps: retention has deleted what no backup needed
    /// before. The first segment there is, where none is named.
    pub continuous: BTreeMap<u32, Segment>,
    /// WAL of segments that are not archived whole, and what is left of others.
    pub tail: Tail,
    /// Numbers of the complete segments, counted from LSN 0, by timeline, in order.
    segments: BTreeMap<u32, Vec<u64>>,
    /// Those of them whose first object is empty or cut off: recovery reads no other.
    unreadable: BTreeSet<Segment>,
}

impl Inventory {
    /// Look at everything. Listings come in pages and are kept in a compact form: about 60 bytes an archived file.
    pub async fn load(store: &Store) -> Result<Self> {
        let wal = async {
            let (tail, owner) = tokio::try_join!(tail::list(store), cluster::owner(store))?;
            let size = owner.map_or(SegmentSize::DEFAULT, |owner| owner.segment_size);
            Ok::<_, Error>((tail, every::list(store, size).await?, owner))
        };
        let backups = async {
            // In this order: a backup that ends in between is seen twice, and not taken for a leftover.
            let folders = unfinished::list(store, &layout::BACKUPS_FOLDER).await?;
            let backups = list_backups(store).await?;
            Ok((folders, backups))
        };
        let ((tail, wal, owner), (mut folders, backups), continuous) =
            tokio::try_join!(wal, backups, continuous::read(store))?;
        for backup in &backups {
            folders.remove(&backup.name);
        }
        let mut inventory = Inventory::new(SegmentSize::DEFAULT, backups, wal, BTreeMap::new());
        inventory.continuous = continuous;
        inventory.unfinished = folders.into_values().collect();
        inventory.read_histories(store).await?;
        match owner {
            Some(owner) => {
                inventory.system_identifier = Some(owner.system_identifier);
                inventory.set_segment_size(owner.segment_size);
            }
            // WAL-G's repository: its WAL tells.
            None => inventory.learn_from_wal(store).await?,
        }
        inventory.tail = Tail::new(tail.0, tail.1, inventory.segment_size);
        Ok(inventory)
    }

    /// From parts, in any order.
    pub fn new(
        segment_size: SegmentSize,
        mut backups: Vec<BackupInfo>,
        mut wal: Vec<WalObject>,
        histories: BTreeMap<u32, TimelineHistory>,
    ) -> Self {
        backups.sort_by(|a, b| (a.started(), &a.name).cmp(&(b.started(), &b.name)));
        // Of a segment that is there in several formats, the first one is what `archive::fetch` reads if nobody has chosen another.
        let rank = |object: &WalObject| Format::ALL.iter().position(|format| *format == object.format);
        wal.sort_by_key(|object| (position(&object.name), rank(object)));
        let mut inventory = Inventory {
            segment_size,
            system_identifier: None,
            backups,
            unfinished: Vec::new(),
            wal,
            histories,
            damaged_histories: BTreeMap::new(),
            continuous: BTreeMap::new(),
            tail: Tail::default(),
            segments: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        };
        inventory.set_segment_size(segment_size);
        inventory
    }

    fn set_segment_size(&mut self, size: SegmentSize) {
        self.segment_size = size;
        self.segments.clear();
        self.unreadable.clear();
        for object in &self.wal {
            if let WalFileName::Segment(segment) = object.name {
                let numbers = self.segments.entry(segment.timeline).or_default();
                let number = segment.number(size);
                // The same segment may be there in two formats.
                let is_first = numbers.last() != Some(&number);
                if is_first {
                    numbers.push(number);
                    if object.is_cut_off(size) {
                        self.unreadable.insert(segment);
                    }
                }
            }
        }
    }

    /// Whose WAL is it? The newest segment that is not damaged tells.
    async fn learn_from_wal(&mut self, store: &Store) -> Result<()> {
        /// With so many damaged ones nothing can be said.
        const TRIES: usize = 8;
        let is_segment = |object: &&WalObject| matches!(object.name, WalFileName::Segment(_));
        for object in self.wal.iter().rev().filter(is_segment).take(TRIES) {
            let page = match wal::first_page(store, object).await {
                Ok(Some(page)) => page,
                Ok(None) => continue,
                Err(error) if error.is_content() => continue,
                Err(error) => return Err(error),
            };
            if let Ok(size) = SegmentSize::new(page.segment_bytes.into()) {
                self.system_identifier = Some(page.system_identifier);
                self.set_segment_size(size);
                return Ok(());
            }
        }
        // WAL that is encrypted or damaged tells nothing. With a wrong size, what is needed would be taken for what is not.
        if let Some(size) = backups::segment_size(&self.backups) {
            self.set_segment_size(size);
        }
        Ok(())
    }

    /// The timelines whose history files are in the archive.
    pub(crate) fn history_files(&self) -> BTreeSet<u32> {
        let timelines = self.wal.iter().filter_map(|object| match object.name {
            WalFileName::History(timeline) => Some(timeline),
            _ => None,
        });
        timelines.collect()
    }

    async fn read_histories(&mut self, store: &Store) -> Result<()> {
        let timelines = self.history_files();
        let unread = "It does not read like a timeline history file.";
        let mut read = futures::stream::iter(timelines)
            .map(|timeline| async move {
                match read_history(store, timeline).await {
                    Ok(None) => Ok((timeline, Ok(None))),
                    Ok(Some(text)) => {
                        let history = TimelineHistory::parse(timeline, &text);
                        Ok((timeline, history.map(Some).ok_or_else(|| unread.to_owned())))
                    }
                    Err(error) if error.is_content() => {
                        let reason = error.content_finding().unwrap_or_else(|| error.to_string());
                        Ok((timeline, Err(reason)))
                    }
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(CONCURRENCY);
        let mut room = ANCESTORS_LIMIT;
        while let Some((timeline, history)) = read.try_next().await? {
            let history = history.and_then(|history| {
                let ancestors = history.as_ref().map_or(0, |history| history.ancestors.len());
                let left = room.checked_sub(ancestors);
                room = left.ok_or_else(|| "There are more timelines than any cluster has.".to_owned())?;
                Ok(history)
            });
            match history {
                Ok(None) => {}
                Ok(Some(history)) => drop(self.histories.insert(timeline, history)),
                Err(reason) => drop(self.damaged_histories.insert(timeline, reason)),
            }
        }
        Ok(())
    }

    /// The timelines that have segments, partial segments, a tail, a history file or a backup.
    pub fn timelines(&self) -> BTreeSet<u32> {
        let wal = self.wal.iter().map(|object| position(&object.name).0);
        let tail = self.covers().map(|(segment, _)| segment.timeline);
        let backups = self.backups.iter().filter_map(|backup| backup.timeline);
        wal.chain(tail).chain(backups).collect()
    }

    /// Numbers of the complete segments of a timeline, counted from LSN 0, in order.
    pub fn segments(&self, timeline: u32) -> &[u64] {
        self.segments.get(&timeline).map_or(&[], Vec::as_slice)
    }

    /// Is that segment in the archive, complete?
    pub fn has(&self, segment: Segment) -> bool {
        self.segments(segment.timeline)
            .binary_search(&segment.number(self.segment_size))
            .is_ok()
    }

    /// Is the object of that segment empty or cut off, so that recovery cannot go beyond it? Only sizes are looked at.
    pub fn is_unreadable(&self, segment: Segment) -> bool {
        self.unreadable.contains(&segment)
    }

    /// The object of a complete segment; the one that recovery reads if there are several.
    pub fn object_of(&self, segment: Segment) -> Option<&WalObject> {
        self.first_object(WalFileName::Segment(segment))
    }

    /// The same; if there is none, that of the partial segment, which recovery reads up to the fork.
    pub fn object_read(&self, segment: Segment) -> Option<&WalObject> {
        self.object_of(segment)
            .or_else(|| self.first_object(WalFileName::Partial(segment)))
    }

    fn first_object(&self, name: WalFileName) -> Option<&WalObject> {
        let at = self
            .wal
            .partition_point(|object| position(&object.name) < position(&name));
        self.wal.get(at).filter(|object| object.name == name)
    }

    /// A timeline and its ancestors; no ancestors are known if its history file is missing or damaged.
    pub fn history(&self, timeline: u32) -> TimelineHistory {
        self.histories.get(&timeline).cloned().unwrap_or(TimelineHistory {
            timeline,
            ancestors: Vec::new(),
        })
    }

    /// The segments from the start of a backup to its end, without which it cannot be restored; none if its name does not
    /// tell its timeline, or it is damaged.
    pub fn needed(&self, backup: &BackupInfo) -> Option<SegmentRange> {
        let timeline = backup.timeline.filter(|_| backup.damaged.is_none())?;
        let metadata = &backup.metadata;
        // By numbers, not by a list: nobody vouches for the distance between the two.
        let number = |lsn| Segment::containing(timeline, lsn, self.segment_size).number(self.segment_size);
        let first = number(metadata.start_lsn);
        let last = number(Lsn(metadata.finish_lsn.0.saturating_sub(1))).max(first);
        Some(SegmentRange::new(timeline, first, last, self.segment_size))
    }

    /// Those of [`Inventory::needed`] that are not in the archive.
    pub fn missing(&self, backup: &BackupInfo) -> Vec<SegmentRange> {
        let Some(needed) = self.needed(backup) else {
            return Vec::new();
        };
        let size = self.segment_size;
        let timeline = needed.first.timeline;
        gaps(
            self.segments(timeline),
            needed.first.number(size),
            needed.last.number(size),
        )
        .into_iter()
        .map(|(first, last)| SegmentRange::new(timeline, first, last, size))
        .collect()
    }

    /// Does the backup keep no more WAL than it needs to be restored to its end? Permanent ones do not, and neither do those
    /// before the WAL that is meant to be without gaps.
    pub fn keeps_its_own_wal_only(&self, backup: &BackupInfo) -> bool {
        let before = || {
            let since = self.continuous.get(&backup.timeline?)?;
            Some(backup.metadata.start_lsn < since.start(self.segment_size))
        };
        backup.metadata.is_permanent || before().unwrap_or(false)
    }

    /// The backup of that name.
    pub fn backup(&self, name: &str) -> Option<&BackupInfo> {
        self.backups.iter().find(|backup| backup.name == name)
    }

    /// The name of the backup that is wanted: `LATEST` is the newest one, every other name itself.
    pub fn named<'a>(&'a self, wanted: &'a str) -> Result<&'a str> {
        match (wanted, self.backups.last()) {
            ("LATEST", Some(newest)) => Ok(&newest.name),
            ("LATEST", None) => Err(Error::NoBackup {
                message: "there are no backups".to_owned(),
                hint: "Check the storage URL and its prefix.".to_owned(),
            }),
            (name, _) => Ok(name),
        }
    }

    /// A backup and its ancestors, up to the full one; the error names the ancestor that is missing.
    pub fn chain<'a>(&'a self, backup: &'a BackupInfo) -> Result<Vec<&'a BackupInfo>, String> {
        let mut chain = vec![backup];
        let mut last = backup;
        while let Some(delta) = &last.delta {
            last = self.backup(&delta.parent).ok_or_else(|| delta.parent.clone())?;
            // A hand-made sentinel could name its own child.
            if chain.iter().any(|seen| seen.name == last.name) {
                return Err(last.name.clone());
            }
            chain.push(last);
        }
        Ok(chain)
    }

    /// Can the backup be restored to its end: can its description be read, are its ancestors there, and its WAL?
    pub fn is_restorable(&self, backup: &BackupInfo) -> bool {
        backup.damaged.is_none()
            && backup.timeline.is_some()
            && self
                .chain(backup)
                .is_ok_and(|chain| chain.iter().all(|link| link.damaged.is_none()))
            && self.missing(backup).is_empty()
    }
}

/// The order of WAL files: timeline, history file first, then by position.
fn position(name: &WalFileName) -> (u32, u32, u32, u8, u32) {
    match *name {
        WalFileName::History(timeline) => (timeline, 0, 0, 0, 0),
        WalFileName::Segment(segment) => (segment.timeline, segment.log, segment.seg, 1, 0),
        WalFileName::Partial(segment) => (segment.timeline, segment.log, segment.seg, 2, 0),
        WalFileName::BackupHistory(segment, offset) => (segment.timeline, segment.log, segment.seg, 3, offset),
    }
}

#[cfg(test)]
mod tests;
