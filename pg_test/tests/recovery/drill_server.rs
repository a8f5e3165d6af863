//! Restore drills that a server makes, by its schedule or because it is asked: the server that archives, its standby, and one that is
//! none of the cluster's.

use std::fs;

use serde_json::Value;
use walarchive_pg_test::drills::{Place, primary, sql_file};
use walarchive_pg_test::failover::wait_caught_up;
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{
    Background, Cluster, Fault, FaultProxy, PATIENCE, Signal, StopMode, is_alive, kill_pid, wait_until,
};

const REQUEST: &str = "SELECT walarchive_restore_test()";

/// Drills at once, as soon as no other drill is at work, and waits for its end.
#[track_caller]
fn drill_now(server: &Cluster) -> String {
    let last = "SELECT last_drill_time FROM walarchive_status";
    server.wait_until("a drill begins", PATIENCE, || server.try_psql(REQUEST).is_ok());
    let before = server.psql(last);
    server.wait_until("the drill has ended", PATIENCE, || server.psql(last) != before);
    server.psql("SELECT last_drill_outcome FROM walarchive_status")
}

/// A drill that the server does by its schedule.
#[test]
fn the_server_drills_by_a_schedule() {
    let site = Site::on_files();
    let place = Place::new(&site);
    let primary = primary(&site);
    let name = backup(&primary, "");
    archive_all(&primary);
    let good = sql_file(&site, "good.sql", "SELECT count(*) FROM t;\n");
    // Where there is room for a cluster, nobody knows but the DBA.
    primary.set("walarchive.drill_schedule", "*/5 * * * * *");
    primary.reload();
    primary.wait_log("restore drills cannot be made", PATIENCE);
    let refused = primary.try_psql(REQUEST).expect_err("there is no place for it");
    assert!(refused.contains("walarchive.drill_directory is not set"), "{refused}");
    place.set_up(&primary, &good);
    primary.reload();
    primary.wait_until("a drill has proven the backup", PATIENCE, || {
        primary.psql("SELECT count(*) FROM walarchive_status WHERE last_drill_outcome = 'succeeded'") == "1"
    });
    primary.wait_log(&format!("backup \"{name}\" is proven"), PATIENCE);
    assert_eq!(
        primary.psql("SELECT last_proven_restore IS NOT NULL FROM walarchive_status"),
        "t"
    );
    assert_eq!(primary.psql("SELECT proven IS NOT NULL FROM walarchive_backups"), "t");

    // One that fails is told in the log, and the view.
    let wrong = sql_file(&site, "wrong.sql", "SELECT * FROM no_such_table;\n");
    primary.set("walarchive.drill_sql_file", &wrong);
    primary.reload();
    let mark = primary.log_mark();
    primary.wait_until("a drill has failed", PATIENCE, || {
        primary.psql("SELECT count(*) FROM walarchive_status WHERE last_drill_outcome = 'failed'") == "1"
    });
    primary.wait_log_since(mark, "no_such_table", PATIENCE);
    // Off: the last one ends, and no other begins.
    primary.set("walarchive.drill_schedule", "");
    // As the superuser, whom the DBA has chosen for the next one.
    let rights = sql_file(&site, "rights.sql", "SELECT pg_read_file('PG_VERSION');\n");
    primary.set("walarchive.drill_sql_file", &rights);
    primary.set("walarchive.drill_sql_role", "postgres");
    primary.reload();
    wait_until("nothing is left", PATIENCE, || place.entries().is_empty());

    // By hand, once.
    primary.wait_until("the last drill has ended", PATIENCE, || {
        primary.try_psql(REQUEST).is_ok()
    });
    let second = primary.try_psql(REQUEST).expect_err("one at a time");
    assert!(
        second.contains("a restore drill is already running on this server"),
        "{second}"
    );
    primary.wait_until("the drill has proven the backup", PATIENCE, || {
        primary.psql("SELECT last_drill_outcome FROM walarchive_status") == "succeeded"
    });
    place.assert_empty();
}

#[test]
fn a_drill_of_a_server_that_ends_leaves_nothing() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    backup(&primary, "");
    archive_all(&primary);
    let slow = sql_file(&site, "slow.sql", "SELECT pg_sleep(600);");
    place.set_up(&primary, &slow);
    for mode in [StopMode::Fast, StopMode::Immediate] {
        primary.reload();
        primary.wait_until("a drill begins", PATIENCE, || primary.try_psql(REQUEST).is_ok());
        let (_, postmaster) = place.wait_sql(|| {});
        primary.stop(mode);
        wait_until("the drill has removed everything", PATIENCE, || {
            place.entries().is_empty()
        });
        assert!(!is_alive(postmaster));
        primary.start_again();
    }

    // One that was killed together with the server: the next start removes it, without a schedule.
    let mut drill = Background::spawn(&mut place.command(&site, &["--run", &slow]), None);
    let (root, postmaster) = place.wait_running(&mut drill);
    primary.stop(StopMode::Immediate);
    kill_pid(drill.pid(), Signal::SIGKILL);
    drill.wait(PATIENCE);
    assert!(is_alive(postmaster) && root.is_dir());
    primary.start_again();
    wait_until("what was left is removed", PATIENCE, || !root.exists());
    assert!(!is_alive(postmaster));
    place.assert_empty();
}

