//! Backups of servers of PostgreSQL 9.6 to 14, taken and restored by the binary, and recovered to a point.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use walarchive_pg_test::drills::{Place, assert_failed, detail, sql_file, status};
use walarchive_pg_test::old;
use walarchive_pg_test::site::{Site, archive_all, lose, wait_paused, wait_settled};
use walarchive_testkit::{Background, Cluster, PATIENCE, StopMode, run};

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

/// All that is in the tablespace.
const CONTENT: &str = "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM in_tablespace";

fn insert(cluster: &Cluster, id: u32) -> String {
    cluster.psql(&format!("INSERT INTO t VALUES ({id}) RETURNING pg_current_xact_id()"))
}

/// A cluster with a table, and another one in a tablespace that is in the directory `ts`.
fn primary(site: &Site) -> Cluster {
    let primary = old::builder(site, "primary").start();
    let tablespace = site.dir().subdir("ts");
    primary.psql(&format!("CREATE TABLESPACE ts LOCATION '{}'", tablespace.display()));
    primary.psql(
        "CREATE TABLE t (id int);
         CREATE TABLE in_tablespace TABLESPACE ts AS
           SELECT g AS id, repeat(md5(g::text), 4) AS text FROM generate_series(1, 20000) g;
         CREATE TABLE untouched AS SELECT generate_series(1, 50000);
         CREATE UNLOGGED TABLE forgotten AS SELECT 1;
         CREATE DATABASE inside TABLESPACE ts",
    );
    wait_settled(&primary);
    primary
}

#[test]
fn a_delta_with_a_tablespace_is_recovered_to_each_kind_of_target() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 1);
    let full = old::backup(&site, &primary, &["--full"]);
    primary.psql("UPDATE in_tablespace SET text = 'new' WHERE id % 100 = 7");
    insert(&primary, 2);
    let delta = old::backup(&site, &primary, &[]);
    assert!(delta.contains("_D_") && !full.contains("_D_"), "{full} {delta}");
    primary.psql("UPDATE in_tablespace SET text = 'later' WHERE id % 100 = 8");
    insert(&primary, 3);
    primary.psql("SELECT pg_create_restore_point('it''s here')");
    insert(&primary, 4);
    let time = primary.psql("SELECT clock_timestamp()");
    insert(&primary, 5);
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let xid = insert(&primary, 6);
    insert(&primary, 7);
    let content = primary.psql(CONTENT);
    archive_all(&primary);
    for name in [&full, &delta] {
        verify_backup(&site, &primary, name);
    }
    lose(&primary);

    let targets: [(&str, &[&str], &str); 6] = [
        (&delta, &["--target-name", "it's here"], "1 2 3"),
        ("LATEST", &["--target-time", &time], "1 2 3 4"),
        (&full, &["--target-lsn", &lsn], "1 2 3 4 5"),
        ("LATEST", &["--target-xid", &xid], "1 2 3 4 5 6"),
        (&full, &["--target-xid", &xid, "--target-exclusive"], "1 2 3 4 5"),
        (&delta, &["--target-immediate"], "1 2"),
    ];
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--tablespace-map-all", &tablespaces.to_string_lossy()];
    for (backup, args, rows) in targets {
        if args[0] == "--target-lsn" && site.pg().major() < 10 {
            lsn_is_refused(&site, backup, args);
            shuts_down_without_hot_standby(&site, &[&map[..], &["--target-name", "it's here"]].concat());
            continue;
        }
        let target = old::restore(&site, "restored", backup, &[&map[..], args].concat());
        let restored = old::restored(&site, "restored")
            .setting("archive_mode", "off")
            .attach(&target);
        wait_paused(&restored);
        assert_eq!(restored.psql(ROWS), rows, "{backup} {args:?}");
        if args[0] != "--target-immediate" {
            assert_eq!(restored.psql(CONTENT), content, "{backup} {args:?}");
        }
        assert_eq!(restored.psql("SELECT count(*) FROM untouched"), "50000");
        assert_eq!(restored.psql_db("inside", "SELECT 1"), "1");
        drop(restored);
        for directory in [&target, &tablespaces] {
            fs::remove_dir_all(directory).expect("could not remove what was restored");
        }
    }
}

/// PostgreSQL 9.6 does not know such a target.
fn lsn_is_refused(site: &Site, backup: &str, args: &[&str]) {
    let (target, refused) = site.backup_fetch("refused", backup, args);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("cannot recover to an LSN") && !target.exists(),
        "{refused:?}"
    );
}

/// Nor does it pause for nobody, and this is its default.
fn shuts_down_without_hot_standby(site: &Site, args: &[&str]) {
    let (target, fetched) = site.backup_fetch("restored", "LATEST", args);
    assert!(
        fetched.success() && fetched.stderr.contains("only with hot_standby = on"),
        "{fetched:?}"
    );
    let builder = old::restored(site, "restored").setting("archive_mode", "off");
    let restored = builder.setting("hot_standby", "off").attach_stopped(&target);
    restored.spawn_server();
    restored.wait_stopped(PATIENCE);
    assert!(
        restored.log().contains("recovery stopping at restore point"),
        "{}",
        restored.log()
    );
    assert!(target.join("recovery.conf").exists(), "it has not become a primary");
    for directory in [target, site.dir().join("tablespaces")] {
        fs::remove_dir_all(directory).expect("could not remove what was restored");
    }
}

