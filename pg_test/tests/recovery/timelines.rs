//! Histories with more than one promotion: what the archive has of them, what it says of them, and what can be restored.

use std::fs;
use std::path::Path;

use walarchive_pg_test::archiving::wait_drained;
use walarchive_pg_test::failover::{Pair, promote, rows, wait_backfilled, wait_caught_up, write_rows};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, Seen, StopMode, run};

/// What the repository says of its timelines.
#[track_caller]
fn shown(cluster: &Cluster) -> String {
    cluster.psql("SELECT string_agg(timeline || ' ' || status, ', ' ORDER BY timeline) FROM walarchive_wal_show()")
}

/// The windows of a repository: timelines, and where WAL is missing.
#[track_caller]
fn windows(cluster: &Cluster) -> String {
    cluster.psql(
        "SELECT string_agg(timeline || coalesce(' ' || missing_after, ''), ', ' ORDER BY timeline)
           FROM walarchive_recovery_windows()",
    )
}

/// The checks of `wal-verify` that are not ok.
#[track_caller]
fn findings(cluster: &Cluster) -> String {
    cluster.psql("SELECT string_agg(DISTINCT check_name || ' ' || status, ', ') FROM walarchive_wal_verify() WHERE status <> 'ok'")
}

/// The rows of a restored copy that was promoted.
#[track_caller]
fn restored_rows(site: &Site, name: &str, args: &[&str]) -> String {
    let target = site.restore(name, "LATEST", args);
    let restored = site.restored(name).attach(&target);
    restored.wait_promoted(PATIENCE);
    rows(&restored)
}

/// A standby of a standby: both servers above it die, one after the other, and neither has archived what it has written.
#[test]
fn after_two_failovers_in_a_row_the_archive_is_complete() {
    let pair = Pair::start(&[]);
    let way = FaultProxy::start(pair.site.s3().expect("an S3 server").port());
    let options = way.options();
    let middle = pair.standby(
        "middle",
        &pair.primary,
        &[("walarchive.storage_options", options.as_str())],
    );
    let last = pair.standby("last", &middle, &[]);
    pair.write_cut_off(2..=7);
    wait_caught_up(&middle, &pair.primary);
    wait_caught_up(&last, &middle);
    way.set([Fault::Refuse]);
    lose(&pair.primary);
    promote(&middle);
    write_rows(&middle, 8..=13);
    middle.psql("INSERT INTO t VALUES (14)");
    wait_caught_up(&last, &middle);
    lose(&middle);
    promote(&last);
    last.psql("CHECKPOINT");
    write_rows(&last, 15..=16);
    archive_all(&last);
    wait_backfilled(&last, PATIENCE);
    assert_eq!(
        last.psql("SELECT backfill_state, backfill_lost FROM walarchive_status"),
        "done|"
    );
    assert_eq!(pair.missing(&last), Vec::<String>::new());
    let all: Vec<String> = (1..=16).map(|row| row.to_string()).collect();
    assert_eq!(rows(&last), all.join(" "));
    assert_eq!(shown(&last), "1 ok, 2 ok, 3 ok");
    assert_eq!(findings(&last), "");
    assert_eq!(restored_rows(&pair.site, "latest", &[]), all.join(" "));
    // The end of what the second one wrote, up to where it died.
    let old = restored_rows(&pair.site, "old", &["--target-timeline", "2"]);
    assert!(all.join(" ").starts_with(&old) && old.ends_with(" 12 13"), "{old}");
}

/// Streams from it again.
fn rewind(pair: &Pair, old: &Cluster, new: &Cluster) {
    new.psql("CHECKPOINT");
    let server = format!(
        "host={} port={} user=postgres dbname=postgres",
        new.socket_dir().display(),
        new.port()
    );
    let mut pg_rewind = pair.site.pg().program("pg_rewind");
    // What it has removed at the end of its crash recovery comes from the archive.
    pg_rewind.args(["-R", "-c", "--no-sync", "--source-server", &server, "-D"]);
    run(pg_rewind.arg(old.datadir()).envs(pair.site.env())).expect_success();
    old.start_again();
    wait_caught_up(old, new);
}

