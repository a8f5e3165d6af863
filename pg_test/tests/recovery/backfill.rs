//! What a dead primary had not archived is archived by the standby that was promoted in its place.

use std::time::Duration;

use walarchive_pg_test::archiving::{SEGMENT, status, wait_drained, wait_message};
use walarchive_pg_test::failover::{Pair, promote, recycle, rows, wait_backfilled, wait_caught_up, write_rows};
use walarchive_pg_test::repository::segment_number;
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, StopMode, run};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// Those that keep WAL.
const KEPT: &str = "SELECT count(*) FROM pg_replication_slots WHERE wal_status <> 'lost'";

/// The LSN with which a segment of 1 MB begins.
fn start_of(segment: &str) -> String {
    let lsn = segment_number(segment) * SEGMENT;
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

#[test]
fn a_promoted_standby_archives_what_the_dead_primary_has_not() {
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    pair.write_cut_off(2..=9);
    wait_caught_up(&standby, &pair.primary);
    // Nothing but the slot keeps the segments: this one is not the primary's.
    recycle(&standby, &pair.primary);
    pair.primary.psql("INSERT INTO t VALUES (10)");
    wait_caught_up(&standby, &pair.primary);
    let last = pair.primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert!(pair.primary.waiting_files().len() >= 8, "the primary has them still");
    lose(&pair.primary);
    promote(&standby);
    // They go through a checkpoint, which recycles what is not kept.
    standby.psql("CHECKPOINT");
    wait_backfilled(&standby, PATIENCE);
    write_rows(&standby, 11..=12);
    archive_all(&standby);
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
    let wal = pair.site.objects("wal_005");
    assert!(wal.contains(&format!("wal_005/{last}.partial.zst")), "{last}: {wal:?}");
    assert!(status(&standby, "backfilled_count").parse::<usize>().expect("a number") >= 8);
    assert_eq!(
        standby.psql(
            "SELECT backfill_state, backfill_waiting, backfill_lost, kept_from, kept_bytes FROM walarchive_status"
        ),
        "done|0|||0"
    );
    assert_eq!(standby.psql(SLOTS), "0");

    let target = pair.site.restore("restored", "LATEST", &[]);
    let restored = pair.site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(rows(&restored), rows(&standby));
    assert!(rows(&restored).ends_with("10 11 12"));
    // What the dead primary had begun can be fetched, too.
    let fetched = pair.site.dir().subdir("fetched").join(&last);
    let partial = format!("{last}.partial");
    run(&mut pair
        .site
        .walarchive(&["wal-fetch", &partial, &fetched.to_string_lossy()]))
    .expect_success();
    assert_eq!(std::fs::metadata(&fetched).expect("fetched").len(), SEGMENT as u64);
}

/// Has the standby thrown a segment away?
fn is_gone(standby: &Cluster, segment: &str) -> bool {
    !standby.wal_directory().join(segment).exists()
}

#[test]
fn what_was_gone_already_is_told_and_can_be_brought_back() {
    let pair = Pair::start(&[]);
    // Nothing but the WAL that recovery needs is left.
    let off = [
        ("walarchive.keep_unarchived", "off"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "2MB"),
    ];
    let standby = pair.standby("standby", &pair.primary, &off);
    assert_eq!(standby.psql(SLOTS), "0");
    pair.write_cut_off(2..=5);
    let lost = pair.primary.waiting_files();
    recycle(&standby, &pair.primary);
    standby.wait_until("the segments are gone", PATIENCE, || {
        recycle(&standby, &pair.primary);
        lost[..3].iter().all(|segment| is_gone(&standby, segment))
    });
    pair.primary.kill9();
    promote(&standby);
    wait_backfilled(&standby, PATIENCE);
    let state = standby.psql("SELECT backfill_state, backfill_lost FROM walarchive_status");
    assert!(state.starts_with(&format!("incomplete|{} to ", lost[0])), "{state}");
    let message = wait_message(
        &standby,
        0,
        &["WARNING", "neither in the archive nor in pg_wal", &lost[0]],
        PATIENCE,
    );
    assert!(
        message.contains("HINT:  ") && message.contains("take a backup now"),
        "{message}"
    );
    let missing = pair.missing(&standby);
    assert!(missing.contains(&lost[0]) && missing.contains(&lost[2]), "{missing:?}");
    // The disk of the old primary was found.
    for segment in &missing {
        let from = pair.primary.wal_directory().join(segment);
        let mut cp = pair.site.pg().program("/bin/cp");
        run(cp.arg(from).arg(standby.wal_directory())).expect_success();
    }
    standby.reload();
    standby.wait_until("they are archived", PATIENCE, || {
        status(&standby, "backfill_state") == "done"
    });
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
}

#[test]
fn the_work_goes_on_after_a_crash_and_when_the_store_is_there_again() {
    let pair = Pair::start(&[]);
    // The standby has a way of its own to the store.
    let way = FaultProxy::start(pair.site.s3().expect("an S3 server").port());
    let options = way.options();
    let standby = pair.standby(
        "standby",
        &pair.primary,
        &[("walarchive.storage_options", options.as_str())],
    );
    pair.write_cut_off(2..=20);
    wait_caught_up(&standby, &pair.primary);
    way.set([Fault::Refuse]);
    lose(&pair.primary);
    promote(&standby);
    wait_message(
        &standby,
        0,
        &["could not archive WAL of before the promotion"],
        PATIENCE,
    );
    // So slow that there is time to crash in the middle.
    way.set([Fault::Latency(Duration::from_millis(400))]);
    standby.wait_until("some of it is archived", PATIENCE, || {
        status(&standby, "backfilled_count") != "0"
    });
    assert_eq!(status(&standby, "backfill_state"), "archiving");
    assert_ne!(status(&standby, "kept_from"), "");
    standby.kill9();
    way.heal();
    standby.start_again();
    standby.psql("CHECKPOINT");
    wait_backfilled(&standby, PATIENCE);
    archive_all(&standby);
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
    assert_eq!(standby.psql(SLOTS), "0");
}

#[test]
fn a_standby_keeps_what_the_archive_lacks_and_no_more_than_it_may() {
    let pair = Pair::start(&[]);
    let small = [("min_wal_size", "2MB"), ("max_wal_size", "2MB")];
    let standby = pair.standby("standby", &pair.primary, &small);
    pair.write_cut_off(2..=6);
    recycle(&standby, &pair.primary);
    let first = pair.primary.waiting_files().swap_remove(0);
    standby.wait_until("it is known what is kept", PATIENCE, || {
        status(&standby, "kept_from") == first
    });
    let kept: usize = status(&standby, "kept_bytes").parse().expect("a number");
    assert!(kept >= 4 << 20, "{kept}");
    assert!(!is_gone(&standby, &first));
    // A slot that somebody has removed is made again, and keeps the same WAL.
    let removal = "SELECT pg_drop_replication_slot('walarchive_unarchived')";
    standby.wait_until("the slot is removed", PATIENCE, || standby.try_psql(removal).is_ok());
    wait_message(&standby, 0, &["WARNING", "somebody has removed the slot"], PATIENCE);
    let numbers = format!("SELECT restart_lsn <= '{}' FROM pg_replication_slots", start_of(&first));
    assert_eq!(standby.psql(&numbers), "t");
    recycle(&standby, &pair.primary);
    assert!(!is_gone(&standby, &first));
    // Where no slot is free it does not look as if all were archived.
    let without = pair.standby("without", &pair.primary, &[("max_replication_slots", "1")]);
    without.wait_until("it is told", PATIENCE, || {
        status(&without, "backfill_error").contains("no replication slot is free")
    });
    // Of the WAL that it has.
    without.wait_until("it is known what the archive lacks", PATIENCE, || {
        !status(&without, "kept_from").is_empty()
    });
    without.stop(StopMode::Fast);
    // The primary reaches the store again: nothing has to be kept.
    pair.proxy.heal();
    write_rows(&pair.primary, 7..=7);
    wait_drained(&pair.primary);
    wait_caught_up(&standby, &pair.primary);
    standby.wait_until("nothing is kept", PATIENCE, || status(&standby, "kept_from").is_empty());
    standby.wait_until("the first segment is thrown away", PATIENCE, || {
        recycle(&standby, &pair.primary);
        is_gone(&standby, &first)
    });
    // With a limit.
    standby.set("walarchive.keep_unarchived_limit", "3MB");
    standby.reload();
    pair.write_cut_off(8..=18);
    let first = pair.primary.waiting_files().swap_remove(0);
    wait_caught_up(&standby, &pair.primary);
    wait_message(
        &standby,
        0,
        &["WARNING", "the oldest of them are kept no longer"],
        PATIENCE,
    );
    standby.wait_until("what is too much is thrown away", PATIENCE, || {
        recycle(&standby, &pair.primary);
        is_gone(&standby, &first)
    });
    // With settings that cannot be used it is kept on, and that is told.
    standby.set("walarchive.storage", "");
    standby.reload();
    standby.wait_until("it is told", PATIENCE, || {
        !status(&standby, "backfill_error").is_empty()
    });
    assert_eq!(standby.psql(SLOTS), "1");
    // Without the setting there is no slot.
    standby.set("walarchive.keep_unarchived", "off");
    standby.reload();
    standby.wait_until("the slot is gone", PATIENCE, || standby.psql(SLOTS) == "0");
}

#[test]
fn a_store_that_is_not_mounted_is_no_empty_archive() {
    let site = Site::on_files();
    let builder = |name: &str| {
        let small = site.builder(name).setting("min_wal_size", "2MB");
        small
            .setting("max_wal_size", "2MB")
            .setting("walarchive.lease_interval", "1s")
    };
    // The standby may begin to stream late.
    let primary = builder("primary").initdb_arg("--wal-segsize=1");
    let primary = primary.setting("wal_keep_size", "64MB").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT 1 AS id");
    backup(&primary, "");
    archive_all(&primary);
    let standby = builder("standby").standby_of(&primary);
    let segment = primary.switch_wal();
    primary.wait_archived(&segment, PATIENCE);
    let moved = format!(
        "SELECT restart_lsn > '{}' FROM pg_replication_slots",
        start_of(&segment)
    );
    standby.wait_until("the standby has seen the repository", PATIENCE, || {
        standby.psql(&moved) == "t"
    });
    // The mount point is there, and empty.
    let (store, away) = (site.dir().join("store"), site.dir().join("away"));
    std::fs::rename(&store, &away).expect("renamed");
    std::fs::create_dir(&store).expect("created");
    write_rows(&primary, 2..=6);
    wait_caught_up(&standby, &primary);
    let waiting = primary.waiting_files();
    assert!(waiting.len() >= 5, "{waiting:?}");
    let is_told = || status(&standby, "backfill_error").contains("there is no repository");
    standby.wait_until("the standby tells it", PATIENCE, is_told);
    recycle(&standby, &primary);
    recycle(&standby, &primary);
    assert!(!is_gone(&standby, &waiting[0]));
    lose(&primary);
    promote(&standby);
    standby.wait_until("the promoted server tells it", PATIENCE, is_told);
    standby.psql("CHECKPOINT");
    assert!(!is_gone(&standby, &waiting[0]));
    assert_eq!(standby.psql(SLOTS), "1");
    assert_eq!(site.objects("wal_005"), Vec::<String>::new());
    // Somebody mounts it.
    std::fs::remove_dir_all(&store).expect("removed");
    std::fs::rename(&away, &store).expect("renamed");
    wait_backfilled(&standby, PATIENCE);
    assert_eq!(status(&standby, "backfill_state"), "done");
    let wal = site.objects("wal_005");
    for segment in &waiting {
        assert!(wal.contains(&format!("wal_005/{segment}.zst")), "{segment}: {wal:?}");
    }
}

#[test]
fn one_file_that_cannot_be_archived_does_not_hold_up_the_others() {
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[]);
    // All of what waits from now on is in the standby's pg_wal.
    wait_drained(&pair.primary);
    pair.write_cut_off(2..=6);
    wait_caught_up(&standby, &pair.primary);
    let waiting = pair.primary.waiting_files();
    let path = standby.wal_directory().join(&waiting[0]);
    let content = std::fs::read(&path).expect("read");
    lose(&pair.primary);
    let mut damaged = content.clone();
    damaged[..8192].fill(0);
    std::fs::write(&path, damaged).expect("written");
    promote(&standby);
    standby.wait_until("all but one are archived", PATIENCE, || {
        pair.missing(&standby) == waiting[..1]
    });
    standby.wait_until("it is told which one", PATIENCE, || {
        let error = status(&standby, "backfill_error");
        error.contains(&waiting[0]) && error.contains("is not a valid WAL file")
    });
    assert_eq!(status(&standby, "kept_from"), waiting[0]);
    std::fs::write(&path, content).expect("written");
    wait_backfilled(&standby, PATIENCE);
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
    assert_eq!(status(&standby, "backfill_error"), "");
}

