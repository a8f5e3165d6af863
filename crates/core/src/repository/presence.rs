//! Is there a repository at all?

use std::ops::ControlFlow;

use walarchive_storage::Store;

use crate::error::{Error, Result};
use crate::repository::layout;

/// Is anything there that a repository begins with? Without that, "not found" is no answer to believe. Objects that stand for
/// folders, and those of other programs, make no repository.
pub async fn is_there(store: &Store) -> Result<bool> {
    if store.size(&layout::CLUSTER).await?.is_some() {
        return Ok(true);
    }
    // WAL-G's has no such file, but WAL or backups.
    let mut found = false;
    let look = |object: walarchive_storage::Listed| {
        found |= layout::wal_of_object(&object.key).is_some();
        if found {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    store.each_while(&layout::WAL_FOLDER, look).await?;
    if !found {
        let objects = store.list_shallow(&layout::BACKUPS_FOLDER).await?;
        found = objects
            .iter()
            .any(|object| layout::backup_of_sentinel(&object.key).is_some());
    }
    Ok(found)
}

/// The error for a store without a repository.
pub fn none_in(store: &Store) -> Error {
    Error::NoRepository {
        target: store.url().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    /// A repository is what walarchive or WAL-G wrote, not what stands for a folder.
    #[tokio::test]
    async fn folders_and_foreign_files_are_no_repository() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        for key in [
            "wal_005/README",
            "wal_005/.keep",
            "basebackups_005/notes.txt",
            "basebackups_005/base_1/metadata.json",
            "other/000000010000000000000003.zst",
            "walarchive_005/check/1",
        ] {
            store.put(key, Bytes::new()).await.expect("written");
            assert!(!is_there(&store).await.expect("asked"), "{key}");
        }
        for key in [
            "wal_005/000000010000000000000003.lz4",
            "wal_005/00000002.history.zst",
            "basebackups_005/base_1_backup_stop_sentinel.json",
            "walarchive_005/cluster.json",
        ] {
            store.put(key, Bytes::new()).await.expect("written");
            assert!(is_there(&store).await.expect("asked"), "{key}");
            store.delete(key).await.expect("deleted");
        }
    }
}
