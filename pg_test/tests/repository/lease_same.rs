//! The same server: what machines and administrators do to a data directory without making another one of it.

use std::fs;
use std::path::Path;

use walarchive_pg_test::archiving::{first_waiting, wait_message};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, Signal, StopMode, kill_pid, run};

const REFUSED: &str = "is written by another server";
const LEASE: &str = "SELECT lease_state, lease_epoch FROM walarchive_status";

/// Changes what the data directory has noted of itself, as if it had been written under other circumstances.
fn edit(datadir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = datadir.join("pg_wal/walarchive.instance");
    let text = fs::read(&path).expect("the file is there");
    let mut instance = serde_json::from_slice(&text).expect("JSON");
    change(&mut instance);
    fs::write(&path, instance.to_string()).expect("written");
}

/// Writes at once, under the lease that it had.
fn goes_on(cluster: &Cluster, mark: usize) {
    archive_all(cluster);
    assert_eq!(cluster.psql(LEASE), "held|1");
    let log = cluster.log_since(mark);
    assert!(!log.contains(REFUSED), "{log}");
}

/// With the default interval nobody could wait for it.
fn holder(site: &Site) -> Cluster {
    let primary = site.primary(&[]);
    archive_all(&primary);
    primary
}

fn cp(site: &Site, from: &Path, to: &Path) {
    run(site.pg().program("/bin/cp").arg("-a").arg(from).arg(to)).expect_success();
}

/// The kernel deals out its boot ID and the numbers of file systems anew.
#[test]
fn a_reboot() {
    let site = Site::on_files();
    let primary = holder(&site);
    primary.stop(StopMode::Fast);
    edit(primary.datadir(), |instance| {
        let boot = instance["place"]["boot"].as_str().expect("a boot ID").to_owned();
        let text = instance
            .to_string()
            .replace(&boot, "11111111-2222-3333-4444-555555555555");
        *instance = serde_json::from_str(&text).expect("JSON");
        let device = instance["place"]["device"].as_u64().expect("a number");
        instance["place"]["device"] = (device + 1).into();
    });
    let mark = primary.log_mark();
    primary.start_again();
    goes_on(&primary, mark);
}

#[test]
fn another_name_of_the_host() {
    let site = Site::on_files();
    let primary = holder(&site);
    primary.stop(StopMode::Fast);
    edit(primary.datadir(), |instance| {
        assert!(instance["place"]["host"].is_string());
        instance["place"]["host"] = "its-former-name".into();
    });
    let mark = primary.log_mark();
    primary.start_again();
    goes_on(&primary, mark);
}

#[test]
fn a_data_directory_that_was_moved() {
    let site = Site::on_files();
    let primary = holder(&site);
    primary.stop(StopMode::Fast);
    let elsewhere = site.dir().join("elsewhere");
    fs::rename(primary.datadir(), &elsewhere).expect("renamed");
    let moved = Cluster::builder(site.dir(), "elsewhere").attach(&elsewhere);
    goes_on(&moved, 0);
}

/// `initdb --waldir`; a copy of such a directory has a `pg_wal` of its own, with the file of the original in it.
#[test]
fn a_pg_wal_that_lies_elsewhere() {
    let site = Site::on_files();
    let waldir = site.dir().join("waldir");
    let primary = site
        .builder("primary")
        .initdb_arg(&format!("--waldir={}", waldir.display()))
        .start();
    primary.psql("CREATE EXTENSION walarchive");
    archive_all(&primary);
    let mark = primary.log_mark();
    primary.restart();
    goes_on(&primary, mark);
    primary.stop(StopMode::Fast);
    let (copy, copied) = (site.dir().join("copy"), site.dir().join("copied"));
    cp(&site, primary.datadir(), &copy);
    cp(&site, &waldir, &copied);
    fs::remove_file(copy.join("pg_wal")).expect("removed");
    std::os::unix::fs::symlink(&copied, copy.join("pg_wal")).expect("linked");
    primary.start_again();
    archive_all(&primary);
    let second = Cluster::builder(site.dir(), "copy").attach(&copy);
    first_waiting(&second);
    let message = wait_message(&second, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains("which is a copy"), "{message}");
    archive_all(&primary);
}

/// The old primary becomes a standby of the new one.
fn rewind(site: &Site, old: &Cluster, new: &Cluster) {
    // The WAL that the new one wrote as a standby is not on disk everywhere; pg_rewind wants to see its timeline.
    new.psql("CHECKPOINT");
    let server = format!(
        "host={} port={} user=postgres dbname=postgres",
        new.socket_dir().display(),
        new.port()
    );
    let mut pg_rewind = site.pg().program("pg_rewind");
    pg_rewind.args(["-R", "--no-sync", "--source-server", &server, "-D"]);
    run(pg_rewind.arg(old.datadir())).expect_success();
    old.start_again();
    let lsn = new.psql("SELECT pg_current_wal_insert_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    old.wait_until("it has caught up", PATIENCE, || {
        old.try_psql(&replayed).as_deref() == Ok("t")
    });
}

