use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::*;
use crate::cluster::ClusterIdentity;
use crate::codec::{Compression, Format};
use crate::error::Error;
use crate::layout;
use crate::storage::Store;
use crate::wal::{SegmentSize, WalFileName};

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
async fn an_unreadable_object_under_the_name_is_not_overwritten() {
    let fixture = Fixture::new();
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
            fixture.store.list(layout::WAL_FOLDER).await.expect("listed"),
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
    assert!(matches!(fixture.fetch().await, Err(Error::NotFound { .. })));
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
