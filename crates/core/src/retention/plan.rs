//! The plan: what goes, in which order, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::keep::{Keep, Running};
use super::request::{Garbage, Request};
use super::wal::Need;
use super::{branches, everything, rules, target, uploads};
use crate::error::Result;
use crate::inventory::{Inventory, Unfinished, WalObject, parse_name};
use crate::layout;
use crate::lease::Holder;
use crate::lsn::Lsn;
use crate::wal::{Segment, WalFileName};
use walarchive_storage::{Listed, PendingUpload};

/// A folder without a sentinel to which nothing was added for so long is not that of a running backup.
pub(super) const ABANDONED_AFTER: TimeDelta = TimeDelta::hours(24);

/// What a plan depends on beside the inventory.
#[derive(Debug, Clone)]
pub struct Situation {
    /// The present.
    pub now: DateTime<Utc>,
    /// Names of backups that are known to be running.
    pub protected: Vec<String>,
    /// What walarchive keeps for itself, where that is to be deleted too.
    pub own: Vec<Listed>,
    /// Uploads that are not complete, where those that never will be are to be deleted too.
    pub uploads: Vec<PendingUpload>,
    /// What could not be learned, as sentences.
    pub notes: Vec<String>,
    /// The timeline of whoever holds the lease.
    pub own_timeline: Option<u32>,
    /// All that have held it.
    pub writers: Vec<Holder>,
    /// What other branches of the history need goes, too.
    pub regardless_of_branches: bool,
}

impl Situation {
    /// With nothing but the time.
    pub fn at(now: DateTime<Utc>) -> Self {
        Situation {
            now,
            protected: Vec::new(),
            own: Vec::new(),
            uploads: Vec::new(),
            notes: Vec::new(),
            own_timeline: None,
            writers: Vec::new(),
            regardless_of_branches: false,
        }
    }

    /// May a backup be at work in this folder?
    pub(super) fn is_running(&self, folder: &Unfinished) -> bool {
        self.protected.contains(&folder.name) || !folder.deleting && folder.newest > self.now - ABANDONED_AFTER
    }
}

/// What is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A backup: its sentinel and its folder.
    Backup {
        /// Its name.
        name: String,
        /// Where it starts, by which another one of this name is told from it; none if it cannot be read.
        start_lsn: Option<Lsn>,
    },
    /// The folder of a backup without a sentinel.
    Leftover {
        /// The name of the backup.
        name: String,
        /// A deletion of it has begun before.
        deleting: bool,
    },
    /// A WAL file.
    Wal(WalObject),
    /// The parts of an upload that was never completed.
    Upload(PendingUpload),
    /// An object of walarchive's own.
    Own(String),
}

/// One row of a plan.
#[derive(Debug, Clone)]
pub struct Action {
    /// What is deleted.
    pub object: Object,
    /// Stored bytes; 0 for an upload of which the store does not tell.
    pub size: u64,
    /// Why, as half a sentence. Many rows share one.
    pub why: Arc<str>,
}

impl Action {
    /// The kind of the object.
    pub fn what(&self) -> &'static str {
        match &self.object {
            Object::Backup { .. } => "backup",
            Object::Leftover { .. } => "leftover",
            Object::Wal(object) => match object.name {
                WalFileName::Segment(_) => "wal",
                WalFileName::Partial(_) => "partial wal",
                WalFileName::History(_) => "history",
                WalFileName::BackupHistory(..) => "backup history",
            },
            Object::Upload(_) => "upload",
            Object::Own(_) => "walarchive",
        }
    }

    /// Its key: of a backup that of the sentinel, of a leftover that of the folder, of an upload that of the object that it would
    /// have become.
    pub fn key(&self) -> String {
        match &self.object {
            Object::Backup { name, .. } => layout::sentinel(name),
            Object::Leftover { name, .. } => layout::backup_folder(name),
            Object::Wal(object) => object.key(),
            Object::Upload(upload) => upload.key.clone(),
            Object::Own(key) => key.clone(),
        }
    }

    /// As SQL and `--json` show it.
    pub fn row(&self, deleted: bool) -> Row {
        Row {
            what: self.what(),
            key: self.key(),
            size: self.size,
            why: self.why.to_string(),
            deleted,
        }
    }
}

