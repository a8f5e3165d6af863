//! A directory as a store: every file and its directory entry are flushed to disk before a write is acknowledged. Reading and
//! writing follow symbolic links; removing does not, but for the directory of the repository itself.

mod directory;
mod lenient;
mod remove;
mod uploads;

use std::io::Error as IoError;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use self::directory::Directory;
use self::lenient::Lenient;
use self::uploads::Temporaries;
use crate::error::{Error, Result};
use crate::odd::Odd;
use crate::opened::Opened;
use crate::pending::BelowPrefix;

/// As object_store's errors name it.
const STORE: &str = "LocalFileSystem";

fn failed(error: impl Into<IoError>) -> object_store::Error {
    object_store::Error::Generic {
        store: STORE,
        source: Box::new(error.into()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> object_store::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| object_store::Error::JoinError { source })
}

/// The directory must exist: a missing one is more often an unmounted file system than a new repository.
pub(crate) fn open(url: &Url) -> Result<Opened> {
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
        .map_err(|error| crate::errors::translate("open", url.to_string(), url.as_str(), error))?;
    let root = std::fs::canonicalize(&path).map_err(|error| Error::io("open", &path, error))?;
    let odd = Arc::<Odd>::default();
    let store = Directory::over(store.with_fsync(true), root.clone());
    Ok(Opened {
        objects: Arc::new(Lenient::over(store, root.clone(), odd.clone())),
        pending: Some(BelowPrefix::new(Temporaries::below(root), Path::default())),
        odd,
        origin: None,
    })
}
