//! The round that an archive is for: the primary is killed while segments wait, the standby is promoted, and a backup from before is
//! restored to a moment after. `WALARCHIVE_TEST_FAILOVERS` is the number of rounds, 2 if it is not set.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use walarchive_pg_test::archiving::{status, wait_message};
use walarchive_pg_test::failover::{Pair, promote, recycle, rows, wait_backfilled, wait_caught_up, write_rows};
use walarchive_pg_test::site::{archive_all, lose};
use walarchive_testkit::{Fault, FaultProxy, PATIENCE, StopMode, run};

fn rounds() -> usize {
    let rounds = std::env::var("WALARCHIVE_TEST_FAILOVERS").ok();
    rounds.map_or(2, |rounds| {
        rounds.parse().expect("WALARCHIVE_TEST_FAILOVERS is no number")
    })
}

#[test]
fn after_each_failover_the_archive_is_complete() {
    for round in 1..=rounds() {
        eprintln!("round {round}");
        fail_over(round);
    }
}

fn fail_over(round: usize) {
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    // Each round cuts the primary off at another place, and leaves another number of segments.
    let waiting = 4 + round % 5 * 3;
    write_rows(&pair.primary, 2..=1 + round % 3);
    pair.write_cut_off(100..=99 + waiting);
    wait_caught_up(&standby, &pair.primary);
    if round.is_multiple_of(2) {
        recycle(&standby, &pair.primary);
    }
    // In the middle of a segment.
    pair.primary.psql("INSERT INTO t VALUES (900)");
    wait_caught_up(&standby, &pair.primary);
    assert!(pair.primary.waiting_files().len() >= waiting);
    pair.primary.kill9();
    promote(&standby);
    standby.psql("INSERT INTO t VALUES (901)");
    let target = standby.psql("SELECT pg_current_wal_insert_lsn()");
    standby.psql("INSERT INTO t VALUES (902)");
    standby.psql("CHECKPOINT");
    archive_all(&standby);
    wait_backfilled(&standby, PATIENCE);
    assert_eq!(
        standby.psql("SELECT backfill_state, backfill_lost FROM walarchive_status"),
        "done|"
    );
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
    assert_eq!(
        standby.psql("SELECT status FROM walarchive_wal_show() WHERE timeline = 2"),
        "ok"
    );

    let restored = pair.site.restore(
        "restored",
        "LATEST",
        &["--target-lsn", &target, "--target-action", "promote"],
    );
    let restored = pair.site.restored("restored").attach(&restored);
    restored.wait_promoted(PATIENCE);
    let before: String = rows(&standby);
    assert_eq!(format!("{} 902", rows(&restored)), before);
    assert!(before.ends_with("900 901 902"), "{before}");
}

/// What is written after the promotion does not wait for the backlog, and the backlog does not wait for ever.
#[test]
fn on_a_slow_link_new_wal_and_the_backlog_both_get_on() {
    let pair = Pair::start(&[("walarchive.compression", "none")]);
    let way = FaultProxy::start(pair.site.s3().expect("an S3 server").port());
    let options = way.options();
    let settings = [
        ("walarchive.storage_options", options.as_str()),
        ("walarchive.compression", "none"),
    ];
    let standby = pair.standby("standby", &pair.primary, &settings);
    pair.write_cut_off(2..=13);
    wait_caught_up(&standby, &pair.primary);
    let backlog = pair.primary.waiting_files();
    // Half a segment a second.
    way.set([Fault::Link(512 << 10)]);
    lose(&pair.primary);
    promote(&standby);
    let mut new = Vec::new();
    for row in 100..=103 {
        standby.psql(&format!("INSERT INTO t VALUES ({row})"));
        new.push(standby.switch_wal());
    }
    let is_there = |name: &String| pair.site.object(&format!("wal_005/{name}")).exists();
    standby.wait_until("the new WAL is archived", Duration::from_secs(120), || {
        new.iter().all(is_there)
    });
    let done = backlog.iter().filter(|name| is_there(name)).count();
    let is_of_backlog = |seen: &walarchive_testkit::Seen| backlog.iter().any(|name| seen.target.contains(name));
    let requests = way.requests();
    let carried: u64 = requests
        .iter()
        .filter(|seen| is_of_backlog(seen))
        .map(|seen| seen.carried)
        .sum();
    eprintln!(
        "{done} of {} segments of the backlog were archived meanwhile, {carried} bytes",
        backlog.len()
    );
    assert!(carried > 0 && done < backlog.len());
    way.heal();
    wait_backfilled(&standby, PATIENCE);
    assert_eq!(status(&standby, "backfill_lost"), "");
    assert!(backlog.iter().all(is_there));
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A server that stops because its disk is full archives nothing at all.
#[test]
fn on_a_nearly_full_disk_the_oldest_wal_is_let_go() {
    let pair = Pair::start(&[]);
    let path = pair.site.dir().subdir("disk");
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=40m,mode=0777", "tmpfs"])
        .arg(&path);
    match mount.output() {
        Ok(output) if output.status.success() => {}
        failed => return println!("skipped: a tmpfs cannot be mounted here: {failed:?}"),
    }
    let disk = SmallDisk(path);
    let small = [
        ("min_wal_size", "2MB"),
        ("max_wal_size", "2MB"),
        ("walarchive.lease_interval", "1s"),
    ];
    let standby = pair.standby("standby", &pair.primary, &small);
    standby.stop(StopMode::Fast);
    let (inside, outside) = (standby.wal_directory(), disk.0.join("pg_wal"));
    run(pair.site.pg().program("/bin/cp").arg("-a").arg(&inside).arg(&outside)).expect_success();
    std::fs::remove_dir_all(&inside).expect("removed");
    std::os::unix::fs::symlink(&outside, &inside).expect("linked");
    standby.start_again();
    pair.write_cut_off(2..=11);
    wait_caught_up(&standby, &pair.primary);
    let waiting = pair.primary.waiting_files();
    standby.wait_until("it is known what is kept", PATIENCE, || {
        status(&standby, "kept_from") == waiting[0]
    });
    let free = nix::sys::statvfs::statvfs(&disk.0).expect("a file system");
    let free = free.blocks_available() * free.fragment_size();
    std::fs::write(disk.0.join("filler"), vec![1; free as usize - (1 << 20)]).expect("written");
    let told = ["WARNING", "the disk of pg_wal is nearly full", "HINT:  "];
    wait_message(&standby, 0, &told, PATIENCE);
    standby.wait_until("the oldest one is gone", PATIENCE, || {
        recycle(&standby, &pair.primary);
        !inside.join(&waiting[0]).exists()
    });
    std::fs::remove_file(disk.0.join("filler")).expect("removed");
    lose(&pair.primary);
    promote(&standby);
    wait_backfilled(&standby, PATIENCE);
    let lost = status(&standby, "backfill_lost");
    assert!(lost.starts_with(&waiting[0]), "{lost}");
    let missing = pair.missing(&standby);
    assert!(
        missing.contains(&waiting[0]) && missing.len() < waiting.len(),
        "{missing:?}"
    );
    standby.stop(StopMode::Fast);
}