/// One row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The kind of the object.
    pub what: &'static str,
    /// Its key.
    pub key: String,
    /// Stored bytes; 0 where they are not known.
    pub size: u64,
    /// Why it goes.
    pub why: String,
    /// It is gone.
    pub deleted: bool,
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Why, as half a sentence.
    pub why: String,
}

/// What is to be deleted, in this order: backups, dependants before what they depend on; leftovers; WAL, history files after it;
/// uploads that were never completed; what is walarchive's own.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What goes.
    pub actions: Vec<Action>,
    /// The backups that stay, oldest first.
    pub kept: Vec<Kept>,
    /// What the user should know, as sentences.
    pub notes: Vec<String>,
    /// From which segments on, by timeline, WAL stays without a gap.
    pub continuous: BTreeMap<u32, Segment>,
    /// Permanent backups go too.
    pub(super) force: bool,
}

impl Plan {
    /// Stored bytes of all that goes.
    pub fn bytes(&self) -> u64 {
        self.actions
            .iter()
            .fold(0, |sum, action| sum.saturating_add(action.size))
    }
}

/// What has to be deleted to fulfil the request. Asks nobody, and changes nothing.
pub fn plan(inventory: &Inventory, request: &Request, situation: &Situation) -> Result<Plan> {
    match request {
        Request::Everything { force } => everything::plan(inventory, situation, *force),
        Request::Target { name, find_full } => target::plan(inventory, situation, name, *find_full),
        _ => by_rule(inventory, request, situation),
    }
}

fn by_rule(inventory: &Inventory, request: &Request, situation: &Situation) -> Result<Plan> {
    let chosen = rules::choose(inventory, request, situation)?;
    let mut keep = Keep::new(inventory);
    for (index, why) in &chosen.stay {
        keep.keep(*index, why.point_in_time, &why.text);
    }
    for (index, backup) in inventory.backups.iter().enumerate() {
        if backup.damaged.is_some() && chosen.line.is_none_or(|line| backup.written >= line) {
            keep.keep(index, true, "it cannot be read, and may be new");
        }
        if situation.protected.contains(&backup.name) {
            keep.keep(index, true, "it is being taken");
        }
    }
    keep.permanents();
    for (index, why) in branches::needed(inventory, situation, chosen.line) {
        keep.keep(index, true, &why);
    }
    let running = Running::find(inventory, situation);
    keep.parents(&running);

    let mut plan = Plan {
        actions: keep.doomed(&chosen.why),
        kept: keep.kept(),
        notes: chosen.notes,
        continuous: BTreeMap::new(),
        force: false,
    };
    plan.actions
        .extend(leftovers(inventory, situation, |folder| match request {
            Request::Garbage(Garbage::Archives) => false,
            Request::Garbage(_) => true,
            _ => chosen.line.is_some_and(|line| folder.newest < line),
        }));
    let nameless = situation.protected.iter().any(|name| parse_name(name).0.is_none());
    if nameless && chosen.wal {
        plan.notes
            .push("A backup is about to start; no WAL is deleted.".to_owned());
    } else if chosen.wal {
        let need = Need::new(inventory, &keep, &running, situation.now);
        plan.actions.extend(wal(inventory, &need));
        plan.continuous = need.continuous(inventory);
    }
    plan.notes.extend(situation.notes.iter().cloned());
    plan.actions.extend(uploads::abandoned(inventory, situation));
    Ok(plan)
}

/// Folders without a sentinel: those whose deletion was interrupted in any case, of the others those that are `unwanted`.
fn leftovers(inventory: &Inventory, situation: &Situation, unwanted: impl Fn(&Unfinished) -> bool) -> Vec<Action> {
    let doomed = |folder: &&Unfinished| {
        // A name that neither WAL-G nor this project would choose is somebody else's.
        folder.start.is_some() && !situation.is_running(folder) && (folder.deleting || unwanted(folder))
    };
    inventory.unfinished.iter().filter(doomed).map(leftover).collect()
}

pub(super) fn leftover(folder: &Unfinished) -> Action {
    Action {
        object: Object::Leftover {
            name: folder.name.clone(),
            deleting: folder.deleting,
        },
        size: folder.bytes,
        why: match folder.deleting {
            true => "its deletion was interrupted".into(),
            false => "the backup was never completed".into(),
        },
    }
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

pub(super) fn wal_action(object: &WalObject, why: &Arc<str>) -> Action {
    Action {
        object: Object::Wal(*object),
        size: object.size,
        why: Arc::clone(why),
    }
}
