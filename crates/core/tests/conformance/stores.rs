//! The stores, each a real server of the test's own.

use walarchive_testkit::{Directory, S3Server};

use crate::suite::conforms;

/// The columns of the table.
pub const STORES: [&str; 2] = ["directory", "S3 (s3s-fs)"];

#[test]
fn directory() {
    conforms(STORES[0], |dir| Box::new(Directory::start(dir)));
}

#[test]
fn s3s_fs() {
    conforms(STORES[1], |dir| Box::new(S3Server::start(dir, "bucket")));
}
