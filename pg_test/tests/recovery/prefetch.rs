//! WAL that is fetched ahead of recovery: by the server's worker, and by a process of wal-fetch's where there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use walarchive_pg_test::held::{Hold, wal_fetch};
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Builder, Cluster, Fault, FaultProxy, PATIENCE, Signal, StopMode, is_alive, kill_pid, run};

const AHEAD: &str = "had been fetched ahead";

/// The spool of a data directory.
fn spool(datadir: &Path) -> PathBuf {
    datadir.join("pg_wal/pgsql_tmp_walarchive")
}

/// The whole segments in it.
fn spooled(datadir: &Path) -> Vec<String> {
    let entries = fs::read_dir(spool(datadir)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name.split('.').count() == 3 && name.starts_with("0000"))
        .collect();
    names.sort();
    names
}

/// The processes of wal-fetch's that fetch ahead of a server in this directory.
fn prefetchers(datadir: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let here = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == datadir);
        here && command.split(|byte| *byte == 0).any(|word| word == b"--prefetcher")
    })
    .collect()
}

/// A primary whose archive has a backup and so many segments after it, each with a row of `t`; the primary is gone. Returns the
/// segments.
fn archived(site: &Site, segments: usize) -> Vec<String> {
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    let names = write_segments(&primary, segments);
    lose(&primary);
    names
}

fn write_segments(primary: &Cluster, segments: usize) -> Vec<String> {
    let count: usize = primary.psql("SELECT count(*) FROM t").parse().expect("a number");
    let row = |number| {
        primary.psql(&format!("INSERT INTO t VALUES ({number})"));
        primary.switch_wal()
    };
    let names = (count + 1..=count + segments).map(row).collect();
    archive_all(primary);
    names
}

/// With the library preloaded, so that the worker fetches ahead.
fn with_worker(site: &Site, name: &str) -> Builder {
    said(site.restored(name)).setting("shared_preload_libraries", "walarchive")
}

/// Without it: wal-fetch has to help itself.
fn without_worker(site: &Site, name: &str) -> Builder {
    said(site.restored(name)).setting("shared_preload_libraries", "")
}

fn said(builder: Builder) -> Builder {
    builder
        .env("RUST_LOG", "walarchive=info")
        .setting("wal_retrieve_retry_interval", "100ms")
}

fn count(cluster: &Cluster, text: &str) -> usize {
    cluster.log().matches(text).count()
}

fn rows(cluster: &Cluster) -> usize {
    cluster.psql("SELECT count(*) FROM t").parse().expect("a number")
}

/// Slows recovery down, so that there is time to fetch ahead.
fn slowly(builder: Builder, site: &Site) -> Builder {
    builder.server_setting("restore_command", &format!("sleep 0.1; exec {}", wal_fetch(site)))
}

