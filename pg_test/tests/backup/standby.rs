//! Standbys: backups taken on one, and one that lives from the archive.

use std::fs;
use std::os::unix::fs::symlink;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Builder, Cluster, PATIENCE, StopMode, run};

const PUSH: &str = "SELECT walarchive_backup_push()";

/// Waits until a standby has replayed all that its primary has written.
fn catch_up(standby: &Cluster, primary: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("the standby has caught up", PATIENCE, || {
        standby.try_psql(&replayed).as_deref() == Ok("t")
    });
}

/// A backup on a standby ends when the primary has archived its last segment.
fn backup_on(standby: &Cluster, primary: &Cluster) -> String {
    let mut statement = standby.background_psql(PUSH);
    let waiting = "SELECT waiting_for FROM walarchive_progress WHERE phase = 'waiting for WAL'";
    let mut segment = String::new();
    standby.wait_until("the backup waits for WAL", PATIENCE, || {
        segment = standby.psql(waiting);
        !segment.is_empty() || !statement.is_running()
    });
    if statement.is_running() {
        assert!(!primary.is_archived(&segment), "{segment}");
        archive_all(primary);
    }
    statement.wait(PATIENCE).expect_success()
}

#[test]
fn a_standby_takes_backups_and_refuses_a_name_that_is_taken() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    let builder = Cluster::builder(site.dir(), "standby").setting("log_min_messages", "notice");
    let standby = builder.standby_of(&primary);
    catch_up(&standby, &primary);
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");

    // Nobody completes the segment at first, and the user is told what to do.
    let mut statement = standby.background_psql(PUSH);
    standby.wait_until("the user is told what to do", PATIENCE, || {
        standby.log().contains("SELECT pg_switch_wal() there completes it") || !statement.is_running()
    });
    assert!(statement.is_running(), "{:?}", statement.wait(PATIENCE));
    assert_eq!(standby.psql("SELECT count(*) FROM walarchive_backups"), "0");
    primary.psql("INSERT INTO t VALUES (2)");
    archive_all(&primary);
    let output = statement.wait(PATIENCE);
    assert!(output.stderr.contains("still waiting after"), "{output:?}");
    let first = output.expect_success();
    let metadata = fs::read_to_string(site.object(&format!("basebackups_005/{first}/files_metadata.json")));
    let metadata = metadata.expect("no files metadata");
    assert!(
        metadata.contains(r#""DatabasesByNames":{"postgres":{"oid":5,"#),
        "the names of the databases are not there"
    );

    // No checkpoint since: the next one would start at the same place.
    let content = || -> Vec<(String, Vec<u8>)> {
        let keys = site.objects("basebackups_005").into_iter();
        keys.map(|key| (key.clone(), fs::read(site.object(&key)).unwrap_or_default()))
            .collect()
    };
    let before = content();
    let refused = standby.try_psql_verbose(PUSH);
    assert!(
        !refused.success() && refused.stderr.contains("ERROR:  58P02"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains(&format!("\"{first}\" already exists")),
        "{refused:?}"
    );
    assert!(content() == before, "something was written");
    // So it is while the other one is not complete yet: it has a claim and no sentinel.
    let sentinel = site.object(&format!("basebackups_005/{first}_backup_stop_sentinel.json"));
    let away = site.dir().join("sentinel");
    fs::rename(&sentinel, &away).expect("could not rename");
    let refused = standby.try_psql_verbose(PUSH);
    assert!(
        refused.stderr.contains(&format!("\"{first}\" already exists")),
        "{refused:?}"
    );
    fs::rename(&away, &sentinel).expect("could not rename");
    assert!(content() == before, "something was written");

    primary.psql("CHECKPOINT");
    catch_up(&standby, &primary);
    let second = backup_on(&standby, &primary);
    assert_ne!(first, second);
    primary.psql("INSERT INTO t VALUES (3)");
    archive_all(&primary);
    lose(&standby);
    lose(&primary);
    for name in [&first, &second] {
        let target = site.restore(name, name, &[]);
        // It came from a standby, and is none.
        assert!(!target.join("standby.signal").exists());
        let restored = site.restored("restored").attach(&target);
        restored.wait_promoted(PATIENCE);
        assert_eq!(
            restored.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"),
            "1 2 3"
        );
    }
}

#[test]
fn a_promotion_ends_the_backup_cleanly() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let builder = Cluster::builder(site.dir(), "standby").setting("walarchive.backup_rate_limit", "2MB");
    let standby = builder.standby_of(&primary);
    catch_up(&standby, &primary);
    let mut statement = standby.background_psql(PUSH);
    standby.wait_until("files are copied", PATIENCE, || {
        standby.psql("SELECT phase FROM walarchive_progress") == "copying files" || !statement.is_running()
    });
    primary.stop(StopMode::Fast);
    standby.psql("SELECT pg_promote()");
    let output = statement.wait(PATIENCE);
    assert!(
        !output.success() && output.stderr.contains("promoted during online backup"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
    // It is a primary now, on a timeline of its own.
    standby.set("walarchive.backup_rate_limit", "0");
    standby.reload();
    let name = backup(&standby, "");
    assert!(name.starts_with("base_00000002"), "{name}");
}

fn eager(builder: Builder) -> Builder {
    builder.setting("wal_retrieve_retry_interval", "100ms")
}

#[test]
fn a_standby_lives_from_the_archive_and_outlives_its_loss() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (2)");
    archive_all(&primary);
    // The standby finds the store by a path of its own, which the test can take away.
    let road = site.dir().join("road");
    symlink(site.dir().join("store"), &road).expect("could not link");
    let target = site.dir().join("standby");
    let mut restore = site.pg().program("walarchive");
    restore.args([
        "backup-fetch",
        &target.to_string_lossy(),
        "LATEST",
        "--standby",
        "--storage",
    ]);
    run(restore.arg(format!("file://{}", road.display()))).expect_success();
    assert!(target.join("standby.signal").exists() && !target.join("recovery.signal").exists());
    let standby = eager(site.restored("standby")).attach(&target);
    let rows = || standby.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t");
    standby.wait_until("the second row arrives", PATIENCE, || rows() == "1 2");
    primary.psql("INSERT INTO t VALUES (3)");
    archive_all(&primary);
    standby.wait_until("the third row arrives", PATIENCE, || rows() == "1 2 3");

    let mark = standby.log_mark();
    fs::remove_file(&road).expect("could not remove the link");
    primary.psql("INSERT INTO t VALUES (4)");
    archive_all(&primary);
    // The fourth row may be here already: whoever fetches ahead has opened the store before.
    standby.wait_log_since(mark, "walarchive: error: ", PATIENCE);
    symlink(site.dir().join("store"), &road).expect("could not link");
    standby.wait_until("the fourth row arrives", PATIENCE, || rows() == "1 2 3 4");

    assert_eq!(
        standby.psql("SELECT pg_is_in_recovery(); SELECT count(*) FROM pg_stat_wal_receiver"),
        "t\n0"
    );
    primary.stop(StopMode::Fast);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (5)");
    assert_eq!(rows(), "1 2 3 4 5");
}

/// At the end of recovery the server asks for the history of the timeline that it leaves, when there is no signal file any more.
#[test]
fn a_promotion_does_not_need_the_store() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    let road = site.dir().join("road");
    let fetch = format!("walarchive wal-fetch %f \"%p\" --storage file://{}", road.display());
    let mut leader = primary;
    for (name, timeline) in [("first", "2"), ("second", "3")] {
        symlink(site.dir().join("store"), &road).expect("could not link");
        let builder = Cluster::builder(site.dir(), name).setting("restore_command", &fetch);
        let standby = eager(builder).standby_of(&leader);
        catch_up(&standby, &leader);
        fs::remove_file(&road).expect("could not remove the link");
        leader.stop(StopMode::Fast);
        let mark = standby.log_mark();
        standby.psql("SELECT pg_promote(wait => false)");
        standby.wait_promoted(PATIENCE);
        let log = standby.log_since(mark);
        // Nobody has ever written a history of timeline 1, so no store is asked for it.
        let says = match name {
            "first" => "\"00000001.history\" is not in the archive",
            _ => "recovery is over",
        };
        assert!(log.contains(says), "{log}");
        standby.psql("INSERT INTO t VALUES (2)");
        archive_all(&standby);
        let insert_in = standby.psql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 8, 1)");
        assert_eq!(insert_in, timeline);
        leader = standby;
    }
    // The history is whole.
    let last = fs::read_to_string(leader.datadir().join("pg_wal/00000003.history")).expect("a history");
    assert!(last.starts_with("1\t") && last.contains("\n2\t"), "{last}");
}

