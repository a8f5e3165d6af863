//! What `walarchive wal-receive` says when it cannot go on.

use std::collections::BTreeSet;
use std::fs;

use walarchive_pg_test::archiving::{present_segment, switch_segments};
use walarchive_pg_test::receive::{self, end, is_receiving, wait_receiving, wait_stored};
use walarchive_pg_test::site::Site;
use walarchive_testkit::{Background, Cluster, Fault, FaultProxy, Output, PATIENCE, StopMode, run};

#[track_caller]
fn fails(output: &Output, parts: &[&str]) {
    assert_eq!(output.code, Some(1), "{output:?}");
    for part in parts.iter().chain(&["HINT:  "]) {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }
}

#[test]
fn a_server_that_does_not_let_it_in_is_named_with_the_reason() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary").start();
    primary.psql("CREATE ROLE no_right LOGIN");
    primary.psql("CREATE ROLE with_password LOGIN REPLICATION PASSWORD 'x'");
    fs::write(
        primary.datadir().join("pg_hba.conf"),
        "local all postgres trust\nlocal replication with_password scram-sha-256\nlocal replication no_right trust\n",
    )
    .expect("written");
    primary.reload();
    let try_as = |user: &str, args: &[&str]| {
        let mut command = receive::command(&site, &primary, args);
        run(command.env("PGUSER", user).env("PGPASSWORD", "wrong"))
    };
    // The server's own words differ between its versions.
    fails(&try_as("no_right", &[]), &["ALTER ROLE ... REPLICATION"]);
    fails(
        &try_as("with_password", &[]),
        &["password authentication failed", "PGPASSWORD"],
    );
    fails(&try_as("postgres", &[]), &["pg_hba.conf"]);
    let output = try_as("with_password", &["--slot", "Not good"]);
    fails(&output, &["\"Not good\" cannot be the name of a replication slot"]);
    let mut command = receive::command(&site, &primary, &[]);
    fails(&run(command.env("PGPORT", "1")), &["could not connect to the server"]);
    let objects = site.objects("wal_005");
    assert!(objects.is_empty(), "{objects:?}");
}

#[test]
fn another_clusters_repository_is_refused() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary").start();
    let receiver = receive::start(&site, &primary, &[]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    assert_eq!(end(receiver).code, Some(0));
    let other = receive::builder(&site, "other").start();
    fails(
        &run(&mut receive::command(&site, &other, &[])),
        &["belongs to another cluster"],
    );
}

/// From now on the server removes WAL as soon as it can.
fn keep_little(primary: &Cluster) {
    primary.set("max_wal_size", "2MB");
    primary.set("min_wal_size", "2MB");
    primary.reload();
}

const LOST: &str = "HINT:  The WAL in between is lost, unless it is in the repository. Take a base backup, and go on with \
                    \"walarchive wal-receive --allow-gap\".";

/// The number of a segment of 1 MB among the first 4 GB.
fn number(segment: &str) -> u64 {
    u64::from_str_radix(&segment[16..24], 16).expect("the name of a segment")
}

/// The numbers of all segments in the repository.
fn numbers(site: &Site) -> BTreeSet<u64> {
    let folder = fs::read_dir(site.object("wal_005")).expect("listed");
    let names = folder.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("00000001"))
        .map(|name| number(&name))
        .collect()
}

/// What the server still has behind the gap is received, by the first start and by each later one.
#[test]
fn behind_a_gap_nothing_is_lost_that_the_server_has() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary").start();
    let receiver = receive::start(&site, &primary, &["--no-slot"]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    assert_eq!(end(receiver).code, Some(0));
    keep_little(&primary);
    for _ in 0..5 {
        switch_segments(&primary, 5);
        primary.psql("CHECKPOINT");
    }
    // From now on all is kept: the server has several segments that nobody has received.
    primary.set("wal_keep_size", "2GB");
    primary.reload();
    let kept = number(&present_segment(&primary));
    switch_segments(&primary, 9);
    for round in 0..3 {
        let receiver = receive::start(&site, &primary, &["--no-slot", "--allow-gap"]);
        let segment = primary.switch_wal();
        wait_stored(&site, &segment);
        let output = end(receiver);
        let is_told = output.stderr.contains("has already been removed");
        assert!(output.code == Some(0) && is_told, "{round}: {output:?}");
        let stored = numbers(&site);
        let missing: Vec<u64> = (kept..number(&segment))
            .filter(|number| !stored.contains(number))
            .collect();
        assert!(missing.is_empty(), "{round}: {missing:?} {output:?}");
        // Nobody receives these now.
        switch_segments(&primary, 4);
    }
    let output = run(&mut receive::command(&site, &primary, &["--no-slot"]));
    fails(&output, &["has already been removed", LOST]);
}

