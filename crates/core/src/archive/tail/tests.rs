use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tempfile::TempDir;
use walarchive_storage::Store;
use walarchive_testkit::meddler::{Act, Meddler, Op};

use super::{Position, Shipped, Shipper};
use crate::archive::Archive;
use crate::codec::Compression;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::objects::{Form, read_into};
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::{self, TailChunk};
use crate::repository::tail::Cover;
use crate::wal::generator::{self, SIZE_BYTES, SYSTEM_IDENTIFIER};
use crate::wal::{Segment, WalFileName};

mod content;

const FIRST: u64 = 3;

/// A server's `pg_wal`, and its repository.
struct Server {
    pg_wal: TempDir,
    objects: Arc<InMemory>,
    meddler: Meddler,
    timeline: u32,
    wal: Vec<(Segment, Vec<u8>)>,
}

impl Server {
    fn new() -> Self {
        let pg_wal = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(pg_wal.path().join("archive_status")).expect("created");
        let wal = generator::segments(1, FIRST, 5);
        for (segment, content) in &wal {
            std::fs::write(pg_wal.path().join(segment.to_string()), content).expect("written");
        }
        let objects = Arc::new(InMemory::new());
        Server {
            pg_wal,
            meddler: Meddler::new(Arc::clone(&objects)),
            objects,
            timeline: 1,
            wal,
        }
    }

    fn store(&self) -> Store {
        Store::of(Arc::new(self.meddler.clone()), "memory:")
    }

    fn archive(&self, compression: Compression) -> Arc<Archive> {
        Arc::new(Archive::new(self.store(), self.identity(), compression))
    }

    fn identity(&self) -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: SYSTEM_IDENTIFIER,
            major_version: 15,
            segment_size: generator::size(),
        }
    }

    fn shipper(&self) -> Shipper {
        Shipper::new(self.archive(Compression::Zstd(1)), self.pg_wal.path().to_owned())
    }

    fn segment(&self, number: u64) -> Segment {
        Segment::from_number(self.timeline, number, generator::size())
    }

    fn at(&self, number: u64, offset: u64) -> Position {
        Position {
            timeline: self.timeline,
            flushed: Lsn(number * SIZE_BYTES as u64 + offset),
        }
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.pg_wal.path().join("archive_status").join(format!("{name}.ready"))
    }

    fn is_complete(&self, number: u64) {
        std::fs::write(self.mark(&self.segment(number).to_string()), "").expect("written");
    }

    /// As the archiver does.
    async fn archives(&self, number: u64, compression: Compression) {
        let segment = self.segment(number);
        let pushed = self.archive(compression);
        pushed
            .push(self.pg_wal.path(), &WalFileName::Segment(segment))
            .await
            .expect("archived");
        self.is_done(number);
    }

    fn is_done(&self, number: u64) {
        let ready = self.mark(&self.segment(number).to_string());
        std::fs::rename(&ready, ready.with_extension("done")).expect("renamed");
    }

    async fn chunks(&self) -> Vec<TailChunk> {
        let listed = self.store().list(&layout::TAIL_FOLDER).await.expect("listed");
        let mut chunks: Vec<_> = listed
            .iter()
            .filter_map(|object| TailChunk::of_key(&object.key))
            .collect();
        chunks.sort();
        chunks
    }

    /// So many bytes of a segment can be had from the tail, and they are the right ones.
    async fn covered(&self, number: u64) -> u64 {
        let segment = self.segment(number);
        let Some(cover) = Cover::find(&self.store(), segment).await.expect("listed") else {
            return 0;
        };
        let (_, content) = &self.wal[(number - FIRST) as usize];
        for chunk in &cover.chunks {
            let (_, bytes) = read_into(&self.store(), &chunk.key(), Form::Plain, Vec::new(), "memory")
                .await
                .expect("read");
            assert!(
                bytes == content[chunk.start as usize..chunk.end as usize],
                "{} has other bytes",
                chunk.key()
            );
        }
        cover.end()
    }
}

