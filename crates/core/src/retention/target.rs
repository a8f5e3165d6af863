//! One backup, and all that depends on it.

use std::sync::Arc;

use super::branches;
use super::keep::{Running, backup_action, in_order};
use super::plan::{DeletionPlan, Kept, Situation, leftover};
use crate::error::{Error, Result};
use crate::repository::inventory::{Inventory, parse_name};

/// WAL is not touched.
pub(super) fn plan(inventory: &Inventory, situation: &Situation, name: &str, find_full: bool) -> Result<DeletionPlan> {
    let Some(index) = inventory.backups.iter().position(|backup| backup.name == name) else {
        // For its error.
        return crate::retention::rules::known(inventory, name).map(|_| DeletionPlan::default());
    };
    let backup = &inventory.backups[index];
    let mut root = index;
    if find_full && backup.delta.is_some() {
        let chain = inventory.chain(backup).map_err(|missing| {
            Error::damaged(name, format!("Its chain leads to \"{missing}\", which is not there."))
        })?;
        let full = chain.last().map_or(name, |full| full.name.as_str());
        root = inventory
            .backups
            .iter()
            .position(|backup| backup.name == full)
            .unwrap_or(index);
    }
    let doomed = with_dependants(inventory, root);
    refuse(inventory, situation, &doomed)?;
    branches::refuse(inventory, situation, &doomed)?;
    let why: Arc<str> = "asked for".into();
    let because: Arc<str> = format!("it depends on \"{}\"", inventory.backups[root].name).into();
    let stays = (0..inventory.backups.len()).filter(|index| !doomed.contains(index));
    let kept = stays.map(|index| Kept {
        name: inventory.backups[index].name.clone(),
        why: "not asked for".to_owned(),
    });
    let kept = kept.collect();
    let mut actions: Vec<_> = in_order(inventory, doomed)
        .into_iter()
        .map(|index| backup_action(&inventory.backups[index], if index == root { &why } else { &because }))
        .collect();
    let interrupted = inventory.unfinished.iter().filter(|folder| folder.deleting);
    actions.extend(interrupted.filter(|folder| folder.start.is_some()).map(leftover));
    Ok(DeletionPlan {
        actions,
        kept,
        ..DeletionPlan::default()
    })
}

/// Permanent backups are not deleted, nor what a running one depends on.
fn refuse(inventory: &Inventory, situation: &Situation, doomed: &[usize]) -> Result<()> {
    for index in doomed {
        let backup = &inventory.backups[*index];
        if backup.metadata.is_permanent {
            return Err(Error::refused(
                format!("backup \"{}\" is permanent", backup.name),
                "Mark it as impermanent first, if you really want to delete it.",
            ));
        }
        if situation.protected.contains(&backup.name) {
            return Err(Error::refused(
                format!("backup \"{}\" is being taken", backup.name),
                "Wait until it is complete, or cancel it.",
            ));
        }
        let start = parse_name(&backup.name).0;
        let dependant = Running::find(inventory, situation).into_iter().find(|running| {
            let parent = parse_name(&running.name).1;
            parent.is_some_and(|parent| parse_name(&parent).0 == start)
        });
        if let Some(dependant) = dependant {
            return Err(Error::refused(
                format!(
                    "backup \"{}\", which is being taken, depends on \"{}\"",
                    dependant.name, backup.name
                ),
                "Wait until it is complete, or cancel it.",
            ));
        }
    }
    Ok(())
}

/// In no particular order. The parent of a backup that cannot be read is known only by its first segment.
fn with_dependants(inventory: &Inventory, root: usize) -> Vec<usize> {
    let mut doomed = vec![root];
    let mut next = 0;
    while next < doomed.len() {
        let parent = &inventory.backups[doomed[next]];
        let start = parse_name(&parent.name).0;
        for (index, backup) in inventory.backups.iter().enumerate() {
            let Some(delta) = &backup.delta else { continue };
            let by_segment = backup.damaged.is_some() && parse_name(&delta.parent).0 == start;
            if (delta.parent == parent.name || by_segment) && !doomed.contains(&index) {
                doomed.push(index);
            }
        }
        next += 1;
    }
    doomed
}
