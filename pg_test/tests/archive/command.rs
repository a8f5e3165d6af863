//! Archiving by `archive_command = 'walarchive wal-push %p'`, where the library is not loaded: each call is a process, and uploads
//! ahead what the next ones will be asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{switch_segments, wait_drained};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{
    Builder, Cluster, Fault, FaultProxy, PATIENCE, S3Server, Signal, TestDir, kill_pid, wait_until,
};

/// Where a call remembers what it has stored ahead.
const MEMORY: &str = "pg_wal/walarchive.ahead";

/// A cluster that does not load walarchive, and archives by this command.
fn commanded(dir: &TestDir, command: &str) -> Builder {
    Cluster::builder(dir, "c")
        .initdb_arg("--wal-segsize=1")
        .setting("archive_mode", "on")
        .setting("archive_command", command)
        .setting("wal_keep_size", "2GB")
}

/// The requests that store segments, by target.
fn puts(proxy: &FaultProxy) -> BTreeMap<String, usize> {
    let mut puts = BTreeMap::new();
    for seen in proxy.requests() {
        if seen.method == "PUT" && seen.target.contains("/wal_005/") {
            *puts.entry(seen.target).or_default() += 1;
        }
    }
    puts
}

/// The processes of the program that this server has started.
fn calls(cluster: &Cluster) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_ours = |path: &Path| {
        let is_program = fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "walarchive");
        is_program && fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == cluster.datadir())
    };
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            is_ours(&entry.path()).then_some(pid)
        })
        .collect()
}

