//! The main job: archive, back up, lose the machine, get everything back.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, PATIENCE, run};

/// Figures that change when any row of pgbench's does.
const FINGERPRINT: &str = "SELECT count(*), sum(hashtextextended(a::text, 1)) FROM pgbench_accounts a;
    SELECT count(*), sum(hashtextextended(h::text, 1)) FROM pgbench_history h;
    SELECT count(*), sum(hashtextextended(t::text, 1)) FROM pgbench_tellers t;
    SELECT count(*), sum(hashtextextended(n::text, 1)) FROM notes n";

/// Workload, backup under load, more workload, loss, restore.
fn lose_and_restore(site: &Site, primary: &Cluster) {
    primary.psql("CREATE EXTENSION IF NOT EXISTS walarchive; CREATE TABLE notes (id int PRIMARY KEY, what text)");
    primary.pgbench(&["-i", "-s", "1", "-q"]);
    primary.psql("INSERT INTO notes VALUES (1, 'before the backup')");
    let load = primary.background_pgbench(&["-n", "-c", "2", "-T", "2"]);
    let name = backup(primary, "");
    load.wait(PATIENCE).expect_success();
    primary.psql("INSERT INTO notes VALUES (2, 'after the backup')");
    primary.pgbench(&["-n", "-c", "2", "-t", "100"]);
    archive_all(primary);
    let before = primary.psql(FINGERPRINT);
    lose(primary);

    let target = site.restore("restored", "LATEST", &[]);
    assert!(fs::read_to_string(target.join("backup_label")).is_ok_and(|label| label.contains(&name["base_".len()..])));
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(FINGERPRINT), before);
    assert_eq!(
        restored.psql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM notes"),
        "1 2"
    );
    if !restored.amcheck() {
        assert_ne!(restored.pg().major(), 15, "Debian's PostgreSQL 15 has amcheck");
        eprintln!("skipped: PostgreSQL {} here has no amcheck", restored.pg().major());
    }
}

#[test]
fn every_committed_row_comes_back() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    lose_and_restore(&site, &primary);
}

#[test]
fn small_segments_do_the_whole_job_too() {
    let site = Site::on_files();
    let primary = site.builder("primary").initdb_arg("--wal-segsize=1").start();
    lose_and_restore(&site, &primary);
    let segments = site.objects("wal_005").into_iter().filter(|key| key.ends_with(".zst"));
    assert!(segments.count() > 5, "they are not of 1 MB");
    let list = run(&mut site.walarchive(&["backup-list", "--json"])).expect_success();
    assert!(list.contains("\"wal_file_name\":\"0000000100000000000000"), "{list}");
}

#[test]
fn zstd_and_tar_alone_get_the_data_back() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    // The archived segment is not yet recycled, so that it can be compared.
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment, PATIENCE);
    // An absolute path is not looked for among the programs of PostgreSQL.
    let unpack = |key: &str, then: &str| {
        let mut shell = site.pg().program("/bin/bash");
        let script = format!("zstd -dc '{}' | {then}", site.object(key).display());
        run(shell.args(["-o", "pipefail", "-c", &script])).expect_success()
    };
    let original = primary.datadir().join("pg_wal").join(&segment);
    let same = format!("cmp - '{}' && echo same", original.display());
    assert_eq!(unpack(&format!("wal_005/{segment}.zst"), &same), "same");

    let name = backup(&primary, "");
    let file = primary.psql("SELECT pg_relation_filepath('t')");
    let tars: Vec<String> = site.objects(&format!("basebackups_005/{name}/tar_partitions"));
    let listed: Vec<String> = tars.iter().map(|tar| unpack(tar, "tar -tP")).collect();
    let holders = listed
        .iter()
        .filter(|list| list.lines().any(|line| line == format!("/{file}")));
    assert_eq!(holders.count(), 1, "{tars:?}");
    let control = tars
        .iter()
        .position(|tar| tar.ends_with("/pg_control.tar.zst"))
        .expect("no pg_control.tar");
    assert_eq!(listed[control], "/global/pg_control");
    let label = unpack(
        &format!("basebackups_005/{name}/tar_partitions/backup_label.tar.zst"),
        "tar -xO backup_label",
    );
    assert!(label.starts_with("START WAL LOCATION: "), "{label}");
}

