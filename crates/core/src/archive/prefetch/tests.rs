use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::memory::InMemory;
use tempfile::TempDir;
use walarchive_storage::{StorageConfig, Store};
use walarchive_testkit::meddler::{Act, Meddler, Op};

use super::*;
use crate::codec::Format;
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::wal::{Segment, SegmentSize};

const SYSTEM: u64 = 7_412_345_678_901_234_567;
const MB: u64 = 1 << 20;

fn content(name: &str) -> Vec<u8> {
    let size = SegmentSize::new(MB).expect("a size");
    let segment: Segment = name.parse().expect("a segment");
    let mut bytes = vec![7; MB as usize];
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&segment.timeline.to_le_bytes());
    bytes[8..16].copy_from_slice(&segment.start(size).0.to_le_bytes());
    bytes[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
    bytes[32..36].copy_from_slice(&(MB as u32).to_le_bytes());
    bytes
}

fn name(number: u64) -> String {
    format!("{:08X}{:08X}{number:08X}", 1, 0)
}

fn segment(number: u64) -> Segment {
    name(number).parse().expect("a segment")
}

/// A data directory, an archive, and a prefetcher between them.
struct Fixture {
    dir: TempDir,
    store: Store,
    over: Arc<AtomicBool>,
    replayed: Arc<AtomicU64>,
    /// How often the prefetcher has looked around.
    turns: Arc<AtomicU64>,
    /// How often recovery was made to ask again.
    arrivals: Arc<AtomicU64>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["global", "pg_wal"] {
            fs::create_dir(dir.path().join(name)).expect("created");
        }
        fs::write(dir.path().join("PG_VERSION"), "15\n").expect("written");
        Fixture {
            dir,
            store: Store::of(Arc::new(InMemory::new()), "memory:"),
            over: Arc::default(),
            replayed: Arc::default(),
            turns: Arc::default(),
            arrivals: Arc::default(),
        }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("pg_wal/RECOVERYXLOG")
    }

    fn spool_of(&self, url: &str) -> Spool {
        Spool::beside(&self.target(), &StorageConfig::new(url)).expect("a data directory")
    }

    fn spool(&self) -> Spool {
        self.spool_of("file:///a")
    }

    async fn archive(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let name = name(number);
            let key = format!("wal_005/{name}");
            self.store.put(&key, Bytes::from(content(&name))).await.expect("stored");
        }
    }

    async fn archive_sealed(&self, number: u64) {
        let sealed = walarchive_testkit::sealed::by_libsodium(&content(&name(number)), [7; 32]);
        let key = format!("wal_005/{}.zst", name(number));
        self.store.put(&key, Bytes::from(sealed)).await.expect("stored");
    }

    fn start(&self, most: usize) -> tokio::task::JoinHandle<Ended> {
        let prefetcher = Prefetcher {
            store: self.store.clone(),
            spool: self.spool(),
            reads_first: Format::Plain,
            identity: ClusterIdentity {
                system_identifier: SYSTEM,
                major_version: 15,
                segment_size: SegmentSize::new(MB).expect("a size"),
            },
            most,
            idle_limit: None,
            asked: None,
        };
        let (over, replayed) = (Arc::clone(&self.over), Arc::clone(&self.replayed));
        let turns = Arc::clone(&self.turns);
        let look = move || {
            turns.fetch_add(1, Ordering::Relaxed);
            match over.load(Ordering::Relaxed) {
                true => Situation::Over,
                false => Situation::Recovering(Some(Lsn(replayed.load(Ordering::Relaxed)))),
            }
        };
        let arrivals = Arc::clone(&self.arrivals);
        let arrived = move || {
            arrivals.fetch_add(1, Ordering::Relaxed);
        };
        tokio::spawn(prefetcher.run(look, Some(arrived)))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("pg_wal/pgsql_tmp_walarchive"));
        let names = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("0000"))
            .collect();
        names.sort();
        names
    }

    async fn wait(&self, what: &str, mut condition: impl FnMut(&[String]) -> bool) {
        let begun = Instant::now();
        while !condition(&self.names()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", self.names());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn is_whole(names: &[String], numbers: &[u64]) -> bool {
    names.len() == numbers.len()
        && numbers
            .iter()
            .zip(names)
            .all(|(number, found)| found.starts_with(&name(*number)) && !found.ends_with("part"))
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_come_ahead_and_nothing_is_left() {
    let fixture = Fixture::new();
    fixture.archive(3..=30).await;
    let run = fixture.start(4);
    let spool = fixture.spool();
    spool.note(segment(3)).expect("noted");
    fixture.wait("two are there", |names| names.len() >= 2).await;
    for number in 4..=20 {
        // What is asked for before it was begun does not come ahead.
        fixture
            .wait("the next one is there", |names| {
                names.iter().any(|found| found.starts_with(&name(number)))
            })
            .await;
        spool.note(segment(number)).expect("noted");
        let taken = spool.take_when_there(segment(number), &fixture.target(), Some(SYSTEM));
        assert_eq!(taken, Taken::Served);
        assert!(fs::read(fixture.target()).expect("read") == content(&name(number)));
        assert!(fixture.names().len() <= 4 + 1, "{:?}", fixture.names());
    }
    // The server streams, and is far ahead.
    fixture.replayed.store(100 * MB, Ordering::Relaxed);
    fixture.wait("old segments go", <[String]>::is_empty).await;
    fixture.over.store(true, Ordering::Relaxed);
    assert_eq!(run.await.expect("ended"), Ended::Over);
    assert!(!fixture.dir.path().join("pg_wal/pgsql_tmp_walarchive").exists());
}

/// A server without the key must not keep wal-fetch, which has it, from fetching ahead.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_wal_without_a_key_is_left_to_others() {
    let fixture = Fixture::new();
    for number in [4, 5] {
        fixture.archive_sealed(number).await;
    }
    let run = fixture.start(4);
    fixture.spool().note(segment(3)).expect("noted");
    assert_eq!(run.await.expect("ended"), Ended::NoKey);
    assert_eq!(fixture.names(), Vec::<String>::new());
}

/// A single one that seems to be encrypted may be damaged.
#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_cannot_be_read_ends_nothing() {
    let fixture = Fixture::new();
    fixture.archive_sealed(4).await;
    fixture.archive(5..=6).await;
    let run = fixture.start(4);
    for number in [3, 4] {
        fixture.spool().note(segment(number)).expect("noted");
        let turns = fixture.turns.load(Ordering::Relaxed);
        fixture
            .wait("it has looked", |_| fixture.turns.load(Ordering::Relaxed) > turns + 2)
            .await;
    }
    fixture
        .wait("the others are there", |names| is_whole(names, &[5, 6]))
        .await;
    fixture.over.store(true, Ordering::Relaxed);
    assert_eq!(run.await.expect("ended"), Ended::Over);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_without_a_key_is_not_for_whoever_has_one() {
    let fixture = with_one().await;
    let mut storage = StorageConfig::new("file:///a");
    storage.encryption.key_files.push(PathBuf::from("/key"));
    let take = |storage: &StorageConfig| {
        let spool = Spool::beside(&fixture.target(), storage).expect("a data directory");
        spool.take(segment(4), &fixture.target(), Some(SYSTEM))
    };
    assert_eq!(take(&storage), Taken::Missing);
    storage.encryption.accept_plain = true;
    assert_eq!(take(&storage), Taken::Served);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_archive_is_waited_for() {
    let fixture = Fixture::new();
    fixture.archive(3..=5).await;
    let run = fixture.start(8);
    let spool = fixture.spool();
    spool.note(segment(4)).expect("noted");
    fixture
        .wait("the last one is there", |names| is_whole(names, &[5]))
        .await;
    fixture.archive(6..=7).await;
    spool.note(segment(5)).expect("noted");
    fixture
        .wait("it goes on, and keeps what was asked for", |names| {
            is_whole(names, &[5, 6, 7])
        })
        .await;
    // Recovery reads another repository: this is none of our business any more.
    fixture.spool_of("file:///b").note(segment(6)).expect("noted");
    assert_eq!(run.await.expect("ended"), Ended::OtherRepository);
    assert_eq!(fixture.names(), Vec::<String>::new());
}

/// A spool with segment 4 whole in it.
async fn with_one() -> Fixture {
    let fixture = Fixture::new();
    fixture.archive(3..=4).await;
    let run = fixture.start(1);
    fixture.spool().note(segment(3)).expect("noted");
    fixture.wait("it is there", |names| is_whole(names, &[4])).await;
    // As if it were killed.
    run.abort();
    let _ = run.await;
    fixture
}

fn only_file(fixture: &Fixture) -> PathBuf {
    let names = fixture.names();
    assert_eq!(names.len(), 1, "{names:?}");
    Path::new(&fixture.dir.path().join("pg_wal/pgsql_tmp_walarchive")).join(&names[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_not_served() {
    let fixture = with_one().await;
    let (spool, target) = (fixture.spool(), fixture.target());
    let other = fixture.spool_of("file:///b");
    assert_eq!(other.take(segment(4), &target, Some(SYSTEM)), Taken::Missing);
    assert_eq!(spool.take(segment(5), &target, Some(SYSTEM)), Taken::Missing);
    assert!(!target.exists() && fixture.names().len() == 1);
    let foreign = spool.take(segment(4), &target, Some(SYSTEM + 1));
    assert!(
        matches!(&foreign, Taken::Damaged(reason) if reason.contains("system identifier")),
        "{foreign:?}"
    );
    assert!(!target.exists() && fixture.names().is_empty());

    for damage in 0..3 {
        let fixture = with_one().await;
        let file = only_file(&fixture);
        let mut bytes = fs::read(&file).expect("read");
        match damage {
            0 => bytes[700_000] ^= 1,
            1 => bytes.truncate(700_000),
            _ => bytes.clear(),
        }
        fs::write(&file, bytes).expect("written");
        let taken = fixture.spool().take(segment(4), &fixture.target(), Some(SYSTEM));
        assert!(matches!(taken, Taken::Damaged(_)), "{damage}: {taken:?}");
        assert!(!fixture.target().exists() && fixture.names().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetches_ahead_and_finds_what_a_killed_one_left() {
    let fixture = with_one().await;
    let spool = fixture.spool();
    let directory = fixture.dir.path().join("pg_wal/pgsql_tmp_walarchive");
    fs::write(directory.join(format!("{}.part", name(5))), "half").expect("written");
    fs::write(directory.join(format!("{}.00000001.00000002", name(5))), "").expect("written");
    assert_eq!(
        spool.take(segment(5), &fixture.target(), None),
        Taken::Missing,
        "nobody fetches it"
    );
    let claim = spool.claim().expect("nobody has it");
    assert!(spool.has_prefetcher() && !spool.has_worker() && spool.claim().is_none());
    drop(claim);
    assert!(!spool.has_prefetcher());
    let worker = spool.claim_for_worker();
    assert!(worker.is_some() && spool.has_worker() && spool.has_prefetcher());
    let run = fixture.start(2);
    fixture.wait("the rest is gone", |names| is_whole(names, &[4])).await;
    run.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_a_timeline_that_was_left_go() {
    let fixture = Fixture::new();
    fixture.archive(3..=9).await;
    let run = fixture.start(8);
    let spool = fixture.spool();
    spool.note(segment(3)).expect("noted");
    fixture.wait("some are there", |names| names.len() >= 2).await;
    // Recovery has turned to timeline 2, of which nothing is in the archive yet.
    let turned: Segment = "000000020000000000000004".parse().expect("a segment");
    spool.note(turned).expect("noted");
    assert!(
        matches!(
            spool.take(turned, &fixture.target(), Some(SYSTEM)),
            Taken::Missing | Taken::Underway
        ),
        "the segment of timeline 1 is another one"
    );
    // It may still ask for this one of the old timeline, and for no other.
    fixture
        .wait("the others are gone", |names| {
            names.iter().all(|found| found.starts_with(&name(4)))
        })
        .await;
    run.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_was_not_there_is_looked_for() {
    let fixture = Fixture::new();
    fixture.archive(3..=5).await;
    let run = fixture.start(4);
    let spool = fixture.spool();
    spool.note(segment(6)).expect("noted");
    let looked = std::time::SystemTime::now();
    let server = Running { pid: 7, started: 1 };
    let told = spool.note_absent(segment(6), server, looked, Absence::End);
    told.expect("noted");
    fixture.archive(6..=7).await;
    fixture
        .wait("it comes", |names| {
            names.iter().any(|found| found.starts_with(&name(6)))
        })
        .await;
    fixture
        .wait("recovery is told", |_| fixture.arrivals.load(Ordering::Relaxed) == 1)
        .await;
    let taken = spool.take_when_there(segment(6), &fixture.target(), Some(SYSTEM));
    assert_eq!(taken, Taken::Served);
    run.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_timeline_is_not_asked_for_all_the_time() {
    let mut fixture = Fixture::new();
    let meddler = Meddler::new(Arc::new(InMemory::new()));
    let (first, second) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (of_first, of_second) = (Arc::clone(&first), Arc::clone(&second));
    meddler.rule(move |op, key| {
        for (count, timeline) in [(&of_first, "wal_005/00000001"), (&of_second, "wal_005/00000002")] {
            count.fetch_add((op == Op::Get && key.contains(timeline)).into(), Ordering::Relaxed);
        }
        Act::Pass
    });
    fixture.store = Store::of(Arc::new(meddler), "memory:");
    let run = fixture.start(4);
    fixture.spool().note(segment(4)).expect("noted");
    let asked = |count: &AtomicU64| count.load(Ordering::Relaxed);
    fixture.wait("the first timeline ends", |_| asked(&first) > 0).await;
    // Recovery has ended, and the server begins a timeline that it writes itself.
    let history = fixture.dir.path().join("pg_wal/00000002.history");
    fs::write(history, "1\t0/500028\tno recovery target specified\n").expect("written");
    fixture
        .wait("the second one is asked for", |_| asked(&second) > 0)
        .await;
    let until = asked(&fixture.turns) + 20;
    fixture.wait("time passes", |_| asked(&fixture.turns) >= until).await;
    let each_once = 4 * Format::ALL.len() as u64;
    assert!(asked(&second) <= 2 * each_once, "{}", asked(&second));
    run.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_a_worker_is_not_removed() {
    let fixture = with_one().await;
    let spool = fixture.spool();
    let worker = spool.claim_for_worker().expect("nobody has it");
    spool.remove_unused();
    // A process of the server that was killed ends.
    let claim = spool.claim().expect("nobody has it");
    let run = fixture.start(1);
    fixture.over.store(true, Ordering::Relaxed);
    assert_eq!(run.await.expect("ended"), Ended::Over);
    assert!(only_file(&fixture).exists() && spool.has_worker());
    drop((worker, claim));
    spool.remove_unused();
    assert!(!fixture.dir.path().join("pg_wal/pgsql_tmp_walarchive").exists());
}
