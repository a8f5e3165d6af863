//! A cluster behind a link that is slow, far or breaks.
//!
//! All connections share one link. The drain time of a burst is stated as a multiple of what the link alone needs.

use std::time::{Duration, Instant};

use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, S3Server, Seen, TestDir};

use crate::archiving::{archiving, switch_segments};

/// A megabyte.
pub const MB: u64 = 1 << 20;

/// What a loaded machine may add to a burst, whatever its size: processes that start, and scans that come late.
pub const LOADED: Duration = Duration::from_secs(6);

/// A cluster that archives through a proxy what it does not compress: a segment is a megabyte on the link. The fields end in
/// this order.
pub struct LinkSite {
    /// The cluster.
    pub cluster: Cluster,
    /// What is before its store.
    pub proxy: FaultProxy,
    /// Its store.
    pub server: S3Server,
    /// The test's directory.
    pub dir: TestDir,
}

impl LinkSite {
    /// With segments of a megabyte.
    pub fn new(archive_timeout: &str) -> LinkSite {
        LinkSite::of(1, archive_timeout)
    }

    /// With segments of so many megabytes.
    pub fn of(megabytes: u64, archive_timeout: &str) -> LinkSite {
        let dir = TestDir::new();
        let server = S3Server::start(&dir, "bucket");
        let proxy = FaultProxy::start(server.port());
        let cluster = archiving(&dir, "c", &server.url("some/prefix"))
            .initdb_arg(&format!("--wal-segsize={megabytes}"))
            .setting("walarchive.storage_options", &proxy.options())
            .setting("walarchive.compression", "none")
            .setting("walarchive.archive_timeout", archive_timeout)
            .envs(server.env())
            .start();
        cluster.psql("CREATE EXTENSION walarchive");
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        LinkSite {
            cluster,
            proxy,
            server,
            dir,
        }
    }

    /// The objects of WAL and their bytes.
    pub fn stored(&self) -> (usize, u64) {
        let folder = self.server.dir().join("some/prefix/wal_005");
        let entries = std::fs::read_dir(folder).expect("no folder").flatten();
        let sizes: Vec<u64> = entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
        (sizes.len(), sizes.iter().sum())
    }

    /// The segments that are stored, by name.
    pub fn names(&self) -> Vec<String> {
        let folder = self.server.dir().join("some/prefix/wal_005");
        let entries = std::fs::read_dir(folder).expect("no folder").flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.len() == 24)
            .collect();
        names.sort();
        names
    }

    /// Requests that the proxy remembers, in the order in which they began: when each began and ended, in seconds since
    /// `begun`, the status of the answer, and how many bytes of its body were sent.
    pub fn requests(&self, begun: Instant, wanted: impl Fn(&Seen) -> bool) -> Vec<String> {
        let seconds = |at: Instant| format!("{:.2}", at.saturating_duration_since(begun).as_secs_f64());
        let line = |seen: &Seen| {
            let ended = seen.answered.map_or("-".to_owned(), seconds);
            let status = seen.status.map_or("-".to_owned(), |status| status.to_string());
            let target: String = seen.target.chars().take(200).collect();
            format!(
                "{:>7} {ended:>7} {status:>3} {:>8} {} {target}",
                seconds(seen.at),
                seen.carried,
                seen.method
            )
        };
        self.proxy
            .requests()
            .iter()
            .filter(|seen| wanted(seen))
            .map(line)
            .collect()
    }

    /// A burst of so many segments over a link like this, and how long it takes to drain.
    pub fn drain(&self, what: &str, segments: usize, rate: u64, faults: impl IntoIterator<Item = Fault>) {
        let (before, mark) = (self.stored(), self.cluster.log_mark());
        self.proxy.set([Fault::Link(rate)].into_iter().chain(faults));
        self.proxy.forget();
        let begun = Instant::now();
        switch_segments(&self.cluster, segments);
        println!("{what}: written after {:.1} s", begun.elapsed().as_secs_f64());
        self.cluster.wait_until("the burst is archived", 4 * PATIENCE, || {
            self.cluster.waiting_files().is_empty()
        });
        let took = begun.elapsed();
        let after = self.stored();
        let bytes = after.1 - before.1;
        assert!(after.0 - before.0 >= segments, "{before:?} {after:?}");
        let log = self.cluster.log_since(mark);
        assert!(!log.contains("ERROR"), "{log}");
        let alone = Duration::from_secs_f64(bytes as f64 / rate as f64);
        println!("{}", self.requests(begun, |_| true).join("\n"));
        println!(
            "{what}: {} segments, {bytes} bytes at {rate} B/s: {:.1} s, the link alone {:.1} s: {:.2} times; {} bytes were sent, {} connections broke",
            after.0 - before.0,
            took.as_secs_f64(),
            alone.as_secs_f64(),
            took.as_secs_f64() / alone.as_secs_f64(),
            self.proxy.carried(),
            self.proxy.broken(),
        );
        // What was sent of a segment whose connection broke: half of it, and what the buffers held.
        let again = Duration::from_secs_f64((self.proxy.broken() as u64 * MB) as f64 / rate as f64);
        assert!(
            took < (alone + again).mul_f64(1.15) + LOADED,
            "{what}: {took:?} instead of {alone:?}"
        );
    }
}
