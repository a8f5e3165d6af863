//! A backup's description of each of its files: files_metadata.json, read as a stream.

use std::io::Read;

use serde::Deserialize;
use walarchive_storage::Store;

use super::facts::Stored;
use super::fetch::read_with;
use crate::error::Result;
use crate::formats::files_metadata::{Listener, listen};
use crate::repository::layout::{self, Key};

/// More than any manifest or files metadata has, in bytes: about 200 a file.
pub(crate) const LIMIT: u64 = 16 << 30;

/// The fields of an entry that are read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FileFlags {
    is_incremented: bool,
    is_skipped: bool,
}

impl FileFlags {
    pub(crate) fn stored(&self) -> Stored {
        match self {
            FileFlags { is_skipped: true, .. } => Stored::Skipped,
            FileFlags {
                is_incremented: true, ..
            } => Stored::Increment,
            _ => Stored::Full,
        }
    }
}

/// WAL-G before 2.0 kept it in the sentinel.
pub(crate) async fn metadata_object(store: &Store, backup: &str) -> Result<(Key, u64)> {
    let key = layout::files_metadata(backup);
    if let Some(size) = store.size(&key).await? {
        return Ok((key, size));
    }
    let key = layout::sentinel(backup);
    let size = store.size(&key).await?.unwrap_or_default();
    Ok((key, size))
}

/// Read files metadata to its end.
pub(crate) async fn listen_to<L: Listener + Send + 'static>(
    store: &Store,
    key: &Key,
    size: u64,
    mut listener: L,
) -> Result<L> {
    let read = move |source: &mut dyn Read| {
        listen(source.take(LIMIT), &mut listener)?;
        Ok(listener)
    };
    read_with(store, key, size, read).await
}