/// The files that are remembered as stored ahead.
fn remembered(datadir: &Path) -> Vec<String> {
    let entries = fs::read_dir(datadir.join(MEMORY)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A store on a long way, and the command that archives there.
struct Far {
    proxy: FaultProxy,
    server: S3Server,
    command: String,
}

impl Far {
    fn new(dir: &TestDir) -> Far {
        let server = S3Server::start(dir, "bucket");
        let proxy = FaultProxy::start(server.port());
        proxy.set([Fault::Latency(Duration::from_millis(100))]);
        let options = proxy.options();
        let options = options.split(',').map(|option| format!(" --storage-option {option}"));
        let url = server.url("some/prefix");
        let command = format!("walarchive wal-push --storage {url}{} %p", options.collect::<String>());
        Far { proxy, server, command }
    }
}

/// One after the other each segment takes several answers of the store; ahead, many share them.
#[test]
fn a_burst_is_uploaded_ahead_and_each_segment_is_sent_once() {
    const SEGMENTS: usize = 40;
    let dir = TestDir::new();
    let far = Far::new(&dir);
    let mut took = Vec::new();
    let cluster = commanded(&dir, &far.command).envs(far.server.env()).start();
    for concurrency in ["1", "8"] {
        let command = format!("WALG_UPLOAD_CONCURRENCY={concurrency} {}", far.command);
        cluster.set("archive_command", &command);
        cluster.reload();
        wait_drained(&cluster);
        far.proxy.forget();
        let begun = Instant::now();
        switch_segments(&cluster, SEGMENTS);
        cluster.wait_until("the burst is archived", 4 * PATIENCE, || {
            cluster.waiting_files().is_empty()
        });
        took.push(begun.elapsed());
        let puts = puts(&far.proxy);
        assert!(puts.len() >= SEGMENTS, "{puts:?}");
        assert!(puts.values().all(|count| *count == 1), "{puts:?}");
    }
    println!(
        "{SEGMENTS} segments over 100 ms: one at a time {:?}, ahead {:?}",
        took[0], took[1]
    );
    assert!(took[1] * 2 < took[0], "{took:?}");
    assert_eq!(remembered(cluster.datadir()), [""; 0], "all was asked for");
    let log = cluster.log();
    assert!(!log.contains("archive command failed"), "{log}");
}

/// In the middle of a burst, with segments stored ahead and segments on their way.
#[test]
fn a_call_that_is_killed_loses_nothing() {
    let dir = TestDir::new();
    let far = Far::new(&dir);
    let repository = Repository::at(far.server.dir().join("some/prefix"));
    let cluster = commanded(&dir, &far.command).envs(far.server.env()).start();
    let first = cluster.switch_wal();
    cluster.wait_archived(&first, PATIENCE);
    for with_memory in [false, true] {
        switch_segments(&cluster, 60);
        let mut killed = 0;
        wait_until("a call is killed", PATIENCE, || {
            let waits = !cluster.waiting_files().is_empty();
            if waits && (!with_memory || !remembered(cluster.datadir()).is_empty()) {
                for pid in calls(&cluster) {
                    kill_pid(pid, Signal::SIGKILL);
                    killed += 1;
                }
            }
            killed > 0 || !waits
        });
        assert!(killed > 0, "the burst was over too soon");
        println!("killed with {:?} remembered", remembered(cluster.datadir()));
        // PostgreSQL starts the archiver again after ten seconds, when a client comes.
        cluster.wait_until("the burst is archived", 4 * PATIENCE, || {
            cluster.accepts_connections() && cluster.waiting_files().is_empty()
        });
    }
    let last = cluster.switch_wal();
    cluster.wait_archived(&last, PATIENCE);
    let count = repository.assert_complete(&cluster, &first, &last);
    println!("{count} segments are stored");
    assert!(count > 120, "{count}");
    assert!(cluster.log().contains("exit code 137") || cluster.log().contains("signal 9"));
}

/// What is remembered counts for the very file that was stored, in the very repository.
#[test]
fn a_memory_that_is_wrong_is_not_believed() {
    let dir = TestDir::new();
    let (repository, other) = (Repository::new(&dir, "repository"), Repository::new(&dir, "other"));
    let cluster = commanded(&dir, "/bin/false").start();
    switch_segments(&cluster, 4);
    cluster.wait_until("the segments wait", PATIENCE, || cluster.waiting_files().len() >= 4);
    let waiting = cluster.waiting_files();
    let push = |repository: &Repository, name: &str| {
        let mut command = cluster.pg().program("walarchive");
        command.args(["wal-push", "--storage", &repository.url()]);
        walarchive_testkit::run(command.arg(cluster.datadir().join("pg_wal").join(name)))
    };
    push(&repository, &waiting[0]).expect_success();
    assert_eq!(repository.segments(), waiting[..repository.segments().len()]);
    assert_eq!(remembered(cluster.datadir()), waiting[1..]);
    // The very file, in the very repository: the store is not asked.
    fs::rename(repository.path(), dir.join("aside")).expect("moved");
    push(&repository, &waiting[1]).expect_success();
    fs::rename(dir.join("aside"), repository.path()).expect("moved back");
    // Another repository does not have it.
    push(&other, &waiting[2]).expect_success();
    assert!(other.object(&waiting[2]).is_file(), "{:?}", other.segments());
    // Another file of the name.
    push(&repository, &waiting[0]).expect_success();
    let path = cluster.datadir().join("pg_wal").join(&waiting[3]);
    let mut content = fs::read(&path).expect("read");
    if let Some(byte) = content.last_mut() {
        *byte ^= 1;
    }
    fs::write(&path, content).expect("written");
    let refused = push(&repository, &waiting[3]);
    assert!(!refused.success(), "{refused:?}");
    assert!(refused.stderr.contains("They differ"), "{refused:?}");
}

/// A directory that is not mounted looks like an empty store to a process that begins.
#[test]
fn a_repository_that_has_vanished_is_not_begun_anew() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = commanded(&dir, "/bin/false").start();
    switch_segments(&cluster, 2);
    cluster.wait_until("the segments wait", PATIENCE, || cluster.waiting_files().len() >= 2);
    let waiting = cluster.waiting_files();
    let call = |arguments: &[&str]| {
        let mut command = cluster.pg().program("walarchive");
        command.env("WALG_UPLOAD_CONCURRENCY", "1").args(arguments);
        walarchive_testkit::run(command.args(["--storage", &repository.url()]))
    };
    let path = |name: &str| cluster.datadir().join("pg_wal").join(name).display().to_string();
    call(&["wal-push", &path(&waiting[0])]).expect_success();
    let aside = dir.join("aside");
    fs::rename(repository.path(), &aside).expect("moved");
    let empty = Repository::new(&dir, "repository");
    let refused = call(&["wal-push", &path(&waiting[1])]);
    assert!(
        !refused.success() && refused.stderr.contains("there is no repository"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("run walarchive take-over"), "{refused:?}");
    let left = fs::read_dir(empty.path()).expect("read").count();
    assert_eq!(left, 0, "nothing is written where it was");
    // The way out for the one who has emptied it.
    call(&["take-over", "--pgdata", &cluster.datadir().display().to_string()]).expect_success();
    call(&["wal-push", &path(&waiting[1])]).expect_success();
    assert!(empty.object(&waiting[1]).is_file(), "{:?}", empty.segments());
    fs::remove_dir_all(repository.path()).expect("removed");
    fs::rename(&aside, repository.path()).expect("mounted again");
}
