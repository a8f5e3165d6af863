//! One writer, known to the repository: who gets the lease, who waits for it, who has lost it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use walarchive_pg_test::archiving::{first_waiting, wait_message};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Background, Cluster, PATIENCE, Signal, StopMode, kill_pid, run};

/// The parts of the message with which a server is refused.
const REFUSED: &str = "is written by another server";

/// The interval where a copy waits beside a living original: four of them are more than a busy disk holds up a renewal.
const BESIDE: &str = "3s";

/// All objects but those of the lease, with their content.
fn content(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let folders = ["wal_005", "basebackups_005", "walarchive_005"];
    let keys = folders.iter().flat_map(|folder| site.objects(folder));
    keys.filter(|key| !key.contains("/lease/"))
        .map(|key| (key.clone(), fs::read(site.object(&key)).unwrap_or_default()))
        .collect()
}

/// The keys whose objects are not as they were.
fn changed(site: &Site, before: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let now = content(site);
    let keys = before.keys().chain(now.keys());
    keys.filter(|key| before.get(*key) != now.get(*key)).cloned().collect()
}

/// Waits until the holder has renewed its lease so many times more.
fn wait_renewed(site: &Site, cluster: &Cluster, times: usize) {
    let alive = || {
        let keys = site.objects("walarchive_005/lease");
        let key = keys.iter().rfind(|key| key.ends_with(".alive.json")).cloned();
        key.and_then(|key| fs::read(site.object(&key)).ok())
    };
    let (mut last, mut seen) = (alive(), 0);
    cluster.wait_until("the lease is renewed", PATIENCE, || {
        let now = alive();
        if now.is_some() && now != last {
            last = now;
            seen += 1;
        }
        seen >= times
    });
}

/// A server on a restored directory that archives as its configuration says, which is that of the original.
fn clone_of(site: &Site, target: &std::path::Path, name: &str) -> Cluster {
    Cluster::builder(site.dir(), name).attach(target)
}