#[test]
fn what_is_restored_archives_on_and_can_be_followed() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 1);
    old::backup(&site, &primary, &["--full"]);
    primary.psql("SELECT pg_create_restore_point('there')");
    insert(&primary, 2);
    archive_all(&primary);
    lose(&primary);

    // In place, with WAL on another disk, and promoted: a new timeline, which the archive has.
    let (ts, wal) = (site.dir().join("ts"), site.dir().subdir("wal"));
    let map = format!("{}={}", ts.display(), ts.display());
    let flags = ["--tablespace-map", &map, "--take-over"];
    let promote = ["--target-name", "there", "--target-action", "promote"];
    let waldir = ["--waldir", &wal.to_string_lossy()];
    fs::remove_dir_all(&ts).expect("could not remove the tablespace");
    let target = old::restore(&site, "primary", "LATEST", &[&flags[..], &promote, &waldir].concat());
    let link = fs::read_link(target.join(site.pg().wal_directory()));
    assert_eq!(link.expect("a link"), wal);
    let promoted = old::builder(&site, "primary").attach(&target);
    promoted.wait_promoted(PATIENCE);
    assert_eq!(promoted.psql(ROWS), "1");
    insert(&promoted, 3);
    archive_all(&promoted);
    let archived = site.objects("wal_005");
    assert!(
        archived.iter().any(|key| key.contains("00000002.history")),
        "{archived:?}"
    );
    assert_eq!(promoted.psql("SELECT count(*) FROM forgotten"), "0");

    // A standby reads the archive, and goes on when there is more.
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--standby", "--tablespace-map-all", &tablespaces.to_string_lossy()];
    let target = old::restore(&site, "standby", "LATEST", &map);
    let standby = old::restored(&site, "standby").attach(&target);
    let follows = |rows: &str| {
        let what = format!("the standby has the rows {rows}");
        standby.wait_until(&what, PATIENCE, || standby.psql(ROWS) == rows);
    };
    follows("1 3");
    insert(&promoted, 4);
    archive_all(&promoted);
    follows("1 3 4");
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");

    // The standby is backed up, while the primary works. Its pg_control may be on the old timeline still.
    promoted.psql("CHECKPOINT");
    insert(&promoted, 5);
    archive_all(&promoted);
    follows("1 3 4 5");
    let datadir = target.to_string_lossy();
    let mut push = old::walarchive(&site, &standby, &["backup-push", &datadir, "--full"]);
    let mut pushing = Background::spawn(&mut push, None);
    standby.wait_until("the backup is taken", PATIENCE, || {
        archive_all(&promoted);
        !pushing.is_running()
    });
    let of_standby = pushing.wait(PATIENCE).expect_success();
    verify_backup(&site, &promoted, &of_standby);

    // The primary is lost, and the standby takes its place.
    lose(&promoted);
    let pg_ctl = run(site.pg().program("pg_ctl").args(["promote", "-D"]).arg(&target));
    pg_ctl.expect_success();
    standby.wait_promoted(PATIENCE);
    insert(&standby, 6);
    assert_eq!(standby.psql(ROWS), "1 3 4 5 6");
    archive_all(&standby);
    verify_all(&site, &standby);
    drop(standby);

    // Its backup leads to the newest timeline.
    for directory in [&target, &tablespaces] {
        fs::remove_dir_all(directory).expect("could not remove the standby");
    }
    let map = ["--archive-off", "--tablespace-map-all", &tablespaces.to_string_lossy()];
    let target = old::restore(&site, "standby", &of_standby, &map);
    let restored = old::restored(&site, "standby").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 3 4 5 6");
}

#[test]
fn a_backup_over_the_replication_protocol_is_restored() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 1);
    let hba = primary.datadir().join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).expect("read") + "local replication all trust\n";
    fs::write(&hba, rules).expect("written");
    primary.reload();
    // As from another machine: it is told where the store is, and not where the data directory is.
    let mut push = site.walarchive(&["backup-push"]);
    let name = run(old::server_of(&mut push, &primary)).expect_success();
    verify_backup(&site, &primary, &name);
    insert(&primary, 2);
    archive_all(&primary);
    lose(&primary);
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--archive-off", "--tablespace-map-all", &tablespaces.to_string_lossy()];
    let target = old::restore(&site, "restored", &name, &map);
    let restored = old::restored(&site, "restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 2");
    assert_eq!(restored.psql("SELECT count(*) FROM in_tablespace"), "20000");
}

