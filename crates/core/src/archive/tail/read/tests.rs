use std::sync::Arc;

use object_store::memory::InMemory;
use walarchive_storage::crypt::Method;
use walarchive_testkit::sealed::{by_libsodium, by_openpgp};

use super::super::Tail;
use super::*;
use crate::archive::{Answer, Asking, fetch_segment};
use crate::encrypted::attacks::{Named, attacks_on};
use crate::repository::encryption::fixture::{KEY, PUBLIC, Place};
use crate::repository::layout;
use crate::wal::WalFileName;
use crate::wal::generator::{SIZE_BYTES, segments};

const PAGE: usize = 8192;

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.include_checksum(true).expect("set");
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("finished")
}

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    /// A segment, its content, and that of the next one.
    segment: Segment,
    bytes: Vec<u8>,
    next: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        Fixture::on(Store::of(Arc::new(InMemory::new()), "memory:"))
    }

    fn on(store: Store) -> Self {
        let mut written = segments(1, 7, 2);
        let next = written.remove(1).1;
        let (segment, bytes) = written.remove(0);
        Fixture {
            dir: tempfile::tempdir().expect("a directory"),
            store,
            segment,
            bytes,
            next,
        }
    }

    fn chunk(&self, epoch: u64, start: usize, end: usize) -> TailChunk {
        TailChunk {
            segment: self.segment,
            epoch,
            start: start as u64,
            end: end as u64,
        }
    }

    async fn put(&self, chunk: TailChunk, object: impl Into<Vec<u8>>) {
        let object: Vec<u8> = object.into();
        self.store.put(&chunk.key(), object.into()).await.expect("stored");
    }

    /// As a server stores it.
    async fn store_chunk(&self, epoch: u64, start: usize, end: usize) {
        self.put(self.chunk(epoch, start, end), zstd(&self.bytes[start..end]))
            .await;
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("RECOVERYXLOG")
    }

    async fn cover(&self) -> Cover {
        let tail = Tail::find(&self.store, self.segment, None).await.expect("looked");
        tail.cover.expect("covers something")
    }

    /// The content of the file if one came.
    async fn fetch(&self, most: u64, own: Option<&str>) -> Result<(Brought, Option<Vec<u8>>)> {
        self.fetch_within(most, own, false).await
    }

    async fn fetch_within(
        &self,
        most: u64,
        own: Option<&str>,
        before_damage: bool,
    ) -> Result<(Brought, Option<Vec<u8>>)> {
        let (cover, target) = (self.cover().await, self.target());
        let own = own.map(|own| self.dir.path().join(own));
        let limits = Limits {
            most: Some(most),
            own,
            before_damage,
        };
        let brought = fetch_tail(&self.store, self.segment, &cover, &target, limits).await;
        let names = std::fs::read_dir(self.dir.path()).expect("listed").flatten();
        let left = names.filter(|entry| entry.file_name().to_string_lossy().contains("tmp"));
        assert_eq!(left.count(), 0, "no temporary file remains");
        let content = std::fs::read(&target).ok();
        let _ = std::fs::remove_file(&target);
        assert_eq!(content.is_some(), matches!(brought, Ok(Brought::Fetched(_))));
        brought.map(|brought| (brought, content))
    }

    /// The beginning of the segment, and zeros.
    fn padded(&self, end: usize) -> Vec<u8> {
        [&self.bytes[..end], &vec![0; SIZE_BYTES - end][..]].concat()
    }
}

