//! Finding out what to copy.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::repository::cluster::{self, ClusterIdentity};
use crate::repository::inventory::{BackupInfo, Inventory, SegmentRange, TailObject, WalObject};
use crate::repository::layout;
use crate::wal::{Segment, WalFileName};
use walarchive_storage::{Listed, Store};

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyRequest {
    /// The name of a backup, or LATEST; none for all of them.
    pub backup: Option<String>,
    /// Copy the WAL that follows the backups, too, and not only what they need themselves.
    pub with_history: bool,
}

/// The objects to copy.
#[derive(Debug)]
pub struct CopyPlan {
    /// The backups, each after those that it is based on.
    pub backups: Vec<BackupFiles>,
    /// WAL and timeline history files.
    pub wal: Vec<WalObject>,
    /// The tail behind it.
    pub tail: Vec<TailObject>,
    /// The cluster that the other repository will belong to.
    pub identity: ClusterIdentity,
    /// Notes for the user, as sentences.
    pub notes: Vec<String>,
    /// From which segment on the WAL of the newest backup is meant to be without gaps there; none if all of it is.
    pub(super) continuous: Option<Segment>,
}

/// A backup with its objects.
#[derive(Debug)]
pub struct BackupFiles {
    /// Its name.
    pub name: String,
    /// All objects of its folder.
    pub objects: Vec<Listed>,
    /// Stored bytes of the sentinel.
    pub sentinel_bytes: u64,
}

impl CopyPlan {
    /// How many objects there are.
    pub fn objects(&self) -> usize {
        let of_backups = self.backups.iter().map(|backup| backup.objects.len() + 1);
        self.wal.len() + self.tail.len() + of_backups.sum::<usize>()
    }

    /// Their stored bytes.
    pub fn bytes(&self) -> u64 {
        let of_backup = |backup: &BackupFiles| {
            let objects = backup.objects.iter().map(|object| object.size);
            objects.sum::<u64>() + backup.sentinel_bytes
        };
        let wal = self.wal.iter().map(|object| object.size);
        let tail = self.tail.iter().map(|object| object.size);
        wal.chain(tail).sum::<u64>() + self.backups.iter().map(of_backup).sum::<u64>()
    }
}

/// Find out what has to be copied. Writes nothing.
pub async fn plan(from: &Store, request: &CopyRequest) -> Result<CopyPlan> {
    let inventory = Inventory::load(from).await?;
    let (chosen, all) = choose(&inventory, request)?;
    let identity = match cluster::owner(from).await? {
        Some(owner) => owner,
        None => identity_of(&inventory, &chosen)?,
    };
    let mut notes = Vec::new();
    let wal = wal_of(&inventory, &chosen, &all, request.with_history, &mut notes)?;
    let mut backups = Vec::new();
    for backup in &all {
        backups.push(files_of(from, backup).await?);
    }
    let newest = chosen.last().and_then(|backup| inventory.needed(backup));
    Ok(CopyPlan {
        backups,
        tail: tail_of(&inventory, &all, request.with_history),
        wal,
        identity,
        notes,
        continuous: newest.map(|range| range.first).filter(|_| !request.with_history),
    })
}

/// The backups that were asked for, and these with those that they are based on, in the order of writing.
fn choose<'a>(inventory: &'a Inventory, request: &CopyRequest) -> Result<(Vec<&'a BackupInfo>, Vec<&'a BackupInfo>)> {
    let chosen: Vec<&BackupInfo> = match &request.backup {
        None => inventory.backups.iter().collect(),
        Some(name) => vec![known(inventory, inventory.named(name)?)?],
    };
    if chosen.is_empty() {
        return Err(Error::NoBackup {
            message: "there are no backups to copy".to_owned(),
            hint: "Check the storage of the first configuration file, and its prefix.".to_owned(),
        });
    }
    let mut all: Vec<&BackupInfo> = Vec::new();
    for backup in &chosen {
        let chain = inventory.chain(backup).map_err(|missing| {
            Error::damaged(
                &backup.name,
                format!("It depends on \"{missing}\", which is not there."),
            )
        })?;
        for link in chain.into_iter().rev() {
            if let Some(reason) = &link.damaged {
                return Err(Error::damaged(&link.name, reason.clone()));
            }
            if !all.iter().any(|known| known.name == link.name) {
                all.push(link);
            }
        }
    }
    Ok((chosen, all))
}

fn known<'a>(inventory: &'a Inventory, name: &str) -> Result<&'a BackupInfo> {
    inventory.backup(name).ok_or_else(|| Error::NoBackup {
        message: format!("there is no backup \"{name}\""),
        hint: match inventory.backups.last() {
            Some(newest) => format!("The newest of {} is \"{}\".", inventory.backups.len(), newest.name),
            None => "There are no backups at all; check the storage URL and its prefix.".to_owned(),
        },
    })
}

