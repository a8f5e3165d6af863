//! The tail: WAL of the segment that is being written is in the store soon, in chunks that go when the whole segment is there.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{archiving, present_segment, status, wait_drained, write_noise};
use walarchive_pg_test::failover::wait_caught_up;
use walarchive_pg_test::repository::{Repository, segment_name, segment_number};
use walarchive_testkit::{Builder, Cluster, Fault, FaultProxy, PATIENCE, S3Server, StopMode, TestDir, run};

const INTERVAL: Duration = Duration::from_millis(200);

/// A part of a segment: epoch, start and end.
type Chunk = (u64, u64, u64);

/// The chunks of each segment.
fn chunks(repository: &Repository) -> BTreeMap<String, Vec<Chunk>> {
    let tail = repository.path().join("walarchive_005/tail");
    let mut found: BTreeMap<String, Vec<Chunk>> = BTreeMap::new();
    for folder in fs::read_dir(tail).into_iter().flatten().flatten() {
        let segment = folder.file_name().to_string_lossy().into_owned();
        for object in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let name = object.file_name().to_string_lossy().into_owned();
            // What is being written has another name.
            let Some(stem) = name.strip_suffix(".zst") else {
                continue;
            };
            let parts: Vec<&str> = stem.split('-').collect();
            let [epoch, start, end] = parts[..] else { continue };
            let hex = |text| u64::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{name}: {e}"));
            let epoch = epoch.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            found
                .entry(segment.clone())
                .or_default()
                .push((epoch, hex(start), hex(end)));
        }
    }
    found.values_mut().for_each(|chunks| chunks.sort_unstable());
    found
}

/// How much of the segment the newest epoch has, all of which is as it is in `pg_wal`.
#[track_caller]
fn covered(cluster: &Cluster, repository: &Repository, segment: &str) -> u64 {
    let all = chunks(repository).remove(segment).unwrap_or_default();
    let newest = all
        .iter()
        .filter(|(_, start, _)| *start == 0)
        .map(|(epoch, ..)| *epoch)
        .max();
    let (mut reached, wal) = (0, fs::read(cluster.wal_directory().join(segment)).expect("read"));
    for (epoch, start, end) in all {
        if Some(epoch) != newest || start > reached {
            continue;
        }
        let path = repository.path().join(format!(
            "walarchive_005/tail/{segment}/{epoch:08}-{start:08X}-{end:08X}.zst"
        ));
        let content = zstd(&path);
        assert!(
            content == wal[start as usize..end as usize],
            "{} differs",
            path.display()
        );
        reached = reached.max(end);
    }
    reached
}

fn zstd(path: &std::path::Path) -> Vec<u8> {
    let output = std::process::Command::new("zstd").arg("-dcq").arg(path).output();
    let output = output.expect("zstd runs");
    assert!(
        output.status.success(),
        "{}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn epochs(repository: &Repository) -> Vec<String> {
    let folder = repository.path().join("walarchive_005/tail/epoch");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn with_tail(builder: Builder) -> Builder {
    builder
        .setting("walarchive.tail_interval", &format!("{}ms", INTERVAL.as_millis()))
        .setting("autovacuum", "off")
}

/// A server that stores its tail.
fn storing(dir: &TestDir, repository: &Repository) -> Cluster {
    let cluster = with_tail(archiving(dir, "c", &repository.url())).start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (x int)");
    cluster
}

/// Waits until everything that was committed before is in the store.
#[track_caller]
fn wait_stored(cluster: &Cluster) {
    let committed = cluster.psql("SELECT pg_current_wal_flush_lsn()");
    cluster.wait_until(&format!("{committed} is stored"), PATIENCE, || {
        status(cluster, &format!("tail_lsn >= '{committed}'")) == "t"
    });
}

#[test]
fn what_is_committed_is_in_the_store_soon_and_an_idle_server_writes_nothing() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = storing(&dir, &repository);
    wait_stored(&cluster);
    let (segment, begun) = (present_segment(&cluster), Instant::now());
    let before = chunks(&repository).get(&segment).map_or(0, Vec::len);
    for number in 0..10 {
        cluster.psql(&format!("INSERT INTO t VALUES ({number})"));
        wait_stored(&cluster);
    }
    let count = chunks(&repository)[&segment].len() - before;
    let at_most = begun.elapsed().as_millis() / INTERVAL.as_millis() + 1;
    assert!(
        count >= 10 && count as u128 <= at_most,
        "{count} chunks, at most {at_most}"
    );
    let offset = |lsn: &str| {
        let sql = format!("SELECT file_offset FROM pg_walfile_name_offset({lsn})");
        cluster.psql(&sql).parse::<u64>().expect("a number")
    };
    let there = covered(&cluster, &repository, &segment);
    assert!(
        there > 0 && there <= offset("pg_current_wal_flush_lsn()"),
        "never past what is flushed"
    );
    assert_eq!(
        status(
            &cluster,
            "tail_state, tail_time <= clock_timestamp(), tail_error IS NULL, tail_error_time IS NULL"
        ),
        "storing|t|t|t"
    );

    // After the last words of the background writer.
    let (mut last, mut since) = (chunks(&repository), Instant::now());
    cluster.wait_until("no chunk comes", PATIENCE, || {
        let now = chunks(&repository);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > 15 * INTERVAL
    });
}

#[test]
fn chunks_go_when_the_segment_is_archived() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = storing(&dir, &repository);
    let first = present_segment(&cluster);
    for _ in 0..3 {
        write_noise(&cluster);
        wait_stored(&cluster);
    }
    let last = cluster.switch_wal();
    cluster.psql("INSERT INTO t VALUES (1)");
    wait_stored(&cluster);
    wait_drained(&cluster);
    let present = present_segment(&cluster);
    cluster.wait_until("only chunks of the present segment are there", PATIENCE, || {
        chunks(&repository).keys().all(|segment| *segment == present)
    });
    assert!(covered(&cluster, &repository, &present) > 0);
    repository.assert_complete(&cluster, &first, &last);

    // Both at once are of no use, and somebody should know.
    let check =
        "SELECT status, hint LIKE 'archive_timeout may be 0%' FROM walarchive_check() WHERE check_name = 'tail'";
    assert_eq!(cluster.psql(check), "ok|");
    cluster.set("archive_timeout", "1h");
    cluster.reload();
    assert_eq!(cluster.psql(check), "warning|t");
}