#[test]
fn tablespaces_move_and_are_not_overwritten() {
    let site = Site::on_files();
    let (old, new) = (site.dir().subdir("old space"), site.dir().join("new=space"));
    let primary = site.primary(&[]);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", old.display()));
    primary.psql("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS a");
    let oid = primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'");
    backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (1001)");
    archive_all(&primary);

    // The machine lives: its tablespace must not be touched.
    let (target, refused) = site.backup_fetch("second", "LATEST", &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&old.display().to_string()), "{refused:?}");
    assert!(!target.join("global/pg_control").exists());

    let map = format!("{}={}", old.display(), new.display().to_string().replace('=', "\\="));
    let target = site.restore("second", "LATEST", &["--tablespace-map", &map]);
    assert_eq!(
        fs::read_link(target.join("pg_tblspc").join(&oid)).expect("no link"),
        new
    );
    let second = site.restored("second").attach(&target);
    second.wait_promoted(PATIENCE);
    second.psql("INSERT INTO t VALUES (1002)");
    assert_eq!(second.psql("SELECT count(*), max(a) FROM t"), "1002|1002");
    assert_eq!(primary.psql("SELECT count(*), max(a) FROM t"), "1001|1001");
    drop(second);

    // Lost as well, it comes back to where it was.
    lose(&primary);
    fs::remove_dir_all(&old).expect("could not remove the tablespace");
    // Nobody is there to be asked: a test's standard input is no terminal.
    let (target, refused) = site.backup_fetch("third", "LATEST", &[]);
    let place = format!("tablespace {oid} would go to {old:?}, which only the repository names");
    assert!(
        refused.code == Some(1)
            && refused.stderr.contains(&place)
            && refused.stderr.contains("--tablespace-map-original"),
        "{refused:?}"
    );
    assert!(!target.exists() && !old.exists());
    let target = site.restore("third", "LATEST", &["--tablespace-map-original"]);
    assert_eq!(
        fs::read_link(target.join("pg_tblspc").join(&oid)).expect("no link"),
        old
    );
    let third = site.restored("third").attach(&target);
    third.wait_promoted(PATIENCE);
    assert_eq!(third.psql("SELECT count(*), max(a) FROM t"), "1001|1001");
}

#[test]
fn unlogged_tables_come_back_empty() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE UNLOGGED TABLE u (a int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 1000)");
    primary.psql("CREATE TABLE t AS TABLE u; CHECKPOINT");
    let (main, init) = {
        let file = primary.psql("SELECT pg_relation_filepath('u')");
        (format!("\"/{file}\""), format!("\"/{file}_init\""))
    };
    let name = backup(&primary, "");
    let files = fs::read_to_string(site.object(&format!("basebackups_005/{name}/files_metadata.json")));
    let files = files.expect("no files metadata");
    assert!(!files.contains(&main) && files.contains(&init), "{main}");
    archive_all(&primary);

    let target = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql("SELECT count(*) FROM t; SELECT count(*) FROM u"),
        "1000\n0"
    );
    restored.psql("INSERT INTO u VALUES (1)");
}

#[test]
fn only_an_empty_directory_is_restored_into() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let occupied = site.dir().subdir("occupied");
    fs::write(occupied.join("file"), "of somebody").expect("could not write");
    let (_, refused) = site.backup_fetch("occupied", "LATEST", &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("occupied"), "{refused:?}");
    let running = primary.datadir().to_string_lossy().into_owned();
    let refused = run(&mut site.walarchive(&["backup-fetch", &running, "LATEST"]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(fs::read_dir(&occupied).expect("unreadable").count(), 1);

    let quiet = site.restore("plain", "LATEST", &["--no-recovery"]);
    assert!(!quiet.join("recovery.signal").exists() && !quiet.join("standby.signal").exists());
    let plain = fs::read_to_string(quiet.join("postgresql.auto.conf")).expect("no postgresql.auto.conf");
    assert!(!plain.contains("restore_command"), "{plain}");
    let ready = site.restore("ready", "LATEST", &[]);
    let conf = fs::read_to_string(ready.join("postgresql.auto.conf")).expect("no postgresql.auto.conf");
    assert!(
        ready.join("recovery.signal").exists() && conf.contains("wal-fetch"),
        "{conf}"
    );
}
