//! The folders of backups without a sentinel: backups that are being taken, and leftovers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::repository::layout;
use crate::wal::Segment;
use walarchive_storage::Store;

/// The folder of a backup that has no sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The name that the backup has or would have had; of one that brings a standby up [`layout::catchup_place`].
    pub name: String,
    /// The segment in which it starts, if the name tells it.
    pub start: Option<Segment>,
    /// Objects in it.
    pub objects: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// When the newest object was written: a backup that is being taken goes on writing.
    pub newest: DateTime<Utc>,
    /// A deletion has begun and was interrupted: what is left is of no use.
    pub deleting: bool,
}

/// All of a folder of backups, by name, with those that have a sentinel. List the sentinels after this, or a backup that ends in
/// between is taken for a leftover.
pub(super) async fn list(store: &Store, folder: &str) -> Result<BTreeMap<String, Unfinished>> {
    let mut folders: BTreeMap<String, Unfinished> = BTreeMap::new();
    store
        .each(folder, |object| {
            let Some(name) = layout::backup_of_object(&object.key) else {
                return;
            };
            let folder = folders.entry(name.to_owned()).or_insert_with(|| Unfinished {
                name: name.to_owned(),
                start: crate::repository::inventory::backups::parse_name(layout::backup_name(name)).0,
                objects: 0,
                bytes: 0,
                newest: object.last_modified,
                deleting: false,
            });
            folder.objects += 1;
            folder.bytes += object.size;
            folder.deleting |= object.key == layout::backup_deletion(name);
            folder.newest = folder.newest.max(object.last_modified);
        })
        .await?;
    Ok(folders)
}
