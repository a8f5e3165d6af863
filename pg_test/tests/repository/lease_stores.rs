//! One writer on every kind of store: a clone that waits, a server that slept and lost the lease, a take-over by hand; and stores
//! that do not keep the promise of a create-only write.

use std::sync::Arc;
use std::time::Duration;

use walarchive_pg_test::archiving::{first_waiting, status, wait_message};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{
    AzuriteServer, Cluster, Fault, FaultProxy, GcsServer, MotoServer, PATIENCE, S3Server, SftpServer, Signal,
    StoreServer, SwiftServer, TestDir, kill_pid, run,
};

const REFUSED: &str = "is written by another server";
const LEASE: &str = "SELECT lease_state, lease_epoch FROM walarchive_status";

/// Is the segment in the archive?
fn is_stored(site: &Site, segment: &str) -> bool {
    let target = site.dir().join(format!("{segment}.fetched"));
    let output = run(&mut site.walarchive(&["wal-fetch", segment, &target.to_string_lossy()]));
    assert!(
        output.success() || output.stderr.contains("is not in the archive"),
        "{output:?}"
    );
    output.success()
}

fn has_one_writer(site: &Site) {
    let primary = site.primary(&[("walarchive.lease_interval", "3s")]);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    backup(&primary, "");
    archive_all(&primary);
    assert_eq!(primary.psql(LEASE), "held|1");

    // The clone waits while the original lives.
    let target = site.restore("clone", "LATEST", &[]);
    let clone = site.builder("clone").attach(&target);
    clone.wait_promoted(PATIENCE);
    let of_clone = first_waiting(&clone);
    let message = wait_message(&clone, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains(&primary.datadir().display().to_string()), "{message}");
    assert!(!is_stored(site, &of_clone), "{of_clone} was stored");
    archive_all(&primary);

    // The writer of the original is stopped for longer than the lease lasts, and goes on with work to do.
    let writers: Vec<i32> = ["archiver", "walarchive uploader"]
        .iter()
        .flat_map(|title| primary.pids_of(title))
        .collect();
    assert_eq!(writers.len(), 2, "{writers:?}");
    writers.iter().for_each(|pid| kill_pid(*pid, Signal::SIGSTOP));
    let late = primary.switch_wal();
    clone.wait_until("the clone writes", PATIENCE, || clone.psql(LEASE) == "held|2");
    archive_all(&clone);
    assert!(is_stored(site, &of_clone));
    let mark = primary.log_mark();
    writers.iter().for_each(|pid| kill_pid(*pid, Signal::SIGCONT));
    let message = wait_message(&primary, mark, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains("has lost it"), "{message}");
    assert!(!is_stored(site, &late), "{late} was stored");
    assert_eq!(status(&primary, "lease_state"), "lost");

    // By hand it goes back.
    primary.psql("SELECT walarchive_take_over()");
    archive_all(&primary);
    assert!(is_stored(site, &late));
    assert_eq!(primary.psql(LEASE), "held|3");
    // A write within seconds of its last look may still come.
    clone.wait_until("it knows", PATIENCE, || status(&clone, "lease_state") == "lost");
    let mark = clone.log_mark();
    let refused = first_waiting(&clone);
    wait_message(&clone, mark, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(!is_stored(site, &refused), "{refused} was stored");
}

#[test]
fn s3s_fs() {
    has_one_writer(&Site::on(|dir| S3Server::start(dir, "bucket")));
}

#[test]
fn moto() {
    has_one_writer(&Site::on(|dir| MotoServer::start(dir, "bucket")));
}

#[test]
fn gcs() {
    has_one_writer(&Site::on(|dir| GcsServer::start(dir, "bucket")));
}

#[test]
fn azurite() {
    has_one_writer(&Site::on(|dir| AzuriteServer::start(dir, "container")));
}

#[test]
fn swift() {
    has_one_writer(&Site::on(SwiftServer::start));
}

#[test]
fn sftp() {
    has_one_writer(&Site::on(SftpServer::start));
}

/// An S3 server that never hears of `If-None-Match`, and takes its time.
struct Liar {
    server: MotoServer,
    proxy: Arc<FaultProxy>,
}

impl Liar {
    fn start(dir: &TestDir) -> Liar {
        let server = MotoServer::start(dir, "bucket");
        let proxy = Arc::new(FaultProxy::start(server.port()));
        proxy.set([
            Fault::StripHeader("if-none-match"),
            Fault::Latency(Duration::from_millis(300)),
        ]);
        Liar { server, proxy }
    }
}

impl StoreServer for Liar {
    fn url(&self, prefix: &str) -> String {
        self.server.url(prefix)
    }

    fn options(&self) -> String {
        self.proxy.options()
    }

    fn env(&self) -> Vec<(String, String)> {
        StoreServer::env(&self.server)
    }

    fn forgets(&self) -> bool {
        true
    }

    fn stop(&self) {
        self.server.stop();
    }

    fn start_again(&self) {
        self.server.start_again();
    }
}

#[test]
fn a_store_that_lies_has_one_writer() {
    has_one_writer(&Site::on(Liar::start));
}

/// Both are originals, as far as anybody knows, and nobody has the lease: they take it at the same moment.
#[test]
fn of_two_that_race_on_a_store_that_lies_one_writes() {
    let site = Site::on(Liar::start);
    let template = site
        .builder("template")
        .setting("walarchive.lease_interval", "2s")
        .create();
    let both: Vec<Cluster> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let copy = site.dir().join(name);
            run(site
                .pg()
                .program("/bin/cp")
                .arg("-a")
                .arg(template.datadir())
                .arg(&copy))
            .expect_success();
            site.builder(name).attach_stopped(&copy)
        })
        .collect();
    both.iter().for_each(Cluster::spawn_server);
    for cluster in &both {
        cluster.wait_until("it runs", PATIENCE, || cluster.accepts_connections());
        cluster.psql("CREATE EXTENSION walarchive");
    }
    let segments: Vec<String> = both.iter().map(Cluster::switch_wal).collect();
    let held = |cluster: &Cluster| status(cluster, "lease_state") == "held";
    both[0].wait_until("one of them writes", PATIENCE, || {
        both.iter()
            .any(|cluster| cluster.psql("SELECT archived_count FROM pg_stat_archiver") != "0")
    });
    let (winner, loser) = match held(&both[0]) {
        true => (&both[0], &both[1]),
        false => (&both[1], &both[0]),
    };
    assert!(held(winner) && !held(loser), "{}", loser.psql(LEASE));
    let message = wait_message(loser, 0, &["WARNING", "could not archive", REFUSED], PATIENCE);
    assert!(message.contains(&winner.datadir().display().to_string()), "{message}");
    archive_all(winner);
    assert_eq!(loser.psql("SELECT archived_count FROM pg_stat_archiver"), "0");
    assert_eq!(winner.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    assert!(is_stored(&site, &segments[0]));
    for cluster in [winner, loser] {
        let row = cluster.psql("SELECT detail FROM walarchive_check() WHERE check_name = 'lease'");
        assert!(
            row.contains("the store has no create-only writes, so a server that takes the lease reads it back"),
            "{row}"
        );
    }
}
