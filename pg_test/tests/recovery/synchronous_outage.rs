//! Commits that wait for the store, and a store that goes away.

use std::fs;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{status, wait_message};
use walarchive_pg_test::failover::{promote, wait_caught_up};
use walarchive_pg_test::site::Site;
use walarchive_pg_test::synchronous::{builder, commit, has, start, wait_state, waiting_commit};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, Session, StopMode};

/// A primary that reaches its store through a proxy.
fn through_proxy(settings: &[(&str, &str)]) -> (Cluster, FaultProxy, Site) {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let builder = builder(&site, "primary")
        .setting("walarchive.storage_options", &proxy.options())
        .setting("walarchive.archive_timeout", "10s");
    let builder = settings
        .iter()
        .fold(builder, |builder, (name, value)| builder.setting(name, value));
    (start(builder), proxy, site)
}

#[test]
fn commits_wait_and_the_operator_is_told() {
    let (cluster, proxy, site) = through_proxy(&[]);
    for fault in [Fault::Refuse, Fault::Silent] {
        proxy.set([fault]);
        let mark = cluster.log_mark();
        let mut waiting = waiting_commit(&cluster, 1);
        let said = wait_message(&cluster, mark, &["WARNING", "commits wait for the store"], PATIENCE);
        assert!(said.contains("DETAIL:  ") && said.contains("HINT:  "), "{said}");
        assert!(said.contains("synchronous_standby_names"), "{said}");
        wait_state(&cluster, "waiting");
        let row = cluster.psql("SELECT status, hint FROM walarchive_check() WHERE check_name = 'synchronous'");
        assert!(row.starts_with("failed|See docs/synchronous.md"), "{row}");
        // Who does not want to wait does not.
        for level in ["local", "off"] {
            cluster.psql(&format!("SET synchronous_commit = {level}; INSERT INTO t VALUES (2)"));
        }
        waiting.assert_running();
        proxy.heal();
        waiting.wait(PATIENCE).expect_success();
        cluster.wait_log_since(mark, "the store takes WAL again: commits go on", PATIENCE);
        wait_state(&cluster, "synchronous");
        assert_eq!(status(&cluster, "synchronous_error"), "");
        let lsn = commit(&mut Session::begin(&cluster), 3);
        assert!(has(&site, 1, lsn));
    }
    // A stop is not held up by a commit that waits.
    proxy.set([Fault::Refuse]);
    let waiting = waiting_commit(&cluster, 4);
    let begun = Instant::now();
    cluster.stop(StopMode::Fast);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let output = waiting.wait(PATIENCE);
    assert!(output.stderr.contains("synchronous replication"), "{}", output.stderr);
}