/// Each time the other one dies, and comes back as a standby.
#[test]
fn there_and_back_twice_with_pg_rewind() {
    let site = Site::on_files();
    // pg_rewind reads what the old primary has written since they parted.
    let primary = site.primary(&[("wal_keep_size", "1GB")]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    archive_all(&primary);
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    let (mut writes, mut follows) = (&primary, &standby);
    for epoch in 2..=5 {
        writes.psql(&format!("INSERT INTO t VALUES ({epoch})"));
        let lsn = writes.psql("SELECT pg_current_wal_insert_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        follows.wait_until("the standby has caught up", PATIENCE, || {
            follows.try_psql(&replayed).as_deref() == Ok("t")
        });
        writes.kill9();
        let mark = follows.log_mark();
        follows.psql("SELECT pg_promote()");
        follows.wait_promoted(PATIENCE);
        archive_all(follows);
        assert_eq!(follows.psql(LEASE), format!("held|{epoch}"));
        let log = follows.log_since(mark);
        assert!(!log.contains(REFUSED), "{log}");
        (writes, follows) = (follows, writes);
        rewind(&site, follows, writes);
        assert_eq!(follows.psql("SELECT lease_state FROM walarchive_status"), "standby");
        assert_eq!(writes.psql("SELECT failed_count FROM walarchive_status"), "0");
    }
}

/// `archive_mode = always`: both archive the same, and neither disturbs the other; after the primary's death all goes on.
#[test]
fn a_standby_that_archives_too() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    archive_all(&primary);
    // The end of recovery takes a while, as it does on a busy machine; the history of the new timeline is there before it.
    let standby = Cluster::builder(site.dir(), "standby")
        .setting("archive_mode", "always")
        .setting("recovery_end_command", "sleep 3")
        .standby_of(&primary);
    // The WAL that the primary has archived is the same; the standby stores what the primary has not archived yet.
    let segment = primary.switch_wal();
    standby.wait_until("the standby is done with it", PATIENCE, || {
        standby.datadir().join("pg_wal").join(&segment).exists() && standby.is_archived(&segment)
    });
    let writers: Vec<i32> = ["archiver", "walarchive uploader"]
        .iter()
        .flat_map(|title| primary.pids_of(title))
        .collect();
    assert_eq!(writers.len(), 2, "{writers:?}");
    writers.iter().for_each(|pid| kill_pid(*pid, Signal::SIGSTOP));
    let late = primary.switch_wal();
    standby.wait_until("the standby has stored it", PATIENCE, || {
        site.objects("wal_005").into_iter().any(|key| key.contains(&late))
    });
    assert!(!primary.is_archived(&late), "the primary has not");
    writers.iter().for_each(|pid| kill_pid(*pid, Signal::SIGCONT));
    primary.wait_archived(&late, PATIENCE);
    assert_eq!(primary.psql(LEASE), "held|1");
    assert_eq!(
        standby.psql(LEASE.replace("lease_epoch", "pg_is_in_recovery()").as_str()),
        "standby|t"
    );
    for cluster in [&primary, &standby] {
        assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    }
    let mut lease = site.objects("walarchive_005/lease");
    // Not what is being renewed.
    lease.retain(|key| key.ends_with(".json"));
    assert_eq!(lease.len(), 2, "only the primary has taken the lease: {lease:?}");
    primary.kill9();
    let mark = standby.log_mark();
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    archive_all(&standby);
    assert_eq!(standby.psql(LEASE), "held|2");
    // In the moment of the promotion the history of the new timeline is not of the holder's, and waits.
    assert_eq!(standby.psql("SELECT failed_count FROM walarchive_status"), "0");
    let log = standby.log_since(mark);
    assert!(!log.contains(REFUSED), "{log}");
}

/// A standby of the standby has the history of the new timeline before the new primary has taken the lease.
#[test]
fn a_standby_of_a_standby_that_is_promoted() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    archive_all(&primary);
    let standby = |name: &str, of: &Cluster| {
        Cluster::builder(site.dir(), name)
            .setting("archive_mode", "always")
            .setting("recovery_end_command", "sleep 3")
            .standby_of(of)
    };
    let middle = standby("middle", &primary);
    let last = standby("last", &middle);
    primary.kill9();
    middle.psql("SELECT pg_promote()");
    middle.wait_promoted(PATIENCE);
    let segment = middle.switch_wal();
    assert!(segment.starts_with("00000002"), "{segment}");
    last.wait_until("it follows, and is done with the segment", PATIENCE, || {
        last.datadir()
            .join(format!("pg_wal/archive_status/{segment}.done"))
            .exists()
    });
    middle.wait_archived(&segment, PATIENCE);
    assert_eq!(middle.psql(LEASE), "held|2");
    for cluster in [&middle, &last] {
        assert_eq!(cluster.psql("SELECT failed_count FROM walarchive_status"), "0");
        let log = cluster.log();
        assert!(!log.contains(REFUSED), "{log}");
    }
}
