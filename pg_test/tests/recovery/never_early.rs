//! Recovery never ends before the archive does: it waits for a store that fails, then stops, and a hole in the archive is no end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use walarchive_pg_test::held::{Hold, wal_fetch};
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Builder, Cluster, Fault, FaultProxy, PATIENCE, run};

/// A primary whose archive has a backup, and segments after it, each with a row of `t`. The primary is gone. Returns the segments.
fn archived(site: &Site, segments: usize) -> Vec<String> {
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int, filler text)");
    backup(&primary, "");
    let names = (0..segments).map(|number| row(&primary, number)).collect();
    archive_all(&primary);
    lose(&primary);
    names
}

/// A row in a segment of its own, which is named.
fn row(primary: &Cluster, number: usize) -> String {
    // Enough that does not compress for an answer to be cut in the middle.
    let filler = "SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 8000)";
    primary.psql(&format!("INSERT INTO t VALUES ({number}, ({filler}))"));
    primary.switch_wal()
}

fn rows(cluster: &Cluster) -> usize {
    cluster.psql("SELECT count(*) FROM t").parse().expect("a number")
}

/// A server that reads the archive through the proxy, and waits so many seconds for it.
fn through(site: &Site, proxy: &FaultProxy, name: &str, patience: u32) -> Builder {
    let command = fetch_through(site, proxy, patience);
    without_library(site, name).server_setting("restore_command", &command)
}

fn without_library(site: &Site, name: &str) -> Builder {
    site.restored(name)
        .setting("shared_preload_libraries", "")
        .setting("wal_retrieve_retry_interval", "100ms")
}

fn fetch_through(site: &Site, proxy: &FaultProxy, patience: u32) -> String {
    let program = site
        .pg()
        .program("walarchive")
        .get_program()
        .to_string_lossy()
        .into_owned();
    let mut command = format!("{program} wal-fetch --patience {patience} --storage {}", site.url());
    for option in proxy.options().split(',') {
        command.push_str(&format!(" --storage-option {option}"));
    }
    format!("{command} %f \"%p\"")
}

fn never_promoted(target: &Path, cluster: &Cluster) {
    assert!(!cluster.is_running());
    assert!(target.join("recovery.signal").exists(), "{}", cluster.log());
    for said in ["selected new timeline ID", "archive recovery complete"] {
        assert!(!cluster.log().contains(said), "{}", cluster.log());
    }
}

#[test]
fn a_store_that_fails_stops_recovery_and_never_ends_it() {
    let site = Site::on_s3();
    let names = archived(&site, 6);
    let faults: [(&str, Vec<Fault>); 5] = [
        ("down", vec![Fault::Refuse]),
        ("hanging", vec![Fault::Silent]),
        ("403", vec![Fault::status(403).into()]),
        ("500", vec![Fault::status(500).into()]),
        ("broken", vec![Fault::Cut(300)]),
    ];
    for (name, fault) in faults {
        let proxy = FaultProxy::start(site.s3().expect("S3").port());
        let target = site.restore(name, "LATEST", &[]);
        // All is well up to a segment in the middle.
        let middle = Fault::status(500).only(&names[3]);
        proxy.set([middle.into()]);
        let restored = through(&site, &proxy, name, 3).attach_stopped(&target);
        restored.spawn_server();
        restored.wait_log(&format!("recovery waits for \"{}\"", names[3]), PATIENCE);
        proxy.set(fault);
        restored.wait_stopped(PATIENCE);
        never_promoted(&target, &restored);
        assert!(restored.log().contains("could not restore file"), "{}", restored.log());

        // Once the store is well, recovery goes on from there.
        proxy.heal();
        restored.start_again();
        restored.wait_promoted(PATIENCE);
        assert_eq!(rows(&restored), 6, "{name}");
    }
}

/// From the last segment on, recovery waits for one round of requests that tells that there is no more, and for one that tells that
/// no other timeline has come.
#[test]
fn the_end_takes_two_rounds() {
    const ROUND: Duration = Duration::from_secs(3);
    let site = Site::on_s3();
    let names = archived(&site, 6);
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let target = site.restore("restored", "LATEST", &[]);
    let last = names.last().expect("a segment");
    let hold = Hold::at(&site, "restored", &[last]);
    let builder = without_library(&site, "restored");
    let restored = hold
        .with(builder, &fetch_through(&site, &proxy, 60))
        .attach_stopped(&target);
    restored.spawn_server();
    // Whoever fetches ahead has found out where the archive ends.
    restored.wait_until("the last one is fetched ahead", PATIENCE, || {
        let entries = fs::read_dir(target.join("pg_wal/pgsql_tmp_walarchive"));
        let mut names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.any(|name| {
            let name = name.to_string_lossy().into_owned();
            name.starts_with(last.as_str()) && name.split('.').count() == 3
        })
    });
    restored.wait_until("what comes after it was looked for", PATIENCE, || {
        target.join("pg_wal/pgsql_tmp_walarchive/missing").exists()
    });
    proxy.set([Fault::Latency(ROUND)]);
    let begun = Instant::now();
    hold.let_go(last);
    restored.wait_promoted(PATIENCE);
    let took = begun.elapsed();
    assert!(took >= ROUND * 2 && took < ROUND * 4, "{took:?}: {}", restored.log());
    assert_eq!(rows(&restored), 6);
}

