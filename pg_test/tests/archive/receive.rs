//! `walarchive wal-receive`: WAL comes over the replication protocol, and the server archives nothing by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{present_segment, switch_segments, write_noise};
use walarchive_pg_test::push;
use walarchive_pg_test::receive::{self, end, is_receiving, is_stored, over, wait_receiving, wait_stored};
use walarchive_pg_test::repository::{Object, Repository};
use walarchive_pg_test::site::{Site, lose};
use walarchive_testkit::{
    Background, Cluster, Fault, FaultProxy, Output, PATIENCE, Signal, StopMode, kill_pid, run, wait_until,
};

/// Keeps what it has sent, so that it can be compared.
fn keeping(site: &Site, settings: &[(&str, &str)]) -> Cluster {
    let builder = receive::builder(site, "primary").setting("wal_keep_size", "2GB");
    let with = |builder: walarchive_testkit::Builder, (name, value): &(&str, &str)| builder.setting(name, value);
    settings.iter().fold(builder, with).start()
}

fn repository(site: &Site) -> Repository {
    let object = site.object("wal_005");
    Repository::at(object.parent().expect("a folder").to_path_buf())
}

/// Ends the present segment, and waits until it is stored. Returns its name.
#[track_caller]
fn store_all(site: &Site, cluster: &Cluster) -> String {
    let segment = cluster.switch_wal();
    wait_stored(site, &segment);
    segment
}

#[track_caller]
fn ended_well(output: &Output) {
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!output.stderr.contains("walarchive: error:"), "{output:?}");
}

/// Of these, none was written again.
#[track_caller]
fn same_objects(before: &BTreeMap<String, Object>, repository: &Repository) {
    let after = repository.snapshot();
    for (name, object) in before {
        let now = after.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(
            (object.inode, object.modified_ns),
            (now.inode, now.modified_ns),
            "{name}"
        );
    }
}

#[test]
fn a_burst_is_received_and_restored_to_a_point_in_time() {
    let site = Site::on_files();
    let primary = keeping(&site, &[]);
    let first = present_segment(&primary);
    let receiver = receive::start(&site, &primary, &[]);
    primary.psql("CREATE TABLE t (a int)");
    let backup = push::push(&site, &primary, &[]);
    for value in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({value})"));
        switch_segments(&primary, 10);
        write_noise(&primary);
    }
    primary.psql("SELECT pg_create_restore_point('here')");
    primary.psql("INSERT INTO t VALUES (4)");
    let last = store_all(&site, &primary);
    ended_well(&end(receiver));
    let count = repository(&site).assert_complete(&primary, &first, &last);
    assert!(count > 33, "{count}");
    let verified = run(&mut site.walarchive(&["wal-verify", "integrity", "content", "--all"]));
    assert!(verified.success(), "{verified:?}");

    lose(&primary);
    let target = site.restore(
        "restored",
        &backup,
        &["--target-name", "here", "--target-action", "promote"],
    );
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "3");
    restored.amcheck();
}

/// In the middle of a burst, with segments on their way over a long link. The slot keeps what was not stored.
#[test]
fn killed_in_the_middle_and_started_again_it_misses_nothing() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("an S3 server").port());
    proxy.set([Fault::Latency(Duration::from_millis(30))]);
    let primary = keeping(&site, &[]);
    let repository = repository(&site);
    let first = present_segment(&primary);
    for round in 0..3 {
        let mut receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
        wait_receiving(&primary, &mut receiver);
        let stored = repository.segments().len();
        switch_segments(&primary, 40);
        wait_until("some of the burst is stored", PATIENCE, || {
            repository.segments().len() >= stored + 10
        });
        kill_pid(receiver.pid(), Signal::SIGKILL);
        let output = receiver.wait(PATIENCE);
        assert_eq!(output.signal, Some(Signal::SIGKILL as i32), "{output:?}");
        println!("round {round}: {} segments", repository.segments().len());
    }
    let before = repository.snapshot();
    let receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
    let last = store_all(&site, &primary);
    ended_well(&end(receiver));
    let count = repository.assert_complete(&primary, &first, &last);
    assert!(count > 120, "{count}");
    same_objects(&before, &repository);
    let keys = site.objects("wal_005");
    assert_eq!(keys.len(), repository.segments().len(), "{keys:?}");
}

/// A server that stops waits until a standby has flushed everything, but not for a segment that is not full.
#[test]
fn a_server_that_stops_and_starts_is_received_from_again() {
    let site = Site::on_files();
    let primary = keeping(&site, &[]);
    let first = present_segment(&primary);
    let mut receiver = receive::start(&site, &primary, &[]);
    for mode in [StopMode::Fast, StopMode::Immediate, StopMode::Smart] {
        switch_segments(&primary, 3);
        primary.psql("SELECT pg_logical_emit_message(false, 'test', 'in the segment that is not full')");
        let begun = Instant::now();
        primary.stop(mode);
        println!("{mode:?} took {:?}", begun.elapsed());
        primary.start_again();
        wait_receiving(&primary, &mut receiver);
    }
    let last = store_all(&site, &primary);
    let output = end(receiver);
    ended_well(&output);
    repository(&site).assert_complete(&primary, &first, &last);
    let warnings = output.stderr.matches("walarchive: warning:").count();
    assert!(warnings >= 3, "{}", output.stderr);
    assert!(output.stderr.contains("stops"), "{}", output.stderr);
}

