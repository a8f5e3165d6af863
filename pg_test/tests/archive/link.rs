//! Links that are slow, far or break: what is slow goes on, nothing that was sent is thrown away, and WAL comes first.
//!
//! All connections share one link. The drain time of a burst is stated as a multiple of the time that the link alone needs.

use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{present_segment, status, switch_segments, wait_drained};
use walarchive_pg_test::link::{LOADED, LinkSite as Site, MB};
use walarchive_testkit::{Fault, PATIENCE, Signal, kill_pid};

#[test]
fn a_burst_drains_as_fast_as_a_link_of_a_megabyte_a_second() {
    // Eight at once need eight seconds.
    let site = Site::new("6s");
    site.drain("1 MB/s, 20 ms", 24, MB, [Fault::Latency(Duration::from_millis(20))]);
    site.drain("1 MB/s, 300 ms", 24, MB, [Fault::Latency(Duration::from_millis(300))]);
}

/// In the middle of the body of a request, one of fifty.
#[test]
fn a_burst_drains_over_a_link_whose_connections_break() {
    let site = Site::new("6s");
    for latency in [20, 300] {
        let faults = [Fault::Latency(Duration::from_millis(latency)), Fault::ResetEvery(50)];
        site.drain(&format!("4 MB/s, {latency} ms, 1 of 50 breaks"), 155, 4 * MB, faults);
        assert!(site.proxy.broken() >= 3, "{} connections broke", site.proxy.broken());
        // Half of a segment is sent for nothing, and what the far end had not read.
        let sent = site.proxy.carried();
        let most = (157 + site.proxy.broken() as u64) * MB;
        assert!(sent < most, "{sent} bytes were sent");
    }
}

#[test]
fn a_burst_drains_as_fast_as_a_link_of_200_kilobytes_a_second() {
    // One alone needs five seconds.
    let site = Site::new("4s");
    site.drain("200 kB/s", 6, 200 << 10, [Fault::Latency(Duration::from_millis(300))]);
}

/// The archiver comes back and finds the upload on its way, or done.
#[test]
fn one_segment_takes_longer_than_archive_timeout() {
    let site = Site::new("6s");
    let mark = site.cluster.log_mark();
    site.drain("50 kB/s", 3, 50 << 10, [Fault::Latency(Duration::from_millis(20))]);
    let sent = site.proxy.carried();
    assert!(sent < 3 * MB + MB / 2, "{sent} bytes were sent for three segments");
    let log = site.cluster.log_since(mark);
    let told = log.contains("is still being uploaded") || log.contains("The upload goes on.");
    assert!(told, "{log}");
}

/// Many are uploaded at once while the link is fast. When it becomes slow, the oldest one, for which the archiver waits, goes
/// first, instead of an eighth of the link being for each, and all being there at the end only.
#[test]
fn the_oldest_wal_goes_first_when_the_link_becomes_slow() {
    const SEGMENT: u64 = 4 * MB;
    const COUNT: usize = 10;
    let site = Site::of(4, "60s");
    switch_segments(&site.cluster, 24);
    wait_drained(&site.cluster);
    let rate = 2 * MB;
    site.proxy
        .set([Fault::Link(rate), Fault::Latency(Duration::from_millis(20))]);
    site.proxy.forget();
    let mut seen = Vec::new();
    let before = site.names();
    switch_segments(&site.cluster, COUNT);
    site.cluster.wait_until("the burst is stored", PATIENCE, || {
        let names = site.names();
        let carried = site.proxy.carried();
        let fresh = names.into_iter().filter(|name| !before.contains(name));
        for name in fresh {
            if !seen.iter().any(|(other, _)| *other == name) {
                seen.push((name, carried));
            }
        }
        seen.len() >= COUNT
    });
    for (name, carried) in &seen {
        println!(
            "{name} was stored when {:.1} segments were sent",
            *carried as f64 / SEGMENT as f64
        );
    }
    // Two neighbours share the link, and either may be the first to end.
    let mut by_name = seen.clone();
    by_name.sort_unstable();
    for (rank, (name, _)) in seen.iter().enumerate() {
        let place = by_name.iter().position(|(other, _)| other == name);
        assert!(
            place.is_some_and(|place| place.abs_diff(rank) <= 1),
            "{name} was not in its turn: {seen:?}"
        );
    }
    // Before it is seen that the link is slow, all have their share of it, for three seconds at most, and what the buffers
    // hold then goes first: half a megabyte of each. Then two share the link.
    let most = 3 * rate + 8 * MB / 2 + 2 * SEGMENT;
    let carried = seen[0].1;
    assert!(
        carried < most,
        "{carried} bytes were sent before the oldest one was stored: {seen:?}"
    );
}

