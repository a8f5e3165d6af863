//! Removing a backup that did not come to its end.

use crate::error::{Error, Result, StorageError};
use crate::printable::counted;
use crate::repository::layout;
use walarchive_storage::Store;

/// Remove what a backup left that failed or was cancelled. A backup that is complete is refused. If something cannot be
/// removed, the rest is, and the error says how much is left.
pub async fn discard(store: &Store, name: &str) -> Result<()> {
    if store.size(&layout::sentinel(name)).await?.is_some() {
        return Err(Error::BackupExists {
            name: name.to_owned(),
            reason: "It is complete, so nothing of it was removed.".to_owned(),
        });
    }
    let folder = layout::backup_folder(name);
    let claim = layout::backup_claim(name);
    let mut objects = store.list(&folder).await?;
    // The claim goes last: nobody else may take the name while there are leftovers.
    objects.sort_by_key(|object| object.key == claim);
    let mut left = Vec::new();
    for object in &objects {
        if object.key == claim && !left.is_empty() {
            break;
        }
        if let Err(error) = store.delete(&object.key).await {
            left.push((object.key.as_str(), error));
        }
    }
    match left.first() {
        None => Ok(()),
        Some((key, error)) => Err(Error::Storage(StorageError::Store {
            operation: "delete",
            object: store.object_url(&folder),
            reason: format!(
                "{} of {} could not be removed, \"{key}\" among them: {error}",
                left.len(),
                counted(objects.len(), "object")
            ),
        })),
    }
}