#[test]
fn recovery_takes_what_the_worker_has_fetched_and_nothing_is_left() {
    let site = Site::on_s3();
    archived(&site, 24);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = with_worker(&site, "restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(rows(&restored), 24);
    let ahead = count(&restored, AHEAD);
    assert!(ahead >= 10, "{ahead} of 24 segments had been fetched ahead");
    restored.wait_until("the worker has ended", PATIENCE, || {
        restored.pid_of("walarchive prefetcher").is_none() && !spool(&target).exists()
    });
    assert_eq!(prefetchers(&target), [0; 0]);
    restored.amcheck();
    // It is not started again.
    restored.restart();
    restored.wait_until("the worker has ended again", PATIENCE, || {
        restored.pid_of("walarchive prefetcher").is_none()
    });
    assert!(!spool(&target).exists());
}

#[test]
fn without_the_library_wal_fetch_fetches_ahead_by_itself() {
    let site = Site::on_files();
    archived(&site, 24);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = slowly(without_worker(&site, "restored"), &site).attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(rows(&restored), 24);
    let ahead = count(&restored, AHEAD);
    assert!(ahead >= 10, "{ahead} of 24 segments had been fetched ahead");
    restored.wait_until("the process has ended", PATIENCE, || {
        prefetchers(&target).is_empty() && !spool(&target).exists()
    });
}

#[test]
fn a_standby_follows_and_its_promotion_leaves_nothing() {
    for worker in [true, false] {
        let site = Site::on_files();
        let primary = site.primary(&[]);
        primary.psql("CREATE TABLE t (a int)");
        backup(&primary, "");
        write_segments(&primary, 12);
        let target = site.restore("standby", "LATEST", &["--standby"]);
        let standby = match worker {
            true => with_worker(&site, "standby"),
            false => without_worker(&site, "standby"),
        };
        let standby = slowly(standby, &site).attach(&target);
        for round in 1..=3 {
            standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 12 * round);
            write_segments(&primary, 12);
        }
        standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 48);
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
        assert!(count(&standby, AHEAD) >= 12, "{}", count(&standby, AHEAD));
        assert_eq!(standby.pid_of("walarchive prefetcher").is_some(), worker);
        primary.stop(StopMode::Fast);
        standby.psql("SELECT pg_promote()");
        standby.wait_promoted(PATIENCE);
        standby.wait_until("nothing is left", PATIENCE, || {
            let has_worker = standby.pid_of("walarchive prefetcher").is_some();
            !has_worker && prefetchers(&target).is_empty() && !spool(&target).exists()
        });
    }
}

#[test]
fn a_standby_does_not_fall_behind_the_archive() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    write_segments(&primary, 2);
    let target = site.restore("standby", "LATEST", &["--standby"]);
    // So often PostgreSQL asks for a segment that was not there.
    let interval = Duration::from_secs(5);
    let standby = with_worker(&site, "standby").setting("wal_retrieve_retry_interval", "5s");
    let standby = standby.attach(&target);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 2);
    let begun = Instant::now();
    for number in 3..=12 {
        write_segments(&primary, 1);
        standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == number);
    }
    assert!(begun.elapsed() < interval * 5, "{:?}", begun.elapsed());
    primary.stop(StopMode::Fast);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    assert_eq!(rows(&standby), 12);
}

#[test]
fn segments_that_wait_are_not_copied_and_go_after_a_kill() {
    let site = Site::on_files();
    let names = archived(&site, 20);
    for worker in [true, false] {
        let name = if worker { "with" } else { "without" };
        let target = site.restore(name, "LATEST", &["--standby"]);
        let builder = match worker {
            true => with_worker(&site, name),
            false => without_worker(&site, name),
        };
        let hold = Hold::at(&site, name, &[&names[8]]);
        let standby = hold.with(builder, &wal_fetch(&site)).attach(&target);
        standby.wait_until("segments wait", PATIENCE, || !spooled(&target).is_empty());
        let copy = site.dir().join(format!("{name}_copy"));
        let mut basebackup = standby.client("pg_basebackup");
        basebackup
            .args(["-X", "none", "-c", "fast", "--no-sync", "-D"])
            .arg(&copy);
        run(&mut basebackup).expect_success();
        assert!(copy.join("PG_VERSION").exists() && !spool(&copy).exists());

        standby.kill9();
        standby.wait_until("no process is left", PATIENCE, || prefetchers(&target).is_empty());
        hold.let_go(&names[8]);
        standby.start_again();
        standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 20);
        standby.psql("SELECT pg_promote()");
        standby.wait_promoted(PATIENCE);
        standby.wait_until("nothing is left", PATIENCE, || !spool(&target).exists());
    }
}

