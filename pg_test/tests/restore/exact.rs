//! Restores that keep what is there already, bring back a part, or make a copy.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused};
use walarchive_testkit::{PATIENCE, StopMode};

#[test]
fn a_restore_into_the_old_directory_fetches_what_differs() {
    let site = Site::on_files();
    let space = site.dir().subdir("space");
    let primary = site.primary(&[]);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql(
        "CREATE TABLE t AS SELECT generate_series(1, 20000) AS a; CREATE TABLE s TABLESPACE space AS TABLE t;
         CREATE TABLE gone AS TABLE t",
    );
    let file = |table: &str| primary.psql(&format!("SELECT pg_relation_filepath('{table}')"));
    let (damaged, lost) = (file("t"), file("gone"));
    backup(&primary, "");
    primary.psql("SELECT pg_create_restore_point('there'); DROP TABLE s; CREATE TABLE later AS TABLE t");
    archive_all(&primary);
    let stray = file("later");
    let running = site.backup_fetch("primary", "LATEST", &["--delta"]).1;
    assert!(!running.success() && running.stderr.contains("HINT"), "{running:?}");
    primary.stop(StopMode::Fast);
    // A bit flips, and the time of the file remains.
    let path = primary.datadir().join(&damaged);
    let modified = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
    let mut content = fs::read(&path).expect("could not read");
    content[5000] ^= 1;
    fs::write(&path, content).expect("could not write");
    let touched = fs::File::options().write(true).open(&path);
    touched
        .and_then(|file| file.set_modified(modified))
        .expect("could not set a time");
    fs::remove_file(primary.datadir().join(&lost)).expect("could not remove");
    fs::write(primary.datadir().join("base/1/stray"), "stray").expect("could not write");
    fs::set_permissions(
        primary.datadir().join("base/1/stray"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("could not set the mode");

    let args = ["--delta", "--target-name", "there", "--target-action", "promote"];
    let plan = site
        .backup_fetch("primary", "LATEST", &[&args[..], &["--dry-run"]].concat())
        .1;
    let plan = plan.expect_success();
    assert!(plan.contains("which stay") && plan.contains("removed"), "{plan}");
    assert!(
        primary.datadir().join("base/1/stray").exists(),
        "a dry run changed something"
    );
    site.restore("primary", "LATEST", &args);
    assert!(!primary.datadir().join("base/1/stray").exists());
    assert!(!primary.datadir().join(&stray).exists());
    primary.start_again();
    primary.wait_promoted(PATIENCE);
    assert_eq!(
        primary.psql("SELECT (SELECT sum(a) FROM t), (SELECT sum(a) FROM s), (SELECT count(*) FROM gone)"),
        "200010000|200010000|20000"
    );
    primary.amcheck();
}

#[test]
fn one_database_comes_back_and_the_others_can_be_dropped() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    for name in ["wanted", "other"] {
        primary.psql(&format!("CREATE DATABASE {name}"));
        primary.psql_db(name, "CREATE TABLE t AS SELECT generate_series(1, 20000) AS a");
    }
    let oid = primary.psql("SELECT oid FROM pg_database WHERE datname = 'wanted'");
    backup(&primary, "");
    // Replay goes over the pages of both.
    for name in ["wanted", "other"] {
        primary.psql_db(
            name,
            "UPDATE t SET a = a + 1 WHERE a % 2 = 0; INSERT INTO t VALUES (0); VACUUM t",
        );
    }
    archive_all(&primary);
    lose(&primary);
    let (target, output) = site.backup_fetch("restored", "LATEST", &["--restore-only", &oid]);
    output.expect_success();
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql_db("wanted", "SELECT count(*), sum(a) FROM t"),
        "20001|200020000"
    );
    restored.psql("DROP DATABASE other");
    assert_eq!(
        restored.psql("SELECT count(*) FROM pg_database WHERE datname = 'other'"),
        "0"
    );
    restored.psql_db("wanted", "VACUUM; CHECKPOINT");
}

#[test]
fn a_copy_beside_the_original_does_not_archive() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    archive_all(&primary);
    let before = site.objects("wal_005");
    let args = ["--archive-off", "--target-immediate"];
    let target = site.restore("copy", "LATEST", &args);
    let copy = site.builder("copy").attach(&target);
    wait_paused(&copy);
    assert_eq!(copy.psql("SHOW archive_mode"), "off");
    copy.psql("SELECT pg_wal_replay_resume()");
    copy.wait_promoted(PATIENCE);
    copy.switch_wal();
    assert_eq!(site.objects("wal_005"), before);
}

/// Losses of the server's own files are reported, and do not go unseen into the only copy.
#[test]
fn a_page_with_a_wrong_checksum_is_reported_or_ends_the_backup() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a");
    let file = primary.psql("SELECT pg_relation_filepath('t')");
    primary.stop(StopMode::Fast);
    let path = primary.datadir().join(&file);
    let mut content = fs::read(&path).expect("could not read");
    content[3 * 8192 + 5000] ^= 1;
    fs::write(&path, content).expect("could not write");
    primary.start_again();
    let (name, warning) = primary.psql_verbose("SELECT walarchive_backup_push()");
    assert!(warning.contains("WARNING:") && warning.contains("XX001"), "{warning}");
    assert!(
        warning.contains(&format!("{file} (block 3)")) && warning.contains("HINT:"),
        "{warning}"
    );
    let column = format!("SELECT corrupt_pages FROM walarchive_backups WHERE backup_name = '{name}'");
    assert_eq!(primary.psql(&column), "1");
    let metadata = site.object(&format!("basebackups_005/{name}/files_metadata.json"));
    let metadata = fs::read_to_string(metadata).expect("could not read");
    assert!(metadata.contains(r#""CorruptBlocks":{"CorruptBlocksCount":1,"SomeCorruptBlocks":[3]}"#));

    primary.set("walarchive.on_checksum_failure", "error");
    primary.reload();
    let before = site.objects("basebackups_005");
    let refused = primary.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(
        !refused.success() && refused.stderr.contains("ERROR:  XX001"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains(&file) && refused.stderr.contains("HINT:"),
        "{refused:?}"
    );
    assert_eq!(site.objects("basebackups_005"), before);
}
