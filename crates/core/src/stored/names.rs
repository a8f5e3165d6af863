//! Finding the names of a few files for a message, as the table of files has none.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use super::fetch::read_with;
use super::metadata::{FileFlags, LIMIT, listen_to, metadata_object};
use super::table::{Keys, PathHash};
use crate::error::Result;
use crate::formats::files_metadata::Listener;
use crate::formats::manifest;
use crate::repository::layout;
use walarchive_storage::Store;

/// So many are looked up for a message.
pub(crate) const NAMED: usize = 10;

/// The object that lists the files of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListSource {
    FilesMetadata,
    Manifest,
}

struct Names {
    keys: Keys,
    wanted: HashSet<PathHash>,
    found: Vec<String>,
}

impl Names {
    fn look_at(&mut self, path: &[u8]) {
        if self.wanted.remove(&self.keys.of(path)) {
            self.found
                .push(String::from_utf8_lossy(path).escape_debug().to_string());
        }
    }
}

impl Listener for Names {
    type File = FileFlags;

    fn file(&mut self, path: &str, _: FileFlags) -> Result<(), String> {
        self.look_at(path.trim_matches('/').as_bytes());
        Ok(())
    }
}

/// The paths that belong to these keys, in order.
pub(crate) async fn names(
    store: &Store,
    backup: &str,
    source: ListSource,
    keys: Keys,
    wanted: HashSet<PathHash>,
) -> Result<Vec<String>> {
    let mut names = Names {
        keys,
        wanted,
        found: Vec::new(),
    };
    let names = if source == ListSource::FilesMetadata {
        let (key, size) = metadata_object(store, backup).await?;
        listen_to(store, &key, size, names).await?
    } else {
        let key = layout::backup_manifest(backup);
        let size = store.size(&key).await?.unwrap_or_default();
        let read = move |source: &mut dyn Read| {
            let look = |file: manifest::ManifestFile| {
                names.look_at(file.path.as_os_str().as_bytes());
                Ok(())
            };
            manifest::listen(source.take(LIMIT), look)??;
            Ok(names)
        };
        read_with(store, &key, size, read).await?
    };
    let mut found = names.found;
    found.sort();
    Ok(found)
}