#[test]
fn after_the_timeout_they_go_on_without_it_and_come_back() {
    let (cluster, proxy, site) = through_proxy(&[("walarchive.synchronous_timeout", "2s")]);
    proxy.set([Fault::Refuse]);
    let (mark, begun) = (cluster.log_mark(), Instant::now());
    cluster.psql("INSERT INTO t VALUES (1)");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    wait_state(&cluster, "degraded");
    let said = wait_message(
        &cluster,
        mark,
        &["WARNING", "commits are no longer synchronous"],
        PATIENCE,
    );
    assert!(said.contains("can be lost") && said.contains("HINT:  "), "{said}");
    let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'synchronous'");
    assert!(row.starts_with("failed|commits do not wait for the store"), "{row}");
    let mut session = Session::begin(&cluster);
    let lost = commit(&mut session, 2);
    assert!(!has(&site, 1, lost), "it is degraded for a reason");

    proxy.heal();
    wait_state(&cluster, "synchronous");
    cluster.wait_log_since(mark, "commits are synchronous", PATIENCE);
    assert!(has(&site, 1, lost));
    let lsn = commit(&mut session, 3);
    assert!(has(&site, 1, lsn));

    // It is no habit.
    proxy.set([Fault::Refuse]);
    let begun = Instant::now();
    commit(&mut session, 4);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// Whatever the timeout: what it acknowledges would be on no timeline of the repository.
#[test]
fn a_server_that_was_replaced_acknowledges_nothing() {
    let settings = [
        ("walarchive.synchronous_timeout", "1s"),
        ("walarchive.lease_interval", "1s"),
    ];
    let (primary, _proxy, site) = through_proxy(&settings);
    let standby = site.builder("standby").standby_of(&primary);
    wait_caught_up(&standby, &primary);
    // Without that its promotion cannot be told from the start of a copy.
    let instance = standby.datadir().join("pg_wal/walarchive.instance");
    standby.wait_until("it has noted that it is a standby", PATIENCE, || {
        fs::read_to_string(&instance)
            .is_ok_and(|text| text.contains("\"standby\": true") || text.contains("\"standby\":true"))
    });
    promote(&standby);
    primary.wait_until("it has lost the lease", PATIENCE, || {
        status(&primary, "lease_state") == "lost"
    });
    let mark = primary.log_mark();
    let mut waiting = waiting_commit(&primary, 1);
    let said = wait_message(
        &primary,
        mark,
        &["WARNING", "commits wait: this server cannot store WAL"],
        PATIENCE,
    );
    assert!(
        said.contains("another server") && said.contains("walarchive_take_over"),
        "{said}"
    );
    let long = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND now() - query_start > '4 s'";
    primary.wait_until("it has waited for much longer than that", PATIENCE, || {
        primary.psql(long) == "t"
    });
    waiting.assert_running();
    assert_eq!(status(&primary, "synchronous_state"), "waiting");
}

#[test]
fn another_standby_takes_over_and_gives_back() {
    let (cluster, proxy, site) = through_proxy(&[
        ("walarchive.synchronous_timeout", "2s"),
        ("synchronous_standby_names", "FIRST 1 (walarchive, replica)"),
    ]);
    let replica = site
        .builder("replica")
        .setting("cluster_name", "replica")
        .setting("wal_receiver_status_interval", "1s")
        .standby_of(&cluster);
    let synchronous = || cluster.psql("SELECT application_name FROM pg_stat_replication WHERE sync_state = 'sync'");
    cluster.wait_until("the store comes first", PATIENCE, || synchronous() == "walarchive");
    wait_caught_up(&replica, &cluster);
    proxy.set([Fault::Refuse]);
    let (mark, begun) = (cluster.log_mark(), Instant::now());
    cluster.psql("INSERT INTO t VALUES (1)");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(synchronous(), "replica");
    wait_message(
        &cluster,
        mark,
        &["WARNING", "commits wait for other standbys"],
        PATIENCE,
    );
    // The replica is no formality.
    replica.stop(StopMode::Immediate);
    let mut waiting = waiting_commit(&cluster, 2);
    waiting.assert_running();
    replica.start_again();
    waiting.wait(PATIENCE).expect_success();

    proxy.heal();
    cluster.wait_until("the store comes first again", PATIENCE, || {
        synchronous() == "walarchive"
    });
    let lsn = commit(&mut Session::begin(&cluster), 3);
    assert!(has(&site, 1, lsn));
}

#[test]
fn a_standby_that_is_missing_as_well_is_named() {
    let (cluster, proxy, site) = through_proxy(&[("walarchive.synchronous_timeout", "3s")]);
    let replica = site
        .builder("replica")
        .setting("cluster_name", "replica1")
        .standby_of(&cluster);
    cluster.set("synchronous_standby_names", "FIRST 2 (walarchive, replica1)");
    cluster.reload();
    wait_caught_up(&replica, &cluster);
    cluster.psql("INSERT INTO t VALUES (0)");
    assert_eq!(status(&cluster, "synchronous_error"), "");
    replica.stop(StopMode::Fast);
    proxy.set([Fault::Refuse]);
    let mark = cluster.log_mark();
    let mut waiting = waiting_commit(&cluster, 1);
    let names = |text: &str| text.contains("need \"replica1\" as well, which is not connected");
    let said = wait_message(&cluster, mark, &["WARNING", "commits wait for the store"], PATIENCE);
    assert!(names(&said), "{said}");
    // It does not say that they go on: they do not.
    let said = wait_message(&cluster, mark, &["WARNING", "and no longer for the store"], PATIENCE);
    assert!(
        names(&said) && said.contains("standbys that are not connected"),
        "{said}"
    );
    assert_eq!(status(&cluster, "synchronous_state"), "degraded");
    assert!(names(&status(&cluster, "synchronous_error")));
    waiting.assert_running();
    proxy.heal();
    wait_state(&cluster, "synchronous");
    // The store is there, and commits wait.
    cluster.wait_until("the reason is shown", PATIENCE, || {
        names(&status(&cluster, "synchronous_error"))
    });
    let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'synchronous'");
    assert!(row.starts_with("failed|") && names(&row), "{row}");
    waiting.assert_running();
    replica.start_again();
    waiting.wait(PATIENCE).expect_success();
    cluster.wait_until("it is over", PATIENCE, || {
        status(&cluster, "synchronous_error").is_empty()
    });
}
