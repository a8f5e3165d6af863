//! `catchup-push` and `catchup-fetch`: a standby that has fallen behind is brought up, when the WAL that it lacks is gone.

use std::fs;
use std::path::Path;
use std::process::Command;

use walarchive_pg_test::push;
use walarchive_pg_test::site::{Site, archive_all};
use walarchive_testkit::{
    Background, Builder, Cluster, Fault, FaultProxy, Output, PATIENCE, Signal, StopMode, run, wait_until,
};

/// Every row of the tables, which have text and numbers.
const TABLES: [&str; 6] = ["kept", "changed", "emptied", "made", "in_old", "in_new"];

/// A server with some tables, and its standby in another directory, whose tablespaces are in `standby_ts`.
struct Pair {
    primary: Cluster,
    standby: Cluster,
}

fn pair(site: &Site) -> Pair {
    let settings = [
        ("autovacuum", "off"),
        ("max_wal_size", "64MB"),
        // These are not the defaults of 9.6.
        ("wal_level", "replica"),
        ("max_wal_senders", "5"),
        ("max_replication_slots", "5"),
        ("hot_standby", "on"),
    ];
    // Without checksums VACUUM marks pages and leaves their LSNs as they were.
    let builder = push::builder(site, "primary").data_checksums(false);
    let with = |builder: Builder, (name, value): (&str, &str)| builder.setting(name, value);
    let primary = settings.into_iter().fold(builder, with).start();
    // Of itself 9.6 lets nobody replicate.
    let hba = primary.datadir().join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).expect("read");
    fs::write(&hba, format!("{rules}local replication all trust\n")).expect("written");
    primary.reload();
    for name in ["old", "dropped"] {
        let place = site.dir().subdir(&format!("primary_{name}"));
        primary.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    }
    for (table, tablespace) in [
        ("kept", ""),
        ("changed", ""),
        ("emptied", ""),
        ("gone", ""),
        ("in_old", "TABLESPACE old"),
    ] {
        primary.psql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, body text) {tablespace};
             INSERT INTO {table} SELECT i, md5(i::text) FROM generate_series(1, 20000) i"
        ));
    }
    primary.psql(
        "CREATE TABLE in_dropped TABLESPACE dropped AS SELECT 1 AS a; CREATE UNLOGGED TABLE forgotten AS SELECT 1 AS a",
    );
    primary.psql("CREATE DATABASE lost");
    let datadir = site.dir().join("standby");
    let mut copy = primary.client("pg_basebackup");
    copy.args(["-R", "-X", "stream", "-c", "fast", "-D"]).arg(&datadir);
    for name in ["old", "dropped"] {
        let (from, to) = (
            site.dir().join(format!("primary_{name}")),
            site.dir().join(format!("standby_{name}")),
        );
        copy.arg("-T").arg(format!("{}={}", from.display(), to.display()));
    }
    run(&mut copy).expect_success();
    if site.pg().major() < 12 {
        // A newer pg_basebackup writes options that the server's library does not know.
        let primary = format!(
            "host={} port={} user=postgres",
            primary.socket_dir().display(),
            primary.port()
        );
        let told = format!("standby_mode = 'on'\nprimary_conninfo = '{primary}'\n");
        fs::write(datadir.join("recovery.conf"), told).expect("written");
    }
    let standby = Cluster::builder(site.dir(), "standby")
        .setting("archive_mode", "off")
        .setting("max_connections", "101")
        .attach(&datadir);
    follow(&standby, &primary);
    Pair { primary, standby }
}

/// Waits until a standby has replayed all that its primary has written.
fn follow(standby: &Cluster, primary: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("the standby has caught up", PATIENCE, || {
        standby.try_psql(&replayed).as_deref() == Ok("t")
    });
}

/// The LSN that the manual tells the user to give.
fn redo(standby: &Cluster) -> String {
    let at = match standby.pg().major() {
        // The binaries of old servers come without their pg_controldata, and other ones do not understand the file.
        ..11 => 48,
        11..15 => 40,
        _ => {
            let mut command = standby.pg().program("pg_controldata");
            let shown = run(command.arg(standby.datadir()).env("LC_ALL", "C")).expect_success();
            let line = shown
                .lines()
                .find_map(|line| line.strip_prefix("Latest checkpoint's REDO location:"));
            return line.unwrap_or_else(|| panic!("{shown}")).trim().to_owned();
        }
    };
    let control = fs::read(standby.datadir().join("global/pg_control")).expect("read");
    let half = |at: usize| u32::from_le_bytes(control[at..at + 4].try_into().expect("four bytes"));
    format!("{:X}/{:X}", half(at + 4), half(at))
}