#[test]
fn a_clone_beside_a_living_original_never_writes_a_byte() {
    let site = Site::on_files();
    let primary = site.primary(&[
        ("walarchive.retention", "full 1"),
        ("walarchive.lease_interval", BESIDE),
    ]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    let name = backup(&primary, "");
    archive_all(&primary);
    let target = site.restore("clone", "LATEST", &[]);
    let before = content(&site);
    let clone = clone_of(&site, &target, "clone");
    clone.wait_promoted(PATIENCE);
    clone.psql("INSERT INTO t VALUES (2)");
    let waiting = first_waiting(&clone);
    let message = wait_message(&clone, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(
        message.contains("DETAIL:  ") && message.contains("restored by backup-fetch"),
        "{message}"
    );
    assert!(
        message.contains(&primary.datadir().display().to_string()) && message.contains("walarchive_take_over()"),
        "{message}"
    );
    // Longer than the lease of a dead server would last.
    wait_renewed(&site, &primary, 6);
    for statement in [
        "SELECT walarchive_backup_push()".to_owned(),
        "SELECT * FROM walarchive_delete_retain(1, confirm => true)".to_owned(),
        "SELECT * FROM walarchive_delete_everything(force => true, confirm => true)".to_owned(),
        "SELECT * FROM walarchive_delete_garbage(confirm => true)".to_owned(),
        format!("SELECT walarchive_backup_mark('{name}')"),
    ] {
        let refused = clone.try_psql_verbose(&statement);
        assert!(
            refused.stderr.contains("ERROR:  55000: ") && refused.stderr.contains(REFUSED),
            "{statement}: {refused:?}"
        );
    }
    assert!(clone.waiting_files().contains(&waiting), "it stays in pg_wal");
    assert_eq!(changed(&site, &before), Vec::<String>::new());
    // Still after a restart.
    let mark = clone.log_mark();
    clone.restart();
    wait_message(&clone, mark, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert_eq!(changed(&site, &before), Vec::<String>::new());
    // The original was not disturbed.
    let second = backup(&primary, "");
    assert_eq!(
        primary.psql("SELECT string_agg(backup_name, ' ') FROM walarchive_backups"),
        second
    );
    assert_eq!(primary.psql("SELECT failed_count FROM walarchive_status"), "0");
    // Both see who holds it.
    for cluster in [&primary, &clone] {
        let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'lease'");
        assert!(row.contains(&primary.datadir().display().to_string()), "{row}");
        let holder = cluster.psql("SELECT lease_state, lease_holder FROM walarchive_status");
        assert!(holder.contains(&primary.datadir().display().to_string()), "{holder}");
    }
    assert_eq!(primary.psql("SELECT lease_state FROM walarchive_status"), "held");
    assert_eq!(clone.psql("SELECT lease_state FROM walarchive_status"), "waiting");
}

#[test]
fn a_restored_server_goes_on_by_itself_when_the_original_is_gone() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", "1s")]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    backup(&primary, "");
    archive_all(&primary);
    walarchive_pg_test::site::lose(&primary);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = clone_of(&site, &target, "restored");
    restored.wait_promoted(PATIENCE);
    restored.psql("INSERT INTO t VALUES (2)");
    archive_all(&restored);
    assert_eq!(
        restored.psql("SELECT lease_state, lease_epoch FROM walarchive_status"),
        "held|2"
    );
    let host = primary.datadir().display().to_string();
    let message = wait_message(
        &restored,
        0,
        &["WARNING", "took the lease of repository", "as epoch 2"],
        PATIENCE,
    );
    for part in [
        "had not renewed it for ",
        &host,
        "no longer archives",
        "walarchive_take_over()",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let name = backup(&restored, "");
    assert!(name.starts_with("base_00000002"), "{name}");
}

/// Streams from it, as Patroni's or repmgr's do.
fn standby_of(site: &Site, primary: &Cluster) -> Cluster {
    let standby = Cluster::builder(site.dir(), "standby").standby_of(primary);
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("the standby has caught up", PATIENCE, || {
        standby.try_psql(&replayed).as_deref() == Ok("t")
    });
    standby
}

#[test]
fn a_failover_waits_for_nobody_and_the_old_primary_is_refused() {
    let site = Site::on_files();
    // The default interval: nobody waits for it.
    let primary = site.primary(&[("walarchive.retention", "full 1")]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    backup(&primary, "");
    archive_all(&primary);
    let standby = standby_of(&site, &primary);
    primary.kill9();
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (2)");
    archive_all(&standby);
    assert_eq!(
        standby.psql("SELECT lease_state, lease_epoch FROM walarchive_status"),
        "held|2"
    );
    let before = content(&site);

    // It has not heard of anything, and has late segments.
    primary.start_again();
    primary.psql("INSERT INTO t VALUES (100)");
    let late = first_waiting(&primary);
    for statement in [
        "SELECT walarchive_backup_push()",
        "SELECT * FROM walarchive_delete_everything(force => true, confirm => true)",
    ] {
        let refused = primary.try_psql_verbose(statement);
        assert!(!refused.success() && refused.stderr.contains(REFUSED), "{refused:?}");
    }
    let message = wait_message(&primary, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(
        message.contains("as epoch 2") && message.contains("promotion of a standby") && message.contains("has lost it"),
        "{message}"
    );
    assert!(message.contains(&standby.datadir().display().to_string()), "{message}");
    assert!(
        message.contains("HINT:  The waiting files stay in pg_wal."),
        "{message}"
    );
    let mark = primary.log_mark();
    primary.restart();
    wait_message(&primary, mark, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(primary.waiting_files().contains(&late));
    assert_eq!(primary.psql("SELECT lease_state FROM walarchive_status"), "lost");
    assert_eq!(
        primary.psql("SELECT status FROM walarchive_check() WHERE check_name = 'lease'"),
        "failed"
    );
    assert_eq!(changed(&site, &before), Vec::<String>::new());
    // The new one was not disturbed; after a switch back by hand it is the one that is refused.
    archive_all(&standby);
    let name = primary.psql("SELECT walarchive_take_over()");
    assert!(name.ends_with(&standby.datadir().display().to_string()), "{name}");
    let again = primary.psql("SELECT walarchive_take_over() IS NULL");
    assert_eq!(again, "t", "the holder takes over from nobody");
    // It learns of that by its next renewal.
    standby.wait_until("it is refused", PATIENCE, || {
        standby.switch_wal();
        standby.log().contains(REFUSED)
    });
    let message = wait_message(&standby, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains("taken over on request"), "{message}");
    assert_eq!(standby.psql("SELECT lease_state FROM walarchive_status"), "lost");
}

/// A copy of the data directory, taken while the server is down for a moment.
fn snapshot(site: &Site, primary: &Cluster) -> PathBuf {
    primary.stop(StopMode::Fast);
    let snapshot = site.dir().join("snapshot");
    let mut cp = site.pg().program("/bin/cp");
    run(cp.arg("-a").arg(primary.datadir()).arg(&snapshot)).expect_success();
    primary.start_again();
    snapshot
}

#[test]
fn two_primaries_by_a_snapshot_are_one_writer() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", BESIDE)]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    backup(&primary, "");
    archive_all(&primary);
    let snapshot = snapshot(&site, &primary);
    archive_all(&primary);
    let second = clone_of(&site, &snapshot, "second");
    second.psql("INSERT INTO t VALUES (2)");
    first_waiting(&second);
    let message = wait_message(&second, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains("which is a copy"), "{message}");
    wait_renewed(&site, &primary, 6);
    let before = content(&site);
    let refused = second.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(!refused.success() && refused.stderr.contains(REFUSED), "{refused:?}");
    assert_eq!(changed(&site, &before), Vec::<String>::new());
    archive_all(&primary);
    assert_eq!(primary.psql("SELECT failed_count FROM walarchive_status"), "0");
}

#[test]
fn a_restored_server_takes_over_if_that_is_wished() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", "1s")]);
    backup(&primary, "");
    archive_all(&primary);
    let (_, said) = site.backup_fetch("clone", "LATEST", &[]);
    assert!(said.success(), "{said:?}");
    let host = primary.datadir().display().to_string();
    assert!(
        said.stderr.contains(&host) && said.stderr.contains("this copy will not archive while it lives"),
        "{said:?}"
    );
    assert!(
        said.stderr
            .contains("use --archive-off for a clone, or --take-over to replace it"),
        "{said:?}"
    );
    assert!(
        said.stderr
            .contains("takes its place when it has not renewed the lease for 4 s, for whatever reason"),
        "{said:?}"
    );
    let target = site.restore("successor", "LATEST", &["--take-over"]);
    let successor = clone_of(&site, &target, "successor");
    successor.wait_promoted(PATIENCE);
    archive_all(&successor);
    // It learns of that by its next renewal.
    primary.wait_until("it is refused", PATIENCE, || {
        primary.switch_wal();
        primary.log().contains(REFUSED)
    });
    let message = wait_message(&primary, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(
        message.contains("taken over on request") && message.contains("has lost it"),
        "{message}"
    );
    let row = successor.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'lease'");
    assert!(row.starts_with("ok|this server writes: "), "{row}");
}

/// Stopped in the middle of a deletion, for longer than its lease lasts.
#[test]
fn a_deletion_that_was_asleep_deletes_nothing_more() {
    const SEGMENTS: usize = 4000;
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", "1s")]);
    backup(&primary, "");
    archive_all(&primary);
    let successor = snapshot(&site, &primary);
    let folder = site.object("wal_005");
    for number in 0x1000..0x1000 + SEGMENTS {
        let name = walarchive_pg_test::repository::segment_name(1, number);
        fs::write(folder.join(format!("{name}.zst")), "x").expect("could not write");
    }
    let left = || fs::read_dir(&folder).map_or(0, Iterator::count);
    let mut delete = site.walarchive(&["delete", "everything", "--confirm"]);
    let mut deletion = Background::spawn(delete.env("PGDATA", primary.datadir()), None);
    primary.wait_until("the deletion is under way", PATIENCE, || {
        left() < SEGMENTS - 100 || !deletion.is_running()
    });
    kill_pid(deletion.pid(), Signal::SIGSTOP);
    assert!(
        deletion.is_running(),
        "it was over too soon: {:?}",
        deletion.wait(PATIENCE)
    );
    let mut take_over = site.walarchive(&["take-over", "--pgdata", &successor.to_string_lossy()]);
    let said = run(&mut take_over).expect_success();
    assert!(said.contains("took the lease over from server"), "{said}");
    let there = left();
    assert!(there > 100, "nothing is left to be deleted");
    kill_pid(deletion.pid(), Signal::SIGCONT);
    let output = deletion.wait(PATIENCE);
    assert!(!output.success() && output.stderr.contains(REFUSED), "{output:?}");
    // The batch that was under way comes to its end.
    assert!(left() + 10 >= there, "{} of {there} are left", left());
}

/// A backup that runs when somebody takes the lease ends, and is none.
#[test]
fn a_running_backup_ends_when_the_lease_is_lost() {
    let site = Site::on_files();
    let primary = site.primary(&[
        ("walarchive.lease_interval", "1s"),
        ("walarchive.backup_rate_limit", "1MB"),
    ]);
    archive_all(&primary);
    let successor = snapshot(&site, &primary);
    let mut statement = primary.background_psql("SELECT walarchive_backup_push()");
    primary.wait_until("the backup copies", PATIENCE, || {
        assert!(statement.is_running(), "the backup is over");
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    run(&mut site.walarchive(&["take-over", "--pgdata", &successor.to_string_lossy()])).expect_success();
    assert!(statement.is_running(), "the backup was over too soon");
    let output = statement.wait(PATIENCE);
    assert!(!output.success() && output.stderr.contains(REFUSED), "{output:?}");
    let sentinels = site.objects("basebackups_005").into_iter();
    assert_eq!(sentinels.filter(|key| key.ends_with("_sentinel.json")).count(), 0);
}

/// The scheduler and retention of a clone do nothing, and say why.
#[test]
fn the_schedule_of_a_clone_begins_no_backup() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", BESIDE)]);
    backup(&primary, "");
    archive_all(&primary);
    let target = site.restore("clone", "LATEST", &[]);
    let clone = Cluster::builder(site.dir(), "clone")
        .setting("walarchive.backup_schedule", "* * * * * *")
        .setting("walarchive.retention", "full 1")
        .attach(&target);
    clone.wait_promoted(PATIENCE);
    let message = wait_message(
        &clone,
        0,
        &["WARNING", "backups cannot be scheduled", REFUSED],
        PATIENCE,
    );
    assert!(message.contains("restored by backup-fetch"), "{message}");
    let error = clone.psql("SELECT scheduler_error FROM walarchive_status");
    assert!(error.contains(REFUSED), "{error}");
    assert_eq!(
        primary.psql("SELECT count(*) FROM walarchive_backups"),
        "1",
        "{:?}",
        site.objects("basebackups_005")
    );
}

/// A verification by the binary on the host of a clone is not noted: a mark is a write. On the host of the original it is.
#[test]
fn a_verification_beside_a_clone_leaves_no_mark() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", BESIDE)]);
    backup(&primary, "");
    archive_all(&primary);
    let clone = site.restore("clone", "LATEST", &[]);
    let verify = |datadir: &std::path::Path| {
        for args in [&["backup-verify", "LATEST"][..], &["wal-verify", "content"]] {
            run(site.walarchive(args).env("PGDATA", datadir)).expect_success();
        }
        site.objects("walarchive_005/verified").len()
    };
    assert_eq!(verify(&clone), 0);
    let server = clone_of(&site, &clone, "clone");
    server.wait_promoted(PATIENCE);
    assert_eq!(verify(&clone), 0, "nor when it accepts writes");
    assert_eq!(verify(primary.datadir()), 2);
}
