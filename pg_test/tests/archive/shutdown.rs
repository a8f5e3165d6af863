//! `pg_ctl stop` under load: PostgreSQL ends background workers first, and the archiver must archive the last segments
//! without them. A clean switchover depends on it.
//!
//! The server leaves the segment in use before it writes the shutdown checkpoint, so every committed row is in a segment
//! that can be archived. The segment that holds the checkpoint's record alone is complete only after the next start.

use walarchive_pg_test::archiving::{archiving, present_segment, switch_segments, wait_drained};
use walarchive_pg_test::ledger::Ledger;
use walarchive_pg_test::repository::{Repository, segment_name, segment_number};
use walarchive_testkit::{Cluster, PATIENCE, Signal, StopMode, TestDir, is_alive, kill_pid, run};

/// The segment of the last checkpoint's redo record.
fn redo_segment(cluster: &Cluster) -> String {
    let control = run(cluster.pg().program("pg_controldata").arg(cluster.datadir())).expect_success();
    assert!(
        control.contains("Database cluster state:               shut down\n"),
        "{control}"
    );
    let line = control
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint's REDO WAL file:"));
    line.expect("no REDO WAL file").trim().to_owned()
}

/// Panics unless everything before the shutdown checkpoint is in the archive, and a restore has every committed row.
/// Returns how many segments that is.
fn assert_all_archived(dir: &TestDir, name: &str, cluster: &Cluster, repository: &Repository, first: &str) -> usize {
    assert_eq!(cluster.waiting_files(), [""; 0]);
    let checkpoint = redo_segment(cluster);
    let last = segment_name(1, segment_number(&checkpoint) - 1);
    let count = repository.assert_complete(cluster, first, &last);
    assert!(
        !repository.object(&checkpoint).exists(),
        "{checkpoint} is not complete yet"
    );

    let restored = repository.restore(dir, name);
    let sums = "SELECT count(*), sum(delta) FROM pgbench_history";
    let there = restored.psql(sums);
    cluster.start_again();
    assert_eq!(cluster.psql(sums), there);
    count
}

fn stop_under_load(mode: StopMode) {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    let mut ledger = Ledger::new(&dir, &cluster);
    cluster.psql("SELECT walarchive_backup_push()");

    let before = repository.segments().len();
    // Mode smart waits for the clients: they leave by themselves.
    let limit = if mode == StopMode::Smart {
        ["-t", "3000"]
    } else {
        ["-T", "600"]
    };
    let bench = cluster.background_pgbench(&[&["-c", "3"], &limit[..]].concat());
    let client = (mode == StopMode::Fast).then(|| ledger.start(&cluster));
    cluster.wait_until("segments are archived under load", PATIENCE, || {
        repository.segments().len() >= before + 2
    });
    let worker = cluster.wait_pid_of("walarchive uploader", None);
    cluster.stop(mode);
    assert!(!is_alive(worker));
    bench.wait(PATIENCE);
    let committed = client.map(|client| ledger.collect(client));
    assert_all_archived(&dir, "restored", &cluster, &repository, &first);
    if committed.is_some() {
        let restored = Cluster::builder(&dir, "again").attach(&dir.join("restored"));
        ledger.assert_all_in(&restored);
    }

    let last = cluster.switch_wal();
    wait_drained(&cluster);
    repository.assert_complete(&cluster, &first, &last);
}

#[test]
fn a_fast_stop_under_load_leaves_nothing_behind() {
    stop_under_load(StopMode::Fast);
}

#[test]
fn a_smart_stop_under_load_leaves_nothing_behind() {
    stop_under_load(StopMode::Smart);
}

#[test]
fn a_stop_with_a_long_queue_archives_all_of_it() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    let mut ledger = Ledger::new(&dir, &cluster);
    cluster.psql("SELECT walarchive_backup_push()");
    wait_drained(&cluster);

    // With the archiver stopped nothing leaves the queue, while the worker may upload what it likes.
    let archiver = cluster.wait_pid_of("archiver", None);
    kill_pid(archiver, Signal::SIGSTOP);
    let client = ledger.start(&cluster);
    let bench = cluster.background_pgbench(&["-c", "2", "-t", "100"]);
    switch_segments(&cluster, 100);
    bench.wait(PATIENCE).expect_success();
    let waiting = cluster.waiting_files().len();
    assert!(waiting >= 100, "only {waiting} files wait");
    // Some are being uploaded by the worker when the stop comes.
    let before = repository.segments().len();
    kill_pid(archiver, Signal::SIGCONT);
    cluster.wait_until("the queue is being worked off", PATIENCE, || {
        repository.segments().len() > before
    });
    cluster.stop(StopMode::Fast);
    ledger.collect(client);
    let count = assert_all_archived(&dir, "restored", &cluster, &repository, &first);
    assert!(count > 100);
    let restored = Cluster::builder(&dir, "again").attach(&dir.join("restored"));
    ledger.assert_all_in(&restored);
}
