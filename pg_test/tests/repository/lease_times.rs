//! One writer, when time goes wrong: clocks that differ, processes that slept, intervals that are long.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{first_waiting, wait_message};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{
    Builder, Cluster, Fault, FaultProxy, PATIENCE, S3Server, Signal, StopMode, StoreServer, TestDir, kill_pid, run,
};

const REFUSED: &str = "is written by another server";
const LEASE: &str = "SELECT lease_state, lease_epoch FROM walarchive_status";

/// A copy of the data directory, taken while the server is down for a moment.
fn snapshot(site: &Site, primary: &Cluster) -> PathBuf {
    primary.stop(StopMode::Fast);
    let snapshot = site.dir().join("snapshot");
    run(site
        .pg()
        .program("/bin/cp")
        .arg("-a")
        .arg(primary.datadir())
        .arg(&snapshot))
    .expect_success();
    primary.start_again();
    snapshot
}

fn take_over(site: &Site, datadir: &Path) -> String {
    run(&mut site.walarchive(&["take-over", "--pgdata", &datadir.to_string_lossy()])).expect_success()
}

/// The last sign of life of the highest epoch.
fn alive(site: &Site) -> serde_json::Value {
    let keys = site.objects("walarchive_005/lease");
    let key = keys
        .iter()
        .rfind(|key| key.ends_with(".alive.json"))
        .expect("a sign of life");
    serde_json::from_slice(&fs::read(site.object(key)).expect("read")).expect("JSON")
}

/// The clock of the server's host is off by some hours. Debian's package `faketime` has the library.
fn off_by(builder: Builder, offset: &str) -> Builder {
    let library = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = library
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .expect("no libfaketimeMT.so.1: install the package faketime");
    builder
        .env("LD_PRELOAD", &library.to_string_lossy())
        .env("FAKETIME", offset)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_NO_CACHE", "1")
}