#[test]
fn recovery_goes_on_when_the_worker_is_killed() {
    let site = Site::on_files();
    let names = archived(&site, 24);
    for worker in [true, false] {
        let name = if worker { "with" } else { "without" };
        let target = site.restore(name, "LATEST", &[]);
        let builder = match worker {
            true => with_worker(&site, name),
            false => without_worker(&site, name),
        };
        let hold = Hold::at(&site, name, &[&names[8]]);
        let restored = hold.with(builder, &wal_fetch(&site)).attach_stopped(&target);
        restored.spawn_server();
        restored.wait_until("segments wait", PATIENCE, || !spooled(&target).is_empty());
        let killed = match worker {
            true => restored.pid_of("walarchive prefetcher"),
            false => prefetchers(&target).first().copied(),
        };
        let killed = killed.expect("a process");
        kill_pid(killed, Signal::SIGKILL);
        restored.wait_until("it is dead", PATIENCE, || !is_alive(killed));
        hold.let_go(&names[8]);
        restored.wait_promoted(PATIENCE);
        assert_eq!(rows(&restored), 24);
        restored.wait_until("nothing is left", PATIENCE, || {
            let has_worker = restored.pid_of("walarchive prefetcher").is_some();
            !has_worker && prefetchers(&target).is_empty() && !spool(&target).exists()
        });
    }
}

/// Whole segments of a spool, as a prefetcher of a standby that waits at the third segment leaves them when it is killed.
fn left_behind(site: &Site, name: &str, names: &[String]) -> (Cluster, PathBuf, Hold) {
    let (before, at) = (&names[1], &names[2]);
    let target = site.restore(name, "LATEST", &["--standby"]);
    let hold = Hold::at(site, name, &[at.as_str()]);
    let standby = hold.with(without_worker(site, name), &wal_fetch(site)).attach(&target);
    standby.wait_log(&format!("restored log file \"{before}\" from archive"), PATIENCE);
    standby.wait_until("the segment waits", PATIENCE, || {
        spooled(&target).iter().any(|found| found.starts_with(at))
    });
    // It has no time to tidy up.
    let all = prefetchers(&target);
    all.iter().for_each(|pid| kill_pid(*pid, Signal::SIGKILL));
    standby.wait_until("no process is left", PATIENCE, || prefetchers(&target).is_empty());
    assert!(!spooled(&target).is_empty());
    (standby, target, hold)
}

#[test]
fn a_damaged_file_of_the_spool_is_fetched_anew() {
    let site = Site::on_files();
    let names = archived(&site, 20);
    let (standby, target, hold) = left_behind(&site, "standby", &names);
    let waiting = spooled(&target);
    for name in &waiting {
        let path = spool(&target).join(name);
        let mut content = fs::read(&path).expect("read");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).expect("written");
    }
    hold.let_go(&names[2]);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 20);
    standby.wait_log(
        "which was fetched ahead, cannot be used and is fetched again: Its checksum is",
        PATIENCE,
    );
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.amcheck();
}

