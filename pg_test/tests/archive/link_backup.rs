//! Backups over links that are slow, far or break.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::wait_drained;
use walarchive_pg_test::link::{LOADED, LinkSite, MB};
use walarchive_pg_test::repository::restore;
use walarchive_testkit::{Cluster, Fault, PATIENCE};

/// Rates, and how a backup is compressed so that it takes a while at that rate.
const TABLE: [(u64, &str); 3] = [(MB, "none"), (200 << 10, "none"), (50 << 10, "zstd")];

/// Takes a backup over such a link. More than 1.15 times as long as the link alone would have needed, and so much more, is too long.
fn backup(site: &LinkSite, what: &str, rate: u64, faults: impl IntoIterator<Item = Fault>, more: Duration) {
    let (took, alone) = measured(site, what, rate, faults);
    assert!(
        took < alone.mul_f64(1.15) + more,
        "{what}: {took:?} instead of {alone:?}"
    );
}

/// Takes a backup over such a link. Returns how long it took, and how long the link alone would have needed.
fn measured(site: &LinkSite, what: &str, rate: u64, faults: impl IntoIterator<Item = Fault>) -> (Duration, Duration) {
    site.proxy.set([Fault::Link(rate)].into_iter().chain(faults));
    site.proxy.forget();
    let begun = Instant::now();
    let backup = site.cluster.background_psql("SELECT walarchive_backup_push()");
    backup.wait(10 * PATIENCE).expect_success();
    let took = begun.elapsed();
    // What was sent of requests that broke is not counted.
    let answered = site.proxy.requests().into_iter().filter(|seen| seen.answered.is_some());
    let bytes: u64 = answered.map(|seen| seen.carried).sum();
    let alone = Duration::from_secs_f64(bytes as f64 / rate as f64);
    let times = took.as_secs_f64() / alone.as_secs_f64();
    println!("{}", site.requests(begun, |_| true).join("\n"));
    println!(
        "{what}: {bytes} bytes at {rate} B/s: {:.1} s, the link alone {:.1} s: {times:.2} times, {} requests, {} sent, {} broke",
        took.as_secs_f64(),
        alone.as_secs_f64(),
        site.proxy.count(),
        site.proxy.carried(),
        site.proxy.broken()
    );
    (took, alone)
}

#[test]
#[ignore = "takes nine minutes"]
fn the_table_of_backups() {
    let site = LinkSite::new("60s");
    for (rate, compression) in TABLE {
        for latency in [20, 300] {
            site.cluster.set("walarchive.compression", compression);
            site.cluster.reload();
            let latency = Duration::from_millis(latency);
            let what = format!("backup, {latency:?}");
            backup(&site, &what, rate, [Fault::Latency(latency)], Duration::ZERO);
        }
    }
}

#[test]
fn a_backup_over_a_long_way() {
    let site = LinkSite::new("60s");
    let latency = Duration::from_millis(300);
    // With all its requests one after the other it takes seven seconds more than the link. A busy machine may spoil one attempt.
    let loaded = Duration::from_millis(2500);
    let is_short = || {
        let (took, alone) = measured(&site, "backup, 1 MB/s, 300 ms", MB, [Fault::Latency(latency)]);
        took < alone.mul_f64(1.15) + loaded
    };
    assert!((0..3).any(|_| is_short()), "three backups took too long");
}

/// One request of fifty breaks, whatever it is. A large object takes a part of fifty of the link once more, so many small ones show
/// what must be sent again in any case: what was sent of the requests that broke, half of it or all.
#[test]
fn a_backup_over_a_link_whose_connections_break() {
    const TABLES: usize = 40;
    let site = LinkSite::new("60s");
    // It would write WAL.
    site.cluster.set("autovacuum", "off");
    // Two megabytes each.
    site.cluster.psql(&format!(
        "DO $$BEGIN FOR i IN 1..{TABLES} LOOP
           EXECUTE format('CREATE TABLE t%s AS SELECT n, repeat(md5(random()::text || n), 30) AS text
             FROM generate_series(1, 2000) n', i);
         END LOOP; END$$"
    ));
    site.cluster.set("walarchive.tar_size", "1MB");
    site.cluster.reload();
    wait_drained(&site.cluster);
    let sum = "SELECT sum(hashtext(text)::int8) FROM (SELECT * FROM t1 UNION ALL SELECT * FROM t2) AS u";
    let expected = site.cluster.psql(sum);
    for (rate, latency, least) in [(4 * MB, 20, 2), (MB, 300, 1)] {
        let latency = Duration::from_millis(latency);
        let faults = [Fault::Latency(latency), Fault::BreakEvery(50)];
        let mark = site.cluster.log_mark();
        backup(&site, &format!("{latency:?}, 1 of 50 breaks"), rate, faults, LOADED);
        assert!(site.proxy.broken() >= least, "{} broke", site.proxy.broken());
        let log = site.cluster.log_since(mark);
        assert!(!log.contains("ERROR") && !log.contains("backup failed"), "{log}");
        // The other one is slower, and shall not take minutes.
        site.cluster
            .psql("DO $$BEGIN FOR i IN 11..40 LOOP EXECUTE format('DROP TABLE IF EXISTS t%s', i); END LOOP; END$$");
        site.cluster.psql("CHECKPOINT");
    }
    site.proxy.heal();
    wait_drained(&site.cluster);
    let builder = Cluster::builder(&site.dir, "restored").setting("archive_mode", "off");
    let (url, options) = (site.server.url("some/prefix"), site.server.options());
    let mut storage = vec!["--storage", &url];
    storage.extend(options.split(',').flat_map(|option| ["--storage-option", option]));
    let restored = restore(builder, &site.dir.join("restored"), &storage, &site.server.env());
    assert_eq!(restored.psql(sum), expected);
}