/// PostgreSQL's archiver pauses for a minute after three failures, and looking ahead pauses longer and longer. Neither goes on when
/// the server may write.
#[test]
fn who_waited_archives_at_once_when_the_lease_is_its_own() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", "8s")]);
    backup(&primary, "");
    archive_all(&primary);
    walarchive_pg_test::site::lose(&primary);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = Cluster::builder(site.dir(), "restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    first_waiting(&restored);
    wait_message(&restored, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    wait_message(
        &restored,
        0,
        &["took the lease of repository", "as epoch 2"],
        2 * PATIENCE,
    );
    let taken = Instant::now();
    restored.wait_until("all is archived", 2 * PATIENCE, || restored.waiting_files().is_empty());
    println!("archived {:?} after the lease was taken", taken.elapsed());
    assert!(taken.elapsed() < Duration::from_secs(8), "{:?}", taken.elapsed());
}

/// A clone that believes it is tomorrow waits while the original lives in yesterday, and takes its place in time when it is gone.
#[test]
fn clocks_of_hosts_differ_by_hours() {
    for (of_original, of_clone) in [("-9h", "+9h"), ("+9h", "-9h")] {
        let site = Site::on_files();
        let builder = site.builder("primary").setting("walarchive.lease_interval", "3s");
        let primary = off_by(builder, of_original).start();
        primary.psql("CREATE EXTENSION walarchive");
        backup(&primary, "");
        archive_all(&primary);
        let target = site.restore("clone", "LATEST", &[]);
        let clone = off_by(Cluster::builder(site.dir(), "clone"), of_clone).attach(&target);
        clone.wait_promoted(PATIENCE);
        let hours = |cluster: &Cluster| cluster.psql("SELECT extract(epoch FROM clock_timestamp())::int8 / 3600");
        let [theirs, ours] = [&primary, &clone].map(|cluster| hours(cluster).parse::<i64>().expect("a number"));
        assert!((theirs - ours).abs() >= 17, "the clocks do not differ: {theirs} {ours}");
        first_waiting(&clone);
        wait_message(&clone, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
        let begun = alive(&site)["counter"].as_u64().expect("a counter");
        primary.wait_until("the lease is renewed", PATIENCE, || {
            alive(&site)["counter"].as_u64() > Some(begun + 6)
        });
        assert_eq!(clone.psql(LEASE), "waiting|1");
        archive_all(&primary);
        primary.kill9();
        archive_all(&clone);
        assert_eq!(clone.psql(LEASE), "held|2");
    }
}

/// Stopped in the middle of retention's deletions after a backup, for longer than the lease lasts.
#[test]
fn retention_of_a_server_that_was_asleep_deletes_nothing_more() {
    const OBJECTS: usize = 4000;
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.lease_interval", "1s"), ("walarchive.retention", "full 1")]);
    let first = backup(&primary, "");
    archive_all(&primary);
    let successor = snapshot(&site, &primary);
    let folder = site.object(&format!("basebackups_005/{first}/tar_partitions"));
    for number in 0..OBJECTS {
        fs::write(folder.join(format!("more_{number}.tar.zst")), "x").expect("could not write");
    }
    let left = || fs::read_dir(&folder).map_or(0, Iterator::count);
    let mut statement = primary.background_psql("SELECT walarchive_backup_push()");
    primary.wait_until("retention deletes", PATIENCE, || {
        left() < OBJECTS - 100 || !statement.is_running()
    });
    let worker = primary
        .pid_of("walarchive backup")
        .expect("the backup's worker is there");
    kill_pid(worker, Signal::SIGSTOP);
    take_over(&site, &successor);
    let there = left();
    assert!(there > 100, "nothing is left to be deleted");
    kill_pid(worker, Signal::SIGCONT);
    wait_message(&primary, 0, &["WARNING", REFUSED], PATIENCE);
    primary.wait_until("the worker has ended", PATIENCE, || {
        primary.pid_of("walarchive backup").is_none()
    });
    // The batch that was under way comes to its end.
    assert!(left() + 10 >= there, "{} of {there} are left", left());
    drop(statement);
}

/// It does not wait for its next renewal to learn that somebody has taken the lease.
#[test]
fn who_was_replaced_learns_of_it_long_before_its_next_renewal() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    archive_all(&primary);
    let successor = snapshot(&site, &primary);
    archive_all(&primary);
    primary.set("walarchive.lease_interval", "1h");
    primary.reload();
    primary.wait_until("the new interval is promised", PATIENCE, || {
        alive(&site)["interval_ms"] == 3_600_000
    });
    archive_all(&primary);
    take_over(&site, &successor);
    primary.wait_until("it is refused", PATIENCE, || {
        primary.switch_wal();
        primary.log().contains(REFUSED)
    });
    assert_eq!(primary.psql("SELECT lease_state FROM walarchive_status"), "lost");
}

/// The server renews, and the binary beside it promises no other interval.
#[test]
fn the_binary_promises_what_the_server_is_set_to() {
    let site = Site::on_files();
    let builder = site.builder("primary").setting("walarchive.lease_interval", "2min");
    let primary = builder.start();
    primary.psql("CREATE EXTENSION walarchive");
    archive_all(&primary);
    assert_eq!(alive(&site)["interval_ms"], 120_000);
    take_over(&site, primary.datadir());
    assert_eq!(alive(&site)["interval_ms"], 120_000);
    primary.stop(StopMode::Fast);
    take_over(&site, primary.datadir());
    assert_eq!(alive(&site)["interval_ms"], 120_000);
    drop(primary);
    // The command line of the last start wins over the files.
    let datadir = site.dir().join("primary");
    let primary = Cluster::builder(site.dir(), "primary")
        .server_setting("walarchive.lease_interval", "45")
        .attach(&datadir);
    primary.wait_until("the new interval is promised", PATIENCE, || {
        alive(&site)["interval_ms"] == 45_000
    });
    take_over(&site, &datadir);
    assert_eq!(alive(&site)["interval_ms"], 45_000);
}

/// An S3 server behind a proxy.
struct Proxied {
    server: S3Server,
    proxy: Arc<FaultProxy>,
}

impl StoreServer for Proxied {
    fn url(&self, prefix: &str) -> String {
        self.server.url(prefix)
    }

    fn options(&self) -> String {
        self.proxy.options()
    }

    fn env(&self) -> Vec<(String, String)> {
        StoreServer::env(&self.server)
    }

    fn stop(&self) {
        self.server.stop();
    }

    fn start_again(&self) {
        self.server.start_again();
    }
}

/// How often a process has slept so far, its main thread that is.
fn sleeps(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).expect("the process is there");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a count")
}

/// A renewal that outlasts its interval is waited for, and not asked after twenty times a second.
#[test]
fn a_worker_sleeps_while_the_store_hangs() {
    const LOOKED: Duration = Duration::from_secs(5);
    let mut proxy = None;
    let site = Site::on(|dir: &TestDir| {
        let server = S3Server::start(dir, "bucket");
        let started = Arc::new(FaultProxy::start(server.port()));
        proxy = Some(Arc::clone(&started));
        Proxied { server, proxy: started }
    });
    let proxy = proxy.expect("the proxy was started");
    let primary = site.primary(&[("walarchive.lease_interval", "1s")]);
    archive_all(&primary);
    proxy.set([Fault::Silent]);
    proxy.forget();
    primary.wait_until("the worker asks for the lease", PATIENCE, || {
        let mut requests = proxy.requests().into_iter();
        requests.any(|request| request.target.contains("/lease/"))
    });
    // From now on the next renewal is due, after a second, and the last one is not over.
    let (worker, begun) = (
        primary.pid_of("walarchive uploader").expect("the worker"),
        std::time::Instant::now(),
    );
    let before = sleeps(worker);
    primary.wait_until("time has passed", PATIENCE, || begun.elapsed() > LOOKED);
    let woken = sleeps(worker) - before;
    assert!(woken <= 15, "it woke {woken} times in {LOOKED:?}");
}
