//! Which WAL the backups that stay need.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::keep::{Keep, KeptWal, Running};
use super::plan::ABANDONED_AFTER;
use crate::lsn::Lsn;
use crate::repository::inventory::{BackupInfo, Inventory, parse_name};
use crate::wal::Segment;

/// A backup that needs all WAL from its start on.
struct Anchor {
    /// None: not known.
    timeline: Option<u32>,
    /// The number of its first segment, counted from LSN 0.
    start: u64,
    /// Its start. A timeline that was left before this cannot be reached from it; one that was left before its end can, by a
    /// standby that is promoted in the meantime.
    start_lsn: Lsn,
}

/// The WAL that is needed.
pub(super) struct Need {
    size: crate::wal::SegmentSize,
    /// On a timeline without backups, WAL that was written after this stays: the first backup may be about to begin there.
    young_since: DateTime<Utc>,
    /// Segments from this number on are needed, by timeline.
    floors: BTreeMap<u32, u64>,
    /// On a timeline that is not among those; none if no backup stays, and nothing is known to be of no use.
    floor: Option<u64>,
    /// First and last segment that backups need to be restored to their end.
    points: BTreeMap<u32, Vec<(u64, u64)>>,
    /// Of everything that stays.
    timelines: BTreeSet<u32>,
    /// To which it leads.
    reached: BTreeSet<u32>,
}

impl Need {
    pub(super) fn new(inventory: &Inventory, keep: &Keep<'_>, running: &[Running], now: DateTime<Utc>) -> Self {
        let size = inventory.segment_size;
        let mut need = Need {
            size,
            young_since: now - ABANDONED_AFTER,
            floors: BTreeMap::new(),
            floor: None,
            points: BTreeMap::new(),
            timelines: BTreeSet::new(),
            reached: BTreeSet::new(),
        };
        let mut anchors = Vec::new();
        for (backup, wal) in keep.staying() {
            need.timelines.extend(backup.timeline);
            match (wal, point(inventory, backup)) {
                (KeptWal::OfBackup, Some((timeline, first, last))) => {
                    for timeline in ends_on(inventory, backup, timeline) {
                        need.points.entry(timeline).or_default().push((first, last));
                    }
                }
                // Its end is not known, so all that follows may be part of it.
                _ => anchors.push(Anchor::of(inventory, backup)),
            }
        }
        if anchors.is_empty() {
            return need;
        }
        need.anchor(inventory, anchors, running);
        need
    }

    /// If no backup stays that needs all that follows it, only what those that stay need themselves is needed, and what one that
    /// is being taken needs.
    pub(super) fn do_without_backups(&mut self, inventory: &Inventory, running: &[Running]) {
        if self.is_known() {
            return;
        }
        self.anchor(inventory, Vec::new(), running);
        self.floor.get_or_insert(u64::MAX);
        self.young_since = DateTime::<Utc>::MAX_UTC;
    }

    fn anchor(&mut self, inventory: &Inventory, mut anchors: Vec<Anchor>, running: &[Running]) {
        for backup in running {
            self.timelines.insert(backup.start.timeline);
            anchors.push(Anchor {
                timeline: Some(backup.start.timeline),
                start: backup.start.number(self.size),
                start_lsn: backup.start.start(self.size),
            });
        }
        self.floor = anchors.iter().map(|anchor| anchor.start).min();
        self.set_floors(inventory, &anchors);
    }

    fn set_floors(&mut self, inventory: &Inventory, anchors: &[Anchor]) {
        let known = |timeline: u32| timeline == 1 || inventory.histories.contains_key(&timeline);
        for anchor in anchors {
            for timeline in anchor.leads_to(inventory) {
                self.reached.insert(timeline);
                // From where the others were forked is not known: any backup may lead there.
                if known(timeline) {
                    let floor = self.floors.entry(timeline).or_insert(anchor.start);
                    *floor = anchor.start.min(*floor);
                }
            }
        }
    }

    /// The segments from which on WAL stays without a gap, by timeline. WAL that was deleted before stays deleted.
    pub(super) fn continuous(&self, inventory: &Inventory) -> BTreeMap<u32, Segment> {
        let mut continuous = inventory.continuous.clone();
        for (timeline, number) in &self.floors {
            let floor = Segment::from_number(*timeline, *number, self.size);
            let since = continuous.entry(*timeline).or_insert(floor);
            *since = floor.max(*since);
        }
        continuous
    }

