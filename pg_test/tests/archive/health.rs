//! Archiving that is in trouble says so where people look, and nothing holds a stop of the server up.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{
    archiving, first_waiting, has_archived, status, switch_segments, wait_drained, wait_message,
};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, S3Server, Signal, StopMode, TestDir, kill_pid};

fn archiver_row(cluster: &Cluster) -> String {
    cluster.psql("SELECT status, detail, hint FROM walarchive_check() WHERE check_name = 'archiver'")
}

#[test]
fn an_archiver_that_fails_is_a_row_of_the_check() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let (cluster, segment) = has_archived(&dir, &repository.url());
    let row = archiver_row(&cluster);
    assert!(row.starts_with("ok|nothing waits") && row.contains(&segment), "{row}");

    std::fs::rename(repository.path().join("wal_005"), repository.path().join("aside")).expect("renamed");
    std::fs::write(repository.path().join("wal_005"), "not a folder").expect("written");
    switch_segments(&cluster, 5);
    cluster.wait_until("the archiver has failed", PATIENCE, || {
        status(&cluster, "failed_count > 0") == "t"
    });
    let row = archiver_row(&cluster);
    println!("{row}");
    assert!(row.starts_with("failed|"), "{row}");
    assert!(
        row.contains(" files wait") && row.contains("the last error") && row.contains("wal_005"),
        "{row}"
    );
    std::fs::remove_file(repository.path().join("wal_005")).expect("removed");
    std::fs::rename(repository.path().join("aside"), repository.path().join("wal_005")).expect("renamed");
    wait_drained(&cluster);
    assert!(archiver_row(&cluster).starts_with("ok|"), "{}", archiver_row(&cluster));
}

#[test]
fn a_worker_that_does_not_move_is_blamed_and_not_waited_for() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let (cluster, _) = has_archived(&dir, &repository.url());
    let worker = cluster.wait_pid_of("walarchive uploader", None);
    let mark = cluster.log_mark();
    kill_pid(worker, Signal::SIGSTOP);
    switch_segments(&cluster, 3);
    wait_drained(&cluster);
    let message = wait_message(&cluster, mark, &["WARNING", "uploader", &worker.to_string()], PATIENCE);
    println!("{message}");
    assert!(message.contains("HINT:  "), "{message}");
    assert!(!cluster.log_since(mark).contains("The store does not answer"));
    let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'uploader'");
    assert!(row.starts_with("failed|") && row.contains("does not respond"), "{row}");
    assert_eq!(status(&cluster, "uploader_state"), "stuck");
    kill_pid(worker, Signal::SIGCONT);
    cluster.wait_until("the uploader moves again", PATIENCE, || {
        cluster.psql("SELECT status FROM walarchive_check() WHERE check_name = 'uploader'") == "ok"
    });
    switch_segments(&cluster, 3);
    wait_drained(&cluster);
}

/// One that hangs: `Silent` reads requests and answers none.
fn hanging(dir: &TestDir, settings: &[(&str, &str)]) -> (Cluster, FaultProxy, S3Server) {
    let server = S3Server::start(dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let builder = archiving(dir, "c", &server.url("prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .envs(server.env());
    let cluster = settings
        .iter()
        .fold(builder, |builder, (name, value)| builder.setting(name, value))
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    (cluster, proxy, server)
}

#[test]
fn a_stop_does_not_wait_for_a_store_that_hangs() {
    let dir = TestDir::new();
    let (cluster, proxy, _server) = hanging(&dir, &[("walarchive.shutdown_timeout", "4s")]);
    proxy.set([Fault::Silent]);
    let segment = first_waiting(&cluster);
    let mark = cluster.log_mark();
    let begun = Instant::now();
    cluster.begin_stop(StopMode::Fast);
    cluster.wait_stopped(2 * PATIENCE);
    println!("stopped after {:?}", begun.elapsed());
    // Without a limit it is three times 60 s.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(cluster.waiting_files().contains(&segment));
    let log = cluster.log_since(mark);
    assert!(log.contains("walarchive.shutdown_timeout"), "{log}");
    // The archiver tries six times.
    let said = log.matches("could not archive").count();
    assert_eq!(said, 1, "{log}");
    proxy.heal();
    cluster.start_again();
    wait_drained(&cluster);
}

#[test]
fn a_stop_ends_a_backup_at_once() {
    let dir = TestDir::new();
    let (cluster, proxy, _server) = hanging(&dir, &[("walarchive.shutdown_timeout", "4s")]);
    proxy.set([Fault::Slow(10 << 10)]);
    let backup = cluster.background_psql("SELECT walarchive_backup_push()");
    cluster.wait_until("the backup copies", PATIENCE, || {
        cluster.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    proxy.set([Fault::Silent]);
    let begun = Instant::now();
    cluster.begin_stop(StopMode::Fast);
    cluster.wait_stopped(2 * PATIENCE);
    println!("stopped after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    drop(backup);
}
