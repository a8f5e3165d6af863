use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::time::timeout;

use super::tail::{Position, Shipper};
use super::*;
use crate::codec::{Compression, Format};
use crate::error::{Error, StorageError};
use crate::lease::{INTERVAL, Situation, Writer};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout;
use crate::threads::Threads;
use crate::wal::{SegmentSize, WalFileName};
use walarchive_storage::{CreateOnly, Store};
use walarchive_testkit::pretender::{Create, Pretender};

const SYSTEM: u64 = 7_412_345_678_901_234_567;
const BYTES: usize = 1 << 20;
const NAME: &str = "000000010000000000000003";

fn identity() -> ClusterIdentity {
    let segment_size = SegmentSize::new(BYTES as u64).expect("a size");
    ClusterIdentity {
        system_identifier: SYSTEM,
        major_version: 15,
        segment_size,
    }
}

fn segment(system: u64, address: u64, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; BYTES];
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&address.to_le_bytes());
    bytes[24..32].copy_from_slice(&system.to_le_bytes());
    bytes[32..36].copy_from_slice(&(BYTES as u32).to_le_bytes());
    bytes
}

fn good(fill: u8) -> Vec<u8> {
    segment(SYSTEM, 3 * BYTES as u64, fill)
}

fn name() -> WalFileName {
    NAME.parse().expect("a name")
}