/// A repository of WAL-G's has no owner but in its backups.
fn identity_of(inventory: &Inventory, chosen: &[&BackupInfo]) -> Result<ClusterIdentity> {
    let told = chosen.iter().rev().find_map(|backup| {
        let identifier = backup
            .metadata
            .system_identifier
            .filter(|identifier| *identifier != 0)?;
        Some((identifier, backup.metadata.pg_version))
    });
    let Some((system_identifier, version)) = told else {
        return Err(Error::refused(
            "the backups do not name their cluster",
            "Copy the objects with the tools of the store.",
        ));
    };
    Ok(ClusterIdentity {
        system_identifier,
        major_version: version / 10_000,
        segment_size: inventory.segment_size,
    })
}

/// The WAL that the backups need, which must be there; with history all that follows the oldest of them; and all history files.
fn wal_of(
    inventory: &Inventory,
    chosen: &[&BackupInfo],
    all: &[&BackupInfo],
    with_history: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<WalObject>> {
    for backup in chosen {
        if let Some(missing) = inventory.missing(backup).first() {
            return Err(Error::refused(
                format!(
                    "WAL segment \"{}\", which backup \"{}\" needs, is not in the archive",
                    missing.first, backup.name
                ),
                "Copy another backup; this one cannot be restored.",
            ));
        }
    }
    let needed: Vec<SegmentRange> = all.iter().filter_map(|backup| inventory.needed(backup)).collect();
    let start = needed.iter().map(|range| range.first).min();
    let size = inventory.segment_size;
    let is_needed = |segment: Segment| {
        let within = |range: &SegmentRange| {
            range.first.timeline == segment.timeline
                && (range.first.number(size)..=range.last.number(size)).contains(&segment.number(size))
        };
        needed.iter().any(within) || (with_history && start.is_some_and(|start| segment >= start))
    };
    let wanted = inventory.wal.iter().filter(|object| match object.name {
        WalFileName::History(_) => true,
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            is_needed(segment)
        }
    });
    let wal: Vec<WalObject> = wanted.cloned().collect();
    if with_history {
        gaps(inventory, &wal, notes);
    }
    Ok(wal)
}

/// With history, what a recovery may read of the tail.
fn tail_of(inventory: &Inventory, all: &[&BackupInfo], with_history: bool) -> Vec<TailObject> {
    let needed = all.iter().filter_map(|backup| inventory.needed(backup));
    let Some(start) = needed.map(|range| range.first).min().filter(|_| with_history) else {
        return Vec::new();
    };
    let covers = inventory.covers().filter(|(segment, _)| *segment >= start);
    covers.flat_map(|(_, cover)| inventory.tail.objects(cover)).collect()
}

/// A gap in what follows is no reason not to copy the rest.
fn gaps(inventory: &Inventory, wal: &[WalObject], notes: &mut Vec<String>) {
    let size = inventory.segment_size;
    let segments: BTreeSet<(u32, u64)> = wal
        .iter()
        .filter_map(|object| match object.name {
            WalFileName::Segment(segment) => Some((segment.timeline, segment.number(size))),
            _ => None,
        })
        .collect();
    let mut before: Option<(u32, u64)> = None;
    for (timeline, number) in segments {
        if let Some((of_before, last)) = before
            && of_before == timeline
            && number > last + 1
        {
            let missing = SegmentRange::new(timeline, last + 1, number - 1, size);
            notes.push(format!(
                "WAL from segment \"{}\" to \"{}\" is not in the archive; recovery cannot get past it.",
                missing.first, missing.last
            ));
        }
        before = Some((timeline, number));
    }
}

async fn files_of(from: &Store, backup: &BackupInfo) -> Result<BackupFiles> {
    let name = &backup.name;
    let (claim, deletion) = (layout::backup_claim(name), layout::backup_deletion(name));
    let mut objects = from.list(&layout::backup_folder(name)).await?;
    if objects.iter().any(|object| object.key == deletion) {
        return Err(Error::refused(
            format!("backup \"{name}\" is being deleted"),
            "Check whether it still exists, and try again.",
        ));
    }
    objects.retain(|object| object.key != claim);
    let sentinel = layout::sentinel(name);
    let Some(sentinel_bytes) = from.size(&sentinel).await? else {
        return Err(Error::damaged(
            from.object_url(&sentinel),
            "It was deleted in the meantime.",
        ));
    };
    Ok(BackupFiles {
        name: name.clone(),
        objects,
        sentinel_bytes,
    })
}