#[test]
fn a_store_that_is_down_for_a_while_is_waited_for() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("an S3 server").port());
    let primary = keeping(&site, &[("wal_sender_timeout", "3s")]);
    let first = present_segment(&primary);
    let mut receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
    wait_receiving(&primary, &mut receiver);
    store_all(&site, &primary);
    proxy.set([Fault::Refuse]);
    let stored = repository(&site).segments().len();
    let down = Instant::now();
    switch_segments(&primary, 40);
    let last = primary.switch_wal();
    let flushed = "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_lsn()";
    wait_until("wal_sender_timeout has passed twice", PATIENCE, || {
        assert!(receiver.is_running());
        assert_eq!(primary.psql(flushed), "0", "nothing is flushed that is not stored");
        down.elapsed() > Duration::from_secs(8)
    });
    assert_eq!(repository(&site).segments().len(), stored);
    proxy.heal();
    wait_stored(&site, &last);
    primary.wait_until("the server knows what is stored", PATIENCE, || {
        primary.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'walg' AND restart_lsn >= pg_current_wal_lsn() - 1048576") == "1"
    });
    let output = end(receiver);
    ended_well(&output);
    repository(&site).assert_complete(&primary, &first, &last);
    assert!(!primary.log().contains("replication timeout"), "{}", primary.log());
    let told = output.stderr.contains("\nwalarchive: warning: could not store \"");
    assert!(told && !output.stderr.contains("WARN"), "{output:?}");
    assert!(output.stderr.lines().count() < 8, "an outage is told once: {output:?}");
}

/// Nobody waits for the store: neither a server that is to stop, nor who ends the program.
#[test]
fn nothing_waits_for_a_store_that_takes_nothing() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("an S3 server").port());
    let primary = keeping(&site, &[]);
    let first = present_segment(&primary);
    let mut receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
    wait_receiving(&primary, &mut receiver);
    proxy.set([Fault::Refuse]);
    switch_segments(&primary, 40);
    primary.stop(StopMode::Fast);
    primary.start_again();
    receiver.assert_running();
    // It would take 10 s otherwise. This machine may be slow, too.
    let at_once = |receiver: Background| {
        let asked = Instant::now();
        let output = end(receiver);
        ended_well(&output);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(8), "{took:?}: {output:?}");
        let kept = "HINT:  Nothing is lost: the server keeps them for replication slot \"walg\".";
        let is_told = output.stderr.contains("perhaps not stored are 00000001") && output.stderr.contains(kept);
        assert!(is_told, "{output:?}");
        output
    };
    let output = at_once(receiver);
    assert!(output.stderr.contains("the store takes nothing"), "{output:?}");
    // One that hangs is not waited for either.
    proxy.heal();
    let mut receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
    wait_receiving(&primary, &mut receiver);
    proxy.set([Fault::Silent]);
    let before = proxy.count();
    switch_segments(&primary, 3);
    wait_until("the store is asked for something", PATIENCE, || proxy.count() > before);
    at_once(receiver);
    // Nobody keeps it without a slot: it is waited for.
    proxy.heal();
    let mut receiver = Background::spawn(over(&site, &primary, &proxy).arg("--no-slot"), None);
    wait_receiving(&primary, &mut receiver);
    store_all(&site, &primary);
    proxy.set([Fault::Refuse]);
    let last = primary.switch_wal();
    primary.wait_until("the segment has come", PATIENCE, || {
        primary.psql("SELECT write_lsn = pg_current_wal_lsn() FROM pg_stat_replication") == "t"
    });
    kill_pid(receiver.pid(), Signal::SIGTERM);
    primary.wait_until("it receives no more", PATIENCE, || !is_receiving(&primary));
    proxy.heal();
    ended_well(&receiver.wait(PATIENCE));
    assert!(is_stored(&site, &last));
    let mut receiver = Background::spawn(&mut over(&site, &primary, &proxy), None);
    wait_receiving(&primary, &mut receiver);
    let last = store_all(&site, &primary);
    ended_well(&end(receiver));
    repository(&site).assert_complete(&primary, &first, &last);
}