/// All of the backup is there, and its pages are intact.
fn verify_backup(site: &Site, cluster: &Cluster, name: &str) {
    let verified = run(&mut old::walarchive(site, cluster, &["backup-verify", name]));
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// All WAL of all timelines is there, and its content is what it should be.
fn verify_all(site: &Site, cluster: &Cluster) {
    let args = ["wal-verify", "integrity", "timeline", "content", "--all"];
    let verified = run(&mut old::walarchive(site, cluster, &args));
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn a_directory_is_brought_back_and_only_what_differs_is_fetched() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 1);
    let full = old::backup(&site, &primary, &["--full"]);
    insert(&primary, 2);
    archive_all(&primary);
    primary.stop(StopMode::Immediate);
    let (ts, data) = (site.dir().join("ts"), primary.datadir());
    let map = format!("{}={}", ts.display(), ts.display());
    let pages = data.join("base/1/1259");
    fs::write(&pages, "damaged").expect("written");
    fs::write(data.join("recovery.conf"), "standby_mode = on").expect("written");
    let dry = ["--tablespace-map", &map, "--delta", "--dry-run"];
    let (_, shown) = site.backup_fetch("primary", &full, &dry);
    assert!(shown.success(), "{shown:?}");
    let kept = shown.stdout.lines().find(|line| line.starts_with("there:"));
    let kept: u32 = kept
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_else(|| panic!("{shown:?}"));
    assert!(kept > 500, "{shown:?}");
    old::restore(
        &site,
        "primary",
        &full,
        &["--tablespace-map", &map, "--delta", "--take-over"],
    );
    assert!(fs::metadata(&pages).expect("there").len() > 8000);
    is_of_its_version(&site, data);
    let restored = old::builder(&site, "primary").attach(data);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 2");
    assert_eq!(restored.psql("SELECT count(*) FROM in_tablespace"), "20000");
}

/// The settings of an earlier recovery are gone.
fn is_of_its_version(site: &Site, data: &Path) {
    let told = fs::read_to_string(data.join("recovery.conf")).unwrap_or_default();
    assert_eq!(told.contains("restore_command"), site.pg().major() < 12, "{told}");
    assert!(!told.contains("standby_mode"), "{told}");
}

#[test]
fn a_table_comes_back_by_name() {
    let site = Site::on_files();
    let primary = old::builder(&site, "primary").start();
    primary.psql("CREATE DATABASE shop");
    primary.psql_db(
        "shop",
        "CREATE TABLE wanted AS SELECT repeat(md5(i::text), 1000) AS body FROM generate_series(1, 100) i;
         CREATE TABLE other AS TABLE wanted; CREATE TABLE heir () INHERITS (wanted); INSERT INTO heir VALUES ('heir')",
    );
    let name = old::backup(&site, &primary, &["--full"]);
    archive_all(&primary);
    lose(&primary);
    let target = old::restore(&site, "restored", &name, &["--restore-only", "shop/wanted"]);
    let restored = old::restored(&site, "restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql_db("shop", "SELECT count(*), sum(length(body)) FROM wanted"),
        "101|3200004"
    );
    let file = restored.psql_db("shop", "SELECT pg_relation_filepath('other')");
    let meta = fs::metadata(target.join(file)).expect("no file");
    assert!(meta.len() > 0 && meta.blocks() == 0, "{meta:?}");
}

/// Before PostgreSQL 13 a server that does not come to its target says nothing, and becomes a primary at the end of the WAL.
#[test]
fn a_drill_knows_whether_its_target_was_reached() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    insert(&primary, 1);
    old::backup(&site, &primary, &["--full"]);
    primary.psql("SELECT pg_create_restore_point('there')");
    insert(&primary, 2);
    archive_all(&primary);
    // The old servers of the tests have no clients beside them.
    let programs = site.dir().subdir("bin");
    for program in ["postgres", "psql", "pg_isready"] {
        symlink(site.pg().path_of(program), programs.join(program)).expect("linked");
    }
    let programs = programs.to_string_lossy().into_owned();
    let sql = "DO $$ BEGIN ASSERT (SELECT max(id) FROM t) = 1; ASSERT (SELECT count(*) FROM in_tablespace) = 20000;
               ASSERT NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user); END $$;\n";
    let sql = sql_file(&site, "one.sql", sql);
    let reached = ["--pg-bin", &programs, "--target-name", "there", "--run", &sql];
    let (drill, output) = place.drill(&site, &reached);
    assert!(output.success() && status(&drill, "sql") == "ok", "{drill:#}");
    let (drill, output) = place.drill(&site, &["--pg-bin", &programs, "--target-immediate"]);
    assert!(output.success(), "{drill:#}");
    let (drill, output) = place.drill(&site, &["--pg-bin", &programs, "--target-name", "nowhere"]);
    assert_failed(&drill, &output, "recovery");
    let says = match site.pg().major() {
        ..13 => "Recovery came to the end of the WAL, and not to its target",
        _ => "recovery ended before configured recovery target was reached",
    };
    assert!(detail(&drill, "recovery").contains(says), "{drill:#}");
    place.assert_empty();
}
