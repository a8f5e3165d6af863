//! The needs of other branches of the history: two servers have written, and one of them may delete only its own.

use chrono::{DateTime, TimeDelta, Utc};

use super::plan::{OtherBranches, Situation};
use crate::error::{Error, Result};
use crate::lease::{Branch, other_branches};
use crate::repository::inventory::{BackupInfo, Inventory};

/// A branch that has grown within this time is not old, whatever a rule says.
const RECENT: TimeDelta = TimeDelta::days(7);

/// The branches beside that of whoever holds the lease. Without a lease, as in a repository of WAL-G's, it is not known which one is
/// ours.
fn beside(inventory: &Inventory, situation: &Situation) -> Vec<Branch> {
    match situation
        .own_timeline
        .filter(|_| situation.others == OtherBranches::Keep)
    {
        Some(own) => other_branches(inventory, own, &situation.writers),
        None => Vec::new(),
    }
}

/// The newest backup that can restore a branch to its end.
fn anchor(inventory: &Inventory, branch: &Branch) -> Option<usize> {
    let history = inventory.history(branch.timeline);
    let leads = |backup: &BackupInfo| {
        let timeline = backup.timeline.filter(|_| inventory.is_restorable(backup));
        timeline.is_some_and(|timeline| history.leads_from(timeline, backup.metadata.finish_lsn))
    };
    inventory.backups.iter().rposition(leads)
}

fn why(branch: &Branch) -> String {
    let writer = branch.writer.as_deref().unwrap_or("another server");
    format!("timeline {}, written by {writer}, needs it", branch.timeline)
}

/// The backups that branches need which are not older than the `line` that a rule has drawn, by index in the inventory, and why.
pub(super) fn needed(
    inventory: &Inventory,
    situation: &Situation,
    line: Option<DateTime<Utc>>,
) -> Vec<(usize, String)> {
    let recent = situation.now - RECENT;
    let since = line.map_or(recent, |line| line.min(recent));
    let branches = beside(inventory, situation)
        .into_iter()
        .filter(|branch| branch.newest >= since);
    branches
        .filter_map(|branch| Some((anchor(inventory, &branch)?, why(&branch))))
        .collect()
}

/// These backups, or all of them, are asked for by name.
pub(super) fn refuse(inventory: &Inventory, situation: &Situation, doomed: &[usize]) -> Result<()> {
    let needed = needed(inventory, situation, None);
    match needed.iter().find(|(index, _)| doomed.contains(index)) {
        None => Ok(()),
        Some((index, why)) => Err(Error::refused(
            format!(
                "backup \"{}\" is also needed by another server: {why}",
                inventory.backups[*index].name
            ),
            "If that branch is no longer needed, delete it by \"walarchive delete\" with --force.",
        )),
    }
}
