//! Making a backup permanent, and taking that back.
//!
//! Both the sentinel and `metadata.json` say whether a backup is permanent. A deletion takes either's word for it; WAL-G, and a
//! listing, read `metadata.json`. So `metadata.json` is the first to be marked and the last to be unmarked: a crash between
//! the two leaves a backup that nobody deletes. The sentinel, by which a backup exists at all, has to be there for either.

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::encrypted::metadata;
use crate::error::{Error, Result};
use crate::formats::OLD_SENTINEL_LIMIT;
use crate::formats::excerpt::value_of;
use crate::repository::inventory::{BackupInfo, Inventory};
use crate::repository::layout::Key;
use crate::repository::{description, layout};
use walarchive_storage::Store;

/// May a deletion take a backup?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// No deletion takes it, unless it is forced.
    Permanent,
    /// The rules decide.
    Impermanent,
}

impl Mark {
    /// As sentinel and `metadata.json` have it.
    fn is_permanent(self) -> bool {
        self == Mark::Permanent
    }
}

/// Mark a backup as permanent, with its ancestors, or as impermanent again, which fails if a permanent one depends on it.
/// Returns the names of the backups that were changed, in that order; repeating it is harmless.
pub async fn mark(store: &Store, name: &str, mark: Mark) -> Result<Vec<String>> {
    let inventory = crate::retention::look(store).await?;
    let backup = crate::retention::rules::known(&inventory, name)?;
    let mut marked: Vec<&BackupInfo> = vec![backup];
    if mark.is_permanent() {
        marked = inventory
            .chain(backup)
            .map_err(|missing| Error::damaged(name, format!("It depends on \"{missing}\", which is not there.")))?;
        // The ancestors first: at no time a permanent backup depends on one that is not.
        marked.reverse();
    } else if let Some(child) = permanent_dependant(&inventory, backup) {
        return Err(Error::refused(
            format!("backup \"{}\", which is permanent, depends on \"{name}\"", child.name),
            "Mark that one as impermanent first.",
        ));
    }
    let mut changed = Vec::new();
    for backup in marked {
        if set(store, &backup.name, mark).await? {
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
async fn set(store: &Store, name: &str, mark: Mark) -> Result<bool> {
    let sentinel = (layout::sentinel(name), "IsPermanent");
    let extended = (layout::metadata(name), "is_permanent");
    let order = match mark {
        Mark::Permanent => [&extended, &sentinel],
        Mark::Impermanent => [&sentinel, &extended],
    };
    if store.size(&sentinel.0).await?.is_none() {
        return Err(gone(store, name));
    }
    let mut written = Vec::new();
    for (key, field) in order {
        // WAL-G of old wrote no metadata.json; the sentinel is enough then. A long sentinel is refused here, unless the list of
        // files of a WAL-G of old makes it long.
        if description::read(store, key).await?.is_none() {
            continue;
        }
        let Some(found) = metadata::find(store, key, OLD_SENTINEL_LIMIT).await? else {
            continue;
        };
        if let Some(edited) = edit(store, key, field, &found.content, mark)? {
            metadata::put_again(store, key, edited, &found).await?;
            written.push(key);
        }
    }
    if written.is_empty() {
        return Ok(false);
    }
    // A deletion writes its marker before it looks whether the backup is permanent, we look for it after having written: one
    // of the two notices.
    if store.size(&layout::backup_deletion(name)).await?.is_some() {
        return Err(Error::refused(
            format!("backup \"{name}\" is being deleted"),
            "Check whether it still exists, and try again.",
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

/// The same object with the field set; none if it is set already. All that the object has beside is kept byte by byte.
fn edit(store: &Store, key: &Key, field: &str, content: &[u8], mark: Mark) -> Result<Option<Bytes>> {
    let damaged = |error: String| Error::damaged(store.object_url(key), format!("It cannot be read: {error}."));
    let read = serde_json::from_slice::<IgnoredAny>(content);
    read.map_err(|error| damaged(error.to_string()))?;
    let end = content.iter().rposition(|byte| !byte.is_ascii_whitespace());
    let object = end.filter(|end| content[*end] == b'}');
    let end = object.ok_or_else(|| damaged("it is not a JSON object".to_owned()))?;
    let (found, permanent) = (value_of(content, field), mark.is_permanent());
    let is_set = found
        .as_ref()
        .is_some_and(|range| content[range.clone()].trim_ascii() == b"true");
    if is_set == permanent {
        return Ok(None);
    }
    let (range, text) = match found {
        Some(range) => (range, format!("{permanent}")),
        None => {
            let is_empty = content[..end].trim_ascii_end().ends_with(b"{");
            let comma = if is_empty { "" } else { "," };
            (end..end, format!("{comma}\"{field}\":{permanent}"))
        }
    };
    let text = [&content[..range.start], text.as_bytes(), &content[range.end..]].concat();
    Ok(Some(Bytes::from(text)))
}
