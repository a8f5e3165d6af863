//! The testkit's own tests: clusters, their signals and their clients, without the extension.

use std::time::Duration;

use walarchive_testkit::{Cluster, PATIENCE, Pg, Signal, StopMode, TestDir, is_alive, kill_pid, run, wait_until};

#[test]
fn a_killed_cluster_keeps_what_it_committed() {
    let dir = TestDir::new();
    let cluster = Cluster::builder(&dir, "c")
        .initdb_arg("--wal-segsize=1")
        .setting("work_mem", "12MB");
    let cluster = cluster.start();
    assert_eq!(
        cluster.psql("SHOW wal_segment_size; SHOW work_mem; SHOW data_checksums"),
        "1MB\n12MB\non"
    );
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");

    let before = cluster.postmaster_pid();
    let checkpointer = cluster.wait_pid_of("checkpointer", None);
    cluster.kill9();
    assert!(!is_alive(before) && !is_alive(checkpointer) && !cluster.is_running());
    let mark = cluster.log_mark();
    cluster.start_again();
    cluster.wait_log_since(mark, "automatic recovery in progress", PATIENCE);
    assert_ne!(cluster.postmaster_pid(), before);
    assert_eq!(cluster.psql("SELECT a FROM t"), "1");
}

#[test]
fn a_restart_writes_a_shutdown_checkpoint() {
    let dir = TestDir::new();
    let cluster = Cluster::builder(&dir, "c").data_checksums(false).start();
    assert_eq!(cluster.psql("SHOW data_checksums"), "off");
    for mode in [StopMode::Smart, StopMode::Fast] {
        let mark = cluster.log_mark();
        cluster.stop(mode);
        assert!(cluster.log_since(mark).contains("database system is shut down"));
        let state = run(cluster.pg().program("pg_controldata").arg(cluster.datadir())).expect_success();
        assert!(state.contains("shut down"), "{state}");
        cluster.start_again();
    }
    cluster.restart();
    cluster.stop(StopMode::Immediate);
    let state = run(cluster.pg().program("pg_controldata").arg(cluster.datadir())).expect_success();
    assert!(state.contains("in production"), "{state}");
}

#[test]
fn settings_change_by_reload_and_a_bad_one_fails_the_start() {
    let dir = TestDir::new();
    let cluster = Cluster::builder(&dir, "c")
        .env("SOME_VARIABLE", "of the server")
        .start();
    cluster.set("work_mem", "7MB");
    cluster.reload();
    assert_eq!(cluster.psql("SHOW work_mem"), "7MB");
    let environment = std::fs::read(format!("/proc/{}/environ", cluster.postmaster_pid())).expect("no environ");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(
        environment.contains("SOME_VARIABLE=of the server\0") && !environment.contains("CARGO"),
        "{environment}"
    );

    cluster.stop(StopMode::Fast);
    cluster.set("no_such_setting", "1");
    let log = cluster
        .try_start()
        .expect_err("the server started in spite of its configuration");
    assert!(
        log.contains("unrecognized configuration parameter \"no_such_setting\""),
        "{log}"
    );
    assert!(!cluster.is_running());
}

#[test]
fn the_archiver_is_found_and_replaced_after_its_death() {
    let dir = TestDir::new();
    let archive = dir.subdir("archive");
    let command = format!("test ! -e {0}/%f && cp %p {0}/%f", archive.display());
    let cluster = Cluster::builder(&dir, "c")
        .setting("archive_mode", "on")
        .setting("archive_command", &command);
    let cluster = cluster.initdb_arg("--wal-segsize=1").start();
    let archiver = cluster.wait_pid_of("archiver", None);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    assert!(archive.join(&segment).is_file());

    cluster.set("archive_command", "false");
    cluster.reload();
    let segment = cluster.switch_wal();
    cluster.wait_until("the segment waits", PATIENCE, || {
        cluster.waiting_files().contains(&segment)
    });
    assert!(!cluster.is_archived(&segment));
    kill_pid(archiver, Signal::SIGKILL);
    assert_ne!(cluster.wait_pid_of("archiver", Some(archiver)), archiver);
}