/// Without a slot the server removes WAL that nobody has received.
#[test]
fn a_gap_is_refused_unless_it_is_allowed() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary").start();
    let receiver = receive::start(&site, &primary, &["--no-slot"]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    assert_eq!(end(receiver).code, Some(0));
    keep_little(&primary);
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    for _ in 0..5 {
        switch_segments(&primary, 5);
        primary.psql("CHECKPOINT");
    }
    for args in [&["--no-slot"][..], &[]] {
        let output = run(&mut receive::command(&site, &primary, args));
        fails(&output, &["has already been removed", LOST]);
    }
    let receiver = receive::start(&site, &primary, &["--allow-gap"]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    let output = end(receiver);
    assert!(
        output.code == Some(0) && output.stderr.contains("has already been removed"),
        "{output:?}"
    );
    let shown = run(&mut site.walarchive(&["wal-show"]));
    assert!(shown.stdout.contains("LOST_SEGMENTS"), "{shown:?}");
}

#[test]
fn one_slot_serves_one_program_and_is_removed_on_demand() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary").start();
    let receiver = receive::start(&site, &primary, &[]);
    let drop_slot = || run(&mut receive::command(&site, &primary, &["--drop-slot"]));
    fails(&drop_slot(), &["is active"]);
    // The second one waits for its turn.
    let mark = primary.log_mark();
    let second = Background::spawn(&mut receive::command(&site, &primary, &[]), None);
    primary.wait_log_since(mark, "replication slot \"walg\" is active", PATIENCE);
    assert_eq!(end(receiver).code, Some(0));
    let mut second = second;
    wait_receiving(&primary, &mut second);
    assert!(is_receiving(&primary));
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    let output = end(second);
    assert!(
        output.code == Some(0) && output.stderr.contains("is active"),
        "{output:?}"
    );
    assert!(drop_slot().success());
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    let output = drop_slot();
    assert!(
        output.success() && output.stdout.contains("there is no replication slot"),
        "{output:?}"
    );
}

/// The server has given the slot up, because it kept more than the server may.
#[test]
fn a_slot_that_the_server_has_given_up_is_told() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary")
        .setting("max_slot_wal_keep_size", "2MB")
        .start();
    let receiver = receive::start(&site, &primary, &[]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    assert_eq!(end(receiver).code, Some(0));
    keep_little(&primary);
    let is_lost = || primary.psql("SELECT wal_status FROM pg_replication_slots") == "lost";
    primary.wait_until("the slot is given up", PATIENCE, || {
        switch_segments(&primary, 10);
        primary.psql("CHECKPOINT");
        is_lost()
    });
    // From 18 on no such slot can be used. Before it can, but what it kept is gone.
    let output = run(&mut receive::command(&site, &primary, &[]));
    match site.pg().major() {
        18.. => fails(&output, &["replication slot", "--drop-slot"]),
        _ => fails(&output, &["has already been removed", "--allow-gap"]),
    }
    assert!(run(&mut receive::command(&site, &primary, &["--drop-slot"])).success());
    let receiver = receive::start(&site, &primary, &["--allow-gap"]);
    let segment = primary.switch_wal();
    wait_stored(&site, &segment);
    assert_eq!(end(receiver).code, Some(0));
}

/// What the store refuses for good is told at once, not when the server is back.
#[test]
fn a_conflict_is_told_while_the_server_is_away() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("an S3 server").port());
    let primary = receive::builder(&site, "primary").start();
    let mut receiver = Background::spawn(&mut receive::over(&site, &primary, &proxy), None);
    wait_receiving(&primary, &mut receiver);
    let stored = primary.switch_wal();
    wait_stored(&site, &stored);
    proxy.set([Fault::Refuse]);
    let next = primary.switch_wal();
    primary.wait_until("the segment has come", PATIENCE, || {
        primary.psql("SELECT write_lsn = pg_current_wal_lsn() FROM pg_stat_replication") == "t"
    });
    primary.stop(StopMode::Immediate);
    let object = |segment: &str| site.object(&format!("wal_005/{segment}.zst"));
    fs::copy(object(&stored), object(&next)).expect("other content is there");
    receiver.assert_running();
    proxy.heal();
    let output = receiver.wait(PATIENCE);
    fails(&output, &["trying again until it works", &next]);
}

/// The holder of the lease is on a later timeline, and this server has left its history.
#[test]
fn an_old_primary_is_refused() {
    let site = Site::on_files();
    let primary = site
        .builder("primary")
        .initdb_arg("--wal-segsize=1")
        .setting("walarchive.lease_interval", "2")
        .start();
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    let first = primary.switch_wal();
    primary.wait_archived(&first, PATIENCE);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    let second = standby.switch_wal();
    standby.wait_archived(&second, PATIENCE);
    assert!(second.starts_with("00000002"), "{second}");
    let receiver = receive::start(&site, &primary, &[]);
    switch_segments(&primary, 4);
    let output = receiver.wait(PATIENCE);
    fails(&output, &["is written by another server", "old primary"]);
}
