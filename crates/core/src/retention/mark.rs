//! Making a backup permanent, and taking that back.
//!
//! Both the sentinel and `metadata.json` say whether a backup is permanent. A deletion takes either's word for it; WAL-G, and a
//! listing, read `metadata.json`. So `metadata.json` is the first to be marked and the last to be unmarked: a crash between
//! the two leaves a backup that nobody deletes. The sentinel, by which a backup exists at all, has to be there for either.

use bytes::Bytes;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::SENTINEL_LIMIT;
use crate::inventory::{BackupInfo, Inventory};
use crate::layout;
use crate::storage::Store;

/// Mark a backup as permanent, with its ancestors, or as impermanent again, which fails if a permanent one depends on it.
/// Returns the names of the backups that were changed, in that order; repeating it is harmless.
pub async fn mark(store: &Store, name: &str, permanent: bool) -> Result<Vec<String>> {
    let inventory = super::look(store).await?;
    let backup = super::rules::known(&inventory, name)?;
    let mut marked: Vec<&BackupInfo> = vec![backup];
    if permanent {
        marked = inventory
            .chain(backup)
            .map_err(|missing| Error::damaged(name, format!("It depends on \"{missing}\", which is not there.")))?;
        // The ancestors first: at no time a permanent backup depends on one that is not.
        marked.reverse();
    } else if let Some(child) = permanent_dependant(&inventory, backup) {
        return Err(Error::config(
            format!("backup \"{}\", which is permanent, depends on \"{name}\"", child.name),
            "Mark that one as impermanent first.",
        ));
    }
    let mut changed = Vec::new();
    for backup in marked {
        if set(store, &backup.name, permanent).await? {
            changed.push(backup.name.clone());
        }
    }
    Ok(changed)
}

fn permanent_dependant<'a>(inventory: &'a Inventory, backup: &BackupInfo) -> Option<&'a BackupInfo> {
    let permanent = inventory
        .backups
        .iter()
        .filter(|other| other.metadata.is_permanent && other.name != backup.name);
    let mut permanent = permanent;
    permanent.find(|other| match inventory.chain(other) {
        Ok(chain) => chain.iter().any(|link| link.name == backup.name),
        // As far as it can be followed.
        Err(_) => other.delta.as_ref().is_some_and(|delta| delta.parent == backup.name),
    })
}

/// Returns whether anything had to be written.
async fn set(store: &Store, name: &str, permanent: bool) -> Result<bool> {
    let sentinel = (layout::sentinel(name), "IsPermanent");
    let metadata = (layout::metadata(name), "is_permanent");
    let order = match permanent {
        true => [&metadata, &sentinel],
        false => [&sentinel, &metadata],
    };
    if store.size(&sentinel.0).await?.is_none() {
        return Err(gone(store, name));
    }
    let mut written = Vec::new();
    for (key, field) in order {
        // WAL-G of old wrote no metadata.json; the sentinel is enough then.
        let Some(content) = store.get(key, SENTINEL_LIMIT).await? else {
            continue;
        };
        if let Some(edited) = edit(store, key, field, &content, permanent)? {
            store.put(key, edited).await?;
            written.push(key);
        }
    }
    if written.is_empty() {
        return Ok(false);
    }
    // A deletion writes its marker before it looks whether the backup is permanent, we look for it after having written: one
    // of the two notices.
    if store.size(&layout::backup_deletion(name)).await?.is_some() {
        return Err(Error::config(
            format!("backup \"{name}\" is being deleted"),
            "See whether it is there still, and try again.",
        ));
    }
    if store.list(&layout::tar_folder(name)).await?.is_empty() {
        // Deleted while we wrote: what we wrote is no backup.
        for key in written {
            store.delete(key).await?;
        }
        return Err(gone(store, name));
    }
    Ok(true)
}

fn gone(store: &Store, name: &str) -> Error {
    Error::NoBackup {
        message: format!("there is no backup named \"{name}\" in \"{}\"", store.url()),
        hint: "List the backups to see which there are.".to_owned(),
    }
}

/// The same object with the field set; none if it is set already. What the object has beside is kept as it is: JSON numbers
/// of 64 bits included.
fn edit(store: &Store, key: &str, field: &str, content: &[u8], permanent: bool) -> Result<Option<Bytes>> {
    let damaged = |error: String| Error::damaged(store.object_url(key), format!("It cannot be read: {error}."));
    let mut value: Value = serde_json::from_slice(content).map_err(|error| damaged(error.to_string()))?;
    let object = value
        .as_object_mut()
        .ok_or_else(|| damaged("it is no JSON object".to_owned()))?;
    if object.get(field).and_then(Value::as_bool).unwrap_or(false) == permanent {
        return Ok(None);
    }
    object.insert(field.to_owned(), Value::Bool(permanent));
    let text = serde_json::to_vec(&value).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(Bytes::from(text)))
}
