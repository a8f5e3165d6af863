//! Commits that wait for the store, while somebody changes the server's configuration, stops it, fills the store's disk, or starts
//! another server in its place.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{present_segment, status, wait_drained, wait_message};
use walarchive_pg_test::site::{Site, backup, lose};
use walarchive_pg_test::synchronous::{builder, commit, has, start, wait_state, waiting_commit};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, Session, StopMode};

/// PostgreSQL's archiver pauses for a minute after it was refused three times, and what looks at the archive for half of that.
const PAUSES: Duration = Duration::from_secs(20);

fn set(cluster: &Cluster, name: &str, value: &str) {
    cluster.set(name, value);
    cluster.reload();
}

#[test]
fn a_reload_lets_no_commit_go_that_waits() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let cluster = start(builder(&site, "primary").setting("walarchive.storage_options", &proxy.options()));
    for (fault, timeout) in [(Fault::Refuse, "10s"), (Fault::Silent, "20s")] {
        proxy.set([fault]);
        let mut waiting = waiting_commit(&cluster, 1);
        let sender = || cluster.psql("SELECT pid FROM pg_stat_replication WHERE application_name = 'walarchive'");
        let before = sender();
        // Nothing has changed; nothing that matters here has; and the archive is another one.
        cluster.reload();
        set(&cluster, "work_mem", "5MB");
        assert_eq!(sender(), before);
        set(&cluster, "walarchive.archive_timeout", timeout);
        cluster.wait_until("it is connected anew", PATIENCE, || {
            let now = sender();
            !now.is_empty() && now != before
        });
        wait_state(&cluster, "waiting");
        waiting.assert_running();
        proxy.heal();
        waiting.wait(PATIENCE).expect_success();
        wait_state(&cluster, "synchronous");
        let lsn = commit(&mut Session::begin(&cluster), 2);
        assert!(has(&site, 1, lsn));
    }
}

#[test]
fn another_library_that_archives_for_a_while_is_no_gap() {
    let site = Site::on_s3();
    let cluster = start(builder(&site, "primary"));
    backup(&cluster, "");
    let mut session = Session::begin(&cluster);
    commit(&mut session, 1);
    let mark = cluster.log_mark();
    set(&cluster, "archive_library", "");
    cluster.wait_until("it is said", PATIENCE, || {
        status(&cluster, "synchronous_error").starts_with("archive_library is not walarchive")
    });
    let mut waiting = waiting_commit(&cluster, 2);
    // With segments that end meanwhile: nobody archives them.
    cluster.switch_wal();
    cluster.psql("SET synchronous_commit = local; INSERT INTO t VALUES (3)");
    cluster.switch_wal();
    waiting.assert_running();
    set(&cluster, "archive_library", "walarchive");
    waiting.wait(PATIENCE).expect_success();
    wait_state(&cluster, "synchronous");
    wait_drained(&cluster);
    let lsn = commit(&mut session, 4);
    assert!(has(&site, 1, lsn));
    assert!(
        !cluster.log_since(mark).contains("the archive lacks"),
        "{}",
        cluster.log_since(mark)
    );
    drop(session);
    lose(&cluster);
    let restored = site
        .restored("restored")
        .attach(&site.restore("restored", "LATEST", &[]));
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "4");
}

/// At each moment of its beginning.
#[test]
fn a_stop_right_after_it_was_turned_on_is_no_hang_and_no_loss() {
    let site = Site::on_s3();
    let cluster = start(builder(&site, "primary"));
    backup(&cluster, "");
    let mut rows = 0;
    for after_ms in [0, 3, 10, 30, 100, 300] {
        set(&cluster, "synchronous_standby_names", "");
        set(&cluster, "walarchive.synchronous", "off");
        wait_state(&cluster, "off");
        cluster.psql("INSERT INTO t VALUES (0)");
        cluster.set("walarchive.synchronous", "on");
        cluster.set("synchronous_standby_names", "walarchive");
        cluster.psql("SELECT pg_reload_conf()");
        let commit = cluster.background_psql("INSERT INTO t VALUES (1)");
        std::thread::sleep(Duration::from_millis(after_ms));
        let begun = Instant::now();
        cluster.stop(StopMode::Fast);
        println!("stopped within {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // The last WAL is that of the shutdown checkpoint, which the archiver stores.
        rows += 1 + usize::from(commit.wait(PATIENCE).success());
        cluster.start_again();
        wait_state(&cluster, "synchronous");
    }
    let found: usize = cluster.psql("SELECT count(*) FROM t").parse().expect("a number");
    assert!(found >= rows, "{found} of {rows}");
    cluster.stop(StopMode::Fast);
    fs::remove_dir_all(cluster.datadir()).expect("removed");
    let restored = site
        .restored("restored")
        .attach(&site.restore("restored", "LATEST", &[]));
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), found.to_string());
}

