//! The stores, each a real server of the test's own.

use walarchive_testkit::{AzuriteServer, Directory, GcsServer, MotoServer, S3Server, SftpServer, SwiftServer};

use crate::suite::conforms;

/// The columns of the table.
pub const STORES: [&str; 7] = [
    "directory",
    "S3 (s3s-fs)",
    "S3 (moto)",
    "GCS (moto)",
    "Azure (azurite)",
    "Swift",
    "SFTP (OpenSSH)",
];

#[test]
fn directory() {
    conforms(STORES[0], |dir| Box::new(Directory::start(dir)));
}

#[test]
fn s3s_fs() {
    conforms(STORES[1], |dir| Box::new(S3Server::start(dir, "bucket")));
}

#[test]
fn moto() {
    conforms(STORES[2], |dir| Box::new(MotoServer::start(dir, "bucket")));
}

#[test]
fn gcs() {
    conforms(STORES[3], |dir| Box::new(GcsServer::start(dir, "bucket")));
}

#[test]
fn azurite() {
    conforms(STORES[4], |dir| Box::new(AzuriteServer::start(dir, "container")));
}

#[test]
fn swift() {
    conforms(STORES[5], |dir| Box::new(SwiftServer::start(dir)));
}

#[test]
fn sftp() {
    conforms(STORES[6], |dir| Box::new(SftpServer::start(dir)));
}
