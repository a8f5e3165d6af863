//! The place where the checks work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walarchive_storage::StorageConfig;
use walarchive_storage::{Listed, Store};
use walarchive_testkit::{StoreServer, TestDir};

use crate::suite::Trouble;

/// A server and what is needed to use it.
pub struct Place {
    pub server: Box<dyn StoreServer>,
    /// None where the server needs none that a file can hold.
    credentials: Option<PathBuf>,
    // Dropped after the server that works in it.
    _dir: TestDir,
}

impl Place {
    pub fn new(start: impl FnOnce(&TestDir) -> Box<dyn StoreServer>) -> Place {
        let dir = TestDir::new();
        let server = start(&dir);
        let lines = server.credentials();
        let credentials = (!lines.is_empty()).then(|| dir.credentials_file("credentials", &lines));
        Place {
            server,
            credentials,
            _dir: dir,
        }
    }

    /// The repository below this prefix, with connections of its own.
    pub fn open(&self, prefix: &str) -> Result<Store, Trouble> {
        let config = self.config(prefix)?;
        let store = Store::open(&config)?;
        let shown = format!("{config:?} {store:?} {store:#?}");
        let leaked = self.server.secrets().iter().any(|secret| shown.contains(secret));
        assert!(!leaked, "a secret in Debug");
        Ok(store)
    }

    /// How to open it.
    pub fn config(&self, prefix: &str) -> Result<StorageConfig, Trouble> {
        let mut config = StorageConfig::new(self.server.url(prefix));
        config.options = self.server.options().parse()?;
        config.credentials_file = self.credentials.clone();
        Ok(config)
    }

    /// All files that the server keeps its objects in, if the test can look.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        if let Some(root) = self.server.files() {
            collect(&root, &mut files);
        }
        files
    }
}

fn collect(dir: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            _ => _ = files.insert(entry.path()),
        }
    }
}

/// The place of a check: a store, and a folder in it that is the check's own.
#[derive(Clone)]
pub struct Room {
    pub place: Arc<Place>,
    pub store: Store,
    pub folder: String,
}

impl Room {
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// The names of all objects in the check's folder, sorted.
    pub async fn names(&self) -> Result<Vec<String>, Trouble> {
        self.relative(self.store.list(&self.folder).await?)
    }

    /// The same of a listing in it.
    pub fn relative(&self, listing: Vec<Listed>) -> Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        for Listed { key, .. } in listing {
            let name = key.strip_prefix(&self.folder).and_then(|rest| rest.strip_prefix('/'));
            names.push(
                name.ok_or_else(|| format!("{key:?} is not in {}", self.folder))?
                    .to_owned(),
            );
        }
        names.sort();
        Ok(names)
    }
}
