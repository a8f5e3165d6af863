//! Which backup a delta is based on.

use super::fit::Unfit;
use super::load::load;
use super::{Choice, Origin, Parent, WantedParent, fit};
use crate::backup::BackupRequest;
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::inventory;
use crate::repository::inventory::{BackupInfo, Inventory};
use walarchive_storage::Store;

/// Choose the kind of the backup. Call this after `pg_backup_start`: the start of the backup counts. `in_recovery`: is this
/// server a standby? An error if the backup that was named cannot be a parent; or the store's.
pub async fn choose(
    store: &Store,
    request: &BackupRequest,
    in_recovery: bool,
    wanted: &WantedParent,
) -> Result<Choice> {
    let chooser = Chooser {
        store,
        request,
        in_recovery,
    };
    match wanted {
        WantedParent::Full | WantedParent::Automatic { max_steps: 0, .. } => Ok(Choice::Full { why: None }),
        WantedParent::Automatic { max_steps, origin } => chooser.automatic(*max_steps, *origin).await,
        WantedParent::Named(name) => chooser.named(name).await,
    }
}

struct Chooser<'a> {
    store: &'a Store,
    request: &'a BackupRequest,
    in_recovery: bool,
}

impl Chooser<'_> {
    async fn automatic(&self, max_steps: u32, origin: Origin) -> Result<Choice> {
        let full = |why: String| Ok(Choice::Full { why: Some(why) });
        let inventory = inventory::of_backups(self.store).await?;
        let Some(newest) = self.newest(&inventory).await? else {
            return full("there is no backup of this cluster that can be restored".to_owned());
        };
        let Ok(mut chain) = inventory.chain(newest) else {
            return full(format!("\"{}\" cannot be restored", newest.name));
        };
        let root = chain.last().map_or(newest, |root| *root);
        // Each of them counts, so that there is a full backup after as many, whatever they are based on.
        let steps = match origin {
            Origin::Latest => chain.len(),
            Origin::LatestFull => {
                chain = vec![root];
                1 + deltas_of(&inventory, root)
            }
        };
        if steps > max_steps as usize {
            return full(match origin {
                Origin::Latest => {
                    let steps = counted(steps - 1, "step");
                    format!("\"{}\" is {steps} away from its full backup", newest.name)
                }
                Origin::LatestFull => format!("\"{}\" has {}", root.name, counted(steps - 1, "delta backup")),
            });
        }
        match self.parent(&inventory, &chain).await? {
            Ok(parent) => Ok(Choice::Delta(parent)),
            Err(Unfit { why, .. }) => full(format!("\"{}\" cannot be its parent: {why}", chain[0].name)),
        }
    }

    async fn named(&self, name: &str) -> Result<Choice> {
        let inventory = inventory::of_backups(self.store).await?;
        let Some(backup) = inventory.backup(name) else {
            // It says what there is instead.
            return Err(match inventory::find_backup(self.store, name).await {
                Err(error) => error,
                Ok(_) => Error::NoBackup {
                    message: format!("backup \"{name}\" appeared a moment ago"),
                    hint: "Try again.".to_owned(),
                },
            });
        };
        // Says why the backup cannot be restored if it has no chain.
        let chain = inventory.chain(backup).unwrap_or_else(|_| vec![backup]);
        match self.parent(&inventory, &chain).await? {
            Ok(parent) => Ok(Choice::Delta(parent)),
            Err(Unfit { why, hint }) => Err(Error::refused(
                format!("backup \"{name}\" cannot be the parent of a delta backup: {why}"),
                hint,
            )),
        }
    }

    /// The newest backup of this cluster that can be restored and is not being deleted.
    async fn newest<'a>(&self, inventory: &'a Inventory) -> Result<Option<&'a BackupInfo>> {
        let ours = Some(self.request.system_identifier);
        for backup in inventory.backups.iter().rev() {
            if backup.metadata.system_identifier == ours
                && inventory.is_restorable(backup)
                && !fit::is_being_deleted(self.store, &backup.name).await?
            {
                return Ok(Some(backup));
            }
        }
        Ok(None)
    }

    /// The first of the chain as a parent.
    async fn parent(&self, inventory: &Inventory, chain: &[&BackupInfo]) -> Result<Result<Parent, Unfit>> {
        let parent = chain[0];
        let history = match fit::check(self.store, self.request, inventory, parent).await? {
            Ok(history) => history,
            Err(unfit) => return Ok(Err(unfit)),
        };
        let files = match load(self.store, &parent.name).await {
            Ok(files) => files,
            Err(error) => return fit::unreadable(self.store, &parent.name, error).map(Err),
        };
        let metadata = &parent.metadata;
        tracing::debug!(parent = parent.name, files = files.len(), "read what the parent holds");
        Ok(Ok(Parent {
            name: parent.name.clone(),
            full_name: chain[chain.len() - 1].name.clone(),
            start_lsn: metadata.start_lsn,
            count: u32::try_from(chain.len()).unwrap_or(u32::MAX),
            timeline: parent.timeline.unwrap_or(history.timeline),
            history,
            start_time: parent.started(),
            ancestors: chain[1..].iter().map(|link| link.name.clone()).collect(),
            // All of them: what the parent leaves out is its ancestors'.
            same_primary: !self.in_recovery
                && chain.iter().all(|link| {
                    link.timeline == Some(self.request.timeline)
                        && link.metadata.hostname == self.request.hostname
                        && link.metadata.data_dir == self.request.data_dir.to_string_lossy()
                }),
            files: files.into(),
        }))
    }
}

/// How many deltas are based on that full backup.
fn deltas_of(inventory: &Inventory, root: &BackupInfo) -> usize {
    let is_based_on_it = |backup: &&BackupInfo| {
        let chain = inventory.chain(backup).unwrap_or_default();
        chain.len() > 1 && chain.last().is_some_and(|last| last.name == root.name)
    };
    inventory.backups.iter().filter(is_based_on_it).count()
}
