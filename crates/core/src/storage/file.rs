//! A directory as a store: every file and its directory entry are flushed to disk before a write is acknowledged.

mod uploads;

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use self::uploads::Temporaries;
use super::Opened;
use super::pending::BelowPrefix;
use crate::error::{Error, Result};

/// The directory must exist: a missing one is more often an unmounted file system than a new repository.
pub(super) fn open(url: &Url) -> Result<Opened> {
    let path = url.to_file_path().map_err(|()| {
        Error::config(
            format!("storage \"{url}\" is not an absolute path"),
            "Write it as \"file:///absolute/path\".",
        )
    })?;
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => {
            return Err(Error::config(
                format!("storage \"{url}\" is not a directory"),
                "Point walarchive.storage at a directory.",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoSuchStore {
                target: url.to_string(),
                reason: error.to_string(),
            });
        }
        Err(error) => return Err(Error::io("open", path, error)),
    }
    let store = LocalFileSystem::new_with_prefix(&path)
        .map_err(|error| super::errors::translate("open", url.to_string(), url.as_str(), error))?;
    Ok(Opened {
        objects: Arc::new(store.with_fsync(true).with_automatic_cleanup(true)),
        pending: Some(BelowPrefix::new(Temporaries::below(path), Path::default())),
        origin: None,
    })
}
