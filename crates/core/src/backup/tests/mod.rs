//! Whole backups of made-up data directories.

mod checksums;
mod copy;
mod delta;
mod encrypted;
mod lifecycle;
mod links;
mod stream;
mod tree;
mod unlogged;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::codec::Format;
use crate::control_file::tests::SYSTEM_IDENTIFIER;
use crate::repository::layout;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

const NAME: &str = "base_000000010000000000000002";

fn request(data_dir: &Path) -> BackupRequest {
    BackupRequest {
        data_dir: data_dir.to_owned(),
        start_lsn: Lsn(0x200_0028),
        timeline: 1,
        segment_size: SegmentSize::DEFAULT,
        server_version_num: 150_018,
        system_identifier: SYSTEM_IDENTIFIER,
        hostname: "host".to_owned(),
        permanent: true,
        user_data: Some(serde_json::json!({"a": 1}).into()),
        start_time: DateTime::UNIX_EPOCH,
        tablespaces: Vec::new(),
        emptied: Vec::new(),
        configuration: ConfigurationFiles::default(),
        parent: None,
        catchup: None,
    }
}

fn stop() -> StopResult {
    StopResult {
        stop_lsn: Lsn(0x400_0000),
        backup_label: "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                       CHECKPOINT LOCATION: 0/2000060\nSTART TIMELINE: 1\n"
            .to_owned(),
        tablespace_map: Some("16400 /ts\n".to_owned()),
        next_xid: Some(800),
    }
}

fn file_store(dir: &Path) -> Store {
    Store::open(&StorageConfig::new(format!("file://{}", dir.display()))).expect("a store")
}

async fn begin(store: &Store, request: BackupRequest, options: BackupOptions) -> crate::Result<Backup> {
    Backup::begin(store, request, options, Arc::default(), CancellationToken::new()).await
}

/// Every member of every tar: its content, or none for a directory. The tars' checksums are read to the end.
async fn members(store: &Store) -> BTreeMap<String, Option<Vec<u8>>> {
    members_of(store, NAME).await
}

/// The same of the backup of that name.
async fn members_of(store: &Store, name: &str) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for object in store.list(&layout::tar_folder(name)).await.expect("listed") {
        let stored = store.get(&object.key, u64::MAX).await.expect("read").expect("there");
        let (format, _) = Format::of_key(&object.key);
        let mut content = Vec::new();
        let mut decoder = format.decoder(stored.as_ref()).expect("a decoder");
        decoder.read_to_end(&mut content).expect("whole");
        for entry in tar::Archive::new(content.as_slice()).entries().expect("a tar") {
            let mut entry = entry.expect("a member");
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its content");
            let content = entry.header().entry_type().is_file().then_some(bytes);
            assert!(found.insert(name.clone(), content).is_none(), "{name} twice");
        }
    }
    found
}

/// The files of a directory and all below it.
fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
