//! Plans on repositories made up for them: by hand, and at random.

mod applied;
mod branches;
mod by_hand;
mod catchups;
mod generated;
mod links;
mod meanwhile;
mod tail;
mod uploads;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{DeletionPlan, Object};
use crate::codec::Format;
use crate::lsn::Lsn;
use crate::repository::inventory::{BackupInfo, Delta, Inventory, Unfinished, WalObject};
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// The hour in which a segment was written: one an hour, whatever the timeline.
fn hour(number: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::hours(i64::try_from(number).unwrap_or(0))
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment::from_number(timeline, number, SIZE)
}

fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + offset)
}

/// One that starts in a segment and ends in another, or the same.
fn backup(timeline: u32, first: u64, last: u64) -> BackupInfo {
    let mut backup = BackupInfo::example(&format!("base_{}", segment(timeline, first)));
    backup.metadata.start_lsn = lsn(first, 40);
    backup.metadata.finish_lsn = lsn(last, 400);
    backup.metadata.start_time = hour(first);
    backup.metadata.finish_time = hour(last) + TimeDelta::minutes(30);
    backup.metadata.system_identifier = Some(7);
    backup.written = backup.metadata.finish_time;
    backup
}

fn delta(parent: &BackupInfo, timeline: u32, first: u64, last: u64) -> BackupInfo {
    let mut delta = backup(timeline, first, last);
    let start = parent
        .name
        .trim_start_matches("base_")
        .chars()
        .take(24)
        .collect::<String>();
    delta.name = format!("{}_D_{start}", delta.name);
    delta.delta = Some(Delta {
        parent: parent.name.clone(),
        full: None,
        count: None,
    });
    delta
}

fn object(name: WalFileName, number: u64) -> WalObject {
    WalObject {
        name,
        format: Format::Zstd,
        size: 100,
        written: hour(number),
    }
}

fn wal(timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = WalObject> {
    numbers.map(move |number| object(WalFileName::Segment(segment(timeline, number)), number))
}

fn history(timeline: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
    TimelineHistory {
        timeline,
        ancestors: ancestors.iter().map(|(of, at)| (*of, lsn(*at, 800))).collect(),
    }
}

fn leftover(name: &str, newest: DateTime<Utc>, deleting: bool) -> Unfinished {
    Unfinished {
        name: name.to_owned(),
        start: crate::repository::inventory::parse_name(name).0,
        objects: 1,
        bytes: 10,
        newest,
        deleting,
    }
}

fn inventory(backups: Vec<BackupInfo>, mut wal: Vec<WalObject>, histories: Vec<TimelineHistory>) -> Inventory {
    for history in &histories {
        let at = history.ancestors.last().map_or(0, |(_, at)| at.0 / SIZE.bytes());
        wal.push(object(WalFileName::History(history.timeline), at));
    }
    let histories: BTreeMap<u32, TimelineHistory> = histories
        .into_iter()
        .map(|history| (history.timeline, history))
        .collect();
    Inventory::new(SIZE, backups, wal, histories)
}

/// The objects that are left after that many actions of the plan.
fn after(inventory: &Inventory, plan: &DeletionPlan, actions: usize) -> Inventory {
    let mut backups_gone = HashSet::new();
    let mut leftovers_gone = HashSet::new();
    let mut wal_gone = HashSet::new();
    for action in &plan.actions[..actions] {
        match &action.object {
            Object::Backup { name, .. } => drop(backups_gone.insert(name.as_str())),
            Object::Leftover { name, .. } => drop(leftovers_gone.insert(name.as_str())),
            Object::Wal(object) => drop(wal_gone.insert(object.name)),
            Object::Tail(_) | Object::Upload(_) | Object::Own(_) => {}
        }
    }
    let backups = inventory
        .backups
        .iter()
        .filter(|backup| !backups_gone.contains(backup.name.as_str()));
    let wal = inventory.wal.iter().filter(|object| !wal_gone.contains(&object.name));
    let wal: Vec<WalObject> = wal.copied().collect();
    let mut histories = inventory.histories.clone();
    let there: BTreeSet<WalFileName> = wal.iter().map(|object| object.name).collect();
    histories.retain(|timeline, _| there.contains(&WalFileName::History(*timeline)));
    let mut left = Inventory::new(SIZE, backups.cloned().collect(), wal, histories);
    left.damaged_histories = inventory.damaged_histories.clone();
    let unfinished = inventory
        .unfinished
        .iter()
        .filter(|folder| !leftovers_gone.contains(folder.name.as_str()));
    left.unfinished = unfinished.cloned().collect();
    left
}

/// The keys that a plan deletes, without folder and suffix.
fn keys(plan: &DeletionPlan) -> Vec<String> {
    let keys = plan.actions.iter().map(|action| action.key());
    keys.map(|key| {
        let name = key.rsplit('/').next().unwrap_or_default();
        name.trim_end_matches("_backup_stop_sentinel.json")
            .trim_end_matches(".zst")
            .to_owned()
    })
    .collect()
}