#[test]
fn a_slot_that_somebody_uses_is_removed_when_it_is_free() {
    let pair = Pair::start(&[]);
    let standby = pair.standby("standby", &pair.primary, &[("walarchive.lease_interval", "1s")]);
    standby.wait_until("there is a slot", PATIENCE, || standby.psql(SLOTS) == "1");
    let off = [
        ("walarchive.keep_unarchived", "off"),
        ("primary_slot_name", "walarchive_unarchived"),
    ];
    let user = pair.standby("user", &standby, &off);
    lose(&pair.primary);
    promote(&standby);
    wait_backfilled(&standby, PATIENCE);
    standby.wait_until("it is told", PATIENCE, || {
        status(&standby, "backfill_error").contains("is active")
    });
    assert_eq!(standby.psql(SLOTS), "1");
    user.stop(StopMode::Fast);
    standby.wait_until("the slot is gone", PATIENCE, || standby.psql(SLOTS) == "0");
    standby.wait_until("nothing is told", PATIENCE, || {
        status(&standby, "backfill_error").is_empty()
    });
}

/// A listing of a large directory costs much more than a question for one object.
#[test]
fn a_standby_asks_for_the_next_segment_and_hardly_lists() {
    let pair = Pair::start(&[]);
    let way = FaultProxy::start(pair.site.s3().expect("an S3 server").port());
    let options = way.options();
    let settings = [
        ("walarchive.storage_options", options.as_str()),
        ("walarchive.lease_interval", "1s"),
    ];
    let standby = pair.standby("standby", &pair.primary, &settings);
    let wait_moved = |segment: &str| {
        let moved = format!("SELECT restart_lsn > '{}' FROM pg_replication_slots", start_of(segment));
        standby.wait_until("the slot has moved", PATIENCE, || standby.psql(&moved) == "t");
    };
    let archive = || {
        let segment = pair.primary.switch_wal();
        pair.primary.wait_archived(&segment, PATIENCE);
        wait_caught_up(&standby, &pair.primary);
        wait_moved(&segment);
    };
    archive();
    way.forget();
    let begun = std::time::Instant::now();
    (0..3).for_each(|_| archive());
    // And while the archive is behind.
    pair.write_cut_off(2..=4);
    wait_caught_up(&standby, &pair.primary);
    standby.wait_until("it is known what is kept", PATIENCE, || {
        !status(&standby, "kept_from").is_empty()
    });
    let of_wal = |seen: &&walarchive_testkit::Seen| seen.target.contains("wal_005");
    let asked = || way.requests().iter().filter(of_wal).count();
    let before = asked();
    standby.wait_until("it has looked twice more", PATIENCE, || asked() >= before + 2);
    let requests = way.requests();
    let listings = requests
        .iter()
        .filter(of_wal)
        .filter(|seen| seen.target.contains("list-type"));
    let per_minute = |count: usize| count as f64 * 60.0 / begun.elapsed().as_secs_f64();
    eprintln!(
        "requests a minute with an interval of 1 s: {:.0}, of them {:.0} about WAL",
        per_minute(requests.len()),
        per_minute(asked())
    );
    // One, when the segment was missing for the second time.
    assert!(listings.count() <= 1, "{requests:?}");
}

