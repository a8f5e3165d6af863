//! Processes that are killed: the postmaster, the archiver, the worker.

use std::time::Duration;

use walarchive_pg_test::archiving::{archiving, has_archived, present_segment, status, switch_segments, wait_drained};
use walarchive_pg_test::ledger::Ledger;
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, PATIENCE, Signal, StopMode, TestDir, is_alive, kill_pid};

/// A number below `limit` that nobody can foresee.
fn random(limit: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % limit
}

/// The work that the postmaster is killed in the middle of.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Anything.
    Random,
    /// A segment waits, so an upload is under way or about to be.
    Waiting,
    /// Another object has just appeared: it may not be marked as done yet.
    JustStored,
    /// The store refuses writes, and many segments wait.
    Queue,
    /// Segments are stored by the worker, and the archiver knows nothing of it yet.
    Ahead,
    /// Crash recovery.
    Recovery,
}

fn reach(moment: Moment, cluster: &Cluster, repository: &Repository) {
    match moment {
        Moment::Random => std::thread::sleep(Duration::from_millis(300 + random(700))),
        Moment::Waiting => cluster.wait_until("a segment waits", PATIENCE, || !cluster.waiting_files().is_empty()),
        Moment::JustStored => {
            let before = repository.wal_files().len();
            cluster.wait_until("there is another object", PATIENCE, || {
                repository.wal_files().len() > before
            });
        }
        Moment::Queue => {
            repository.set_writable(false);
            cluster.wait_until("segments wait", PATIENCE, || cluster.waiting_files().len() >= 5);
            repository.set_writable(true);
            // From nothing to all of the queue may be stored by now.
            std::thread::sleep(Duration::from_millis(random(100)));
        }
        Moment::Ahead => {
            let archiver = cluster.wait_pid_of("archiver", None);
            kill_pid(archiver, Signal::SIGSTOP);
            switch_segments(cluster, 5);
            // A new worker looks for waiting files before anybody asks it to.
            kill_pid(cluster.wait_pid_of("walarchive uploader", None), Signal::SIGTERM);
            cluster.wait_until("segments that wait are stored", PATIENCE, || {
                let stored = |file: &String| repository.object(file).exists();
                cluster.waiting_files().iter().filter(|file| stored(file)).count() >= 5
            });
            // It cannot notice the death of a postmaster, which for its part must not notice this.
            kill_pid(cluster.postmaster_pid(), Signal::SIGSTOP);
            kill_pid(archiver, Signal::SIGKILL);
        }
        Moment::Recovery => {
            cluster.kill9();
            let mark = cluster.log_mark();
            cluster.spawn_server();
            cluster.wait_log_since(mark, "automatic recovery in progress", PATIENCE);
        }
    }
}

/// Leaves the last archived file as a crash does that comes before its `.ready` file was renamed.
fn undo_last_mark(cluster: &Cluster) {
    let status = cluster.datadir().join("pg_wal/archive_status");
    let entries = std::fs::read_dir(&status).expect("no archive_status").flatten();
    let done = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "done"));
    let last = done.max().expect("nothing was archived");
    std::fs::rename(&last, last.with_extension("ready")).expect("could not rename");
}

#[test]
fn a_killed_postmaster_loses_nothing_and_overwrites_nothing() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    let mut ledger = Ledger::new(&dir, &cluster);
    cluster.psql("SELECT walarchive_backup_push()");

    let mut written = repository.snapshot();
    let moments = [
        Moment::Waiting,
        Moment::Random,
        Moment::JustStored,
        Moment::Queue,
        Moment::Recovery,
        Moment::Ahead,
    ];
    for moment in moments {
        let bench = cluster.background_pgbench(&["-c", "3", "-T", "600"]);
        let client = ledger.start(&cluster);
        reach(moment, &cluster, &repository);
        cluster.kill9();
        let committed = ledger.collect(client);
        bench.wait(PATIENCE);
        let now = repository.snapshot();
        println!(
            "killed at {moment:?}: {committed} rows, {} objects, {} files waiting",
            now.len(),
            cluster.waiting_files().len()
        );
        for (file, object) in &written {
            assert!(now.get(file) == Some(object), "{file} was overwritten or removed");
        }
        written = now;
        undo_last_mark(&cluster);
        cluster.start_again();
    }
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    for (file, object) in &written {
        assert!(
            repository.snapshot().get(file) == Some(object),
            "{file} was overwritten or removed"
        );
    }
    let compared = repository.assert_complete(&cluster, &first, &last);
    assert!(compared > moments.len(), "only {compared} segments were written");
    ledger.assert_all_in(&cluster);
    let rows = cluster.psql("SELECT count(*), sum(delta) FROM pgbench_history");
    cluster.stop(StopMode::Immediate);

    let restored = repository.restore(&dir, "restored");
    ledger.assert_all_in(&restored);
    assert_eq!(restored.psql("SELECT count(*), sum(delta) FROM pgbench_history"), rows);
}

