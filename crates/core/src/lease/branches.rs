//! Branches of the history that go on beside that of the holder: two servers have written, one after the other or at once.

use chrono::{DateTime, Utc};

use super::record::Holder;
use crate::lsn::Lsn;
use crate::repository::inventory::Inventory;
use crate::wal::{TimelineHistory, WalFileName};

/// A timeline that goes on beside another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its timeline.
    pub timeline: u32,
    /// Where it left the common history; none if that is not known.
    pub from: Option<Lsn>,
    /// When the newest of its WAL or backups beyond that was written, by the clock of the store.
    pub newest: DateTime<Utc>,
    /// When the two parted, by the clock of the store: the history file of the younger one was written then. None if that is not
    /// known.
    pub parted: Option<DateTime<Utc>>,
    /// Who wrote it, as far as is known: host and data directory.
    pub writer: Option<String>,
}

impl Branch {
    /// Did it go on after the two had parted? The WAL that an old primary had archived before its failover did not. Nobody can
    /// tell if the history file is missing.
    pub fn goes_on(&self) -> bool {
        self.parted.is_some_and(|parted| self.newest > parted)
    }

    /// In words, for a report.
    pub fn describe(&self, own: u32) -> String {
        let from = self
            .from
            .map_or_else(|| "at an unknown place".to_owned(), |lsn| format!("at {lsn}"));
        let writer = self.writer.as_deref().unwrap_or("an unknown server");
        format!(
            "timeline {} branched off timeline {own} {from}; it was written by {writer}, last at {}",
            self.timeline,
            self.newest.format("%Y-%m-%d %H:%M:%S UTC")
        )
    }
}

/// The branches that go on after they have parted from the one with the timeline `own` at its tip.
pub fn other_branches(inventory: &Inventory, own: u32, holders: &[Holder]) -> Vec<Branch> {
    let history = inventory.history(own);
    let branches = inventory.timelines().into_iter().filter(|timeline| *timeline != own);
    branches
        .filter_map(|timeline| branch(inventory, &history, timeline, holders))
        .filter(Branch::goes_on)
        .collect()
}

fn branch(inventory: &Inventory, own: &TimelineHistory, timeline: u32, holders: &[Holder]) -> Option<Branch> {
    let other = inventory.history(timeline);
    let ancestor = own.ancestors.iter().find(|(ancestor, _)| *ancestor == timeline);
    let (from, younger) = match ancestor {
        // We left it; it may have gone on.
        Some((_, switch)) => (Some(*switch), child(own, timeline)),
        None => (left(own, &other), first_of_its_own(own, &other)),
    };
    let size = inventory.segment_size;
    let beyond = |name: &WalFileName| match name {
        WalFileName::Segment(segment) if segment.timeline == timeline => match ancestor {
            // Its last segment before the fork is complete only if it went on.
            Some((_, switch)) => segment.start(size).0.saturating_add(size.bytes()) > switch.0,
            None => true,
        },
        _ => false,
    };
    let wal = inventory
        .wal
        .iter()
        .filter(|object| beyond(&object.name))
        .map(|object| object.written);
    let tail = inventory.covers().filter(|(segment, cover)| {
        let after = ancestor.is_none_or(|(_, switch)| inventory.end_of(*segment, cover) > *switch);
        segment.timeline == timeline && after
    });
    let wal = wal.chain(tail.map(|(_, cover)| cover.stored));
    let backups = inventory.backups.iter().filter(|backup| {
        let after = ancestor.is_none_or(|(_, switch)| backup.metadata.start_lsn > *switch);
        backup.timeline == Some(timeline) && after
    });
    let newest = wal.chain(backups.map(|backup| backup.written)).max()?;
    let parted = younger.and_then(|younger| {
        let history = |name: &WalFileName| *name == WalFileName::History(younger);
        inventory
            .wal
            .iter()
            .find(|object| history(&object.name))
            .map(|object| object.written)
    });
    let mut writers = holders.iter().filter(|holder| holder.timeline == timeline);
    Some(Branch {
        timeline,
        from,
        newest,
        parted,
        writer: writers.next_back().map(Holder::name),
    })
}

/// The timeline in the history, its tip included, that left that one.
fn child(history: &TimelineHistory, parent: u32) -> Option<u32> {
    let after = history
        .ancestors
        .iter()
        .skip_while(|(ancestor, _)| *ancestor != parent)
        .nth(1);
    Some(after.map_or(history.timeline, |(child, _)| *child))
}

/// Where another history left this one.
fn left(own: &TimelineHistory, other: &TimelineHistory) -> Option<Lsn> {
    let common =
        |timeline: u32| timeline == own.timeline || own.ancestors.iter().any(|(ancestor, _)| *ancestor == timeline);
    let last = other.ancestors.iter().rev().find(|(ancestor, _)| common(*ancestor));
    last.map(|(_, switch)| *switch)
}

/// The first timeline of another history that is not in this one.
fn first_of_its_own(own: &TimelineHistory, other: &TimelineHistory) -> Option<u32> {
    let common =
        |timeline: u32| timeline == own.timeline || own.ancestors.iter().any(|(ancestor, _)| *ancestor == timeline);
    let mut line = other
        .ancestors
        .iter()
        .map(|(timeline, _)| *timeline)
        .chain([other.timeline]);
    line.find(|timeline| !common(*timeline))
}