/// No slot at all may be made, and one that was made is given up by the server: both are told, and so is what is lost.
#[test]
fn without_a_slot_it_is_told_and_nothing_is_lost_in_silence() {
    let pair = Pair::start(&[]);
    let none = [("max_replication_slots", "0"), ("walarchive.lease_interval", "1s")];
    let standby = pair.standby("standby", &pair.primary, &none);
    let small = [
        ("max_slot_wal_keep_size", "1MB"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "2MB"),
        ("walarchive.lease_interval", "1s"),
    ];
    let short = pair.standby("short", &pair.primary, &small);
    short.wait_until("there is a slot", PATIENCE, || short.psql(SLOTS) == "1");
    pair.write_cut_off(2..=6);
    for server in [&standby, &short] {
        wait_caught_up(server, &pair.primary);
    }
    let told = [
        "WARNING",
        "WAL that is not archived is not kept: no replication slot is free",
        "HINT:  Raise max_replication_slots",
    ];
    wait_message(&standby, 0, &told, PATIENCE);
    standby.wait_until("it is shown", PATIENCE, || {
        status(&standby, "backfill_error").contains("no replication slot is free")
    });
    // The server gives the slot up at a checkpoint.
    let first = pair.primary.waiting_files().swap_remove(0);
    short.wait_until("the segment is gone", PATIENCE, || {
        recycle(&short, &pair.primary);
        is_gone(&short, &first)
    });
    wait_message(&short, 0, &["the server has let go of WAL"], PATIENCE);
    short.wait_until("there is a slot again", PATIENCE, || short.psql(KEPT) == "1");
    lose(&pair.primary);
    promote(&standby);
    wait_backfilled(&standby, PATIENCE);
    // The checkpoint of the promotion may be quicker than the look at the archive. Then it is told what is lost.
    let (state, missing) = (status(&standby, "backfill_state"), pair.missing(&standby));
    let lost = status(&standby, "backfill_lost");
    match missing.first() {
        None => assert_eq!((state.as_str(), lost.as_str()), ("done", "")),
        Some(first) => assert!(state == "incomplete" && lost.starts_with(first), "{state} {lost}"),
    }
}