struct Fixture {
    dir: TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        Fixture {
            dir: tempfile::tempdir().expect("a directory"),
            store: Store::of(Arc::new(InMemory::new()), "memory:"),
        }
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.dir.path().join(name), content).expect("written");
    }

    fn archive(&self) -> Archive {
        Archive::new(self.store.clone(), identity(), Compression::Zstd(1))
    }

    async fn fetch(&self) -> crate::Result<Vec<u8>> {
        let target = self.dir.path().join("RECOVERYXLOG");
        let result = fetch(&self.store, &name(), &target, Format::Zstd).await;
        let left = std::fs::read_dir(self.dir.path()).expect("listed").filter(|entry| {
            entry
                .as_ref()
                .is_ok_and(|entry| entry.file_name().to_string_lossy().contains("tmp"))
        });
        assert_eq!(left.count(), 0, "no temporary file remains");
        assert_eq!(
            target.exists(),
            result.is_ok(),
            "nothing appears under the final name unless it is whole"
        );
        result.map(|_| std::fs::read(target).expect("read"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_comes_back() {
    let fixture = Fixture::new();
    fixture.write(NAME, &good(7));
    let pushed = fixture
        .archive()
        .push(fixture.dir.path(), &name())
        .await
        .expect("pushed");
    assert!(!pushed.already_there && pushed.file_bytes == BYTES as u64 && pushed.stored_bytes < 10_000);
    assert!(fixture.fetch().await.expect("fetched") == good(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_again_is_fine_and_other_content_is_refused() {
    let fixture = Fixture::new();
    fixture.write(NAME, &good(7));
    fixture
        .archive()
        .push(fixture.dir.path(), &name())
        .await
        .expect("pushed");
    assert!(
        fixture
            .archive()
            .push(fixture.dir.path(), &name())
            .await
            .expect("again")
            .already_there
    );
    fixture.write(NAME, &good(8));
    let error = fixture
        .archive()
        .push(fixture.dir.path(), &name())
        .await
        .expect_err("refused");
    assert!(
        matches!(&error, Error::Conflict { reason, .. } if reason.contains("byte")),
        "{error:?}"
    );
    assert!(!error.is_transient() && error.hint().is_some());
    assert!(
        fixture.fetch().await.expect("fetched") == good(7),
        "nothing was overwritten"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_where_create_only_is_not_honoured() {
    for (create, found) in [
        (Create::Overwrites, CreateOnly::Ignored),
        (Create::Refused, CreateOnly::Unsupported),
    ] {
        let mut fixture = Fixture::new();
        fixture.store = Store::of(Arc::new(Pretender::new(create)), "memory:");
        fixture.write(NAME, &good(7));
        let push = async || fixture.archive().push(fixture.dir.path(), &name()).await;
        assert!(!push().await.expect("pushed").already_there);
        assert_eq!(fixture.store.create_only(), Some(found));
        assert!(push().await.expect("again").already_there);
        fixture.write(NAME, &good(8));
        let error = push().await.expect_err("refused");
        assert!(matches!(error, Error::Conflict { .. }), "{create:?}: {error:?}");
        assert!(fixture.fetch().await.expect("fetched") == good(7), "{create:?}");
        let other = ClusterIdentity {
            system_identifier: SYSTEM + 1,
            ..identity()
        };
        let other = Archive::new(fixture.store.clone(), other, Compression::Zstd(1));
        assert!(matches!(other.claim().await, Err(Error::ForeignRepository { .. })));
    }
}

/// A setting may change, or WAL-G may have been there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_in_another_kind_is_found_before_one_is_written() {
    const KINDS: [Compression; 5] = [
        Compression::Zstd(1),
        Compression::Lz4,
        Compression::Lzma(1),
        Compression::Brotli(1),
        Compression::Plain,
    ];
    for (first, second) in KINDS
        .iter()
        .flat_map(|first| KINDS.iter().map(move |second| (*first, *second)))
    {
        let fixture = Fixture::new();
        let push = async |compression| {
            let archive = Archive::new(fixture.store.clone(), identity(), compression);
            archive.push(fixture.dir.path(), &name()).await
        };
        fixture.write(NAME, &good(7));
        assert!(!push(first).await.expect("pushed").already_there);
        assert!(
            push(second).await.expect("pushed").already_there,
            "{first:?} {second:?}"
        );
        assert!(fixture.fetch().await.expect("fetched") == good(7), "{first:?} is read");
        fixture.write(NAME, &good(8));
        let error = push(second).await.expect_err("refused");
        assert!(
            matches!(error, Error::Conflict { .. }),
            "{first:?} {second:?}: {error:?}"
        );
        let objects = fixture.store.list(&layout::WAL_FOLDER).await.expect("listed");
        assert_eq!(objects.len(), 1, "{first:?} {second:?}: {objects:?}");
    }
}

/// Segments beyond this size go in parts. The sparse file compresses to little, so the second one does not compress at all.
#[tokio::test(flavor = "multi_thread")]
async fn large_segments_go_in_parts() {
    const LARGE: u64 = 128 << 20;
    let identity = ClusterIdentity {
        segment_size: SegmentSize::new(LARGE).expect("a size"),
        ..identity()
    };
    for compression in [Compression::Zstd(1), Compression::Plain] {
        let fixture = Fixture::new();
        let archive = Archive::new(fixture.store.clone(), identity, compression);
        let mut header = segment(SYSTEM, 3 * LARGE, 0);
        header[32..36].copy_from_slice(&(LARGE as u32).to_le_bytes());
        let write = |end: &[u8]| {
            let file = std::fs::File::create(fixture.dir.path().join(NAME)).expect("created");
            file.set_len(LARGE).expect("sized");
            file.write_all_at(&header, 0).expect("written");
            file.write_all_at(end, LARGE - end.len() as u64).expect("written");
        };
        write(b"one");
        let push = async || archive.push(fixture.dir.path(), &name()).await;
        let pushed = push().await.expect("pushed");
        assert!(!pushed.already_there && pushed.file_bytes == LARGE);
        assert_eq!(
            fixture
                .store
                .size(&layout::wal(&name(), compression.format()))
                .await
                .expect("asked"),
            Some(pushed.stored_bytes)
        );
        assert!(push().await.expect("again").already_there);
        let target = fixture.dir.path().join("RECOVERYXLOG");
        fetch(&fixture.store, &name(), &target, compression.format())
            .await
            .expect("fetched");
        assert!(std::fs::read(&target).expect("read") == std::fs::read(fixture.dir.path().join(NAME)).expect("read"));
        write(b"two");
        let error = push().await.expect_err("refused");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_object_under_the_name_is_not_overwritten() {
    let fixture = Fixture::new();
    // In a repository of nobody, with no other object, it would pass for an encrypted one.
    fixture.archive().claim().await.expect("claimed");
    let key = layout::wal(&name(), Format::Zstd);
    fixture
        .store
        .put(&key, Bytes::from_static(b"garbage"))
        .await
        .expect("written");
    fixture.write(NAME, &good(7));
    let error = fixture
        .archive()
        .push(fixture.dir.path(), &name())
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert_eq!(
        fixture.store.get(&key, 100).await.expect("read").as_deref(),
        Some(&b"garbage"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_their_name_says_are_refused() {
    for (what, content) in [
        ("another cluster's", segment(SYSTEM + 1, 3 * BYTES as u64, 0)),
        ("another segment", segment(SYSTEM, 4 * BYTES as u64, 0)),
        ("truncated", good(0)[..BYTES / 2].to_vec()),
        ("zeroes", vec![0; BYTES]),
    ] {
        let fixture = Fixture::new();
        fixture.write(NAME, &content);
        let error = fixture
            .archive()
            .push(fixture.dir.path(), &name())
            .await
            .expect_err(what);
        assert!(matches!(error, Error::InvalidWal { .. }), "{what}: {error:?}");
        assert_eq!(
            fixture.store.list(&layout::WAL_FOLDER).await.expect("listed"),
            vec![],
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_objects_are_never_restored() {
    let fixture = Fixture::new();
    fixture.write(NAME, &good(7));
    fixture
        .archive()
        .push(fixture.dir.path(), &name())
        .await
        .expect("pushed");
    let key = layout::wal(&name(), Format::Zstd);
    let whole = fixture.store.get(&key, 1 << 20).await.expect("read").expect("there");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("truncated", whole[..whole.len() - 1].to_vec()),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("a bit flipped", {
            let mut bytes = whole.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            bytes
        }),
        (
            "another segment",
            zstd::encode_all(&segment(SYSTEM, 0, 1)[..], 1).expect("compressed"),
        ),
        (
            "too short inside",
            zstd::encode_all(&good(1)[..BYTES / 2], 1).expect("compressed"),
        ),
    ] {
        fixture.store.put(&key, bytes.into()).await.expect("written");
        let error = fixture.fetch().await.expect_err(what);
        assert!(matches!(error, Error::Damaged { .. }), "{what}: {error:?}");
    }
    fixture.store.delete(&key).await.expect("deleted");
    assert!(matches!(
        fixture.fetch().await,
        Err(Error::Storage(StorageError::NotFound { .. }))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_found() {
    for format in [Format::Lz4, Format::Plain] {
        let fixture = Fixture::new();
        let bytes = match format {
            Format::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                std::io::Write::write_all(&mut encoder, &good(7)).expect("compressed");
                encoder.finish().expect("compressed")
            }
            _ => good(7),
        };
        fixture
            .store
            .put(&layout::wal(&name(), format), bytes.into())
            .await
            .expect("written");
        assert!(fixture.fetch().await.expect("fetched") == good(7), "{format:?}");
    }
}

/// A standby may be the first one to write. What it has seen once, it does not begin anew where a file system is not mounted.
#[tokio::test]
async fn a_standby_begins_a_repository_and_none_where_it_has_vanished() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["base", "global", "pg_wal"] {
        std::fs::create_dir(dir.path().join(name)).expect("a directory");
    }
    let situation = Situation {
        in_recovery: true,
        is_standby: true,
        timeline: 1,
        interval: INTERVAL,
    };
    let writer = |store: &Store| Writer::new(store.clone(), dir.path(), situation);
    let standby =
        |store: &Store| Archive::new(store.clone(), identity(), Compression::Plain).with_writer(writer(store));
    let directory = || Store::of(Arc::new(InMemory::new()), "file:///backup");
    let mounted = directory();
    standby(&mounted).claim().await.expect("nothing was there");
    let gone = directory();
    let refused = standby(&gone).claim().await.expect_err("refused");
    assert!(matches!(refused, Error::NoRepository { .. }), "{refused:?}");
    assert_eq!(gone.list("").await.expect("listed"), []);
    standby(&mounted).claim().await.expect("it is mounted again");
    // It was deleted on purpose.
    writer(&gone).forget().await.expect("noted");
    standby(&gone).claim().await.expect("begun");
    // A bucket is there, or an error.
    for _ in 0..2 {
        let bucket = Store::of(Arc::new(InMemory::new()), "s3://bucket");
        standby(&bucket).claim().await.expect("begun");
    }
}

/// The first bytes of a segment as the tail keeps them.
fn frame(content: &[u8], range: std::ops::Range<usize>) -> frames::Frame {
    let part = &content[range.clone()];
    frames::Frame {
        start: range.start as u64,
        end: range.end as u64,
        crc: crc32c::crc32c(part),
        content: zstd::encode_all(part, 1).expect("compressed").into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tail_has_compressed_is_not_compressed_again_and_gives_the_same_file() {
    let Ok(WalFileName::Segment(named)) = NAME.parse() else {
        panic!("a segment");
    };
    let content: Vec<u8> = {
        let mut random = 7u32;
        let noise = std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        });
        good(0).iter().take(64).copied().chain(noise).take(BYTES).collect()
    };
    let stored = async |ends: &[usize], of: &[u8]| {
        let fixture = Fixture::new();
        fixture.write(NAME, &content);
        let archive = fixture.archive();
        let mut start = 0;
        for end in ends {
            archive.keep_frame(named, frame(of, start..*end));
            start = *end;
        }
        archive.push(fixture.dir.path(), &name()).await.expect("pushed");
        assert!(fixture.fetch().await.expect("fetched") == content, "{ends:?}");
        let key = layout::wal(&name(), Format::Zstd);
        let object = fixture.store.get(&key, 2 * BYTES as u64).await.expect("asked");
        object.expect("stored")
    };
    let anew = stored(&[], &content).await;
    for ends in [&[100][..], &[8192, 300_000], &[300_001, BYTES]] {
        let object = stored(ends, &content).await;
        let first = frame(&content, 0..ends[0]).content;
        assert!(object.starts_with(&first), "{ends:?}");
    }
    // The file counts, and not what was compressed of it before.
    let mut other = content.clone();
    other[200_000] ^= 1;
    assert!(stored(&[8192, 300_000], &other).await == anew);
}

/// Commits may wait for the tail.
#[tokio::test(flavor = "multi_thread")]
async fn new_wal_is_stored_while_files_wait_to_be_compressed() {
    let fixture = Fixture::new();
    let mut content = good(0);
    content[36..40].copy_from_slice(&8192u32.to_le_bytes());
    fixture.write(NAME, &content);
    let pg_wal = fixture.dir.path().to_owned();
    std::fs::create_dir(pg_wal.join("archive_status")).expect("created");
    let threads = Arc::new(Threads::new(2, || (), || (), || ()).expect("made"));
    let occupied = threads.occupied().await;
    let archive = Arc::new(fixture.archive().with_threads(threads));
    let pushing = tokio::spawn({
        let (archive, pg_wal) = (Arc::clone(&archive), pg_wal.clone());
        async move { archive.push(&pg_wal, &name()).await }
    });
    let flushed = Lsn(3 * BYTES as u64 + 8192);
    let mut shipper = Shipper::new(archive, pg_wal);
    let shipping = shipper.ship(Position { timeline: 1, flushed });
    let shipped = timeout(Duration::from_secs(30), shipping)
        .await
        .expect("it waits for nobody");
    assert_eq!(shipped.expect("stored").stored, flushed);
    assert!(!pushing.is_finished(), "its turn has not come");
    drop(occupied);
    pushing.await.expect("joined").expect("archived");
}
