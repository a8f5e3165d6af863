//! The backups that bring standbys up. They have a folder of their own, and no base backup depends on them.

use futures::StreamExt;

use super::CONCURRENCY;
use super::backups::{BackupInfo, describe};
use super::unfinished::{self, Unfinished};
use crate::error::{Error, Result};
use crate::repository::layout;
use walarchive_storage::Store;

/// All of them, ordered by start time. One that cannot be read is returned as damaged.
pub async fn list_catchups(store: &Store) -> Result<Vec<BackupInfo>> {
    let objects = store.list_shallow(&layout::CATCHUP_FOLDER).await?;
    let found = objects.into_iter().filter_map(|object| {
        let name = layout::catchup_of_sentinel(&object.key)?;
        Some((layout::catchup_place(name), object.last_modified))
    });
    let mut described = futures::stream::iter(found)
        .map(|(place, written)| async move { describe(store, &place, written).await })
        .buffer_unordered(CONCURRENCY);
    let mut backups = Vec::new();
    while let Some(backup) = described.next().await {
        backups.extend(backup?);
    }
    drop(described);
    backups.sort_by(|a, b| (a.started(), &a.name).cmp(&(b.started(), &b.name)));
    Ok(backups)
}

/// The folders without a sentinel, by name: backups that are being taken, and leftovers.
pub async fn unfinished_catchups(store: &Store) -> Result<Vec<Unfinished>> {
    let mut folders = unfinished::list(store, &layout::CATCHUP_FOLDER).await?;
    if !folders.is_empty() {
        for object in store.list_shallow(&layout::CATCHUP_FOLDER).await? {
            if let Some(name) = layout::catchup_of_sentinel(&object.key) {
                folders.remove(&layout::catchup_place(name));
            }
        }
    }
    Ok(folders.into_values().collect())
}

/// One by its name, or the newest one as `LATEST`.
pub async fn find_catchup(store: &Store, name: &str) -> Result<BackupInfo> {
    let mut backups = list_catchups(store).await?;
    let newest = backups.last().map(|backup| backup.name.clone());
    let at = match name {
        "LATEST" => backups.len().checked_sub(1),
        name => backups.iter().position(|backup| backup.name == name),
    };
    if let Some(at) = at {
        return Ok(backups.swap_remove(at));
    }
    Err(Error::NoBackup {
        message: match name {
            "LATEST" => format!("there is no backup of catchup-push in \"{}\"", store.url()),
            name => format!(
                "there is no backup of catchup-push named \"{name}\" in \"{}\"",
                store.url()
            ),
        },
        hint: match newest {
            Some(newest) => format!(
                "The newest of {} is \"{newest}\". See walarchive catchup-list.",
                backups.len()
            ),
            None => "Take one on the primary with walarchive catchup-push.".to_owned(),
        },
    })
}