    /// Is it known what is of no use?
    pub(super) fn is_known(&self) -> bool {
        self.floor.is_some()
    }

    /// Is that segment needed? An object of it was written then.
    pub(super) fn has(&self, segment: Segment, written: DateTime<Utc>) -> bool {
        let number = segment.number(self.size);
        let floor = self.floors.get(&segment.timeline).copied();
        // On a timeline without backups the first one may be about to begin.
        let young = floor.is_none() && written > self.young_since;
        young
            || floor.or(self.floor).is_none_or(|floor| number >= floor)
            || self
                .points
                .get(&segment.timeline)
                .is_some_and(|points| points.iter().any(|(first, last)| (*first..=*last).contains(&number)))
    }

    /// The timelines whose history files are of use: those of backups and WAL that stay, those to which they lead, the
    /// ancestors of all these; those whose history file cannot be read; and all that are newer than a backup's.
    pub(super) fn timelines(&self, inventory: &Inventory, remaining: BTreeSet<u32>) -> BTreeSet<u32> {
        let mut wanted: BTreeSet<u32> = remaining;
        wanted.extend(&self.timelines);
        wanted.extend(&self.reached);
        wanted.extend(inventory.damaged_histories.keys());
        let histories = inventory.history_files();
        wanted.extend(histories.last());
        // A server that looks for the latest timeline asks for the history file of one after the other, and stops at the first
        // that is missing: there must be no gap above a backup's.
        if let Some(lowest) = self.timelines.first() {
            wanted.extend(histories.range(*lowest..));
        }
        let ancestors: Vec<u32> = wanted
            .iter()
            .filter_map(|timeline| inventory.histories.get(timeline))
            .flat_map(|history| history.ancestors.iter().map(|(ancestor, _)| *ancestor))
            .collect();
        wanted.extend(ancestors);
        wanted
    }
}

impl Anchor {
    fn of(inventory: &Inventory, backup: &BackupInfo) -> Self {
        let size = inventory.segment_size;
        let by_name = parse_name(&backup.name).0.map(|segment| segment.number(size));
        let lsn = Some(backup.metadata.start_lsn).filter(|lsn| *lsn != Lsn(0));
        let by_lsn = lsn.map(|lsn| lsn.0 / size.bytes());
        // The two agree, unless somebody wrote one by hand.
        let start = by_name.into_iter().chain(by_lsn).min().unwrap_or(0);
        Anchor {
            timeline: backup.timeline,
            start,
            start_lsn: lsn.unwrap_or(Lsn(start.saturating_mul(size.bytes()))),
        }
    }

    /// The timelines on which recovery can go on from the backup.
    fn leads_to(&self, inventory: &Inventory) -> BTreeSet<u32> {
        let Some(own) = self.timeline else {
            return inventory.timelines();
        };
        let mut reached = BTreeSet::from([own]);
        for history in inventory.histories.values() {
            if history.timeline == own || !history.leads_from(own, self.start_lsn) {
                continue;
            }
            reached.insert(history.timeline);
            // On the way there, should their own history files be lost.
            let between = history.ancestors.iter().skip_while(|(ancestor, _)| *ancestor != own);
            reached.extend(between.map(|(ancestor, _)| *ancestor));
        }
        reached
    }
}

/// The timelines on which a backup may end that starts on `timeline`: a standby can be promoted in the meantime.
fn ends_on(inventory: &Inventory, backup: &BackupInfo, timeline: u32) -> Vec<u32> {
    let metadata = &backup.metadata;
    let forked_meanwhile = inventory.histories.values().filter(|history| {
        history.leads_from(timeline, metadata.start_lsn) && !history.leads_from(timeline, metadata.finish_lsn)
    });
    forked_meanwhile
        .map(|history| history.timeline)
        .chain([timeline])
        .collect()
}

/// The WAL that the backup needs to be restored to its end: timeline, first and last segment.
fn point(inventory: &Inventory, backup: &BackupInfo) -> Option<(u32, u64, u64)> {
    let needed = inventory
        .needed(backup)
        .filter(|_| backup.metadata.finish_lsn != Lsn(0))?;
    let size = inventory.segment_size;
    // A size of segments that is not known for sure must not move the place.
    if parse_name(&backup.name).0 != Some(needed.first) {
        return None;
    }
    Some((
        needed.first.timeline,
        needed.first.number(size),
        needed.last.number(size),
    ))
}
