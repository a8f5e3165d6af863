//! A repository in a directory, and the keys of those who write into it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use walarchive_storage::crypt::{EncryptionConfig, Method};
use walarchive_storage::{StorageConfig, Store};

use crate::repository::cluster::ClusterIdentity;
use crate::wal::SegmentSize;

pub(crate) const SECRET: &[u8] = include_bytes!("../../../../storage/tests/wal-g/pgp-secret.asc");
pub(crate) const PUBLIC: &[u8] = include_bytes!("../../../../storage/tests/wal-g/pgp-public.asc");

/// The key in file "a".
pub(crate) const KEY: [u8; 32] = [0x17; 32];

pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("store")).expect("made");
        let place = Place { dir };
        place.write("a", "17".repeat(32).as_bytes());
        place.write("b", "2b".repeat(32).as_bytes());
        place.write("secret", SECRET);
        place.write("public", PUBLIC);
        place
    }

    fn write(&self, name: &str, content: &[u8]) {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        let mut file = file.open(self.path(name)).expect("made");
        file.write_all(content).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The store for somebody with these files of keys, who encrypts by this method.
    pub(crate) fn store(&self, writes: Option<Method>, keys: &[&str]) -> Store {
        self.store_at("store", writes, keys, false)
    }

    pub(crate) fn store_at(&self, name: &str, writes: Option<Method>, keys: &[&str], accept_plain: bool) -> Store {
        let config = EncryptionConfig {
            writes,
            key_files: self.paths(keys),
            accept_plain,
            ..EncryptionConfig::default()
        };
        self.open(name, config)
    }

    /// For somebody who encrypts metadata, too.
    pub(crate) fn store_of_secrets(&self, writes: Option<Method>, keys: &[&str]) -> Store {
        let config = EncryptionConfig {
            writes,
            key_files: self.paths(keys),
            metadata: true,
            ..EncryptionConfig::default()
        };
        self.open("store", config)
    }

    fn paths(&self, keys: &[&str]) -> Vec<PathBuf> {
        keys.iter().map(|key| self.path(key)).collect()
    }

    fn open(&self, name: &str, encryption: EncryptionConfig) -> Store {
        std::fs::create_dir_all(self.path(name)).expect("made");
        let mut config = StorageConfig::new(format!("file://{}", self.path(name).display()));
        config.encryption = encryption;
        Store::open(&config).expect("opened")
    }
}

pub(crate) fn identity() -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: 7,
        major_version: 15,
        segment_size: SegmentSize::new(1 << 20).expect("a size"),
    }
}
