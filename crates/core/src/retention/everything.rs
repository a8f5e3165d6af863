//! All of it.

use std::sync::Arc;

use super::keep::{backup_action, in_order};
use super::plan::{Action, DeletionPlan, Object, Situation, leftover, wal_action};
use super::{branches, tail, uploads};
use crate::error::{Error, Result};
use crate::repository::inventory::Inventory;
use crate::repository::layout::{self, Key, TailChunk};
use crate::wal::WalFileName;

/// Fails if permanent backups exist, or one may be running; with `force` only if one is known to be running.
pub(super) fn plan(inventory: &Inventory, situation: &Situation, force: bool) -> Result<DeletionPlan> {
    if let Some(running) = situation.protected.first() {
        return Err(Error::refused(
            format!("backup \"{running}\" is being taken"),
            "Wait until it is complete, or cancel it.",
        ));
    }
    if !force {
        refuse(inventory, situation)?;
        let all: Vec<usize> = (0..inventory.backups.len()).collect();
        branches::refuse(inventory, situation, &all)?;
    }
    let why: Arc<str> = "everything is deleted".into();
    let all = in_order(inventory, (0..inventory.backups.len()).collect());
    let mut actions: Vec<Action> = all
        .into_iter()
        .map(|index| backup_action(&inventory.backups[index], &why))
        .collect();
    actions.extend(
        inventory
            .unfinished
            .iter()
            .filter(|folder| folder.start.is_some())
            .map(leftover),
    );
    let is_history = |name: &WalFileName| matches!(name, WalFileName::History(_));
    for histories in [false, true] {
        let wal = inventory
            .wal
            .iter()
            .filter(|object| is_history(&object.name) == histories);
        actions.extend(wal.map(|object| wal_action(object, &why)));
    }
    actions.extend(tail::all(inventory, &why));
    // Somebody may be at work on the young ones, which is nothing that FORCE would respect.
    match force {
        true => actions.extend(situation.uploads.iter().map(uploads::action)),
        false => {
            actions.extend(uploads::abandoned(inventory, situation));
            actions.extend(tail::epochs(inventory));
        }
    }
    // The owner of the repository is forgotten last.
    for owner in [false, true] {
        let own = situation
            .own
            .iter()
            .filter(|object| TailChunk::of_key(&object.key).is_none())
            .filter(|object| (object.key == layout::CLUSTER) == owner);
        actions.extend(own.map(|object| Action {
            object: Object::Own(Key::listed(object)),
            size: object.size,
            why: Arc::clone(&why),
        }));
    }
    Ok(DeletionPlan {
        actions,
        notes: situation.notes.clone(),
        force,
        ..DeletionPlan::default()
    })
}

fn refuse(inventory: &Inventory, situation: &Situation) -> Result<()> {
    let permanent = inventory.backups.iter().filter(|backup| backup.metadata.is_permanent);
    let permanent: Vec<&str> = permanent.map(|backup| backup.name.as_str()).collect();
    match permanent.as_slice() {
        [] => {}
        [only] => {
            return Err(Error::refused(
                format!("1 backup is permanent: \"{only}\""),
                "Mark it as impermanent, or add FORCE to delete it too.",
            ));
        }
        [first, ..] => {
            return Err(Error::refused(
                format!("{} backups are permanent, \"{first}\" among them", permanent.len()),
                "Mark them as impermanent, or add FORCE to delete them too.",
            ));
        }
    }
    let running = inventory.unfinished.iter().find(|folder| situation.is_running(folder));
    match running {
        Some(running) => Err(Error::refused(
            format!(
                "backup \"{}\" may still be running: it has no sentinel, and was written to within a day",
                running.name
            ),
            "Wait until it is complete, or add FORCE to delete it too.",
        )),
        None => Ok(()),
    }
}