#[test]
fn a_standby_that_always_archives_agrees_with_its_primary() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let standby = Cluster::builder(site.dir(), "standby")
        .setting("archive_mode", "always")
        .standby_of(&primary);
    standby.wait_pid_of("walarchive uploader", None);
    for round in 0..3 {
        primary.psql(&format!("CREATE TABLE t{round} AS SELECT generate_series(1, 10000)"));
        let segment = primary.switch_wal();
        standby.wait_until("the segment has arrived", PATIENCE, || {
            standby.datadir().join("pg_wal").join(&segment).exists() && !standby.waiting_files().contains(&segment)
        });
        primary.wait_archived(&segment, PATIENCE);
        standby.wait_archived(&segment, PATIENCE);
    }
    for cluster in [&primary, &standby] {
        cluster.wait_until("the archiver has told its numbers", PATIENCE, || {
            cluster.psql("SELECT archived_count >= 3 FROM pg_stat_archiver") == "t"
        });
        assert_eq!(
            cluster.psql("SELECT failed_count FROM pg_stat_archiver"),
            "0",
            "{}",
            cluster.log()
        );
    }
    // Promoted, it archives its own timeline; what it had archived before is not done again.
    primary.stop(StopMode::Fast);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    archive_all(&standby);
    let keys = site.objects("wal_005");
    assert!(keys.iter().any(|key| key.contains("/00000002.history")), "{keys:?}");
    assert!(
        keys.iter()
            .any(|key| key.contains("/000000010000000000000003.partial") || key.contains("/00000002000")),
        "{keys:?}"
    );
}