/// The server gives a slot up that nobody uses. The worker uses its own every 20 seconds.
#[test]
fn an_idle_slot_that_was_given_up_is_made_again() {
    let pair = Pair::start(&[]);
    if pair.site.pg().major() < 18 {
        return;
    }
    let settings = [
        ("idle_replication_slot_timeout", "1s"),
        ("walarchive.lease_interval", "1s"),
    ];
    let standby = pair.standby("standby", &pair.primary, &settings);
    standby.wait_until("there is a slot", PATIENCE, || standby.psql(SLOTS) == "1");
    let mark = standby.log_mark();
    standby.wait_until("the slot is given up", PATIENCE, || {
        recycle(&standby, &pair.primary);
        standby.log_since(mark).contains("the server has let go of WAL")
    });
    standby.set("idle_replication_slot_timeout", "60s");
    standby.reload();
    recycle(&standby, &pair.primary);
    standby.wait_until("there is a slot again", PATIENCE, || standby.psql(KEPT) == "1");
    pair.write_cut_off(2..=4);
    wait_caught_up(&standby, &pair.primary);
    recycle(&standby, &pair.primary);
    pair.primary.kill9();
    promote(&standby);
    wait_backfilled(&standby, PATIENCE);
    assert_eq!(status(&standby, "backfill_state"), "done");
    assert_eq!(pair.missing(&standby), Vec::<String>::new());
}