/// The primary goes on: all kinds of changes, and then none of the WAL is left anywhere.
/// Returns the flags that its new databases need.
fn go_on(site: &Site, primary: &Cluster) -> Vec<String> {
    let first = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let place = site.dir().subdir("primary_new");
    primary.psql(&format!("CREATE TABLESPACE new LOCATION '{}'", place.display()));
    primary.psql(
        "UPDATE changed SET body = 'new' WHERE id % 1000 = 7;
         DELETE FROM changed WHERE id > 15000;
         TRUNCATE emptied;
         INSERT INTO emptied VALUES (1, 'again');
         DROP TABLE gone;
         DROP TABLE in_dropped;
         CREATE TABLE made AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 3000) i;
         CREATE TABLE in_new TABLESPACE new AS SELECT i AS id, 'x'::text AS body FROM generate_series(1, 3000) i;
         UPDATE in_old SET body = 'new' WHERE id = 5000;
         CREATE INDEX ON changed (body)",
    );
    primary.psql("DROP TABLESPACE dropped");
    primary.psql("DROP DATABASE lost");
    // Marks all pages of `kept` without a new LSN, and cuts the end of `changed` off.
    primary.psql("VACUUM");
    primary.psql("CREATE DATABASE found");
    primary.psql_db("found", "CREATE TABLE t AS SELECT generate_series(1, 100) AS a");
    for _ in 0..2 {
        archive_all(primary);
        primary.psql("CHECKPOINT");
    }
    let path = primary.datadir().join(site.pg().wal_directory()).join(&first);
    primary.wait_until("the WAL is gone", PATIENCE, || {
        if path.exists() {
            archive_all(primary);
            primary.psql("CHECKPOINT");
        }
        !path.exists()
    });
    // What comes from now on, the standby will ask for.
    match site.pg().major() {
        ..13 => primary.set("wal_keep_segments", "32"),
        _ => primary.set("wal_keep_size", "512MB"),
    }
    primary.reload();
    for key in site.objects("wal_005") {
        fs::remove_file(site.object(&key)).expect("could not remove WAL");
    }
    match site.pg().major() {
        ..15 => whole_database(primary, "found").to_vec(),
        _ => Vec::new(),
    }
}

fn whole_database(primary: &Cluster, name: &str) -> [String; 2] {
    let oid = primary.psql(&format!("SELECT oid FROM pg_database WHERE datname = '{name}'"));
    ["--whole-database".to_owned(), oid]
}

fn push_command(site: &Site, cluster: &Cluster, from: &str, args: &[String]) -> Command {
    let datadir = cluster.datadir().to_string_lossy().into_owned();
    let mut command = site.walarchive(&["catchup-push", &datadir, "--from-lsn", from]);
    command.args(args);
    push::server_of(&mut command, cluster);
    command
}

fn push_from(site: &Site, cluster: &Cluster, from: &str, args: &[String]) -> String {
    run(&mut push_command(site, cluster, from, args)).expect_success()
}

fn fetch(site: &Site, directory: &Path, name: &str, args: &[&str]) -> Output {
    let directory = directory.to_string_lossy();
    run(site.walarchive(&["catchup-fetch", &directory, name]).args(args))
}

#[track_caller]
fn expect_refused(output: &Output, why: &str) {
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(why), "{why} in {output:?}");
}

fn content(cluster: &Cluster) -> Vec<String> {
    let rows = |table: &&str| {
        let what = "count(*), coalesce(md5(string_agg(id || body, ',' ORDER BY id)), '')";
        cluster.psql(&format!("SELECT {what} FROM {table}"))
    };
    TABLES.iter().map(rows).collect()
}

/// The map may say nothing of a page that the page does not know: else who changes the page does not clear it in the map.
fn check_maps(cluster: &Cluster) {
    if !cluster.pg().has_extension("pg_visibility") {
        return;
    }
    let wrong = "SELECT oid::regclass, blkno, all_visible, all_frozen FROM pg_class, pg_visibility(oid) \
                 WHERE relpersistence = 'p' AND relkind IN ('r', 't', 'm') AND (all_visible OR all_frozen) AND NOT pd_all_visible";
    assert_eq!(cluster.psql(wrong), "");
}

