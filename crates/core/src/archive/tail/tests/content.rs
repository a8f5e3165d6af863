//! What chunks have, how they are made, and when they go.

use std::sync::Arc;

use walarchive_storage::crypt::Method;

use super::{FIRST, Server, ship};
use crate::archive::Archive;
use crate::archive::tail::{Cleaner, Shipper};
use crate::codec::Compression;
use crate::error::Error;
use crate::objects::{Form, read_into};
use crate::repository::encryption::fixture::Place;
use crate::repository::layout;
use crate::repository::tail::Cover;
use crate::wal::WalFileName;
use crate::wal::generator::SIZE_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_when_the_whole_segment_is_there_and_not_before() {
    let server = Server::new();
    ship(&mut server.shipper(), server.at(3, 5000)).await;
    let mut shipper = server.shipper();
    ship(&mut shipper, server.at(3, 6000)).await;
    server.is_complete(3);
    ship(&mut shipper, server.at(4, 100)).await;
    let cleaner: Cleaner = shipper.cleaner();
    cleaner.clean().await.expect("cleaned");
    assert_eq!(server.covered(3).await, SIZE_BYTES as u64, "it waits to be archived");
    assert!(!cleaner.has_work());
    // Compressed in another way, by a setting of before.
    server.archives(3, Compression::Lz4).await;
    assert!(cleaner.has_work());
    cleaner.clean().await.expect("cleaned");
    assert_eq!((server.covered(3).await, server.covered(4).await), (0, 100));
    assert!(!cleaner.has_work());

    // Something says that it is archived, and the store does not have it.
    server.is_complete(4);
    ship(&mut shipper, server.at(5, 100)).await;
    server.is_done(4);
    cleaner.clean().await.expect("cleaned");
    assert_eq!(server.covered(4).await, SIZE_BYTES as u64);

    // What is left is found by the next start.
    server.is_complete(4);
    server.archives(4, Compression::Zstd(1)).await;
    let mut next = server.shipper();
    ship(&mut next, server.at(5, 200)).await;
    next.cleaner().clean().await.expect("cleaned");
    assert_eq!((server.covered(4).await, server.covered(5).await), (0, 200));
    assert!(
        server
            .store()
            .size(&format!("wal_005/{}.lz4", server.segment(3)))
            .await
            .expect("asked")
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_segment_is_not_shipped() {
    let server = Server::new();
    let path = |number| server.pg_wal.path().join(server.segment(number).to_string());
    let mut shipper = server.shipper();
    std::fs::copy(path(4), path(3)).expect("copied");
    let error = shipper.ship(server.at(3, 5000)).await.expect_err("another segment");
    assert!(matches!(error, Error::InvalidWal { .. }), "{error:?}");
    // Pages that are of an older segment behind those that were written.
    let mut mixed = server.wal[0].1.clone();
    mixed[16384..].copy_from_slice(&server.wal[1].1[16384..]);
    std::fs::write(path(3), &mixed).expect("written");
    ship(&mut shipper, server.at(3, 16384)).await;
    let error = shipper.ship(server.at(3, 30_000)).await.expect_err("another page");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("says that it is at")),
        "{error:?}"
    );
    assert_eq!(server.covered(3).await, 16384);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_encrypted_as_wal_is() {
    let (server, place) = (Server::new(), Place::new());
    for (method, key) in [(Method::Libsodium, "a"), (Method::OpenPgp, "public")] {
        let name = format!("{method:?}");
        let store = place.store_at(&name, Some(method), &[key], false);
        let archive = Archive::new(store, server.identity(), Compression::Lz4);
        let mut shipper = Shipper::new(Arc::new(archive), server.pg_wal.path().to_owned());
        ship(&mut shipper, server.at(3, 5000)).await;
        let (reader, thief) = (
            place.store_at(&name, None, &["a", "secret"], false),
            place.store_at(&name, None, &[], false),
        );
        let cover = Cover::find(&thief, server.segment(3)).await.expect("listed");
        let key = cover.expect("covered").chunks[0].key();
        let (_, read) = read_into(&reader, &key, Form::Plain, Vec::new(), "memory")
            .await
            .expect("read");
        assert!(read == server.wal[0].1[..5000]);
        read_into(&thief, &key, Form::Plain, Vec::new(), "memory")
            .await
            .expect_err("without the key it is nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_segment_begins_with_what_was_compressed_for_the_tail() {
    let server = Server::new();
    let archive = server.archive(Compression::Zstd(1));
    let mut shipper = Shipper::new(Arc::clone(&archive), server.pg_wal.path().to_owned());
    shipper.ship(server.at(FIRST, 20_000)).await.expect("shipped");
    shipper.ship(server.at(FIRST, 50_000)).await.expect("shipped");
    let mut begins = Vec::new();
    for chunk in server.chunks().await {
        let chunk = server.store().get(&chunk.key(), 1 << 20).await.expect("asked");
        begins.extend(chunk.expect("stored"));
    }
    let name = WalFileName::Segment(server.segment(FIRST));
    archive.push(server.pg_wal.path(), &name).await.expect("archived");
    let key = layout::wal(&name, archive.compression().format());
    let whole = server.store().get(&key, 1 << 20).await.expect("asked").expect("stored");
    assert!(!begins.is_empty() && whole.starts_with(&begins));
    let read = zstd::decode_all(&*whole).expect("decompressed");
    assert!(read == server.wal[0].1);
}