#[test]
fn each_start_begins_anew_and_a_stop_stores_the_last_checkpoint() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = storing(&dir, &repository);
    cluster.psql("INSERT INTO t VALUES (1)");
    wait_stored(&cluster);
    assert_eq!(epochs(&repository), ["00000001.json"]);

    let mark = cluster.log_mark();
    cluster.stop(StopMode::Fast);
    let control = run(cluster.pg().program("pg_controldata").arg(cluster.datadir())).expect_success();
    let field = |name: &str| {
        let line = control.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    let checkpoint = field("Latest checkpoint location:");
    let (high, low) = checkpoint.split_once('/').expect("an LSN");
    let hex = |text| u64::from_str_radix(text, 16).expect("a number");
    let lsn = hex(high) << 32 | hex(low);
    let segment = segment_name(1, (lsn >> 20) as usize);
    let there = covered(&cluster, &repository, &segment);
    // The record has more than its header.
    assert!(
        there >= (lsn & 0xF_FFFF) + 24,
        "{there} bytes, the checkpoint is at {checkpoint}"
    );
    assert!(cluster.log_since(mark).contains("where the server stops"));
    assert_eq!(
        epochs(&repository),
        ["00000001.json"],
        "it is the same run of the server"
    );

    // A crash is another one.
    for epoch in 2..4 {
        cluster.start_again();
        cluster.psql("INSERT INTO t VALUES (2)");
        wait_stored(&cluster);
        let segment = present_segment(&cluster);
        cluster.wait_until("only the new epoch is there", PATIENCE, || {
            let of_present = chunks(&repository).remove(&segment).unwrap_or_default();
            let is_new = of_present.iter().all(|(of, ..)| *of == epoch);
            is_new && epochs(&repository) == [format!("{epoch:08}.json")]
        });
        assert!(covered(&cluster, &repository, &segment) > 0);
        cluster.kill9();
    }
}

/// Of a large segment the beginning is stored last, as an older epoch counts until then.
#[test]
fn a_large_segment_is_stored_in_parts() {
    const PART: u64 = 16 << 20;
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let builder = archiving(&dir, "c", &repository.url()).initdb_arg("--wal-segsize=64");
    let cluster = with_tail(builder).start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (x int)");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    for _ in 0..20 {
        write_noise(&cluster);
    }
    let present = present_segment(&cluster);
    wait_stored(&cluster);
    cluster.wait_until("the first part is one chunk", PATIENCE, || {
        let of_present = chunks(&repository).remove(&present).unwrap_or_default();
        let of_first = of_present.iter().filter(|(_, start, _)| *start < PART);
        of_first.eq(&[(1, 0, PART)])
    });
    assert!(covered(&cluster, &repository, &present) > PART);
    cluster.kill9();
    cluster.start_again();
    cluster.psql("INSERT INTO t VALUES (1)");
    wait_stored(&cluster);
    let all = chunks(&repository).remove(&present).unwrap_or_default();
    assert!(all.contains(&(2, 0, PART)), "{all:?}");
    assert!(covered(&cluster, &repository, &present) > PART);
}