/// Streams again, and has what the primary has, before and after it is promoted.
fn check_brought_up(pair: &Pair) {
    let Pair { primary, standby } = pair;
    if primary.pg().has_extension("pg_visibility") {
        primary.psql("CREATE EXTENSION IF NOT EXISTS pg_visibility");
    }
    follow(standby, primary);
    assert_eq!(standby.psql("SELECT count(*) FROM pg_stat_wal_receiver"), "1");
    assert_eq!(content(standby), content(primary));
    assert_eq!(standby.psql_db("found", "SELECT count(*), sum(a) FROM t"), "100|5050");
    let databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    assert_eq!(standby.psql(databases), primary.psql(databases));
    check_maps(standby);
    primary.psql("INSERT INTO made VALUES (0, 'later')");
    follow(standby, primary);
    assert_eq!(content(standby), content(primary));
    primary.stop(StopMode::Fast);
    let mut promote = standby.pg().program("pg_ctl");
    run(promote.arg("promote").arg("-D").arg(standby.datadir())).expect_success();
    standby.wait_promoted(PATIENCE);
    standby.psql("DELETE FROM kept WHERE id % 2 = 0");
    let counted = |settings: &str| {
        let count = "SELECT count(*) FROM kept WHERE id > 0";
        standby.psql(&format!("{settings}; {count}"))
    };
    assert_eq!(
        counted("SET enable_seqscan = off; SET enable_bitmapscan = off"),
        counted("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
    );
    standby.amcheck();
}

#[test]
fn a_standby_whose_wal_is_gone_is_brought_up() {
    let site = Site::on_files();
    let pair = pair(&site);
    let Pair { primary, standby } = &pair;
    let target = standby.datadir().to_path_buf();
    let early = push_from(&site, primary, "0x1000000", &[]);
    primary.psql("INSERT INTO changed VALUES (0, 'not yet flushed')");
    follow(standby, primary);
    standby.psql("SELECT pg_create_physical_replication_slot('gone')");
    expect_refused(
        &fetch(&site, &target, &early, &[]),
        "a server is or was running in directory",
    );
    standby.stop(StopMode::Fast);
    expect_refused(
        &fetch(&site, &target, &early, &[]),
        "The standby is further than the backup",
    );
    let from = redo(standby);
    let whole = go_on(&site, primary);
    let late = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let late = push_from(&site, primary, &late, &whole);
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--tablespace-map-all", &tablespaces.to_string_lossy()];
    let refused = fetch(&site, &target, &late, &map);
    expect_refused(&refused, &format!("catchup-push --from-lsn {from}"));
    expect_refused(
        &run(&mut push_command(&site, primary, "FFFF/0", &[])),
        "and not to FFFF/0",
    );

    let full = push::push(&site, primary, &["--full"]);
    let name = push_from(&site, primary, &from, &whole);
    assert!(name.starts_with("base_00000001") && !name.contains("_D_"), "{name}");
    listed(&site, &early, &name, &full);
    let (new, marks) = (
        site.dir().join("standby_new"),
        [target.join("notes.txt"), target.join("pg_replslot/gone/state")],
    );
    assert!(marks[1].exists());
    fs::write(&marks[0], "of the standby").expect("written");
    let configuration = || fs::read_to_string(target.join("postgresql.conf")).expect("read");
    let before = configuration();
    expect_refused(
        &fetch(&site, &target, &name, &[]),
        "the standby does not have tablespace",
    );
    let shown = fetch(&site, &target, "LATEST", &[&map[..], &["--dry-run"]].concat()).expect_success();
    assert!(
        shown.contains(&format!("changes from LSN: {from}")) && shown.contains("new tablespace: "),
        "{shown}"
    );
    assert!(standby.datadir().join("global/pg_control").exists());
    check_others(&site, primary, &name, &map);

    fetch(&site, &target, &name, &map).expect_success();
    assert_eq!(configuration(), before);
    assert!(marks[0].exists() && !marks[1].exists() && !new.exists());
    assert!(target.join("backup_label").exists() && !target.join("tablespace_map").exists());
    assert_eq!(fs::read_dir(target.join("pg_tblspc")).expect("read").count(), 2);
    standby.start_again();
    check_brought_up(&pair);
}

/// The lists of both kinds of backups know nothing of each other.
fn listed(site: &Site, early: &str, name: &str, full: &str) {
    let list = |args: &[&str]| run(&mut site.walarchive(args)).expect_success();
    let catchups = list(&["catchup-list"]);
    assert!(
        catchups.contains(early) && catchups.contains(name) && !catchups.contains(full),
        "{catchups}"
    );
    let detailed = list(&["catchup-list", "--json", "--detail"]);
    assert!(
        detailed.contains(r#""system_identifier":"#) && detailed.contains(name),
        "{detailed}"
    );
    let backups = list(&["backup-list"]);
    assert!(backups.contains(full) && !backups.contains(name), "{backups}");
    let garbage = list(&["delete", "garbage", "--confirm"]);
    assert!(!garbage.contains("catchup_005"), "{garbage}");
    assert!(
        site.object(&format!("catchup_005/{name}_backup_stop_sentinel.json"))
            .exists()
    );
}

/// Directories that are not that of the standby.
fn check_others(site: &Site, primary: &Cluster, name: &str, map: &[&str]) {
    let other = Cluster::builder(site.dir(), "other").create();
    expect_refused(&fetch(site, other.datadir(), name, map), "belongs to system identifier");
    expect_refused(
        &fetch(site, primary.datadir(), name, map),
        "a server is or was running in directory",
    );
    expect_refused(&fetch(site, &site.dir().subdir("empty"), name, map), "it is empty");
    let unknown = fetch(site, other.datadir(), "base_000000010000000000000099", map);
    expect_refused(&unknown, "there is no backup of catchup-push named");
}

#[test]
fn what_was_interrupted_is_done_again() {
    let site = Site::on_s3();
    let pair = pair(&site);
    let Pair { primary, standby } = &pair;
    standby.stop(StopMode::Immediate);
    let from = redo(standby);
    let whole = go_on(&site, primary);
    // It does not become smaller, so it takes its time on a slow link.
    primary.psql(
        "CREATE TABLE large AS SELECT string_agg(decode(md5(random()::text), 'hex'), ''::bytea) AS body \
                  FROM generate_series(1, 1000000) i GROUP BY i / 50",
    );
    let name = push_from(&site, primary, &from, &whole);
    let target = standby.datadir().to_path_buf();
    _ = fs::remove_file(target.join("postmaster.pid"));
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--tablespace-map-all", &tablespaces.to_string_lossy()];
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    proxy.set([Fault::Link(1 << 20)]);
    let path = target.to_string_lossy();
    let mut slow = site.walarchive(&["catchup-fetch", &path, &name]);
    slow.args(map);
    for option in proxy.options().split(',') {
        slow.args(["--storage-option", option]);
    }
    let is_locked_out =
        || target.join("walarchive_restore.json").exists() && !target.join("global/pg_control").exists();
    // Every run writes it again, after it has looked at everything.
    let marked = || {
        fs::metadata(target.join("walarchive_restore.json"))
            .and_then(|meta| meta.modified())
            .ok()
    };
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let before = marked();
        let mut fetching = Background::spawn(&mut slow, None);
        wait_until("this run has put its marker", PATIENCE, || {
            marked().is_some_and(|at| Some(at) != before) || !fetching.is_running()
        });
        let requests = proxy.count();
        wait_until("files are being written", PATIENCE, || {
            (is_locked_out() && tablespaces.exists() && proxy.count() > requests) || !fetching.is_running()
        });
        walarchive_testkit::kill_pid(fetching.pid(), signal);
        let ended = fetching.wait(PATIENCE);
        assert!(!ended.success(), "it was complete before: {ended:?}");
        if signal == Signal::SIGINT {
            expect_refused(&ended, "is brought up only in part");
        }
        assert!(is_locked_out());
    }
    standby.try_start().expect_err("a server runs on a part");
    _ = fs::remove_file(target.join("postmaster.pid"));
    let other = push_from(&site, primary, &from, &whole);
    expect_refused(&fetch(&site, &target, &other, &map), "has only a part of backup");
    let marker = target.join("walarchive_restore.json");
    let left = fs::read(&marker).expect("read");
    fetch(&site, &target, &name, &map).expect_success();
    assert!(!marker.exists());
    // As if it had been killed just before it removed that.
    fs::write(&marker, left).expect("written");
    let again = fetch(&site, &target, &name, &map);
    assert!(again.stderr.contains("the directory is complete"), "{again:?}");
    again.expect_success();
    assert!(!marker.exists());
    standby.start_again();
    check_brought_up(&pair);
}

#[test]
fn a_database_that_was_copied_as_files_must_come_whole() {
    let site = Site::on_files();
    let pair = pair(&site);
    let Pair { primary, standby } = &pair;
    standby.stop(StopMode::Fast);
    let from = redo(standby);
    primary.psql(match site.pg().major() {
        ..15 => "CREATE DATABASE copied",
        _ => "CREATE DATABASE copied STRATEGY file_copy",
    });
    let [flag, oid] = whole_database(primary, "copied");
    let mut whole = go_on(&site, primary);
    let target = standby.datadir().to_path_buf();
    let tablespaces = site.dir().join("tablespaces");
    let map = ["--tablespace-map-all", &tablespaces.to_string_lossy()];
    let name = push_from(&site, primary, &from, &whole);
    let refused = fetch(&site, &target, &name, &map);
    expect_refused(&refused, &format!("--whole-database {oid}"));
    whole.extend([flag, oid]);
    let name = push_from(&site, primary, &from, &whole);
    fetch(&site, &target, &name, &map).expect_success();
    standby.start_again();
    check_brought_up(&pair);
}