/// The slot keeps WAL that the server would have removed.
#[test]
fn what_is_written_while_nobody_receives_is_kept_for_the_slot() {
    let site = Site::on_files();
    let primary = receive::builder(&site, "primary")
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .start();
    let receiver = receive::start(&site, &primary, &["--slot", "mine"]);
    let backup = push::push(&site, &primary, &[]);
    ended_well(&end(receiver));
    for _ in 0..5 {
        switch_segments(&primary, 5);
        primary.psql("CHECKPOINT");
    }
    primary.psql("CREATE TABLE t AS SELECT 7 AS a");
    let mut again = receive::command(&site, &primary, &[]);
    let receiver = Background::spawn(again.env("WALG_SLOTNAME", "mine"), None);
    // The server ends the segment by itself, though its own archiver is off.
    let present = present_segment(&primary);
    primary.set("archive_timeout", "1");
    primary.reload();
    wait_stored(&site, &present);
    ended_well(&end(receiver));
    assert_eq!(
        primary.psql("SELECT string_agg(slot_name, ',') FROM pg_replication_slots"),
        "mine"
    );
    lose(&primary);
    let target = site.restore("restored", &backup, &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT a FROM t"), "7");
}

/// As with nohup, the program outlives the terminal.
#[test]
fn a_hangup_that_is_ignored_ends_nothing() {
    let site = Site::on_files();
    let primary = keeping(&site, &[]);
    let first = present_segment(&primary);
    let command = receive::command(&site, &primary, &[]);
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nohup.env(name, value),
            None => nohup.env_remove(name),
        };
    }
    let mut receiver = Background::spawn(&mut nohup, None);
    wait_receiving(&primary, &mut receiver);
    kill_pid(receiver.pid(), Signal::SIGHUP);
    store_all(&site, &primary);
    let last = store_all(&site, &primary);
    receiver.assert_running();
    let output = end(receiver);
    ended_well(&output);
    assert_eq!(output.stderr.matches("once more ends at once").count(), 1, "{output:?}");
    repository(&site).assert_complete(&primary, &first, &last);
}

/// Where no slot tells it, the program itself knows where it began.
#[test]
fn what_was_lost_with_the_first_connection_is_asked_for_again() {
    let site = Site::on_files();
    let primary = keeping(&site, &[]);
    let first = present_segment(&primary);
    let mut receiver = receive::start(&site, &primary, &["--no-slot"]);
    kill_pid(receiver.pid(), Signal::SIGSTOP);
    primary.stop(StopMode::Immediate);
    primary.start_again();
    switch_segments(&primary, 3);
    kill_pid(receiver.pid(), Signal::SIGCONT);
    wait_receiving(&primary, &mut receiver);
    let last = store_all(&site, &primary);
    ended_well(&end(receiver));
    repository(&site).assert_complete(&primary, &first, &last);
}

/// A primary and a standby of it that streams.
fn pair(site: &Site) -> (Cluster, Cluster) {
    let primary = keeping(site, &[]);
    primary.psql("CREATE TABLE t (a int)");
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    (primary, standby)
}

/// Restores the newest backup to the end of the archive.
#[track_caller]
fn restored(site: &Site) -> Cluster {
    let target: PathBuf = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    restored
}

#[track_caller]
fn wait_replayed(primary: &Cluster, standby: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_until("the standby has replayed all", PATIENCE, || {
        standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
    });
}

#[test]
fn after_a_failover_the_new_primary_is_received_from() {
    let site = Site::on_files();
    let (primary, standby) = pair(&site);
    let mut command = receive::command(&site, &primary, &[]);
    let both = format!("{},{}", primary.port(), standby.port());
    let hosts = site.dir().path().display();
    command
        .env("PGHOST", format!("{hosts},{hosts}"))
        .env("PGPORT", both)
        .env("PGTARGETSESSIONATTRS", "primary");
    let mut receiver = Background::spawn(&mut command, None);
    wait_receiving(&primary, &mut receiver);
    push::push(&site, &primary, &[]);
    primary.psql("INSERT INTO t VALUES (1)");
    switch_segments(&primary, 3);
    primary.psql("INSERT INTO t VALUES (2)");
    wait_replayed(&primary, &standby);
    primary.kill9();
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (3)");
    wait_receiving(&standby, &mut receiver);
    let last = store_all(&site, &standby);
    assert!(last.starts_with("00000002"), "{last}");
    ended_well(&end(receiver));
    assert!(site.object("wal_005/00000002.history.zst").is_file());
    lose(&standby);
    assert_eq!(
        restored(&site).psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"),
        "1,2,3"
    );
}

/// What the old primary wrote last has not come to the standby: a whole segment is in the repository, of the timeline that was left.
#[test]
fn a_standby_that_is_received_from_is_promoted() {
    let site = Site::on_files();
    let (primary, standby) = pair(&site);
    let mut receiver = receive::start(&site, &standby, &[]);
    push::push(&site, &primary, &[]);
    primary.psql("INSERT INTO t VALUES (1)");
    let before = store_all(&site, &primary);
    primary.psql("INSERT INTO t VALUES (2)");
    wait_replayed(&primary, &standby);
    primary.stop(StopMode::Immediate);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (3)");
    let last = store_all(&site, &standby);
    assert!(receiver.is_running());
    assert!(
        before.starts_with("00000001") && last.starts_with("00000002"),
        "{before} {last}"
    );
    let output = end(receiver);
    ended_well(&output);
    assert!(output.stderr.contains("timeline 2"), "{output:?}");
    assert!(!is_stored(&site, &format!("00000001{}", &last[8..])));
    lose(&standby);
    assert_eq!(
        restored(&site).psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"),
        "1,2,3"
    );
}
