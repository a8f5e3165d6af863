//! The main job on every store: archive a workload, back up, lose the server, restore, compare.
//!
//! Half of them find their credentials in the environment, half in a file.

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{
    AzuriteServer, Directory, GcsServer, MotoServer, PATIENCE, S3Server, SftpServer, SwiftServer, run,
};

/// 15 MB that do not compress, so that a tar has several parts.
const BEFORE_BACKUP: &str = "CREATE TABLE t AS
    SELECT gen_random_uuid() AS a, gen_random_uuid() AS b, gen_random_uuid() AS c FROM generate_series(1, 300000)";

/// A load in a few WAL segments that the backup does not hold.
const AFTER_BACKUP: &str = "INSERT INTO t
    SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 400000)";

const FINGERPRINT: &str = "SELECT count(*), sum(hashtextextended(r::text, 1)) FROM t r";

fn does_the_main_job(site: &Site) {
    let primary = site.primary(&[]);
    primary.psql(BEFORE_BACKUP);
    let name = backup(&primary, "");
    primary.psql(AFTER_BACKUP);
    archive_all(&primary);
    assert_eq!(primary.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    assert_eq!(
        primary.psql("SELECT backup_name, problem FROM walarchive_backups"),
        format!("{name}|")
    );
    let before = primary.psql(FINGERPRINT);
    lose(&primary);

    let list = run(&mut site.walarchive(&["backup-list"])).expect_success();
    assert!(list.contains(&name), "{list}");
    let target = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(FINGERPRINT), before);
    restored.amcheck();
}

#[test]
fn directory() {
    does_the_main_job(&Site::on(Directory::start));
}

#[test]
fn s3s_fs() {
    does_the_main_job(&Site::on(|dir| S3Server::start(dir, "bucket")).with_credentials_file());
}

#[test]
fn moto() {
    does_the_main_job(&Site::on(|dir| MotoServer::start(dir, "bucket")));
}

#[test]
fn gcs() {
    does_the_main_job(&Site::on(|dir| GcsServer::start(dir, "bucket")));
}

#[test]
fn azurite() {
    does_the_main_job(&Site::on(|dir| AzuriteServer::start(dir, "container")).with_credentials_file());
}

#[test]
fn swift() {
    does_the_main_job(&Site::on(SwiftServer::start));
}

#[test]
fn sftp() {
    does_the_main_job(&Site::on(SftpServer::start));
}