/// The dead primary comes back as a standby, with its own idea of what is to be archived, and becomes the primary again.
#[test]
fn a_primary_that_died_behind_comes_back_and_takes_over_again() {
    let pair = Pair::start(&[("restore_command", "walarchive wal-fetch %f \"%p\"")]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    pair.write_cut_off(2..=6);
    wait_caught_up(&standby, &pair.primary);
    pair.primary.kill9();
    promote(&standby);
    write_rows(&standby, 7..=8);
    archive_all(&standby);
    wait_backfilled(&standby, PATIENCE);
    pair.proxy.heal();
    rewind(&pair, &pair.primary, &standby);
    // Now the other one is behind: its uploads end with it.
    write_rows(&standby, 9..=12);
    wait_caught_up(&pair.primary, &standby);
    standby.kill9();
    promote(&pair.primary);
    write_rows(&pair.primary, 13..=13);
    archive_all(&pair.primary);
    wait_backfilled(&pair.primary, PATIENCE);
    wait_drained(&pair.primary);
    assert_eq!(pair.missing(&pair.primary), Vec::<String>::new());
    assert_eq!(shown(&pair.primary), "1 ok, 2 ok, 3 ok");
    let all: Vec<String> = (1..=13).map(|row| row.to_string()).collect();
    assert_eq!(restored_rows(&pair.site, "restored", &[]), all.join(" "));
}

/// The old primary's complete last segment comes into the archive beside the `.partial` one.
#[test]
fn the_complete_segment_of_the_dead_primary_does_no_harm() {
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    pair.write_cut_off(2..=4);
    pair.primary.psql("INSERT INTO t VALUES (5)");
    wait_caught_up(&standby, &pair.primary);
    let segment = pair.primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    promote(&standby);
    // It has not heard of that, and ends the segment.
    pair.primary.psql("INSERT INTO t VALUES (1000)");
    pair.primary.switch_wal();
    pair.primary.stop(StopMode::Immediate);
    standby.psql("INSERT INTO t VALUES (6)");
    archive_all(&standby);
    wait_backfilled(&standby, PATIENCE);
    let folder = pair.site.object("wal_005");
    let is_there = |suffix: &str| folder.join(format!("{segment}{suffix}.zst")).exists();
    assert!(is_there(".partial") && !is_there(""));
    let mut zstd = std::process::Command::new("zstd");
    let path = pair.primary.wal_directory().join(&segment);
    let output = zstd
        .args(["-q", "-o"])
        .arg(folder.join(format!("{segment}.zst")))
        .arg(path)
        .output();
    assert!(output.expect("zstd runs").status.success());
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
    assert_eq!(shown(&standby), "1 ok, 2 ok");
    assert_eq!(restored_rows(&pair.site, "restored", &[]), "1 2 3 4 5 6");
    // Whoever wants the end of the old timeline gets what the old primary had.
    assert_eq!(
        restored_rows(&pair.site, "old", &["--target-timeline", "1"]),
        "1 2 3 4 5 1000"
    );
}

/// Recovery to a point, and from there again; each timeline can be restored in the end, to its end or to a point.
#[test]
fn a_point_in_time_of_a_point_in_time() {
    let site = Site::on_files();
    let mut server = site.builder("first").initdb_arg("--wal-segsize=1").start();
    server.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT 1 AS id");
    backup(&server, "");
    let mut histories: Vec<Vec<u8>> = Vec::new();
    // Each timeline gets the rows 10 n, at whose restore point the next one leaves it, and 10 n + 1.
    for timeline in 1..=3 {
        server.psql(&format!("INSERT INTO t VALUES ({timeline}0)"));
        server.psql(&format!("SELECT pg_create_restore_point('leave {timeline}')"));
        server.psql(&format!("INSERT INTO t VALUES ({timeline}1)"));
        archive_all(&server);
        lose(&server);
        let (point, name) = (format!("leave {timeline}"), format!("after {timeline}"));
        let args = ["--target-name", &point, "--target-action", "promote", "--take-over"];
        let target = site.restore(&name, "LATEST", &args);
        server = site.builder(&name).attach(&target);
        server.wait_promoted(PATIENCE);
        archive_all(&server);
        let history = site.object(&format!("wal_005/{:08X}.history.zst", timeline + 1));
        histories.push(fs::read(history).expect("the history is archived"));
    }
    assert_eq!(rows(&server), "1 10 20 30");
    assert_eq!(shown(&server), "1 ok, 2 ok, 3 ok, 4 ok");
    assert_eq!(windows(&server), "1, 2, 3, 4");
    assert_eq!(server.psql("SELECT backfill_lost FROM walarchive_status"), "");
    for (args, expected) in [
        (&[] as &[&str], "1 10 20 30"),
        (&["--target-timeline", "3"], "1 10 20 30 31"),
        (&["--target-timeline", "2"], "1 10 20 21"),
        (&["--target-timeline", "1"], "1 10 11"),
    ] {
        assert_eq!(restored_rows(&site, "again", args), expected, "{args:?}");
        fs::remove_dir_all(site.dir().join("again")).expect("removed");
    }
    // A point on a timeline that was left.
    let target = site.restore(
        "point",
        "LATEST",
        &["--target-timeline", "2", "--target-name", "leave 2"],
    );
    let point = site.restored("point").attach(&target);
    wait_paused(&point);
    assert_eq!(rows(&point), "1 10 20");
    for (history, timeline) in histories.iter().zip(2..) {
        let path = site.object(&format!("wal_005/{timeline:08X}.history.zst"));
        assert!(*history == fs::read(path).expect("read"), "{timeline} is another one");
    }
}

/// A standby that lives from the archive waits for the history of the new timeline, asking again and again, and then follows.
#[test]
fn a_history_file_that_comes_late() {
    const HISTORY: &str = "00000002.history";
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    // The follower and its worker reach the store as the primary does, which is gone when it matters.
    let way = pair.proxy.options();
    let way: Vec<&str> = way.split(',').flat_map(|option| ["--storage-option", option]).collect();
    let target = pair
        .site
        .restore("follower", "LATEST", &[&["--standby"], &way[..]].concat());
    let follower = pair
        .site
        .restored("follower")
        .setting("wal_retrieve_retry_interval", "100ms");
    let follower = follower.attach(&target);
    write_rows(&pair.primary, 2..=2);
    wait_drained(&pair.primary);
    follower.wait_until("it has the second row", PATIENCE, || rows(&follower) == "1 2");
    wait_caught_up(&standby, &pair.primary);
    lose(&pair.primary);
    // It is not there for the follower at any time, until the test says so.
    pair.proxy.set([Fault::status(404).only(HISTORY).into()]);
    let (history, hidden) = (
        pair.site.object(&format!("wal_005/{HISTORY}.zst")),
        pair.site.dir().join("hidden"),
    );
    promote(&standby);
    write_rows(&standby, 3..=3);
    archive_all(&standby);
    standby.wait_until("the history is there", PATIENCE, || history.exists());
    let hide = |from: &Path, to: &Path| fs::rename(from, to).expect("moved");
    hide(&history, &hidden);
    pair.proxy.heal();
    pair.proxy.forget();
    write_rows(&standby, 4..=4);
    archive_all(&standby);
    wait_drained(&standby);
    let asked = || {
        let requests = pair.proxy.requests();
        let of_history = |seen: &&Seen| seen.target.contains(HISTORY) && seen.status == Some(404);
        requests.iter().filter(of_history).count()
    };
    follower.wait_until("it has asked for the history three times", PATIENCE, || asked() >= 3);
    assert_eq!(
        (rows(&follower), follower.psql("SELECT pg_is_in_recovery()")),
        ("1 2".to_owned(), "t".to_owned())
    );
    hide(&hidden, &history);
    follower.wait_until("it follows to the new timeline", PATIENCE, || {
        rows(&follower) == "1 2 3 4"
    });
}

/// The new timeline's history is archived and nothing else of it; and the old one went on, complete segments of it are archived.
#[test]
fn recovery_does_not_pass_the_fork_where_the_new_timeline_has_archived_nothing() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS id");
    backup(&primary, "");
    write_rows(&primary, 2..=2);
    primary.psql("SELECT pg_create_restore_point('fork')");
    write_rows(&primary, 1000..=1002);
    archive_all(&primary);
    lose(&primary);
    let args = ["--target-name", "fork", "--target-action", "promote", "--take-over"];
    let target = site.restore("second", "LATEST", &args);
    let second = site.builder("second").attach(&target);
    second.wait_promoted(PATIENCE);
    second.psql("INSERT INTO t VALUES (3)");
    let history = site.object("wal_005/00000002.history.zst");
    second.wait_until("its history is archived", PATIENCE, || history.exists());
    second.kill9();
    let archived = |start: &str| site.objects("wal_005").iter().any(|key| key.contains(start));
    assert!(!archived("/0000000200"));

    // What both timelines have in common is restored, to the last byte, and nothing of the old one behind it.
    for preloaded in ["walarchive", ""] {
        let name = format!("restored {preloaded}");
        let target = site.restore(&name, "LATEST", &[]);
        let builder = site.restored(&name).setting("shared_preload_libraries", preloaded);
        let restored = builder.attach(&target);
        restored.wait_promoted(PATIENCE);
        assert_eq!(rows(&restored), "1 2", "{}", restored.log());
        let says = "timeline 2 has left timeline 1 at LSN";
        assert!(restored.log().contains(says), "{}", restored.log());
        let history = restored.wal_directory().join("00000003.history");
        let history = fs::read_to_string(history).expect("the history of the new timeline");
        let left: Vec<&str> = history
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert!(left.len() == 2 && left[0] == left[1], "{history}");
    }
    assert_eq!(
        restored_rows(&site, "old", &["--target-timeline", "1"]),
        "1 2 1000 1001 1002"
    );
    // A standby waits there, and goes on when there is more. What it has of the old timeline is no segment for the archive.
    let target = site.restore("standby", "LATEST", &["--standby"]);
    let standby = site
        .builder("standby")
        .setting("archive_mode", "always")
        .setting("wal_retrieve_retry_interval", "500ms")
        .attach(&target);
    let left = "timeline 2 has left timeline 1 at LSN";
    standby.wait_log(left, PATIENCE);
    standby.wait_until("it has replayed what it has", PATIENCE, || rows(&standby) == "1 2");
    wait_drained(&standby);
    assert_eq!(
        standby.psql("SELECT failed_count FROM pg_stat_archiver"),
        "0",
        "{}",
        standby.log()
    );
    second.start_again();
    write_rows(&second, 4..=4);
    archive_all(&second);
    standby.wait_until("it has what the new timeline has", PATIENCE, || {
        rows(&standby) == "1 2 3 4"
    });
    assert_eq!(standby.log().matches(left).count(), 1, "{}", standby.log());
}

