//! The other kinds of stores behind a slow link: nothing ends because of its age, and what does not move any more ends.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{archiving, switch_segments, wait_drained};
use walarchive_testkit::{
    AzuriteServer, Cluster, Fault, FaultProxy, GcsServer, PATIENCE, SftpServer, StoreServer, SwiftServer, TestDir,
};

const MB: u64 = 1 << 20;

/// The longest that nothing may move.
const STALLED: Duration = Duration::from_secs(30);

/// A cluster that archives through a proxy, without compression. The fields end in this order.
struct Site {
    cluster: Cluster,
    proxy: FaultProxy,
    _server: Box<dyn StoreServer>,
    _dir: TestDir,
}

impl Site {
    fn new(dir: TestDir, server: Box<dyn StoreServer>, port: u16, proxy: FaultProxy, archive_timeout: &str) -> Site {
        let through = |text: String| text.replace(&format!(":{port}"), &format!(":{}", proxy.port()));
        let env = server.env();
        let cluster = archiving(&dir, "c", &through(server.url("prefix")))
            .setting("walarchive.storage_options", &through(server.options()))
            .setting("walarchive.compression", "none")
            .setting("walarchive.archive_timeout", archive_timeout)
            .envs(env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .start();
        cluster.psql("CREATE EXTENSION walarchive");
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        Site {
            cluster,
            proxy,
            _server: server,
            _dir: dir,
        }
    }

    fn sftp(archive_timeout: &str) -> Site {
        let dir = TestDir::new();
        let server = SftpServer::start(&dir);
        let proxy = FaultProxy::tunnel(server.port());
        let known = format!("[127.0.0.1]:{} {}\n", proxy.port(), server.host_key("ed25519"));
        std::fs::write(server.known_hosts(), known).expect("could not write known_hosts");
        let port = server.port();
        Site::new(dir, Box::new(server), port, proxy, archive_timeout)
    }

    fn swift(archive_timeout: &str) -> Site {
        let dir = TestDir::new();
        let server = SwiftServer::start(&dir);
        // It says that its objects are where it was asked.
        let (port, proxy) = (server.port(), FaultProxy::start(server.port()));
        Site::new(dir, Box::new(server), port, proxy, archive_timeout)
    }

    fn gcs(archive_timeout: &str) -> Site {
        let dir = TestDir::new();
        let server = GcsServer::start(&dir, "bucket");
        let (port, proxy) = (server.port(), FaultProxy::start(server.port()));
        Site::new(dir, Box::new(server), port, proxy, archive_timeout)
    }

    fn azure(archive_timeout: &str) -> Site {
        let dir = TestDir::new();
        let server = AzuriteServer::start(&dir, "container");
        let (port, proxy) = (server.port(), FaultProxy::start(server.port()));
        Site::new(dir, Box::new(server), port, proxy, archive_timeout)
    }

    fn archived(&self) -> u64 {
        let count = self.cluster.psql("SELECT archived_count FROM pg_stat_archiver");
        count.parse().expect("a number")
    }

    /// How many times as long as the link alone would need a burst takes. Nothing is sent twice, and nothing fails.
    fn drain(&self, what: &str, segments: usize, rate: u64, latency: u64) {
        let (before, mark) = (self.archived(), self.cluster.log_mark());
        self.proxy
            .set([Fault::Link(rate), Fault::Latency(Duration::from_millis(latency))]);
        self.proxy.forget();
        let begun = Instant::now();
        switch_segments(&self.cluster, segments);
        let alone = Duration::from_secs_f64((segments as u64 * MB) as f64 / rate as f64);
        self.cluster
            .wait_until("the burst is archived", 2 * alone + PATIENCE, || {
                self.cluster.waiting_files().is_empty()
            });
        let (took, sent) = (begun.elapsed(), self.proxy.carried());
        self.proxy.heal();
        let bytes = (self.archived() - before) * MB;
        let alone = Duration::from_secs_f64(bytes as f64 / rate as f64);
        println!(
            "{what}: {bytes} bytes at {rate} B/s, {latency} ms: {:.1} s, {:.2} times what the link needs; {sent} bytes were sent",
            took.as_secs_f64(),
            took.as_secs_f64() / alone.as_secs_f64()
        );
        let log = self.cluster.log_since(mark);
        assert!(!log.contains("could not upload"), "{log}");
        // The share of the protocol, as opposed to the segments, is a part of fifty.
        assert!(
            sent < bytes + bytes / 50 + MB / 10,
            "{sent} bytes were sent for {bytes}"
        );
        assert!(
            took < alone.mul_f64(1.15) + Duration::from_secs(6),
            "{took:?} instead of {alone:?}"
        );
    }

    /// A link that carries nothing any more: the upload ends, is told of, and is made again when the link is back.
    fn stall(&self) {
        let mark = self.cluster.log_mark();
        self.proxy.set([Fault::Stall(100 << 10)]);
        let begun = Instant::now();
        switch_segments(&self.cluster, 2);
        let mut log = String::new();
        self.cluster.wait_until("an upload ends", PATIENCE, || {
            log = self.cluster.log_since(mark);
            log.contains("could not write")
        });
        println!("ended after {:.1} s: {log}", begun.elapsed().as_secs_f64());
        assert!(begun.elapsed() >= STALLED - Duration::from_secs(1), "{log}");
        self.proxy.heal();
        wait_drained(&self.cluster);
    }
}

#[test]
fn sftp_drains_as_fast_as_the_link() {
    let site = Site::sftp("6s");
    site.drain("SFTP", 8, 200 << 10, 20);
    site.drain("SFTP", 3, 50 << 10, 300);
}

#[test]
fn swift_drains_as_fast_as_the_link() {
    let site = Site::swift("6s");
    site.drain("Swift", 8, 200 << 10, 20);
    site.drain("Swift", 3, 50 << 10, 300);
}

#[test]
fn sftp_does_not_wait_for_a_link_that_stops() {
    Site::sftp("60s").stall();
}

#[test]
fn swift_does_not_wait_for_a_link_that_stops() {
    Site::swift("60s").stall();
}

/// As many as a burst has, on two links.
fn drain_a_dozen(what: &str, site: &Site) {
    site.drain(what, 12, 200 << 10, 20);
    site.drain(what, 12, 50 << 10, 300);
}

#[test]
#[ignore = "takes five minutes"]
fn a_dozen_segments_to_sftp() {
    drain_a_dozen("SFTP", &Site::sftp("60s"));
}

#[test]
#[ignore = "takes five minutes"]
fn a_dozen_segments_to_swift() {
    drain_a_dozen("Swift", &Site::swift("60s"));
}

#[test]
#[ignore = "takes five minutes"]
fn a_dozen_segments_to_gcs() {
    drain_a_dozen("GCS", &Site::gcs("60s"));
}

#[test]
#[ignore = "takes five minutes"]
fn a_dozen_segments_to_azure() {
    drain_a_dozen("Azure", &Site::azure("60s"));
}