#[test]
fn recovery_outlasts_an_outage_and_says_why_it_waits() {
    let site = Site::on_s3();
    let names = archived(&site, 6);
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let target = site.restore("restored", "LATEST", &[]);
    proxy.set([Fault::status(500).only(&names[3]).into()]);
    let restored = through(&site, &proxy, "restored", 600).attach_stopped(&target);
    restored.spawn_server();
    restored.wait_log(&format!("recovery waits for \"{}\"", names[3]), PATIENCE);
    // Answers that break off in the middle are gone on with.
    proxy.set([Fault::Cut(60_000)]);
    restored.wait_promoted(PATIENCE);
    assert_eq!(rows(&restored), 6);
}

#[test]
fn a_standby_goes_on_trying() {
    let site = Site::on_s3();
    let names = archived(&site, 6);
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let target = site.restore("standby", "LATEST", &["--standby"]);
    proxy.set([Fault::status(500).only(&names[3]).into()]);
    let standby = through(&site, &proxy, "standby", 3).attach(&target);
    let object = format!("{}.zst", names[3]);
    for fault in [
        vec![Fault::status(500).into()],
        vec![Fault::Refuse],
        vec![Fault::status(403).into()],
    ] {
        proxy.set(fault);
        let mark = standby.log_mark();
        standby.wait_log_since(mark, "walarchive: error: ", PATIENCE);
        let first = standby.log_mark();
        standby.wait_log_since(first, "walarchive: error: ", PATIENCE);
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t", "{object}");
    }
    proxy.heal();
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 6);
}

/// Puts an object back. It appears at once, as in any store.
fn put(site: &Site, object: &Path, content: &[u8]) {
    let written = site.dir().join("object");
    fs::write(&written, content).expect("written");
    fs::rename(written, object).expect("renamed");
}

/// Makes objects look as if they had been stored long ago.
fn age(site: &Site) {
    for key in site.objects("wal_005") {
        let aged = run(std::process::Command::new("touch")
            .args(["-d", "1 hour ago"])
            .arg(site.object(&key)));
        aged.expect_success();
    }
}

#[test]
fn a_hole_is_an_error_and_not_the_end() {
    for site in [Site::on_files(), Site::on_s3()] {
        let names = archived(&site, 6);
        let targets = ["restored", "gap", "standby"].map(|name| {
            let args: &[&str] = if name == "standby" { &["--standby"] } else { &[] };
            site.restore(name, "LATEST", args)
        });
        let missing = site.object(&format!("wal_005/{}.zst", names[3]));
        let content = fs::read(&missing).expect("read");
        fs::remove_file(&missing).expect("removed");
        age(&site);
        let hole = format!(
            "\"{}\" is missing in the archive, which has \"{}\" after it",
            names[3], names[4]
        );

        let restored = site.restored("restored").attach_stopped(&targets[0]);
        restored.spawn_server();
        restored.wait_stopped(PATIENCE);
        never_promoted(&targets[0], &restored);
        assert!(restored.log().contains(&hole), "{}", restored.log());
        assert!(restored.log().contains("--allow-gap"), "{}", restored.log());

        // backup-fetch --allow-gap tells the server so.
        fs::remove_dir_all(&targets[1]).expect("removed");
        let target = site.restore("gap", "LATEST", &["--allow-gap"]);
        let gap = site.restored("gap").attach(&target);
        gap.wait_promoted(PATIENCE);
        assert_eq!(rows(&gap), 3);

        let standby = site.restored("standby").setting("wal_retrieve_retry_interval", "100ms");
        let standby = standby.attach(&targets[2]);
        standby.wait_log(&hole, PATIENCE);
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");

        put(&site, &missing, &content);
        standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 6);
        restored.start_again();
        restored.wait_promoted(PATIENCE);
        assert_eq!(rows(&restored), 6);
    }
}