#[test]
fn statements_can_be_cancelled_and_clients_killed() {
    let dir = TestDir::new();
    let cluster = Cluster::builder(&dir, "c").start();
    let error = cluster.try_psql("SELECT 1/0").expect_err("a division by zero");
    assert!(error.contains("division by zero"), "{error}");
    let (rows, messages) = cluster.psql_verbose("DO $$BEGIN RAISE WARNING 'w' USING HINT = 'h'; END$$; SELECT 5");
    assert_eq!(rows, "5");
    assert!(
        messages.contains("WARNING:  01000: w") && messages.contains("HINT:  h"),
        "{messages}"
    );
    assert!(
        cluster
            .try_psql_verbose("SELECT FROM nowhere")
            .stderr
            .contains("ERROR:  42P01")
    );

    let (statement, _) = cluster.background_backend("SELECT pg_sleep(600)");
    statement.cancel();
    let output = statement.wait(PATIENCE);
    assert!(
        !output.success() && output.stderr.contains("canceling statement"),
        "{output:?}"
    );

    let (statement, backend) = cluster.background_backend("SELECT pg_sleep(600)");
    assert!(is_alive(backend));
    statement.kill();
    assert_eq!(statement.wait(PATIENCE).signal, Some(Signal::SIGKILL as i32));
}

#[test]
fn a_standby_follows_and_a_copy_starts_beside_its_origin() {
    let dir = TestDir::new();
    let primary = Cluster::builder(&dir, "primary").start();
    primary.pgbench(&["-i", "-s", "1", "-q"]);
    let standby = Cluster::builder(&dir, "standby")
        .setting("work_mem", "9MB")
        .standby_of(&primary);
    assert_eq!(standby.psql("SELECT pg_is_in_recovery(); SHOW work_mem"), "t\n9MB");

    let bench = primary.background_pgbench(&["-c", "2", "-T", "1"]);
    assert!(
        bench
            .wait(PATIENCE)
            .expect_success()
            .contains("number of failed transactions: 0")
    );
    primary.psql("CREATE TABLE mark AS SELECT 42 AS a");
    standby.wait_until("the row arrives", PATIENCE, || {
        standby.try_psql("SELECT a FROM mark").as_deref() == Ok("42")
    });
    if !primary.amcheck() {
        assert_ne!(primary.pg().major(), 15, "Debian's PostgreSQL 15 has amcheck");
    }

    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("DROP TABLE mark");
    standby.stop(StopMode::Fast);
    let copy = Cluster::builder(&dir, "copy").attach(standby.datadir());
    assert!(copy.try_psql("SELECT a FROM mark").is_err());
    assert_eq!(primary.psql("SELECT a FROM mark"), "42");
    assert_eq!(copy.psql("SELECT count(*) FROM pgbench_branches"), "1");
}

#[test]
fn the_installation_is_the_one_asked_for() {
    let pg = Pg::find();
    let version = run(pg.program("postgres").arg("--version")).expect_success();
    assert!(version.contains(&format!(" {}.", pg.major())), "{version}");
    assert!(pg.has_program("pg_verifybackup") && !pg.has_program("pg_nothing"));
    assert!(pg.has_extension("plpgsql") && !pg.has_extension("nothing"));
}

#[test]
fn a_directory_is_removed_and_a_wait_ends_in_a_panic() {
    let dir = TestDir::new();
    let path = dir.path().to_owned();
    let inner = dir.subdir("inner");
    std::fs::write(inner.join("file"), "text").expect("could not write");
    drop(dir);
    if std::env::var_os("WALARCHIVE_TEST_KEEP").is_none() {
        assert!(!path.exists());
    }
    let panic = std::panic::catch_unwind(|| wait_until("pigs fly", Duration::from_millis(20), || false));
    let message = panic
        .expect_err("it came true")
        .downcast::<String>()
        .expect("not a text");
    assert!(message.contains("pigs fly"), "{message}");
}
