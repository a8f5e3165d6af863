//! Nothing is written in plain text beside what somebody has encrypted.

use std::ops::ControlFlow;

use crate::codec::Format;
use crate::encrypted::is_plain;
use crate::error::{Error, Result, StorageError};
use crate::repository::layout::{self, TailChunk};
use walarchive_storage::{Listed, Store};

/// So much of an object tells whether it is encrypted, in bytes.
const HEAD: u64 = 8 << 10;

/// So many objects have to look encrypted, as far as there are so many.
const LOOKED_AT: usize = 3;

/// An error if the repository holds encrypted objects. Its newest backup tells, or its WAL if there is none.
pub(crate) async fn refuse_beside_encrypted(store: &Store) -> Result<()> {
    match encrypted_object(store).await? {
        None => Ok(()),
        Some(object) => Err(Error::refused(
            format!(
                "\"{}\" is encrypted, and walarchive writes nothing in plain text beside it",
                store.object_url(&object)
            ),
            "Set walarchive.encryption to its method and give its key, or WAL-G's variables; or use a prefix of its own if what is \
             written may be in plain text.",
        )),
    }
}

/// The key of an object that somebody has encrypted; none if the repository is in plain text, or is empty.
pub(crate) async fn encrypted_object(store: &Store) -> Result<Option<String>> {
    Ok(match beside(store).await? {
        Beside::Encrypted { key, .. } => Some(key),
        Beside::Nothing | Beside::PlainText => None,
    })
}

/// What there is to write beside.
pub(crate) enum Beside {
    /// Nothing that tells it.
    Nothing,
    /// Objects in plain text.
    PlainText,
    /// Objects that somebody has encrypted, this one among them.
    Encrypted {
        /// Its key.
        key: String,
        /// Its stored bytes.
        size: u64,
    },
}

/// Its newest backup tells, or its WAL if there is none.
pub(crate) async fn beside(store: &Store) -> Result<Beside> {
    let mut first = None;
    for object in objects(store).await? {
        match begins_in_plain_text(store, &object.key, object.size).await? {
            Some(true) => return Ok(Beside::PlainText),
            Some(false) => drop(first.get_or_insert(object)),
            None => {}
        }
    }
    Ok(first.map_or(Beside::Nothing, |object| Beside::Encrypted {
        key: object.key,
        size: object.size,
    }))
}

/// Does the object begin as one that is not encrypted? None if that cannot be told.
pub(crate) async fn begins_in_plain_text(store: &Store, key: &str, size: u64) -> Result<Option<bool>> {
    if size == 0 || !has_known_form(key) {
        return Ok(None);
    }
    match store.get_range(key, 0..size.min(HEAD)).await {
        Ok(head) => Ok(Some(is_plain(key, &head))),
        // It was deleted in the meantime, or nobody may read it, or not now: it may be in an archive of the store.
        Err(error) if !error.is_transient() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Is it of a kind that is encrypted where anything is, and not compressed in a way that nobody knows here?
fn has_known_form(key: &str) -> bool {
    let stem = Format::of_key(key).1;
    let is_wal = || layout::wal_of_object(key).is_some() || TailChunk::of_key(key).is_some();
    layout::is_encrypted_where_anything_is(key) && (is_wal() || stem.ends_with(".tar"))
}

/// Some that tell it: the smallest tars of the newest backup, of which there are three at least if it is whole; else WAL files.
async fn objects(store: &Store) -> Result<Vec<Listed>> {
    let sentinels = unless_refused(store.list_shallow(&layout::BACKUPS_FOLDER).await)?.unwrap_or_default();
    let newest = sentinels
        .iter()
        .filter_map(|object| Some((object.last_modified, layout::backup_of_sentinel(&object.key)?)))
        .max();
    let mut found = match newest {
        Some((_, backup)) => unless_refused(store.list(&layout::tar_folder(backup)).await)?.unwrap_or_default(),
        None => Vec::new(),
    };
    found.retain(|object| object.size > 0 && has_known_form(&object.key));
    found.sort_by_key(|object| object.size);
    found.truncate(LOOKED_AT);
    // One that is damaged looks as an encrypted one does.
    if found.len() < 2 {
        found.extend(some_wal(store).await?);
    }
    Ok(found)
}

async fn some_wal(store: &Store) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    let look = |object: Listed| {
        found.extend(Some(object).filter(|object| layout::wal_of_object(&object.key).is_some()));
        match found.len() < LOOKED_AT {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    unless_refused(store.each_while(&layout::WAL_FOLDER, look).await)?;
    Ok(found)
}

/// Who archives need not be allowed to list. None: the store has refused it.
fn unless_refused<T>(listed: Result<T, StorageError>) -> Result<Option<T>> {
    match listed {
        Err(error) if error.is_transient() => Err(error.into()),
        listed => Ok(listed.ok()),
    }
}