async fn ship(shipper: &mut Shipper, position: Position) -> Shipped {
    shipper.ship(position).await.expect("shipped")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_flushed_is_stored_and_nothing_twice() {
    let server = Server::new();
    let mut shipper = server.shipper();
    let shipped = ship(&mut shipper, server.at(3, 5000)).await;
    assert_eq!((shipped.epoch, shipped.timeline), (1, 1));
    assert_eq!(shipped.stored, server.at(3, 5000).flushed);
    assert_eq!(shipped.safe, Some(shipped.stored));
    ship(&mut shipper, server.at(3, 5001)).await;
    assert_eq!(server.covered(3).await, 5001);
    let spans: Vec<_> = server
        .chunks()
        .await
        .iter()
        .map(|chunk| (chunk.start, chunk.end))
        .collect();
    assert_eq!(spans, [(0, 5000), (5000, 5001)]);

    let written = shipped.bytes;
    assert!(written > 0);
    server.meddler.rule(|op, _| match op {
        Op::Put => Act::Fail,
        _ => Act::Pass,
    });
    let again = ship(&mut shipper, server.at(3, 5001)).await;
    assert_eq!((again.bytes, again.stored), (0, server.at(3, 5001).flushed));
    // One that comes late.
    assert_eq!(ship(&mut shipper, server.at(3, 4000)).await, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_segment_comes_before_the_next_one() {
    let server = Server::new();
    let mut shipper = server.shipper();
    ship(&mut shipper, server.at(3, 5000)).await;
    server.is_complete(3);
    let segment = server.segment(3).to_string();
    server
        .meddler
        .rule(move |op, key| match op == Op::Put && key.contains(&segment) {
            true => Act::Fail,
            false => Act::Pass,
        });
    shipper.ship(server.at(4, 70)).await.expect_err("it fails");
    assert_eq!((server.covered(3).await, server.covered(4).await), (5000, 0));
    server.meddler.rule(|_, _| Act::Pass);
    let shipped = ship(&mut shipper, server.at(4, 70)).await;
    assert_eq!(server.covered(3).await, SIZE_BYTES as u64);
    assert_eq!(server.covered(4).await, 70);
    assert_eq!(shipped.safe, Some(server.at(4, 70).flushed));

    // Of one that is archived by then the end is not needed.
    server.is_complete(4);
    server.archives(4, Compression::Zstd(1)).await;
    std::fs::remove_file(server.pg_wal.path().join(server.segment(4).to_string())).expect("removed");
    let shipped = ship(&mut shipper, server.at(5, 70)).await;
    assert_eq!(server.covered(4).await, 70);
    assert_eq!(shipped.safe, Some(server.at(5, 70).flushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_is_safe_when_it_is_archived() {
    let server = Server::new();
    let mut shipper = server.shipper();
    ship(&mut shipper, server.at(3, 5000)).await;
    for number in 3..6 {
        server.is_complete(number);
    }
    let position = server.at(6, 9000);
    let shipped = ship(&mut shipper, position).await;
    assert_eq!(shipped.safe, Some(server.at(3, 5000).flushed), "it never goes back");
    // What is behind them is of no use before.
    assert_eq!(
        (shipped.bytes, server.covered(4).await, server.covered(6).await),
        (0, 0, 0)
    );
    for (number, safe) in [(3, server.at(4, 0)), (4, server.at(5, 0)), (5, position)] {
        server.archives(number, Compression::Zstd(1)).await;
        assert_eq!(ship(&mut shipper, position).await.safe, Some(safe.flushed), "{number}");
    }
    assert_eq!((server.covered(4).await, server.covered(6).await), (0, 9000));
}

/// A crash came before it could be marked as ready, and PostgreSQL does that later.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_without_a_mark_is_not_taken_for_archived() {
    let server = Server::new();
    let mut shipper = server.shipper();
    for number in [5, 4] {
        let shipped = ship(&mut server.shipper(), server.at(number, 100)).await;
        assert_eq!((shipped.safe, shipped.bytes), (Some(server.at(3, 0).flushed), 0));
    }
    server.is_complete(3);
    server.archives(3, Compression::Zstd(1)).await;
    assert_eq!(
        ship(&mut shipper, server.at(4, 100)).await.safe,
        Some(server.at(4, 100).flushed)
    );
    ship(&mut shipper, server.at(5, 100)).await;
    assert_eq!(server.covered(4).await, SIZE_BYTES as u64);
    // Its file is gone: it is done.
    std::fs::remove_file(server.pg_wal.path().join(server.segment(4).to_string())).expect("removed");
    let shipped = ship(&mut server.shipper(), server.at(5, 100)).await;
    assert_eq!(shipped.safe, Some(server.at(5, 100).flushed));
}

/// Its disks have lost what was flushed, or it is an older copy: the store has the only one.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_behind_the_store_replaces_nothing() {
    let server = Server::new();
    server.is_complete(3);
    server.archives(3, Compression::Zstd(1)).await;
    ship(&mut server.shipper(), server.at(4, 5000)).await;
    let before = server.chunks().await;
    for position in [server.at(4, 4999), server.at(3, 5000)] {
        let mut shipper = server.shipper();
        let error = shipper.ship(position).await.expect_err("it is behind");
        assert!(
            matches!(error, Error::Refused { .. }) && !error.is_transient(),
            "{error:?}"
        );
        let hint = error.hint().unwrap_or_default();
        assert!(
            error.to_string().contains("this server only up to 0/")
                && hint.contains(&*layout::tail_of(server.segment(4))),
            "{error}: {hint}"
        );
        shipper.cleaner().clean().await.expect("cleaned");
    }
    assert_eq!(server.chunks().await, before);
    let epochs = server.store().list(&layout::TAIL_EPOCHS_FOLDER).await.expect("listed");
    assert_eq!(epochs.len(), 1, "none is begun");
    assert_eq!(ship(&mut server.shipper(), server.at(4, 5000)).await.epoch, 2);
}

/// Its WAL was archived, and elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_lacks_is_told() {
    let server = Server::new();
    server.is_complete(3);
    server.is_done(3);
    // A new archive begins somewhere.
    assert_eq!(ship(&mut server.shipper(), server.at(4, 5000)).await.gap, None);
    let backup = layout::sentinel("base_000000010000000000000002");
    server.store().put(&backup, "{}".into()).await.expect("written");
    let mut shipper = server.shipper();
    let shipped = ship(&mut shipper, server.at(4, 5000)).await;
    assert_eq!(
        (shipped.gap, shipped.safe),
        (Some(server.segment(3)), Some(shipped.stored))
    );
    server.is_complete(4);
    assert!(ship(&mut shipper, server.at(5, 100)).await.gap.is_some());
    server.archives(4, Compression::Zstd(1)).await;
    assert_eq!(ship(&mut shipper, server.at(5, 200)).await.gap, None);
    assert_eq!(ship(&mut server.shipper(), server.at(5, 200)).await.gap, None);
    // The segment before is of the timeline before.
    std::fs::write(
        server.pg_wal.path().join("00000002.history"),
        "1\t0/500100\tno recovery target\n",
    )
    .expect("written");
    let name = |timeline| Segment::from_number(timeline, 5, generator::size()).to_string();
    std::fs::copy(server.pg_wal.path().join(name(1)), server.pg_wal.path().join(name(2))).expect("copied");
    let promoted = Position {
        timeline: 2,
        flushed: server.at(5, 300).flushed,
    };
    assert_eq!(ship(&mut server.shipper(), promoted).await.gap, None);
}

/// Everything was deleted on purpose.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_begins_anew_has_no_chunks() {
    let server = Server::new();
    let archive = server.archive(Compression::Zstd(1));
    let mut shipper = Shipper::new(Arc::clone(&archive), server.pg_wal.path().to_owned());
    ship(&mut shipper, server.at(3, 5000)).await;
    for chunk in server.chunks().await {
        server.store().delete(&chunk.key()).await.expect("deleted");
    }
    archive.note_begun_anew();
    ship(&mut shipper, server.at(3, 6000)).await;
    assert_eq!(server.covered(3).await, 6000);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_safe_before_the_history_of_the_timeline_is_there() {
    let server = Server::new();
    let history = server.mark("00000001.history");
    std::fs::write(&history, "").expect("written");
    std::fs::write(server.mark("000000010000000000000003.00000028.backup"), "").expect("written");
    let mut shipper = server.shipper();
    let shipped = ship(&mut shipper, server.at(3, 5000)).await;
    assert_eq!((shipped.bytes, shipped.safe), (0, None));
    std::fs::remove_file(history).expect("removed");
    assert_eq!(
        ship(&mut shipper, server.at(3, 5000)).await.safe,
        Some(server.at(3, 5000).flushed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_start_is_a_higher_epoch() {
    let server = Server::new();
    ship(&mut server.shipper(), server.at(3, 5000)).await;
    let mut second = server.shipper();
    assert_eq!(ship(&mut second, server.at(3, 6000)).await.epoch, 2);
    assert_eq!(server.covered(3).await, 6000);
    second.cleaner().clean().await.expect("cleaned");
    assert!(server.chunks().await.iter().all(|chunk| chunk.epoch == 2));
    let epochs = server.store().list(&layout::TAIL_EPOCHS_FOLDER).await.expect("listed");
    assert_eq!(epochs.len(), 1);
    // Even if the number was lost, one that chunks bear is not used again.
    server.store().delete(&epochs[0].key).await.expect("deleted");
    assert_eq!(ship(&mut server.shipper(), server.at(3, 6000)).await.epoch, 3);
    // Another one takes the number first.
    let (fourth, objects) = (layout::tail_epoch(4), Arc::clone(&server.objects));
    server.meddler.rule(move |op, key| {
        if op == Op::Put && key == &*fourth {
            let taken = objects.put(&key.into(), "{}".into()).now_or_never();
            taken.expect("at once").expect("written");
        }
        Act::Pass
    });
    assert_eq!(ship(&mut server.shipper(), server.at(3, 6000)).await.epoch, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_in_the_same_epoch() {
    let server = Server::new();
    let shipped = ship(&mut server.shipper(), server.at(3, 5000)).await;
    server.is_complete(3);
    let mut last = Shipper::resume(
        server.archive(Compression::Lz4),
        server.pg_wal.path().to_owned(),
        shipped,
    );
    assert_eq!(ship(&mut last, server.at(4, 152)).await.epoch, 1);
    assert_eq!(
        (server.covered(3).await, server.covered(4).await),
        (SIZE_BYTES as u64, 152)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_waits_for_the_same_segments() {
    let server = Server::new();
    server.is_complete(3);
    let shipped = ship(&mut server.shipper(), server.at(4, 100)).await;
    let resume = || {
        let archive = server.archive(Compression::Zstd(1));
        Shipper::resume(archive, server.pg_wal.path().to_owned(), shipped)
    };
    let again = ship(&mut resume(), server.at(4, 200)).await;
    assert_eq!((again.safe, again.bytes), (Some(server.at(3, 0).flushed), 0));
    server.archives(3, Compression::Zstd(1)).await;
    let again = ship(&mut resume(), server.at(4, 200)).await;
    assert_eq!(again.safe, Some(server.at(4, 200).flushed));
    assert_eq!(server.covered(4).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_not_known_counts_as_not_stored() {
    let server = Server::new();
    let mut shipper = server.shipper();
    ship(&mut shipper, server.at(3, 5000)).await;
    for act in [Act::Lose, Act::Fail] {
        let act = act.clone();
        server.meddler.rule(move |op, _| match op {
            Op::Put => act.clone(),
            _ => Act::Pass,
        });
        let error = shipper.ship(server.at(3, 6000)).await.expect_err("it fails");
        assert!(error.is_transient(), "{error:?}");
    }
    server.meddler.rule(|_, _| Act::Pass);
    let shipped = ship(&mut shipper, server.at(3, 7000)).await;
    assert_eq!(shipped.safe, Some(server.at(3, 7000).flushed));
    assert_eq!(server.covered(3).await, 7000);
    shipper.cleaner().clean().await.expect("cleaned");
    let spans: Vec<_> = server
        .chunks()
        .await
        .iter()
        .map(|chunk| (chunk.start, chunk.end))
        .collect();
    assert_eq!(spans, [(0, 5000), (5000, 7000)], "the one without an answer is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_chunks_become_one() {
    let server = Server::new();
    let mut shipper = server.shipper();
    for number in 1..=200 {
        ship(&mut shipper, server.at(3, number * 100)).await;
    }
    shipper.cleaner().clean().await.expect("cleaned");
    assert_eq!(server.chunks().await.len(), 3 + 200 % 64);
    assert_eq!(server.covered(3).await, 20_000);
}