/// The promoted server dies when it has archived no more than what it archives first.
#[test]
fn the_partial_segment_leads_recovery_to_the_place_of_the_promotion() {
    let pair = Pair::start(&[]);
    let way = FaultProxy::start(pair.site.s3().expect("an S3 server").port());
    let options = way.options();
    let standby = pair.standby(
        "standby",
        &pair.primary,
        &[("walarchive.storage_options", options.as_str())],
    );
    write_rows(&pair.primary, 2..=3);
    wait_drained(&pair.primary);
    pair.primary.psql("INSERT INTO t VALUES (4)");
    wait_caught_up(&standby, &pair.primary);
    let segment = pair.primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    lose(&pair.primary);
    way.set([Fault::status(500).only("wal_005/0000000200").into()]);
    promote(&standby);
    standby.psql("INSERT INTO t VALUES (5)");
    let archived = [format!("{segment}.partial.zst"), "00000002.history.zst".to_owned()];
    let archived = archived.map(|name| pair.site.object(&format!("wal_005/{name}")));
    standby.wait_until("they are archived", PATIENCE, || {
        archived.iter().all(|path| path.exists())
    });
    lose(&standby);
    assert!(!pair.site.object(&format!("wal_005/{segment}.zst")).exists());
    assert_eq!(restored_rows(&pair.site, "restored", &[]), "1 2 3 4");
    // A standby that archives too does not make a segment of it.
    let target = pair.site.restore("always", "LATEST", &["--standby"]);
    let always = pair
        .site
        .builder("always")
        .setting("archive_mode", "always")
        .attach(&target);
    always.wait_until("it has replayed all", PATIENCE, || rows(&always) == "1 2 3 4");
    let done = always.wal_directory().join(format!("archive_status/{segment}.done"));
    always.wait_until("the archiver goes on", PATIENCE, || done.exists());
    assert!(!pair.site.object(&format!("wal_005/{segment}.zst")).exists());
}