/// Slow for so long, and then as fast as ever. So many bytes may be sent again.
fn slow_for(while_slow: Duration, rate: u64, segments: usize, again: u64) {
    let site = Site::new("5s");
    // What is repeated is told there only.
    site.cluster.set("log_min_messages", "debug1");
    site.cluster.reload();
    let mark = site.cluster.log_mark();
    let (before, names) = (site.stored(), site.names());
    site.proxy
        .set([Fault::Link(rate), Fault::Latency(Duration::from_millis(20))]);
    site.proxy.forget();
    let begun = Instant::now();
    switch_segments(&site.cluster, segments);
    site.cluster.wait_until("the link is seen to be slow", PATIENCE, || {
        status(
            &site.cluster,
            "bytes_per_second BETWEEN 1000 AND 100000 AND drained_in > interval '3 min'",
        ) == "t"
    });
    while begun.elapsed() < while_slow {
        std::thread::sleep(Duration::from_millis(100));
    }
    let (stored, carried) = (site.stored().1 - before.1, site.proxy.carried());
    site.proxy.heal();
    let healed = Instant::now();
    let mut next = None;
    site.cluster.wait_until("the burst is archived", PATIENCE, || {
        if site.stored().1 - before.1 > stored {
            next = next.or(Some(healed.elapsed()));
        }
        site.cluster.waiting_files().is_empty()
    });
    let took = healed.elapsed();
    let (bytes, sent) = (site.stored().1 - before.1, site.proxy.carried());
    println!(
        "slow for {:.0} s: {stored} bytes stored, {carried} sent; fast again: the next segment after {next:?}, all {bytes} bytes \
         after {took:?}, {sent} were sent",
        begun.elapsed().saturating_sub(took).as_secs_f64()
    );
    let cut: Vec<_> = site.requests(begun, |seen| seen.carried > 0 && seen.answered.is_none());
    let log = site.cluster.log_since(mark);
    println!("not answered: {cut:#?}");
    for line in log
        .lines()
        .filter(|line| line.contains("DEBUG") && line.contains("walarchive"))
    {
        println!("{line}");
    }
    assert!(site.names().len() - names.len() >= segments);
    // Beside the segments there are the files of the lease.
    assert!(sent < bytes + bytes / 100 + again, "{sent} bytes were sent for {bytes}");
    // It carried as much as it could while it was slow, but for the bytes that are under way.
    let could = rate * while_slow.as_secs();
    assert!(
        carried + carried / 10 + MB / 4 > could,
        "{carried} bytes were sent, {could} could have been"
    );
    // The content of the buffers at the far end passes at once; then it is a matter of the store.
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(!log.contains("could not upload"), "{log}");
    assert_eq!(status(&site.cluster, "drained_in IS NULL, ready_files"), "t|0");
}

/// The archiver goes on by itself while the uploader stands still. When that goes on, it does not send what is archived by now once
/// more, though it had been waiting when the uploader looked last.
#[test]
fn what_the_archiver_did_meanwhile_is_not_sent_again() {
    // Its next call finds the uploader standing still.
    let site = Site::new("6s");
    site.cluster.set("walarchive.upload_concurrency", "1");
    site.cluster.reload();
    site.proxy.set([Fault::Link(400 << 10)]);
    site.proxy.forget();
    let sent = || {
        let mut sent: Vec<_> = site
            .proxy
            .requests()
            .into_iter()
            .map(|seen| (seen.method, seen.target))
            .collect();
        sent.retain(|(method, target)| method == "PUT" && target.contains("/wal_005/"));
        sent.sort();
        sent
    };
    let begun = Instant::now();
    switch_segments(&site.cluster, 12);
    // The first one may have been begun before there were others.
    site.cluster
        .wait_until("the second one is sent", PATIENCE, || sent().len() >= 2);
    let uploader = site.cluster.wait_pid_of("walarchive uploader", None);
    kill_pid(uploader, Signal::SIGSTOP);
    site.proxy.heal();
    wait_drained(&site.cluster);
    kill_pid(uploader, Signal::SIGCONT);
    switch_segments(&site.cluster, 1);
    wait_drained(&site.cluster);
    let sent = sent();
    let mut once = sent.clone();
    once.dedup();
    assert!(once.len() >= 13, "{once:?}");
    for line in site.requests(begun, |_| true) {
        println!("{line}");
    }
    println!("{}", site.cluster.log_since(0));
    // What was on its way when the uploader stopped.
    assert!(sent.len() - once.len() <= 1, "{sent:#?}");
}

#[test]
fn a_link_that_is_slow_for_a_while() {
    // The first segment alone needs longer than a stalled upload is given.
    slow_for(Duration::from_secs(45), 20 << 10, 40, 0);
}

#[test]
#[ignore = "takes ten minutes"]
fn a_link_that_is_slow_for_ten_minutes() {
    // In so long a time a connection may break.
    slow_for(Duration::from_secs(600), 30 << 10, 100, MB);
}

/// Rates, and segments that take a while at that rate.
const TABLE: [(u64, usize); 3] = [(MB, 24), (200 << 10, 12), (50 << 10, 6)];