/// As when the directory's file system is not mounted where the standby runs.
#[test]
fn a_standby_begins_no_repository_where_it_has_seen_one() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    archive_all(&primary);
    let builder = Cluster::builder(site.dir(), "standby").setting("archive_mode", "always");
    let standby = eager(builder).standby_of(&primary);
    let arrive = || {
        primary.psql("SELECT pg_logical_emit_message(true, 'x', 'x')");
        let segment = primary.switch_wal();
        standby.wait_until("the segment has arrived", PATIENCE, || {
            standby.datadir().join("pg_wal").join(&segment).exists()
        });
        segment
    };
    let segment = arrive();
    standby.wait_archived(&segment, PATIENCE);
    standby.stop(StopMode::Fast);
    let (store, away) = (site.dir().join("store"), site.dir().join("away"));
    fs::rename(&store, &away).expect("renamed");
    site.dir().subdir("store");
    let mark = standby.log_mark();
    standby.start_again();
    let segment = arrive();
    standby.wait_log_since(mark, "there is no repository in", PATIENCE);
    assert!(!standby.is_archived(&segment));
    assert_eq!(site.objects("walarchive_005"), [""; 0]);
    fs::remove_dir_all(&store).expect("removed");
    fs::rename(&away, &store).expect("renamed");
    standby.wait_archived(&segment, PATIENCE);
}
