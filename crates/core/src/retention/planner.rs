//! Making the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::keep::{Keep, KeptWal, Running};
use super::plan::{Action, DeletionPlan, Situation, leftover, wal_action};
use super::request::{Garbage, Request};
use super::rules::Chosen;
use super::wal::Need;
use super::{branches, everything, rules, tail, target, uploads};
use crate::error::Result;
use crate::repository::inventory::{Inventory, Unfinished, parse_name};
use crate::wal::WalFileName;

/// Find the objects to delete to fulfil the request. Asks nobody, and changes nothing.
pub fn plan(inventory: &Inventory, request: &Request, situation: &Situation) -> Result<DeletionPlan> {
    match request {
        Request::Everything { force } => everything::plan(inventory, situation, *force),
        Request::Target { name, find_full } => target::plan(inventory, situation, name, *find_full),
        Request::Garbage(what) => Ok(keeping(
            inventory,
            rules::of_garbage(inventory, *what),
            Some(*what),
            situation,
        )),
        Request::GarbageWithoutBackups(what) => {
            let mut chosen = rules::of_garbage(inventory, *what);
            chosen.wal_without_backups = chosen.wal;
            Ok(keeping(inventory, chosen, Some(*what), situation))
        }
        Request::Rule(rule) => {
            let chosen = rules::choose(inventory, rule, situation)?;
            Ok(keeping(inventory, chosen, None, situation))
        }
    }
}

/// Plan a deletion that keeps the chosen backups.
fn keeping(inventory: &Inventory, chosen: Chosen, garbage: Option<Garbage>, situation: &Situation) -> DeletionPlan {
    let mut keep = Keep::new(inventory);
    for (index, why) in &chosen.stay {
        keep.keep(*index, why.wal, &why.text);
    }
    for (index, backup) in inventory.backups.iter().enumerate() {
        if backup.damaged.is_some() && chosen.line.is_none_or(|line| backup.written >= line) {
            keep.keep(index, KeptWal::Onwards, "it cannot be read, and may be new");
        }
        if situation.protected.contains(&backup.name) {
            keep.keep(index, KeptWal::Onwards, "it is being taken");
        }
    }
    keep.permanents();
    for (index, why) in branches::needed(inventory, situation, chosen.line) {
        keep.keep(index, KeptWal::Onwards, &why);
    }
    let running = Running::find(inventory, situation);
    keep.parents(&running);

    let mut plan = DeletionPlan {
        actions: keep.doomed(&chosen.why),
        kept: keep.kept(),
        notes: chosen.notes,
        continuous: BTreeMap::new(),
        force: false,
        without_backups: chosen.wal_without_backups.then(|| names(inventory)),
    };
    plan.actions
        .extend(leftovers(inventory, situation, |folder| match garbage {
            Some(Garbage::Archives) => false,
            Some(_) => true,
            None => chosen.line.is_some_and(|line| folder.newest < line),
        }));
    let nameless = situation.protected.iter().any(|name| parse_name(name).0.is_none());
    if nameless && chosen.wal {
        plan.notes
            .push("A backup is about to start; no WAL is deleted.".to_owned());
    } else if chosen.wal {
        let mut need = Need::new(inventory, &keep, &running, situation.now);
        if chosen.wal_without_backups {
            need.do_without_backups(inventory, &running);
        }
        plan.actions.extend(wal(inventory, &need));
        plan.actions.extend(tail::useless(inventory, &need));
        plan.continuous = need.continuous(inventory);
    }
    plan.notes.extend(situation.notes.iter().cloned());
    plan.actions.extend(uploads::abandoned(inventory, situation));
    if chosen.wal && !nameless {
        plan.actions.extend(tail::epochs(inventory));
    }
    plan
}

/// Of all backups, with a sentinel and without.
fn names(inventory: &Inventory) -> BTreeSet<String> {
    let complete = inventory.backups.iter().map(|backup| &backup.name);
    let unfinished = inventory.unfinished.iter().map(|folder| &folder.name);
    complete.chain(unfinished).cloned().collect()
}

/// Folders without a sentinel: those whose deletion was interrupted in any case, of the others those that are `unwanted`.
fn leftovers(inventory: &Inventory, situation: &Situation, unwanted: impl Fn(&Unfinished) -> bool) -> Vec<Action> {
    let doomed = |folder: &&Unfinished| {
        // A name that neither WAL-G nor this project would choose is somebody else's.
        folder.start.is_some() && !situation.is_running(folder) && (folder.deleting || unwanted(folder))
    };
    let folders = inventory.unfinished.iter().chain(&situation.catchups);
    folders.filter(doomed).map(leftover).collect()
}

/// Segments and what belongs to them by timeline and position, then the history files of timelines that are of no use.
fn wal(inventory: &Inventory, need: &Need) -> Vec<Action> {
    if !need.is_known() {
        return Vec::new();
    }
    let unneeded: Arc<str> = "no backup that is kept needs it".into();
    let mut actions = Vec::new();
    let mut remaining = BTreeSet::new();
    for object in &inventory.wal {
        let (WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _)) =
            object.name
        else {
            continue;
        };
        if need.has(segment, object.written) {
            remaining.insert(segment.timeline);
        } else {
            actions.push(wal_action(object, &unneeded));
        }
    }
    for (segment, cover) in inventory.covers() {
        if need.has(segment, cover.stored) {
            remaining.insert(segment.timeline);
        }
    }
    let unused: Arc<str> = "nothing is left of its timeline, and no backup that is kept leads there".into();
    let wanted = need.timelines(inventory, remaining);
    for object in &inventory.wal {
        if let WalFileName::History(timeline) = object.name
            && !wanted.contains(&timeline)
        {
            actions.push(wal_action(object, &unused));
        }
    }
    actions
}