/// A server archives several segments at a time: a later one may be there a moment before an earlier one.
#[test]
fn a_young_hole_is_waited_for() {
    let site = Site::on_files();
    let names = archived(&site, 6);
    let target = site.restore("restored", "LATEST", &[]);
    let missing = site.object(&format!("wal_005/{}.zst", names[3]));
    let content = fs::read(&missing).expect("read");
    fs::remove_file(&missing).expect("removed");
    let hold = Hold::at(&site, "restored", &[&names[3]]);
    let restored = hold
        .with(site.restored("restored"), &wal_fetch(&site))
        .attach_stopped(&target);
    restored.spawn_server();
    let before = format!("restored log file \"{}\"", names[2]);
    restored.wait_log(&before, PATIENCE);
    let late = restored.log_mark();
    // The clock of the store says that this was a moment ago.
    let touched = run(std::process::Command::new("touch").arg(site.object(&format!("wal_005/{}.zst", names[4]))));
    touched.expect_success();
    hold.let_go(&names[3]);
    // It is asked for, and nothing is said.
    restored.wait_until("the missing segment was asked for", PATIENCE, || {
        let status = fs::read_dir("/proc").into_iter().flatten().flatten();
        let asks = |entry: fs::DirEntry| {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == target);
            is_here && String::from_utf8_lossy(&command).contains(&format!("\0{}\0", names[3]))
        };
        status.into_iter().any(asks)
    });
    put(&site, &missing, &content);
    restored.wait_promoted(PATIENCE);
    assert_eq!(rows(&restored), 6);
    assert!(!restored.log_since(late).contains("is missing in the archive"));
}

#[test]
fn the_ends_of_timelines_are_no_holes() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int, filler text)");
    backup(&primary, "");
    for number in 0..3 {
        row(&primary, number);
    }
    archive_all(&primary);
    let kept = site.restore("first", "LATEST", &["--target-timeline", "current"]);
    lose(&primary);
    // It goes on on timeline 2, and archives there.
    let target = site.restore("second", "LATEST", &["--take-over"]);
    let second = site.builder("second").attach(&target);
    second.wait_promoted(PATIENCE);
    for number in 3..6 {
        row(&second, number);
    }
    archive_all(&second);
    lose(&second);
    age(&site);

    let target = site.restore("third", "LATEST", &[]);
    let third = site.restored("third").attach(&target);
    third.wait_promoted(PATIENCE);
    assert_eq!(rows(&third), 6);
    drop(third);
    // The old timeline ends where the new one begins.
    let first = site.restored("first").attach(&kept);
    first.wait_promoted(PATIENCE);
    assert_eq!(rows(&first), 3);
    drop(first);

    // Of the old timeline a segment is missing that was written before the new one began.
    let objects = site.objects("wal_005");
    let lost = objects.iter().rev().find(|key| {
        let name = key.strip_prefix("wal_005/").unwrap_or_default();
        name.starts_with("00000001") && name.split('.').count() == 2
    });
    fs::remove_file(site.object(lost.expect("a segment"))).expect("removed");
    fs::remove_dir_all(&kept).expect("removed");
    let (target, _) = site.backup_fetch("first", "LATEST", &["--target-timeline", "1", "--allow-gap"]);
    let auto = target.join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto).expect("read").replace(" --allow-gap", "");
    fs::write(&auto, text).expect("written");
    let first = site.restored("again").attach_stopped(&target);
    first.spawn_server();
    first.wait_stopped(PATIENCE);
    never_promoted(&target, &first);
    assert!(
        first
            .log()
            .contains("is missing in the archive, which has \"00000002.history\" after it"),
        "{}",
        first.log()
    );
}

/// The first segment of a timeline is missing. The one of the timeline before leads away from it.
#[test]
fn a_standby_does_not_follow_the_old_timeline_through_a_hole() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int, filler text)");
    backup(&primary, "");
    row(&primary, 0);
    primary.psql("SELECT pg_create_restore_point('fork')");
    // This one is written to the segment in which the next timeline begins.
    let forked = row(&primary, 1);
    archive_all(&primary);
    lose(&primary);
    let target = site.restore(
        "second",
        "LATEST",
        &["--target-name", "fork", "--target-action", "promote", "--take-over"],
    );
    let second = site.builder("second").attach(&target);
    second.wait_promoted(PATIENCE);
    let first = row(&second, 2);
    row(&second, 3);
    archive_all(&second);
    lose(&second);
    assert_eq!((&first[..8], &first[8..]), ("00000002", &forked[8..]));

    let target = site.restore("standby", "LATEST", &["--standby"]);
    let missing = site.object(&format!("wal_005/{first}.zst"));
    let content = fs::read(&missing).expect("read");
    fs::remove_file(&missing).expect("removed");
    age(&site);
    let standby = site
        .restored("standby")
        .setting("wal_retrieve_retry_interval", "100ms")
        .attach(&target);
    standby.wait_log(&format!("\"{first}\" is missing in the archive"), PATIENCE);
    let refused = format!("\"{forked}\" is not given to the standby, which needs \"{first}\"");
    standby.wait_log(&refused, PATIENCE);
    let mark = standby.log_mark();
    standby.wait_log_since(mark, &refused, PATIENCE);
    assert_eq!(standby.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "0");
    put(&site, &missing, &content);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 3);
    assert_eq!(
        standby.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"),
        "0,2,3"
    );
}