/// A copy of the server waits until the original has not renewed its lease for so long. What was refused meanwhile pauses for a minute.
#[test]
fn commits_go_on_as_soon_as_the_server_may_write() {
    let site = Site::on_s3();
    let cluster = start(builder(&site, "primary").setting("walarchive.lease_interval", "3s"));
    backup(&cluster, "");
    let mut session = Session::begin(&cluster);
    commit(&mut session, 1);
    drop(session);
    lose(&cluster);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = builder(&site, "restored")
        .setting("walarchive.lease_interval", "3s")
        .attach(&target);
    restored.wait_promoted(PATIENCE);
    let mark = restored.log_mark();
    let waiting = waiting_commit(&restored, 2);
    restored.switch_wal();
    let switched = restored.switch_wal();
    restored.wait_until("it may write", PATIENCE, || status(&restored, "lease_state") == "held");
    let begun = Instant::now();
    waiting.wait(PATIENCE).expect_success();
    restored.wait_archived(&switched, PATIENCE);
    println!("went on within {:?}", begun.elapsed());
    assert!(
        begun.elapsed() < PAUSES,
        "{:?}: {}",
        begun.elapsed(),
        restored.log_since(mark)
    );
    wait_state(&restored, "synchronous");
    let lsn = commit(&mut Session::begin(&restored), 3);
    assert!(has(&site, 2, lsn));
}

#[test]
fn commits_that_wait_for_nothing_are_told() {
    let site = Site::on_files();
    let cluster = start(builder(&site, "primary"));
    let row = || {
        let row = "SELECT status, detail, hint FROM walarchive_check() WHERE check_name = 'synchronous backup'";
        cluster.psql(row)
    };
    let says = row();
    assert!(
        says.starts_with("failed|commits wait for the store, and none of what they store can be restored")
            && says.contains("walarchive_backup_push()"),
        "{says}"
    );
    let name = backup(&cluster, "");
    assert!(row().starts_with("ok|"), "{}", row());
    // Without its WAL it is none.
    let start = cluster.psql(&format!(
        "SELECT pg_walfile_name(start_lsn) FROM walarchive_backups WHERE backup_name = '{name}'"
    ));
    fs::remove_file(site.object(&format!("wal_005/{start}.zst"))).expect("removed");
    assert!(row().starts_with("failed|"), "{}", row());
    set(&cluster, "walarchive.synchronous", "off");
    assert_eq!(row(), "");
    set(&cluster, "synchronous_standby_names", "");
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Lets a file take all that is free. Returns how many pages it got.
fn fill(filler: &Path) -> usize {
    let opened = fs::File::options().create(true).append(true).open(filler);
    let mut file = opened.expect("opened");
    std::iter::repeat_with(|| file.write_all(&[1; 4096]))
        .take_while(Result::is_ok)
        .count()
}

#[test]
fn commits_wait_while_the_disk_of_the_store_is_full() {
    let site = Site::on_files();
    let path = site.object("");
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs"])
        .arg(&path);
    match mount.output() {
        Ok(output) if output.status.success() => {}
        failed => return println!("skipped: a tmpfs cannot be mounted here: {failed:?}"),
    }
    let _disk = SmallDisk(path.clone());
    let cluster = start(builder(&site, "primary"));
    backup(&cluster, "");
    let filler = path.join("filler");
    for round in 0..2 {
        // The chunks of the segment before go when the next one has some.
        commit(&mut Session::begin(&cluster), round);
        let present = present_segment(&cluster);
        cluster.wait_until("they are gone", PATIENCE, || {
            let chunks = site.objects("walarchive_005/tail");
            chunks
                .iter()
                .all(|key| key.contains(&present) || key.ends_with(".json"))
        });
        // What others write at this moment fails, and frees what there is of it.
        let mut full_since = Instant::now();
        cluster.wait_until("the disk is full, and stays so", PATIENCE, || {
            if fill(&filler) > 0 {
                full_since = Instant::now();
            }
            full_since.elapsed() > Duration::from_secs(2)
        });
        let mark = cluster.log_mark();
        let mut waiting = waiting_commit(&cluster, round);
        let said = wait_message(
            &cluster,
            mark,
            &["WARNING", "commits wait for the store", "No space left on device"],
            PATIENCE,
        );
        assert!(said.contains("HINT:  "), "{said}");
        wait_state(&cluster, "waiting");
        waiting.assert_running();
        fs::remove_file(&filler).expect("removed");
        waiting.wait(PATIENCE).expect_success();
        wait_state(&cluster, "synchronous");
        let lsn = commit(&mut Session::begin(&cluster), round);
        assert!(has(&site, 1, lsn));
    }
    // What could not be written has left nothing behind.
    wait_drained(&cluster);
    cluster.wait_until("only objects are there", PATIENCE, || {
        let keys = site.objects("walarchive_005/tail");
        keys.iter().all(|key| key.ends_with(".zst") || key.ends_with(".json"))
    });
    lose(&cluster);
    let restored = site
        .restored("restored")
        .attach(&site.restore("restored", "LATEST", &[]));
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "6");
}
