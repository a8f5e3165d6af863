//! A server with WAL-G's configuration in its environment: nothing is stored in plain text if encryption was asked for, and
//! nothing is ignored in silence.

use walarchive_pg_test::archiving::{archiving, first_waiting, wait_message};
use walarchive_pg_test::repository::Repository;
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, TestDir};

#[test]
fn nothing_is_written_where_encryption_is_configured() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url())
        .env("WALG_LIBSODIUM_KEY", "0123456789abcdef0123456789ABCDEF")
        .start();
    let segment = first_waiting(&cluster);
    let message = wait_message(
        &cluster,
        0,
        &["WARNING", "WAL-G's settings ask for encryption", "WALG_LIBSODIUM_KEY"],
        PATIENCE,
    );
    assert!(message.contains("HINT:  Set walarchive.encryption"), "{message}");
    cluster.psql("CREATE EXTENSION walarchive");
    for sql in [
        "SELECT walarchive_backup_push()",
        "SELECT walarchive_backup_mark('base_000000010000000000000001')",
        "SELECT * FROM walarchive_delete_garbage(confirm => true)",
        "SELECT walarchive_take_over()",
    ] {
        let error = cluster.try_psql_verbose(sql);
        assert!(
            !error.success() && error.stderr.contains("WAL-G's settings ask for encryption"),
            "{sql}: {error:?}"
        );
    }
    let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'encryption'");
    assert!(
        row.starts_with("failed|") && row.contains("WALG_LIBSODIUM_KEY"),
        "{row}"
    );
    // Looking is no writing.
    assert_eq!(cluster.psql("SELECT count(*) FROM walarchive_backups"), "0");
    assert_eq!(cluster.waiting_files().first(), Some(&segment));
    let mark = cluster.log_mark();
    cluster.restart();
    wait_message(&cluster, mark, &["WARNING", "ask for encryption"], PATIENCE);
    let stored = std::fs::read_dir(repository.path().join("wal_005")).map_or(0, Iterator::count);
    assert_eq!(stored, 0, "not at the shutdown, either");
    let log = cluster.log();
    assert!(!log.contains("0123456789abcdef"), "the key is in the log");
    assert!(
        !repository.path().join("walarchive_005").exists(),
        "nobody has claimed it"
    );
}

/// Without any setting: the objects tell it.
#[test]
fn nothing_is_written_beside_what_wal_g_has_encrypted() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    // Each belongs to the server's user.
    dir.subdir("repository/basebackups_005");
    dir.subdir("repository/basebackups_005/base_000000010000000000000009");
    let tars = dir.subdir("repository/basebackups_005/base_000000010000000000000009/tar_partitions");
    let sealed = walarchive_testkit::sealed::by_libsodium(b"a tar", [7; 32]);
    for tar in ["part_001.tar.zst", "pg_control.tar.zst"] {
        std::fs::write(tars.join(tar), &sealed).expect("written");
    }
    let sentinel = tars.join("../../base_000000010000000000000009_backup_stop_sentinel.json");
    std::fs::write(sentinel, "{}").expect("written");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let mark = cluster.log_mark();
    let segment = cluster.switch_wal();
    let message = wait_message(
        &cluster,
        mark,
        &[
            "WARNING",
            ".tar.zst\" is encrypted",
            "writes nothing in plain text beside it",
        ],
        PATIENCE,
    );
    assert!(message.contains("HINT:  Set walarchive.encryption"), "{message}");
    cluster.psql("CREATE EXTENSION walarchive");
    let error = cluster.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(
        !error.success() && error.stderr.contains("writes nothing in plain text beside it"),
        "{error:?}"
    );
    let row = cluster.psql("SELECT status FROM walarchive_check() WHERE check_name = 'encryption'");
    assert_eq!(row, "failed");
    assert!(cluster.waiting_files().contains(&segment));
    // Listing needs no key.
    assert_eq!(cluster.psql("SELECT count(*) FROM walarchive_backups"), "1");
    std::fs::remove_dir_all(tars.join("../..")).expect("removed");
    cluster.wait_archived(&segment, PATIENCE);
    assert_eq!(
        cluster.psql("SELECT count(*) FROM walarchive_check() WHERE check_name = 'encryption'"),
        "0"
    );
}

#[test]
fn a_server_that_encryption_holds_back_keeps_its_lease() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let original = archiving(&dir, "c", &repository.url())
        .setting("walarchive.lease_interval", "1s")
        .start();
    let segment = original.switch_wal();
    original.wait_archived(&segment, PATIENCE);
    original.stop(StopMode::Fast);
    let refused = Cluster::builder(&dir, "attached")
        .env("WALG_LIBSODIUM_KEY", "0123456789abcdef0123456789ABCDEF")
        .attach_stopped(original.datadir());
    let alive = || std::fs::read(repository.path().join("walarchive_005/lease/00000001.alive.json")).ok();
    let before = alive();
    refused.start_again();
    refused.wait_until("the lease is renewed", PATIENCE, || alive() != before);
    let segment = refused.switch_wal();
    assert!(refused.waiting_files().contains(&segment), "and nothing is archived");
}

#[test]
fn variables_without_effect_are_named_at_the_start() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url())
        .env("WALG_S3_PREFIX", "s3://elsewhere")
        .env("WALG_COMPRESSION_METHOD", "brotli")
        .env("WALG_UPLOAD_CONCURRENCY", "4")
        .setting("walarchive.compression", "lz4")
        .start();
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    let log = cluster.log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("variables of WAL-G")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(
        named[0].contains("WARNING") && named[0].ends_with(": WALG_COMPRESSION_METHOD, WALG_S3_PREFIX"),
        "{named:?}"
    );
    let object = |segment: &str, suffix: &str| repository.path().join(format!("wal_005/{segment}.{suffix}"));
    assert!(object(&segment, "lz4").is_file());
    // The same with another compression: the archive is one.
    cluster.set("walarchive.compression", "lzma");
    cluster.reload();
    cluster.wait_until("the new setting counts", PATIENCE, || {
        cluster.psql("SHOW walarchive.compression") == "lzma"
    });
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    assert!(object(&segment, "lzma").is_file());
}

/// WAL and backups as WAL-G compresses them, by its names for that.
#[test]
fn other_methods_are_archived_backed_up_and_restored() {
    for (method, suffix) in [("lz4", "lz4"), ("lzma", "lzma"), ("brotli", "br")] {
        let site = Site::on_files();
        let primary = site.primary(&[("walarchive.compression", method)]);
        primary.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n");
        let name = backup(&primary, "");
        primary.psql("INSERT INTO t SELECT n, md5(n::text) FROM generate_series(2001, 3000) n");
        archive_all(&primary);
        let tars = site.objects(&format!("basebackups_005/{name}/tar_partitions"));
        assert!(
            !tars.is_empty() && tars.iter().all(|tar| tar.ends_with(&format!(".tar.{suffix}"))),
            "{tars:?}"
        );
        let restored = site.restored("restored").attach(&site.restore("restored", &name, &[]));
        restored.wait_promoted(PATIENCE);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "3000", "{method}");
    }
}