/// Waits until the server has gone through crash recovery, and archives again.
fn wait_recovered(cluster: &Cluster, mark: usize) {
    cluster.wait_log_since(mark, "all server processes terminated; reinitializing", PATIENCE);
    cluster.wait_log_since(mark, "database system is ready to accept connections", PATIENCE);
    // It is started at most once in ten seconds, and not before a client comes.
    cluster.wait_pid_of("archiver", None);
}

#[test]
fn a_killed_archiver_is_replaced() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    let archiver = cluster.wait_pid_of("archiver", None);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    // In the middle of a queue. PostgreSQL takes this for a crash, as it does with every process that is in shared memory.
    repository.set_writable(false);
    switch_segments(&cluster, 30);
    let mark = cluster.log_mark();
    repository.set_writable(true);
    kill_pid(archiver, Signal::SIGKILL);
    wait_recovered(&cluster, mark);
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    repository.assert_complete(&cluster, &first, &last);
}

#[test]
fn a_killed_worker_restarts_the_server_and_archiving_goes_on() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let mut worker = cluster.wait_pid_of("walarchive uploader", None);
    assert_eq!(status(&cluster, "uploader_pid"), worker.to_string());
    repository.set_writable(false);
    switch_segments(&cluster, 10);
    let mark = cluster.log_mark();
    repository.set_writable(true);
    kill_pid(worker, Signal::SIGKILL);
    wait_recovered(&cluster, mark);
    worker = cluster.wait_pid_of("walarchive uploader", Some(worker));
    cluster.wait_until("the status view knows the worker", PATIENCE, || {
        status(&cluster, "uploader_pid") == worker.to_string()
    });
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    repository.assert_complete(&cluster, &first, &last);
}

#[test]
fn a_terminated_worker_comes_back_and_the_server_goes_on() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let (session, _) = cluster.background_backend("SELECT pg_sleep(600)");
    let mut worker = cluster.wait_pid_of("walarchive uploader", None);
    for _ in 0..3 {
        repository.set_writable(false);
        switch_segments(&cluster, 10);
        repository.set_writable(true);
        kill_pid(worker, Signal::SIGTERM);
        cluster.wait_until("the worker has ended", PATIENCE, || !is_alive(worker));
        let last = cluster.switch_wal();
        worker = cluster.wait_pid_of("walarchive uploader", Some(worker));
        wait_drained(&cluster);
        repository.assert_complete(&cluster, &first, &last);
    }
    cluster.wait_until("the status view knows the worker", PATIENCE, || {
        status(&cluster, "uploader_pid") == worker.to_string()
    });
    session.cancel();
    let output = session.wait(PATIENCE);
    assert!(
        output.stderr.contains("canceling statement"),
        "the session did not survive: {output:?}"
    );
}

#[test]
fn without_a_worker_the_archiver_uploads_by_itself() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    // No room for any background worker.
    let cluster = archiving(&dir, "c", &repository.url())
        .setting("max_worker_processes", "0")
        .start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    switch_segments(&cluster, 10);
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    assert_eq!(cluster.pid_of("walarchive uploader"), None);
    assert_eq!(
        status(&cluster, "uploader_pid IS NULL, uploader_state"),
        "t|not running"
    );
    assert_eq!(
        status(&cluster, "archived_count, last_archived_wal"),
        format!("{}|{last}", repository.assert_complete(&cluster, &first, &last))
    );
}

#[test]
fn the_worker_uploads_ahead_of_the_archiver() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let (cluster, _) = has_archived(&dir, &repository.url());
    let before = repository.segments().len();
    let archiver = cluster.wait_pid_of("archiver", None);
    let worker = cluster.wait_pid_of("walarchive uploader", None);
    kill_pid(archiver, Signal::SIGSTOP);
    switch_segments(&cluster, 30);
    // A new worker looks for waiting files before anybody asks it to.
    kill_pid(worker, Signal::SIGTERM);
    cluster.wait_until("all are uploaded", PATIENCE, || {
        repository.segments().len() == before + 30
    });
    assert_eq!(
        cluster.waiting_files().len(),
        30,
        "only the archiver marks a file as done"
    );
    cluster.wait_until("all are counted", PATIENCE, || {
        status(&cluster, "uploaded_ahead, archived_count") == format!("30|{before}")
    });
    let uploaded = repository.snapshot();

    kill_pid(archiver, Signal::SIGCONT);
    wait_drained(&cluster);
    assert!(
        repository.snapshot() == uploaded,
        "what was uploaded ahead was uploaded again"
    );
    assert_eq!(
        status(&cluster, "uploaded_ahead, archived_count, failed_count"),
        format!("0|{}|0", before + 30)
    );
}