fn drills(site: &Site) -> Vec<String> {
    site.objects("walarchive_005/drills")
}

/// All that is in the repository but the results of drills.
fn others(site: &Site) -> Vec<String> {
    let mut keys = site.objects("walarchive_005");
    keys.retain(|key| !key.starts_with("walarchive_005/drills/"));
    keys
}

/// The standby writes the result down, for which no lease is needed, and the primary tells of it.
#[test]
fn a_standby_drills_and_the_primary_knows() {
    let site = Site::on_s3();
    let (primary, place) = (primary(&site), Place::new(&site));
    let name = backup(&primary, "");
    archive_all(&primary);
    let way = FaultProxy::start(site.s3().expect("an S3 server").port());
    let standby = site
        .builder("standby")
        .setting("walarchive.storage_options", &way.options())
        .standby_of(&primary);
    wait_caught_up(&standby, &primary);
    place.set_up(&standby, &sql_file(&site, "good.sql", "SELECT count(*) FROM t;\n"));
    standby.set("walarchive.drill_schedule", "*/5 * * * * *");
    standby.reload();
    standby.wait_until("a drill has proven the backup", PATIENCE, || {
        standby.psql("SELECT last_drill_outcome FROM walarchive_status") == "succeeded"
    });
    standby.set("walarchive.drill_schedule", "");
    standby.reload();
    assert_eq!(
        standby.psql("SELECT last_proven_restore IS NOT NULL, pg_is_in_recovery() FROM walarchive_status"),
        "t|t"
    );
    assert_eq!(
        primary.psql("SELECT backup_name FROM walarchive_backups WHERE proven > now() - interval '1 hour'"),
        name
    );
    // What the list has shown is known from then on.
    assert_eq!(
        primary.psql("SELECT last_proven_restore > now() - interval '1 hour' FROM walarchive_status"),
        "t"
    );
    let kept: Value = serde_json::from_slice(&fs::read(site.object(&drills(&site)[0])).expect("read")).expect("JSON");
    assert_eq!((&kept["status"], &kept["backup"]), (&"ok".into(), &Value::from(name)));

    // One whose credentials may only read proves the backup to itself, and says that nobody else knows.
    wait_until("the last drill has ended", PATIENCE, || place.entries().is_empty());
    way.set([Fault::status(403)
        .only("PUT /bucket/some/prefix/walarchive_005/drills")
        .into()]);
    let (mark, before) = (standby.log_mark(), drills(&site));
    assert_eq!(drill_now(&standby), "succeeded");
    standby.wait_log_since(mark, "the result was not written into the repository", PATIENCE);
    standby.wait_log_since(mark, "HINT:  Let this host write below", PATIENCE);
    assert!(!standby.log().contains("restore drill: HINT"), "one message");
    assert_eq!(drills(&site), before);
    place.assert_empty();
}

/// A server of another cluster, which only names the repository, drills its backups, and changes nothing else there.
#[test]
fn a_server_of_another_cluster_drills() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    let name = backup(&primary, "");
    archive_all(&primary);
    let other = site.builder("other").setting("archive_mode", "off").start();
    other.psql("CREATE EXTENSION walarchive");
    let before = (others(&site), site.objects("wal_005"));
    place.set_up(&other, &sql_file(&site, "good.sql", "SELECT count(*) FROM t;\n"));
    other.reload();
    assert_eq!(drill_now(&other), "succeeded");
    assert_eq!((others(&site), site.objects("wal_005")), before);
    let proven = "SELECT backup_name FROM walarchive_backups WHERE proven IS NOT NULL";
    assert_eq!((primary.psql(proven), other.psql(proven)), (name.clone(), name));
    // The drill that a client has asked for wants what a scheduled one wants.
    other.set("walarchive.drill_directory", "");
    other.reload();
    other.wait_until("there is no place for it", PATIENCE, || {
        other
            .try_psql(REQUEST)
            .is_err_and(|refused| refused.contains("walarchive.drill_directory is not set"))
    });
    place.assert_empty();
}
