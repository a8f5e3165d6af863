//! The configuration files of a backup whose server had them outside of its data directory.

use std::io::Read;

use tar::EntryType;
use walarchive_storage::Store;

use super::fetch::{read_with, whole};
use super::member::MemberPath;
use crate::codec::Format;
use crate::error::{Error, Result, StorageError};
use crate::formats::{Configuration, ConfigurationFile};
use crate::repository::layout::{self, Key};

/// More than a backup takes of them, in bytes.
const LIMIT: u64 = 64 << 20;

pub(crate) struct ConfigFile {
    /// Below the directory; as it is in the tar, below the root.
    pub(crate) path: Vec<Vec<u8>>,
    pub(crate) mode: u32,
    pub(crate) content: Vec<u8>,
}

/// All of them.
pub(crate) async fn members(store: &Store, backup: &str) -> Result<Vec<ConfigFile>> {
    let (key, size) = find(store, backup).await?;
    let object = store.object_url(&key);
    let refused = move |reason: &str| Error::damaged(&object, format!("A member of it is refused: {reason}."));
    read_with(store, &key, size, move |source| {
        let mut archive = tar::Archive::new(source.take(LIMIT));
        let mut members = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type() != EntryType::Regular {
                return Err(refused("it is not a regular file").into());
            }
            let path = MemberPath::parse(&entry.path_bytes()).map_err(&refused)?;
            members.push(ConfigFile {
                path: path.components().to_vec(),
                mode: entry.header().mode()?,
                content: whole(&mut entry, LIMIT)?,
            });
        }
        Ok(members)
    })
    .await
}

/// Is the configuration of a backup there as its description says? Else what is wrong with it, as a sentence.
pub(crate) async fn check(store: &Store, backup: &str, described: &Configuration) -> Result<Option<String>> {
    let members = match members(store, backup).await {
        Ok(members) => members,
        Err(Error::Storage(StorageError::NotFound { .. })) => return Ok(Some("It is missing.".to_owned())),
        Err(error) => return error.content_finding().map(Some).ok_or(error),
    };
    let has = |file: &ConfigurationFile| {
        members.iter().any(|member| {
            let path = member.path.join(&b'/');
            String::from_utf8_lossy(&path) == file.path.trim_start_matches('/')
                && member.content.len() as u64 == file.size
        })
    };
    let missing = described.files.iter().find(|file| !has(file));
    Ok(missing.map(|file| format!("\"{}\" is not in it as it was.", file.path.escape_debug())))
}

/// The key and the size of the object with them.
async fn find(store: &Store, backup: &str) -> Result<(Key, u64)> {
    for format in Format::in_order(Format::Zstd) {
        let key = layout::configuration_in(backup, format);
        if let Some(size) = store.size(&key).await? {
            return Ok((key, size));
        }
    }
    Err(Error::Storage(StorageError::NotFound {
        object: store.object_url(&layout::configuration(backup)),
    }))
}
