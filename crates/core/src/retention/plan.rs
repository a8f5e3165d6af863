//! A plan: the objects to delete, their order, and the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::lease::Holder;
use crate::lsn::Lsn;
use crate::repository::inventory::{TailObject, Unfinished, WalObject};
use crate::repository::layout::{self, Key};
use crate::wal::{Segment, WalFileName};
use walarchive_storage::{Listed, PendingUpload};

/// A folder without a sentinel that has not grown for so long is not that of a running backup.
pub(super) const ABANDONED_AFTER: TimeDelta = TimeDelta::hours(24);

/// The facts that a plan depends on beside the inventory.
#[derive(Debug, Clone)]
pub struct Situation {
    /// The present.
    pub now: DateTime<Utc>,
    /// Names of backups that are known to be running.
    pub protected: Vec<String>,
    /// The objects that walarchive keeps for itself, if they are to be deleted too.
    pub own: Vec<Listed>,
    /// Uploads that are not complete, where those that never will be are to be deleted too.
    pub uploads: Vec<PendingUpload>,
    /// The folders without a sentinel of backups that bring standbys up, where leftovers among them are to be deleted too.
    pub catchups: Vec<Unfinished>,
    /// Facts that could not be learned, as sentences.
    pub notes: Vec<String>,
    /// The timeline of whoever holds the lease.
    pub own_timeline: Option<u32>,
    /// All that have held it.
    pub writers: Vec<Holder>,
    /// The treatment of objects that other branches of the history need.
    pub others: OtherBranches,
}

impl Situation {
    /// With nothing but the time.
    pub fn at(now: DateTime<Utc>) -> Self {
        Situation {
            now,
            protected: Vec::new(),
            own: Vec::new(),
            uploads: Vec::new(),
            catchups: Vec::new(),
            notes: Vec::new(),
            own_timeline: None,
            writers: Vec::new(),
            others: OtherBranches::Keep,
        }
    }

    /// May a backup be at work in this folder?
    pub(super) fn is_running(&self, folder: &Unfinished) -> bool {
        self.protected.contains(&folder.name) || !folder.deleting && folder.newest > self.now - ABANDONED_AFTER
    }
}

/// The object of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A backup: its sentinel and its folder.
    Backup {
        /// Its name.
        name: String,
        /// Its start, which tells it from another one of this name; none if it cannot be read.
        start_lsn: Option<Lsn>,
    },
    /// The folder of a backup without a sentinel.
    Leftover {
        /// The name of the backup; of one that brings a standby up [`layout::catchup_place`].
        name: String,
        /// A deletion of it has begun before.
        deleting: bool,
    },
    /// A WAL file.
    Wal(WalObject),
    /// A chunk of the tail.
    Tail(TailObject),
    /// The parts of an upload that was never completed.
    Upload(PendingUpload),
    /// An object of walarchive's own.
    Own(Key),
}

/// One row of a plan.
#[derive(Debug, Clone)]
pub struct Action {
    /// The object.
    pub object: Object,
    /// Stored bytes; 0 for an upload if the store does not tell.
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
            Object::Tail(_) => "tail",
            Object::Upload(_) => "upload",
            Object::Own(_) => "walarchive",
        }
    }

    /// Its key: of a backup that of the sentinel, of a leftover that of the folder, of an upload that of the object that it would
    /// have become.
    pub fn key(&self) -> Key {
        match &self.object {
            Object::Backup { name, .. } => layout::sentinel(name),
            Object::Leftover { name, .. } => layout::backup_folder(name),
            Object::Wal(object) => object.key(),
            Object::Tail(object) => object.key(),
            Object::Upload(upload) => Key::pending(upload),
            Object::Own(key) => key.clone(),
        }
    }

    /// As SQL and `--json` show it.
    pub fn row(&self, deleted: bool) -> Row {
        Row {
            what: self.what(),
            key: self.key().into(),
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

/// The treatment of objects that other branches of the history need, and that are not older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherBranches {
    /// It stays.
    Keep,
    /// It goes like everything else.
    Delete,
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Why, as half a sentence.
    pub why: String,
}

/// The objects to delete, in this order: backups, dependants before what they depend on; leftovers; WAL, history files after
/// it; the tail; uploads that were never completed; walarchive's own.
#[derive(Debug, Clone, Default)]
pub struct DeletionPlan {
    /// The deletions.
    pub actions: Vec<Action>,
    /// The backups that stay, oldest first.
    pub kept: Vec<Kept>,
    /// Notes for the user, as sentences.
    pub notes: Vec<String>,
    /// From which segments on, by timeline, WAL stays without a gap.
    pub continuous: BTreeMap<u32, Segment>,
    /// Permanent backups go too.
    pub(super) force: bool,
    /// WAL goes that the next backup will need, if it has begun since: no backup that stays needs all that follows it. These are the
    /// names that the plan knows of, being taken or complete.
    pub(super) without_backups: Option<BTreeSet<String>>,
}

impl DeletionPlan {
    /// Stored bytes of all that goes.
    pub fn bytes(&self) -> u64 {
        self.actions
            .iter()
            .fold(0, |sum, action| sum.saturating_add(action.size))
    }
}

/// The row of a folder without a sentinel.
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

/// The row of a WAL file.
pub(super) fn wal_action(object: &WalObject, why: &Arc<str>) -> Action {
    Action {
        object: Object::Wal(*object),
        size: object.size,
        why: Arc::clone(why),
    }
}