#[test]
fn a_tail_that_cannot_be_stored_holds_no_segment_up() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let builder = archiving(&dir, "c", &server.url("prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .setting("walarchive.archive_timeout", "4s")
        .envs(server.env());
    let cluster = with_tail(builder).start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (x int)");
    wait_stored(&cluster);

    proxy.set([Fault::status(503).only("walarchive_005/tail/").into()]);
    let begun = Instant::now();
    for _ in 0..5 {
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
    }
    println!("archived within {:?}", begun.elapsed());
    cluster.psql("INSERT INTO t VALUES (1)");
    cluster.wait_until("the failure is shown", PATIENCE, || {
        status(&cluster, "tail_state, tail_error <> '', tail_error_time <= now()") == "failing|t|t"
    });
    cluster.wait_log("could not store new WAL of the present segment", PATIENCE);
    assert_eq!(
        cluster.psql("SELECT status FROM walarchive_check() WHERE check_name = 'tail'"),
        "failed"
    );
    proxy.heal();
    wait_stored(&cluster);
    assert_eq!(status(&cluster, "tail_state, tail_error IS NULL"), "storing|t");
    cluster.wait_log("new WAL is stored again", PATIENCE);

    // No more than for a file, a stop waits for it.
    cluster.set("walarchive.shutdown_timeout", "2s");
    cluster.reload();
    proxy.set([Fault::status(503).only("walarchive_005/tail/").into()]);
    cluster.stop(StopMode::Fast);
    assert!(cluster.log().contains("could not store the last WAL of the server"));
}

#[test]
fn it_is_turned_on_and_off_by_a_reload() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (x int)");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    assert_eq!(status(&cluster, "tail_state, tail_lsn IS NULL"), "off|t");
    assert!(chunks(&repository).is_empty());
    assert_eq!(
        cluster.psql("SELECT count(*) FROM walarchive_check() WHERE check_name = 'tail'"),
        "0"
    );

    let refused = cluster.try_psql("ALTER SYSTEM SET walarchive.tail_interval = '100ms'");
    let refused = refused.expect_err("too short");
    assert!(refused.contains("200 ms to 1 h"), "{refused}");
    cluster.set("walarchive.tail_interval", "1s");
    cluster.reload();
    cluster.psql("INSERT INTO t VALUES (1)");
    wait_stored(&cluster);
    let number = segment_number(&segment);
    assert!(chunks(&repository).contains_key(&segment_name(1, number + 1)));

    cluster.set("walarchive.tail_interval", "0");
    cluster.reload();
    cluster.wait_until("it is off", PATIENCE, || status(&cluster, "tail_state") == "off");
    assert!(!chunks(&repository).is_empty());
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    cluster.wait_until("nothing of it is left", PATIENCE, || chunks(&repository).is_empty());
    cluster.psql("INSERT INTO t VALUES (2)");
    cluster.set("walarchive.tail_interval", "200ms");
    cluster.reload();
    wait_stored(&cluster);
}

/// The older copy of a server starts in its place.
#[test]
fn a_server_that_has_lost_wal_leaves_what_the_store_has() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = storing(&dir, &repository);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    // More than recovery writes by itself.
    cluster.psql("SELECT FROM pg_logical_emit_message(true, 'test', repeat('x', 200000))");
    wait_stored(&cluster);
    cluster.stop(StopMode::Immediate);
    // The last pages are not there any more.
    let (segment, all) = chunks(&repository).pop_last().expect("chunks");
    let path = cluster.wal_directory().join(&segment);
    let mut wal = fs::read(&path).expect("read");
    let end = all.iter().map(|(.., end)| *end).max().unwrap_or_default() as usize;
    wal[end - 100_000..end].fill(0);
    fs::write(&path, wal).expect("written");
    cluster.start_again();
    cluster.wait_log("this server only up to", PATIENCE);
    assert_eq!(status(&cluster, "tail_state, tail_lsn IS NULL"), "failing|t");
    let left = chunks(&repository).remove(&segment).unwrap_or_default();
    assert_eq!(left, all);
}

#[test]
fn a_promoted_standby_stores_its_timeline_from_the_beginning_of_the_segment() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let primary = storing(&dir, &repository);
    // What a standby does only so often does not hold it up once it is promoted.
    primary.set("walarchive.lease_interval", "10min");
    primary.reload();
    let standby = Cluster::builder(&dir, "standby").standby_of(&primary);
    primary.psql("INSERT INTO t VALUES (1)");
    wait_stored(&primary);
    wait_caught_up(&standby, &primary);
    standby.wait_until("it knows that it recovers", PATIENCE, || {
        status(&standby, "tail_state, tail_lsn IS NULL") == "recovery|t"
    });
    primary.kill9();
    let before = chunks(&repository);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (2)");
    wait_stored(&standby);
    let present = present_segment(&standby);
    assert!(present.starts_with("00000002") && !before.contains_key(&present));
    let of_present = chunks(&repository).remove(&present).unwrap_or_default();
    assert!(of_present.iter().all(|(epoch, ..)| *epoch == 2), "{of_present:?}");
    assert!(covered(&standby, &repository, &present) > 0);
}
