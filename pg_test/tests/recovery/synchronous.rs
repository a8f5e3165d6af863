//! Commits that wait for the store: what has returned is there.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{SEGMENT, status, wait_message};
use walarchive_pg_test::failover::{promote, wait_caught_up};
use walarchive_pg_test::site::Site;
use walarchive_pg_test::synchronous::{builder, commit, has, lsn, start, wait_state, waiting_commit};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, Seen, Session, Signal, StopMode, kill_pid};

/// The row `synchronous` of `walarchive_check()`: status and detail.
fn row(cluster: &Cluster) -> String {
    cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'synchronous'")
}

#[test]
fn what_has_returned_is_in_the_store() {
    let site = Site::on_s3();
    let cluster = start(builder(&site, "primary"));
    assert!(
        row(&cluster).starts_with("ok|commits wait for the store"),
        "{}",
        row(&cluster)
    );
    let before = lsn(&cluster.psql("SELECT pg_current_wal_lsn()"));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (site, cluster) = (&site, &cluster);
            scope.spawn(move || {
                let mut session = Session::begin(cluster);
                for id in 0..60 {
                    let lsn = commit(&mut session, 100 * client + id);
                    assert!(has(site, 1, lsn), "row {id} of client {client} at {lsn:X}");
                }
            });
        }
    });
    let after = lsn(&cluster.psql("SELECT pg_current_wal_lsn()"));
    assert!((after - before) as usize > 2 * SEGMENT, "there were segment switches");
    // PostgreSQL's view of it.
    let seen = cluster.psql(
        "SELECT sync_state, sync_priority, write_lsn = flush_lsn, flush_lsn = replay_lsn FROM pg_stat_replication
          WHERE application_name = 'walarchive'",
    );
    assert_eq!(seen, "sync|1|t|t");
    cluster.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (-1)");
}

/// Each of them would have to wait for a request of its own.
#[test]
fn what_gathers_meanwhile_is_stored_together() {
    const CLIENTS: usize = 20;
    const COMMITS: usize = 10;
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let cluster = start(builder(&site, "primary").setting("walarchive.storage_options", &proxy.options()));
    proxy.set([Fault::Latency(Duration::from_millis(50))]);
    proxy.forget();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut session = Session::begin(&cluster);
                for id in 0..COMMITS {
                    session.ask(&format!("INSERT INTO t VALUES ({id}) RETURNING id"));
                }
            });
        }
    });
    let chunk = |seen: &&Seen| seen.method == "PUT" && seen.target.contains("/tail/");
    let chunks = proxy.requests().iter().filter(chunk).count();
    assert!((1..CLIENTS * COMMITS / 3).contains(&chunks), "{chunks} requests");
}

#[test]
fn a_restart_of_anything_loses_nothing() {
    let site = Site::on_s3();
    let cluster = start(builder(&site, "primary"));
    let mut session = Session::begin(&cluster);
    // A connection that breaks is begun again at once.
    let begun = Instant::now();
    session.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'walarchive'");
    commit(&mut session, 100);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let first = cluster.wait_pid_of("walarchive uploader", None);
    kill_pid(first, Signal::SIGTERM);
    // These wait for the next uploader.
    for id in 0..20 {
        let lsn = commit(&mut session, id);
        assert!(has(&site, 1, lsn), "row {id} at {lsn:X}");
    }
    let second = cluster.wait_pid_of("walarchive uploader", Some(first));

    // A process that dies takes all others with it, and the server recovers.
    kill_pid(second, Signal::SIGKILL);
    drop(session);
    cluster.wait_pid_of("walarchive uploader", Some(second));
    cluster.wait_until("the server is back", PATIENCE, || cluster.try_psql("SELECT 1").is_ok());
    let mut session = Session::begin(&cluster);
    let lsn_after_crash = commit(&mut session, 20);
    assert!(has(&site, 1, lsn_after_crash));
    drop(session);

    let (mark, begun) = (cluster.log_mark(), Instant::now());
    cluster.stop(StopMode::Fast);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let log = cluster.log_since(mark);
    assert!(!log.contains("unexpected EOF on standby connection"), "{log}");
    cluster.start_again();
    let mut session = Session::begin(&cluster);
    let lsn_after_restart = commit(&mut session, 21);
    assert!(has(&site, 1, lsn_after_restart));
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), "23");
}

