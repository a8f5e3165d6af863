//! Stores that misbehave in every way but the plain one of being away: the archiver comes back in time and says what is
//! wrong, no segment is lost, and nobody has to help when the fault is gone.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{archiving, present_segment, status, wait_drained, wait_message, write_noise};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, S3Server, TestDir};

/// `walarchive.archive_timeout` of most of these tests, and what a loaded machine may add to it.
const ARCHIVE_TIMEOUT: &str = "5s";
const SOON: Duration = Duration::from_secs(40);

/// A cluster that archives through a proxy. The fields end in this order.
struct Site {
    cluster: Cluster,
    proxy: FaultProxy,
    server: S3Server,
    first: String,
    _dir: TestDir,
}

impl Site {
    /// One that works so far.
    fn new(archive_timeout: &str) -> Site {
        let dir = TestDir::new();
        let server = S3Server::start(&dir, "bucket");
        let proxy = FaultProxy::start(server.port());
        let cluster = archiving(&dir, "c", &server.url("some/prefix"))
            // The last one counts: a segment must be more than a connection lets through.
            .initdb_arg("--wal-segsize=4")
            .setting("walarchive.storage_options", &proxy.options())
            .setting("walarchive.archive_timeout", archive_timeout)
            .envs(server.env())
            .start();
        let first = present_segment(&cluster);
        cluster.psql("CREATE EXTENSION walarchive");
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        Site {
            cluster,
            proxy,
            server,
            first,
            _dir: dir,
        }
    }

    /// Two segments and a bit that compress to half. Returns the last one.
    fn write(&self) -> String {
        for _ in 0..8 {
            write_noise(&self.cluster);
        }
        self.cluster.switch_wal()
    }

    /// Nothing but the store's health is changed from now on.
    fn assert_drains(&self, last: &str) {
        self.proxy.heal();
        wait_drained(&self.cluster);
        let repository = Repository::at(self.server.dir().join("some/prefix"));
        repository.assert_complete(&self.cluster, &self.first, last);
        assert!(
            !self.cluster.log().contains(self.server.env()[1].1),
            "the secret is in the log"
        );
    }
}

/// With this fault nothing can be archived.
fn outlast(fault: Fault, hint: &str) {
    let site = Site::new(ARCHIVE_TIMEOUT);
    let cluster = &site.cluster;
    site.proxy.set([fault]);
    site.proxy.forget();
    let mark = cluster.log_mark();
    let last = site.write();
    let begun = Instant::now();
    let message = wait_message(cluster, mark, &["WARNING", "could not archive"], PATIENCE);
    println!("after {:?}: {message}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "the archiver took {:?}", begun.elapsed());
    assert!(message.contains("DETAIL:  ") && message.contains(hint), "{message}");
    assert!(site.proxy.count() > 0, "the store was not asked");
    // PostgreSQL tries a file three times, a second apart.
    cluster.wait_until("the archiver has come back three times", 3 * SOON, || {
        cluster.psql("SELECT failed_count >= 3 FROM pg_stat_archiver") == "t"
    });
    assert_eq!(status(cluster, "failed_count > 0 AND last_archive_error <> ''"), "t");
    assert!(cluster.waiting_files().contains(&last));
    site.assert_drains(&last);
}

#[test]
fn accepts_and_never_answers() {
    outlast(Fault::Silent, "HINT:  The store does not answer in time");
}

#[test]
fn answers_one_byte_a_second() {
    outlast(Fault::Trickle, "HINT:  The store does not answer in time");
}

#[test]
fn drops_each_connection_after_a_megabyte() {
    outlast(
        Fault::Cut(1 << 20),
        "HINT:  If this persists, check that the store is up",
    );
}

#[test]
fn is_busy_for_an_hour() {
    outlast(
        Fault::status(503).retry_after("3600").into(),
        "HINT:  The store is overloaded",
    );
}

#[test]
fn fails_every_third_time() {
    // An attempt that comes late on a busy machine is no failure of the archiver's.
    let site = Site::new("60s");
    site.proxy.set([Fault::status(500).every(3).into()]);
    site.proxy.forget();
    let mark = site.cluster.log_mark();
    let last = site.write();
    // The fault stays, and is nobody's business.
    wait_drained(&site.cluster);
    assert!(site.proxy.count() > 3, "{} requests", site.proxy.count());
    let log = site.cluster.log_since(mark);
    assert!(!log.contains("could not archive"), "{log}");
    site.assert_drains(&last);
}