#[test]
fn what_is_in_the_spool_of_another_cluster_or_repository_is_not_served() {
    let site = Site::on_files();
    let names = archived(&site, 20);
    let (standby, target, hold) = left_behind(&site, "standby", &names);
    let waiting = spooled(&target);
    // Another cluster's segments, all under the names that are asked for next, with good checksums.
    let other = Site::on_files();
    let foreign = other.primary(&[]);
    let segment = foreign.switch_wal();
    let content = fs::read(foreign.wal_directory().join(&segment)).expect("read");
    for name in &waiting {
        let path = spool(&target).join(name);
        let (stem, _) = name.rsplit_once('.').expect("a checksum");
        fs::remove_file(&path).expect("removed");
        let new = spool(&target).join(format!("{stem}.{:08x}", crc32c(&content)));
        fs::write(&new, &content).expect("written");
    }
    hold.let_go(&names[2]);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 20);
    standby.wait_log(
        "cannot be used and is fetched again: The file belongs to system identifier",
        PATIENCE,
    );
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    assert_eq!(rows(&standby), 20);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ (0x82F6_3B78 & 0u32.wrapping_sub(sum & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_store_that_fails_pauses_it_and_recovery_goes_on() {
    let site = Site::on_s3();
    let names = archived(&site, 20);
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let target = site.restore("standby", "LATEST", &["--standby"]);
    let standby = with_worker(&site, "standby")
        .setting("walarchive.storage_options", &proxy.options())
        .setting("walarchive.storage", &site.url());
    let program = site
        .pg()
        .program("walarchive")
        .get_program()
        .to_string_lossy()
        .into_owned();
    let hold = Hold::at(&site, "standby", &[&names[8]]);
    let standby = hold.with(standby, &format!("{program} wal-fetch %f \"%p\""));
    // A standby that waits asks twice in each round: of every two, the same one would fail for ever.
    proxy.set([Fault::status(500).every(3).into()]);
    let standby = standby.attach(&target);
    standby.wait_until("the next one is there", PATIENCE, || {
        spooled(&target).iter().any(|found| found.starts_with(&names[8]))
    });
    proxy.set([Fault::status(500).into()]);
    hold.let_go(&names[8]);
    standby.wait_log("WAL is not fetched ahead of recovery for now", PATIENCE);
    assert!(count(&standby, AHEAD) >= 1, "{}", standby.log());
    proxy.set([Fault::status(500).every(3).into()]);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 20);
    proxy.heal();
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.wait_until("nothing is left", PATIENCE, || !spool(&target).exists());
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_it_and_not_recovery() {
    let site = Site::on_files();
    archived(&site, 20);
    let target = site.restore("standby", "LATEST", &["--standby"]);
    // Room for one segment and a half.
    let spool = spool(&target);
    fs::create_dir(&spool).expect("created");
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs"])
        .arg(&spool);
    let mounted = run(&mut mount);
    if !mounted.success() {
        return println!("skipped: a tmpfs cannot be mounted here: {mounted:?}");
    }
    let disk = SmallDisk(spool);
    let standby = with_worker(&site, "standby").setting("walarchive.storage", &site.url());
    let standby = standby.attach(&target);
    standby.wait_until("it has all that is archived", PATIENCE, || rows(&standby) == 20);
    let entries = fs::read_dir(&disk.0).into_iter().flatten().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().starts_with("0000")),
        "{names:?}"
    );
    let said = standby
        .log()
        .matches("WAL is not fetched ahead of recovery for now: only")
        .count();
    assert_eq!(said, 1, "{}", standby.log());
    drop(disk);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
}

#[test]
fn it_can_be_switched_off_and_on() {
    let site = Site::on_files();
    let names = archived(&site, 12);
    let target = site.restore("off", "LATEST", &[]);
    let restored = slowly(with_worker(&site, "off"), &site)
        .setting("walarchive.prefetch", "0")
        .attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!((rows(&restored), count(&restored, AHEAD)), (12, 0));
    drop(restored);

    let target = site.restore("on", "LATEST", &["--standby"]);
    let hold = Hold::at(&site, "on", &[&names[2], &names[6]]);
    let builder = with_worker(&site, "on").setting("walarchive.prefetch", "0");
    let standby = hold.with(builder, &wal_fetch(&site)).attach(&target);
    standby.wait_until("it has what comes before", PATIENCE, || rows(&standby) == 2);
    assert_eq!(spooled(&target), [""; 0]);
    standby.set("walarchive.prefetch", "3");
    standby.reload();
    standby.wait_until("the setting is known", PATIENCE, || {
        standby.psql("SHOW walarchive.prefetch") == "3"
    });
    hold.let_go(&names[2]);
    standby.wait_until("segments wait", PATIENCE, || {
        spooled(&target).iter().any(|found| found.starts_with(&names[6]))
    });
    hold.let_go(&names[6]);
    standby.wait_until("it has all that is archived", PATIENCE, || {
        let waiting = spooled(&target);
        assert!(waiting.len() <= 3 + 1, "{waiting:?}");
        rows(&standby) == 12
    });
    assert!(count(&standby, AHEAD) >= 1);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.wait_until("nothing is left", PATIENCE, || !spool(&target).exists());
}
