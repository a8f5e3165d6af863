//! The SFTP store against a real sshd on loopback.
#![allow(missing_docs, clippy::unwrap_used)]

mod conformance;
mod faults;
mod identity;
mod password;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::SftpServer;

fn config(server: &SftpServer, prefix: &str) -> StorageConfig {
    StorageConfig {
        options: server.options().parse().unwrap(),
        request_timeout: Duration::from_secs(20),
        patience: Duration::from_secs(20),
        ..StorageConfig::new(server.url(prefix))
    }
}

fn store(server: &SftpServer, prefix: &str) -> Store {
    Store::open(&config(server, prefix)).unwrap()
}

fn bytes(size: usize) -> Bytes {
    (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

/// All files below a directory, temporary ones too, relative to it.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
