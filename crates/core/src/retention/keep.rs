//! Which backups stay, and which go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::plan::{Action, Kept, Object, Situation};
use crate::repository::inventory::{BackupInfo, Inventory, parse_name};
use crate::wal::Segment;

/// The WAL that stays with a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeptWal {
    /// From its start to its end: it can be restored as it was.
    OfBackup,
    /// All from its start on: it can be restored to any later point, too.
    Onwards,
}

/// Why a backup stays.
#[derive(Debug, Clone)]
struct Stay {
    wal: KeptWal,
    why: Arc<str>,
}

/// The backups of an inventory, and which of them stay.
pub(super) struct Keep<'a> {
    inventory: &'a Inventory,
    /// By index in the inventory.
    stays: Vec<Option<Stay>>,
    names: HashMap<&'a str, usize>,
    /// The backups that start in a segment.
    starts: BTreeMap<Segment, Vec<usize>>,
}

impl<'a> Keep<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let mut starts: BTreeMap<Segment, Vec<usize>> = BTreeMap::new();
        for (index, backup) in inventory.backups.iter().enumerate() {
            if let Some(start) = parse_name(&backup.name).0 {
                starts.entry(start).or_default().push(index);
            }
        }
        Keep {
            inventory,
            stays: vec![None; inventory.backups.len()],
            names: by_name(inventory),
            starts,
        }
    }

    /// A backup stays, with its ancestors. The first reason is the one that is told.
    pub(super) fn keep(&mut self, index: usize, mut wal: KeptWal, why: &str) {
        let mut next = vec![(index, Arc::from(why))];
        while let Some((index, why)) = next.pop() {
            match &mut self.stays[index] {
                Some(stay) => stay.wal = stay.wal.max(wal),
                none => {
                    *none = Some(Stay { wal, why });
                    let backup = &self.inventory.backups[index];
                    let why: Arc<str> = format!("\"{}\" depends on it", backup.name).into();
                    let parents = self.named(backup.delta.as_ref().map(|delta| delta.parent.as_str()));
                    next.extend(parents.into_iter().map(|parent| (parent, Arc::clone(&why))));
                }
            }
            // Ancestors are needed for their files only.
            wal = KeptWal::OfBackup;
        }
    }

    /// Permanent backups stay, whatever the rule.
    pub(super) fn permanents(&mut self) {
        for (index, backup) in self.inventory.backups.iter().enumerate() {
            if backup.metadata.is_permanent {
                self.keep(index, KeptWal::OfBackup, "it is permanent");
            }
        }
    }

    /// Keep the parents of running deltas.
    pub(super) fn parents(&mut self, running: &[Running]) {
        for backup in running {
            let why = format!("\"{}\", which is being taken, depends on it", backup.name);
            // Its name tells where the parent starts, and no more.
            let start = parse_name(&backup.name).1.and_then(|parent| parse_name(&parent).0);
            for parent in start
                .and_then(|start| self.starts.get(&start))
                .cloned()
                .unwrap_or_default()
            {
                self.keep(parent, KeptWal::OfBackup, &why);
            }
        }
    }

    /// The backup that is meant as a parent. If only the child's name tells, any that starts in the segment may be meant.
    fn named(&self, parent: Option<&str>) -> Vec<usize> {
        let Some(parent) = parent else {
            return Vec::new();
        };
        match self.names.get(parent) {
            Some(index) => vec![*index],
            None => parse_name(parent)
                .0
                .and_then(|start| self.starts.get(&start))
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// The backups that stay, and the WAL that stays with each.
    pub(super) fn staying(&self) -> impl Iterator<Item = (&'a BackupInfo, KeptWal)> + '_ {
        let backups = self.inventory.backups.iter().zip(&self.stays);
        backups.filter_map(|(backup, stay)| Some((backup, stay.as_ref()?.wal)))
    }

    /// The same, to be shown.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let backups = self.inventory.backups.iter().zip(&self.stays);
        backups
            .filter_map(|(backup, stay)| {
                Some(Kept {
                    name: backup.name.clone(),
                    why: stay.as_ref()?.why.to_string(),
                })
            })
            .collect()
    }

    /// The others: oldest first, but dependants before their parents.
    pub(super) fn doomed(&self, why: &Arc<str>) -> Vec<Action> {
        let doomed = (0..self.stays.len()).filter(|index| self.stays[*index].is_none());
        in_order(self.inventory, doomed.collect())
            .into_iter()
            .map(|index| backup_action(&self.inventory.backups[index], why))
            .collect()
    }
}

/// Dependants before their parents, and otherwise as they come.
pub(super) fn in_order(inventory: &Inventory, indexes: Vec<usize>) -> Vec<usize> {
    let names = by_name(inventory);
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in &indexes {
        let delta = inventory.backups[*index].delta.as_ref();
        if let Some(parent) = delta.and_then(|delta| names.get(delta.parent.as_str())) {
            children.entry(*parent).or_default().push(*index);
        }
    }
    let mut ordered = Vec::with_capacity(indexes.len());
    let mut seen = vec![false; inventory.backups.len()];
    for root in indexes {
        // Depth first with a stack of its own: nobody vouches for the length of a chain, nor for its having an end.
        let mut stack = vec![(root, false)];
        while let Some((index, children_done)) = stack.pop() {
            if children_done {
                ordered.push(index);
            } else if !std::mem::replace(&mut seen[index], true) {
                stack.push((index, true));
                stack.extend(children.get(&index).into_iter().flatten().map(|child| (*child, false)));
            }
        }
    }
    ordered
}

pub(super) fn backup_action(backup: &BackupInfo, why: &Arc<str>) -> Action {
    Action {
        object: Object::Backup {
            name: backup.name.clone(),
            start_lsn: backup.damaged.is_none().then_some(backup.metadata.start_lsn),
        },
        size: backup.metadata.compressed_size,
        why: Arc::clone(why),
    }
}

fn by_name(inventory: &Inventory) -> HashMap<&str, usize> {
    let names = inventory.backups.iter().enumerate();
    names.map(|(index, backup)| (backup.name.as_str(), index)).collect()
}

/// A backup that is being taken, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) start: Segment,
}

impl Running {
    /// The backups that the caller knows of, and the folders without a sentinel that are young enough.
    pub(super) fn find(inventory: &Inventory, situation: &Situation) -> Vec<Running> {
        let folders = inventory
            .unfinished
            .iter()
            .filter(|folder| situation.is_running(folder));
        let names = folders.map(|folder| &folder.name).chain(&situation.protected);
        let running = names.filter_map(|name| {
            Some(Running {
                name: name.clone(),
                start: parse_name(name).0?,
            })
        });
        running.collect()
    }
}