const ALL: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_newest_epoch_has_is_put_together_and_padded() {
    let fixture = Fixture::new();
    // A crash: what comes after byte 5000 was written again.
    let mut older = fixture.bytes[..20_000].to_vec();
    older[5000..].fill(0x5A);
    fixture.put(fixture.chunk(1, 0, 20_000), zstd(&older)).await;
    // Small ones, and one that has taken their place but for one.
    for (start, end) in [(0, 100), (100, 10_000), (0, 12_345), (12_000, 14_000), (15_000, 16_000)] {
        fixture.store_chunk(2, start, end).await;
    }
    let (brought, content) = fixture.fetch(ALL, None).await.expect("fetched");
    assert_eq!(brought, Brought::Fetched(14_000));
    assert!(content.expect("there") == fixture.padded(14_000));

    // What is behind the fork is not given out.
    let (brought, content) = fixture.fetch(9000, None).await.expect("fetched");
    assert_eq!(brought, Brought::Fetched(9000));
    assert!(content.expect("there") == fixture.padded(9000));

    fixture.store_chunk(2, 14_000, 700_000).await;
    fixture.store_chunk(2, 700_000, SIZE_BYTES).await;
    let (brought, content) = fixture.fetch(ALL, None).await.expect("fetched");
    assert_eq!(brought, Brought::Fetched(SIZE_BYTES as u64));
    assert!(content.expect("there") == fixture.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_has_itself_is_not_replaced_by_less() {
    let fixture = Fixture::new();
    fixture.store_chunk(1, 0, 20_000).await;
    let own = async |content: &[u8]| {
        std::fs::write(fixture.dir.path().join("own"), content).expect("written");
        fixture.fetch(ALL, Some("own")).await.expect("fetched").0
    };
    let there = Brought::AlreadyThere;
    assert_eq!(own(&fixture.bytes).await, there, "saved from a dead server");
    assert_eq!(own(&fixture.padded(30_000)).await, there, "it came by streaming");
    assert_eq!(own(&fixture.padded(20_000)).await, there, "it was fetched before");
    let more = Brought::Fetched(20_000);
    assert_eq!(own(&fixture.padded(19_999)).await, more);
    assert_eq!(own(&fixture.next).await, more, "kept for later use");
    assert_eq!(own(b"").await, more);
    assert_eq!(fixture.fetch(ALL, Some("none")).await.expect("fetched").0, more);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_gone_are_looked_for_again() {
    let fixture = Fixture::new();
    fixture.store_chunk(1, 0, 10_000).await;
    fixture.store_chunk(1, 10_000, 20_000).await;
    let cover = fixture.cover().await;
    fixture
        .store
        .delete(&fixture.chunk(1, 10_000, 20_000).key())
        .await
        .expect("deleted");
    let brought = fetch_tail(
        &fixture.store,
        fixture.segment,
        &cover,
        &fixture.target(),
        Limits::default(),
    )
    .await;
    assert_eq!(brought.expect("asked"), Brought::Gone);
    assert!(!fixture.target().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_segment_goes_first() {
    let fixture = Fixture::new();
    // A repository without any backup or WAL is none.
    fixture.store.put(&layout::CLUSTER, "{}".into()).await.expect("stored");
    fixture.store_chunk(1, 0, 20_000).await;
    let asking = Asking {
        first: Format::Zstd,
        most: ALL,
        behind: None,
        expects_absence: false,
    };
    let ask = async || fetch_segment(&fixture.store, fixture.segment, &fixture.target(), asking).await;
    match ask().await.expect("asked") {
        Answer::Absent { tail, .. } => assert_eq!(tail.cover.expect("covers something").end(), 20_000),
        other => panic!("{other:?}"),
    }
    for format in [Format::Plain, Format::Zstd] {
        let key = layout::wal(&WalFileName::Segment(fixture.segment), format);
        let object = match format {
            Format::Plain => fixture.bytes.clone(),
            _ => zstd(&fixture.bytes),
        };
        fixture.store.put(&key, object.into()).await.expect("stored");
        assert!(matches!(ask().await, Ok(Answer::Fetched(_))), "{format:?}");
        fixture.store.delete(&key).await.expect("deleted");
    }
}

/// Each of these is an error that names the object, and no file comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn damage_and_lies_are_told() {
    let fixture = Fixture::new();
    let good = zstd(&fixture.bytes[..3 * PAGE]);
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    let attacks: Vec<(&str, (usize, usize), Vec<u8>)> = vec![
        ("nothing", (0, 3 * PAGE), Vec::new()),
        ("cut off", (0, 3 * PAGE), good[..good.len() - 1].to_vec()),
        ("a bit flipped", (0, 3 * PAGE), flipped),
        ("of another segment", (0, 3 * PAGE), zstd(&fixture.next[..3 * PAGE])),
        ("fewer bytes", (0, 4 * PAGE), good.clone()),
        ("more bytes", (0, 2 * PAGE), good.clone()),
        ("a bomb", (0, 3 * PAGE), zstd(&vec![0; 64 << 20])),
        ("more than a segment", (0, SIZE_BYTES + PAGE), {
            zstd(&[&fixture.bytes[..], &fixture.next[..PAGE]].concat())
        }),
        ("not even a header", (0, 30), zstd(&fixture.bytes[..30])),
        ("zeros", (0, 3 * PAGE), zstd(&[0; 3 * PAGE])),
    ];
    for (what, (start, end), object) in attacks {
        let chunk = fixture.chunk(1, start, end);
        fixture.put(chunk, object).await;
        let error = fixture.fetch(ALL, None).await.expect_err(what);
        assert!(
            matches!(error, Error::Damaged { .. }) && error.is_content(),
            "{what}: {error:?}"
        );
        fixture.store.delete(&chunk.key()).await.expect("deleted");
    }
    // The first one is well.
    fixture.put(fixture.chunk(1, 0, 3 * PAGE), good).await;
    let (end, next) = (5 * PAGE, &fixture.next);
    for (what, object) in [
        ("of another place", &fixture.bytes[4 * PAGE..6 * PAGE]),
        ("of another segment", &next[3 * PAGE..end]),
    ] {
        let chunk = fixture.chunk(1, 3 * PAGE, end);
        fixture.put(chunk, zstd(object)).await;
        let error = fixture.fetch(ALL, None).await.expect_err(what);
        let named = error.to_string();
        assert!(named.contains(&*chunk.key()), "{what}: {named}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("--allow-gap"), "{hint}");
        // Who goes on gets what is before.
        let (brought, content) = fixture.fetch_within(ALL, None, true).await.expect("fetched");
        assert_eq!(brought, Brought::Fetched(3 * PAGE as u64), "{what}");
        assert!(content.expect("there") == fixture.padded(3 * PAGE), "{what}");
    }
    fixture.put(fixture.chunk(1, 0, 3 * PAGE), "garbage").await;
    let (brought, _) = fixture.fetch_within(ALL, None, true).await.expect("fetched");
    assert_eq!(brought, Brought::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_another_cluster_is_refused() {
    let fixture = Fixture::new();
    fixture.store_chunk(1, 0, 20_000).await;
    let data_dir = fixture.dir.path().join("data");
    for name in ["global", "pg_wal"] {
        std::fs::create_dir_all(data_dir.join(name)).expect("created");
    }
    let mut control = crate::control_file::tests::sample(SIZE_BYTES as u32, 288);
    control[0] ^= 1;
    let sum = crc32c::crc32c(&control[..288]);
    control[288..292].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(data_dir.join("global/pg_control"), control).expect("written");
    let (cover, target) = (fixture.cover().await, data_dir.join("pg_wal/RECOVERYXLOG"));
    let error = fetch_tail(&fixture.store, fixture.segment, &cover, &target, Limits::default()).await;
    let detail = error.expect_err("refused").detail().unwrap_or_default();
    assert!(detail.contains("system identifier"), "{detail}");
}

/// Chunks are encrypted as whole segments are: what somebody has meddled with, or has put there in plain text, is not read.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_chunks_are_read_and_attacks_on_them_are_told() {
    for method in [Method::Libsodium, Method::OpenPgp] {
        let place = Place::new();
        let store = place.store(None, &["a", "secret"]);
        store.put(&layout::CLUSTER, "{}".into()).await.expect("stored");
        let fixture = Fixture::on(store);
        let plain = zstd(&fixture.bytes[..300_000]);
        let object = match method {
            Method::Libsodium => by_libsodium(&plain, KEY),
            Method::OpenPgp => by_openpgp(&plain, PUBLIC),
        };
        let chunk = fixture.chunk(1, 0, 300_000);
        fixture.put(chunk, object.clone()).await;
        let (brought, content) = fixture.fetch(ALL, None).await.expect("fetched");
        assert_eq!(brought, Brought::Fetched(300_000));
        assert!(content.expect("there") == fixture.padded(300_000));
        let plain: Named = ("in plain text", plain);
        for (what, attacked) in attacks_on(&object, method).into_iter().chain([plain]) {
            fixture.put(chunk, attacked).await;
            let error = fixture.fetch(ALL, None).await.expect_err(what);
            assert!(error.is_content(), "{method:?} {what}: {error:?}");
        }
        // Somebody without a key.
        fixture.put(chunk, object).await;
        let without = Fixture {
            store: place.store(None, &[]),
            ..fixture
        };
        let error = without.fetch(ALL, None).await.expect_err("refused");
        assert!(error.asks_for_a_key(), "{method:?}: {error:?}");
    }
}