#[test]
#[ignore = "takes seven minutes"]
fn the_table_of_wal() {
    let site = Site::new("60s");
    for (rate, segments) in TABLE {
        for latency in [20, 300] {
            let fault = Fault::Latency(Duration::from_millis(latency));
            site.drain(&format!("WAL, {latency} ms"), segments, rate, [fault]);
        }
    }
}

/// A link that carries nothing is a failure, told in time, and ends by itself.
#[test]
fn a_link_that_stops_is_told_and_outlasted() {
    let site = Site::new("6s");
    let mark = site.cluster.log_mark();
    site.proxy.set([Fault::Stall(100 << 10)]);
    switch_segments(&site.cluster, 3);
    site.cluster.wait_log_since(mark, "could not archive", PATIENCE);
    site.proxy.heal();
    wait_drained(&site.cluster);
}

#[test]
fn a_backup_yields_to_wal() {
    let site = Site::new("60s");
    let rate = 400 << 10;
    site.proxy.set([Fault::Link(rate)]);
    site.proxy.forget();
    let begun = Instant::now();
    let backup = site.cluster.background_psql("SELECT walarchive_backup_push()");
    site.cluster.wait_until("the backup copies", PATIENCE, || {
        site.proxy.carried() > MB && site.cluster.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    let before = site.stored().1;
    let asked = Instant::now();
    switch_segments(&site.cluster, 4);
    let last = present_segment(&site.cluster);
    site.cluster.wait_until("the WAL is archived", PATIENCE, || {
        site.cluster.waiting_files().iter().all(|file| *file >= last)
    });
    let took = asked.elapsed();
    let wal = site.stored().1 - before;
    let phase = site.cluster.psql("SELECT phase FROM walarchive_progress");
    assert_eq!(phase, "copying files", "the backup was over before the WAL");
    // The backup sends on until WAL has been late for so long, and what it has handed over by then goes first: of each of its
    // connections what the HTTP client holds, what the kernel has not sent, and what the far end of the link has not read.
    let late = rate * 5 / 2;
    let handed_over = 4 * ((64 << 10) + (128 << 10) + (128 << 10) + (64 << 10));
    let allowed = Duration::from_secs_f64((wal as f64 * 1.15 + (late + handed_over) as f64) / rate as f64);
    println!(
        "{wal} bytes of WAL beside a backup: {:.1} s, the link alone {:.1} s, at most {:.1} s",
        took.as_secs_f64(),
        wal as f64 / rate as f64,
        allowed.as_secs_f64()
    );
    assert!(took < allowed + LOADED, "{took:?} instead of {allowed:?}");
    backup.wait(4 * PATIENCE).expect_success();
    let took = begun.elapsed();
    let bytes = site.proxy.carried();
    let alone = Duration::from_secs_f64(bytes as f64 / rate as f64);
    println!(
        "backup: {bytes} bytes at {rate} B/s: {:.1} s, {:.2} times what the link needs",
        took.as_secs_f64(),
        took.as_secs_f64() / alone.as_secs_f64()
    );
    assert!(took < alone.mul_f64(1.15) + 2 * LOADED, "{took:?} instead of {alone:?}");
}

/// A backup and as many segments as may be uploaded at once share a link that is slow for all of them: nobody may call the
/// lease stale meanwhile, and this server may write all the time.
#[test]
fn the_lease_is_kept_on_a_slow_link() {
    const INTERVAL: Duration = Duration::from_secs(5);
    const WATCHED: Duration = Duration::from_secs(60);
    let site = Site::new("60s");
    let mark = site.cluster.log_mark();
    site.cluster.set("walarchive.lease_interval", "5s");
    site.cluster.reload();
    let alive = site
        .server
        .dir()
        .join("some/prefix/walarchive_005/lease/00000001.alive.json");
    let counter = || std::fs::read_to_string(&alive).ok();
    site.proxy
        .set([Fault::Link(50 << 10), Fault::Latency(Duration::from_millis(300))]);
    let backup = site.cluster.background_psql("SELECT walarchive_backup_push()");
    switch_segments(&site.cluster, 24);
    let (begun, mut last, mut moved) = (Instant::now(), counter(), Instant::now());
    let (mut longest, mut renewals) = (Duration::ZERO, 0);
    while begun.elapsed() < WATCHED {
        std::thread::sleep(Duration::from_millis(100));
        let now = counter();
        if now.is_some() && now != last {
            (last, moved) = (now, Instant::now());
            renewals += 1;
        }
        longest = longest.max(moved.elapsed());
    }
    let uploads = status(&site.cluster, "uploading");
    println!("{uploads} uploads, {renewals} renewals, the longest pause between two: {longest:?}");
    assert!(!site.cluster.waiting_files().is_empty(), "the link was not busy");
    assert!(longest < 3 * INTERVAL, "{longest:?}");
    assert_eq!(status(&site.cluster, "lease_state"), "held");
    let log = site.cluster.log_since(mark);
    assert!(!log.contains("lease of the repository"), "{log}");
    site.proxy.heal();
    wait_drained(&site.cluster);
    backup.wait(4 * PATIENCE).expect_success();
}