#[test]
fn a_promoted_standby_goes_on() {
    let site = Site::on_s3();
    let primary = start(builder(&site, "primary"));
    let standby = site.builder("standby").standby_of(&primary);
    wait_caught_up(&standby, &primary);
    assert_eq!(status(&standby, "synchronous_state"), "off");
    assert!(row(&standby).starts_with("ok|"), "{}", row(&standby));
    primary.stop(StopMode::Fast);
    promote(&standby);
    let begun = Instant::now();
    let mut session = Session::begin(&standby);
    let lsn = commit(&mut session, 1);
    assert!(has(&site, 2, lsn), "{lsn:X}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait_state(&standby, "synchronous");
}

/// It has not got by streaming what the store has: recovery asks the archive once more before it ends.
#[test]
fn a_replica_that_is_behind_has_all_that_was_acknowledged_when_it_is_promoted() {
    let site = Site::on_s3();
    let primary = start(builder(&site, "primary"));
    let replica = site
        .builder("replica")
        .setting("restore_command", "walarchive wal-fetch %f \"%p\"")
        .setting("wal_retrieve_retry_interval", "1h")
        .standby_of(&primary);
    primary.psql("INSERT INTO t VALUES (0)");
    wait_caught_up(&replica, &primary);
    replica.psql("ALTER SYSTEM SET primary_conninfo = ''");
    replica.reload();
    // For an hour it looks for nothing.
    replica.wait_until("it streams no more", PATIENCE, || {
        replica.psql("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'")
            == "RecoveryRetrieveRetryInterval"
    });
    let mut session = Session::begin(&primary);
    for id in 1..=20 {
        commit(&mut session, id);
    }
    let count = || replica.psql("SELECT count(*) FROM t");
    assert_eq!(count(), "1", "it is behind");
    primary.kill9();
    promote(&replica);
    assert_eq!(count(), "21");
}

#[test]
fn settings_that_do_not_go_together_are_named() {
    let site = Site::on_files();
    let other = Cluster::builder(site.dir(), "other").start();
    let cluster = start(builder(&site, "primary"));
    let set = |name: &str, value: &str| {
        cluster.set(name, value);
        cluster.reload();
    };
    let warns = cluster.psql(
        "SET synchronous_commit = local; SELECT status, detail FROM walarchive_check() WHERE check_name = 'synchronous'",
    );
    assert!(warns.starts_with("warning|commits do not wait"), "{warns}");
    set("synchronous_standby_names", "");
    assert!(
        row(&cluster).starts_with("warning|walarchive.synchronous is on"),
        "{}",
        row(&cluster)
    );
    set("synchronous_standby_names", "walarchive");
    set("walarchive.synchronous", "off");
    wait_state(&cluster, "off");
    assert!(row(&cluster).contains("commits wait for ever"), "{}", row(&cluster));
    let mark = cluster.log_mark();
    // Another server, which says nothing about this one's WAL, and a place where none is.
    let elsewhere = [
        (
            format!("host={} port={} user=postgres", site.dir().display(), other.port()),
            "is another one than this",
        ),
        ("host=/nowhere".to_owned(), "could not connect"),
    ];
    cluster.set("walarchive.synchronous", "on");
    for (conninfo, reason) in elsewhere {
        set("walarchive.synchronous_conninfo", &conninfo);
        cluster.wait_until("the reason is shown", PATIENCE, || {
            status(&cluster, "synchronous_state, synchronous_error").starts_with("connecting|")
                && status(&cluster, "synchronous_error").contains(reason)
        });
    }
    let said = wait_message(
        &cluster,
        mark,
        &["WARNING", "cannot connect to its own server"],
        PATIENCE,
    );
    assert!(said.contains("HINT:  ") && said.contains("pg_hba.conf"), "{said}");
    assert!(row(&cluster).starts_with("failed|"), "{}", row(&cluster));
    let refused = cluster.try_psql("ALTER SYSTEM SET walarchive.synchronous_conninfo = 'postgres://u:hunter2@h/'");
    let refused = refused.expect_err("a URI is refused");
    assert!(
        refused.contains("keyword=value") && !refused.contains("hunter2"),
        "{refused}"
    );
    let refused = cluster.try_psql("ALTER SYSTEM SET walarchive.synchronous_conninfo = 'sslmode=foo'");
    assert!(refused.is_err(), "{refused:?}");
    set("walarchive.synchronous_conninfo", "user=postgres application_name=x");
    wait_state(&cluster, "synchronous");

    // Nobody stores anything then.
    let mark = cluster.log_mark();
    set("archive_library", "");
    cluster.wait_until("it is said", PATIENCE, || {
        status(&cluster, "synchronous_state, synchronous_error")
            .starts_with("connecting|archive_library is not walarchive")
    });
    wait_message(
        &cluster,
        mark,
        &["WARNING", "commits cannot be synchronous: archive_library"],
        PATIENCE,
    );
    set("archive_library", "walarchive");
    wait_state(&cluster, "synchronous");
    // The other way round, too.
    let mark = cluster.log_mark();
    set("walarchive.synchronous", "off");
    let waiting = waiting_commit(&cluster, 1);
    wait_message(&cluster, mark, &["WARNING", "walarchive.synchronous is off"], PATIENCE);
    set("walarchive.synchronous", "on");
    waiting.wait(PATIENCE).expect_success();
    wait_state(&cluster, "synchronous");
    assert_eq!(row(&cluster).split('|').next(), Some("ok"));
}
