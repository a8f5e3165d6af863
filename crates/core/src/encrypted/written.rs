//! What is archived in an encrypted repository: it reads back with the key, is nothing without it, and no attack on it passes.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use walarchive_storage::Created;
use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};

use super::attacks::attacks_on;
use super::*;
use crate::archive::{Archive, Pushed, fetch};
use crate::codec::Compression;
use crate::objects::{Existing, Form, Sealing, read_into, write_from};
use crate::repository::cluster::ClusterIdentity;
use crate::repository::encryption::fixture::{Place, identity};
use crate::repository::encryption::{self, State};
use crate::repository::inventory::{Inventory, read_history};
use crate::repository::unread;
use crate::verify::{Selection, verify_content};

const SEGMENT: &str = "000000010000000000000003";
const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";
const MB: usize = 1 << 20;

type Writer<'a> = (Option<Method>, &'a [&'a str]);

const PLAIN: Writer<'_> = (None, &[]);
const A: Writer<'_> = (Some(Libsodium), &["a"]);
const SECRET: Writer<'_> = (Some(OpenPgp), &["secret"]);
const WITH_PUBLIC: Writer<'_> = (Some(OpenPgp), &["public"]);

fn segment(number: u64, fill: u8) -> Vec<u8> {
    let mut state = u32::from(fill) + 7;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(MB)
    .collect();
    head(&mut bytes, number * MB as u64, MB as u32);
    bytes
}

fn head(bytes: &mut [u8], address: u64, segment_bytes: u32) {
    bytes[..40].fill(0);
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2] = 2;
    bytes[4] = 1;
    bytes[8..16].copy_from_slice(&address.to_le_bytes());
    bytes[24] = 7;
    bytes[32..36].copy_from_slice(&segment_bytes.to_le_bytes());
}

struct Server<'a> {
    place: &'a Place,
    archive: Archive,
}

impl<'a> Server<'a> {
    fn new(place: &'a Place, (writes, keys): Writer<'_>, compression: Compression) -> Self {
        std::fs::create_dir_all(place.path("pg_wal")).expect("made");
        let archive = Archive::new(place.store(writes, keys), identity(), compression);
        Server { place, archive }
    }

    async fn push(&self, name: &str, content: &[u8]) -> Result<Pushed> {
        let directory = self.place.path("pg_wal");
        std::fs::write(directory.join(name), content).expect("written");
        self.archive.push(&directory, &name.parse().expect("a name")).await
    }

    async fn fetch(&self, name: &str) -> Result<Vec<u8>> {
        let target = self.place.path("target");
        let fetched = fetch(
            self.archive.store(),
            &name.parse().expect("a name"),
            &target,
            Format::Zstd,
        )
        .await;
        assert_eq!(
            target.exists(),
            fetched.is_ok(),
            "what has not proved right has no name"
        );
        fetched?;
        let content = std::fs::read(&target).expect("read");
        std::fs::remove_file(&target).expect("removed");
        Ok(content)
    }

    async fn stored(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let store = self.place.store(None, &[]);
        let mut found = Vec::new();
        for object in store.list(folder).await.expect("listed") {
            let content = store.get(&object.key, u64::MAX).await.expect("read").expect("there");
            found.push((object.key, content.to_vec()));
        }
        found
    }

    async fn wal(&self) -> Vec<(String, Vec<u8>)> {
        self.stored(&layout::WAL_FOLDER).await
    }

    async fn digests(&self) -> Vec<String> {
        let found = self.stored(&layout::DIGESTS_FOLDER).await;
        found.into_iter().map(|(key, _)| key).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_is_sealed_and_attacks_on_it_are_told() {
    let files = [
        (SEGMENT, segment(3, 1)),
        ("000000010000000000000004.partial", segment(4, 2)),
        ("00000002.history", HISTORY.to_vec()),
        (
            "000000010000000000000003.00000028.backup",
            b"START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n".to_vec(),
        ),
    ];
    for (writer, method) in [(A, Libsodium), (SECRET, OpenPgp)] {
        for compression in [
            Compression::Zstd(1),
            Compression::Lz4,
            Compression::Brotli(1),
            Compression::Plain,
        ] {
            let place = Place::new();
            let server = Server::new(&place, writer, compression);
            for (name, content) in &files {
                assert!(!server.push(name, content).await.expect(name).already_there);
                assert!(
                    server.push(name, content).await.expect(name).already_there,
                    "{name} again"
                );
                assert!(server.fetch(name).await.expect(name) == *content, "{name}");
            }
            assert_eq!(server.digests().await, [""; 0], "it can be read here");
            let blind = Server::new(&place, PLAIN, compression);
            for (key, object) in server.wal().await {
                assert!(!is_plain(&key, &object), "{key} is in plain text");
                let (name, _) = layout::wal_of_object(&key).expect("WAL");
                let name = name.to_string();
                blind.fetch(&name).await.expect_err("there is no key");
                for (attack, meddled) in attacks_on(&object, method) {
                    server.archive.store().put(&key, meddled.into()).await.expect("stored");
                    let error = server.fetch(&name).await.map(drop).expect_err(attack);
                    assert!(error.is_content(), "{method} {compression:?} {key} {attack}: {error}");
                }
                server.archive.store().put(&key, object.into()).await.expect("stored");
            }
            let error = server.push(SEGMENT, &segment(3, 9)).await.expect_err("other content");
            assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_goes_in_parts_is_sealed_too() {
    const BYTES: usize = 128 << 20;
    let identity = ClusterIdentity {
        segment_size: SegmentSize::new(BYTES as u64).expect("a size"),
        ..identity()
    };
    for (writer, digests) in [(A, 0), (SECRET, 0), (WITH_PUBLIC, 1)] {
        let place = Place::new();
        let (wal, name) = (place.path("pg_wal"), "000000010000000000000001");
        std::fs::create_dir(&wal).expect("made");
        let file = std::fs::File::create(wal.join(name)).expect("made");
        file.set_len(BYTES as u64).expect("long");
        let mut first = [0; 40];
        head(&mut first, BYTES as u64, BYTES as u32);
        file.write_all_at(&first, 0).expect("written");
        let archive =
            |writer: Writer<'_>| Archive::new(place.store(writer.0, writer.1), identity, Compression::Zstd(1));
        let name = name.parse().expect("a name");
        let pushed = archive(writer).push(&wal, &name).await.expect("pushed");
        let key = layout::wal(&name, Format::Zstd);
        let store = place.store(None, &["secret", "a"]);
        let stored = store.get(&key, u64::MAX).await.expect("read").expect("there");
        assert!(!is_plain(&key, &stored) && !pushed.already_there);
        assert_eq!(pushed.stored_bytes, stored.len() as u64, "{writer:?}");
        let (bytes, _) = read_into(&store, &key, Form::Plain, std::io::sink(), "memory")
            .await
            .expect("read");
        assert_eq!(bytes, BYTES as u64);
        let noted = store.list(&layout::DIGESTS_FOLDER).await.expect("listed");
        assert_eq!(noted.len(), digests, "{writer:?}");
        assert!(archive(writer).push(&wal, &name).await.expect("again").already_there);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_writes_in_plain_text_stops_once_encryption_is_on() {
    let place = Place::new();
    let server = Server::new(&place, PLAIN, Compression::Zstd(1));
    server.push(SEGMENT, &segment(3, 1)).await.expect("pushed");
    encryption::settle(&place.store(A.0, A.1)).await.expect("turned on");
    server.archive.forget_agreement();
    let next = "000000010000000000000004";
    let error = server.push(next, &segment(4, 1)).await.expect_err("refused");
    assert!(error.to_string().contains("in plain text"), "{error}");
    assert_eq!(server.wal().await.len(), 1, "it was stored all the same");
    // One that has the key goes on, and reads what was there if that is permitted.
    let store = place.store_at("store", A.0, A.1, true);
    let archive = Archive::new(store, identity(), Compression::Zstd(1));
    let wal = place.path("pg_wal");
    let pushed = archive
        .push(&wal, &next.parse().expect("a name"))
        .await
        .expect("pushed");
    let again = archive
        .push(&wal, &SEGMENT.parse().expect("a name"))
        .await
        .expect("the same");
    assert!(!pushed.already_there && again.already_there);
    assert_eq!(server.wal().await.len(), 2, "nothing is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_read_again_it_is_known_by_what_was_written_down() {
    let place = Place::new();
    let server = Server::new(&place, WITH_PUBLIC, Compression::Zstd(1));
    let content = segment(3, 1);
    server.push(SEGMENT, &content).await.expect("pushed");
    let noted = server.digests().await;
    assert!(noted.len() == 1 && noted[0].contains(SEGMENT), "{noted:?}");
    let again = Server::new(&place, WITH_PUBLIC, Compression::Zstd(1));
    assert!(again.push(SEGMENT, &content).await.expect("the same").already_there);
    let lz4 = Server::new(&place, WITH_PUBLIC, Compression::Lz4);
    assert!(
        lz4.push(SEGMENT, &content)
            .await
            .expect("under another name")
            .already_there
    );
    assert_eq!(server.digests().await, noted, "nothing is left of the attempts");
    let error = again.push(SEGMENT, &segment(3, 2)).await.expect_err("other content");
    assert!(
        matches!(&error, Error::Conflict { reason, .. } if reason.contains("digest")),
        "{error:?}"
    );
    // It is not what was stored.
    let (key, object) = server.wal().await.remove(0);
    let meddled = attacks_on(&object, OpenPgp).remove(0).1;
    server.archive.store().put(&key, meddled.into()).await.expect("stored");
    again.push(SEGMENT, &content).await.expect_err("it is another object");
    server.archive.store().put(&key, object.into()).await.expect("stored");
    // Nothing is written down about it, so nobody can tell.
    server.archive.store().delete(&noted[0]).await.expect("deleted");
    let error = again.push(SEGMENT, &content).await.expect_err("unknown");
    assert!(
        matches!(&error, Error::Conflict { reason, .. } if reason.contains("cannot be compared")),
        "{error:?}"
    );
    assert_eq!(server.wal().await.len(), 1);
    // Whoever has the secret key compares the content.
    let with_secret = Server::new(&place, SECRET, Compression::Zstd(1));
    assert!(
        with_secret
            .push(SEGMENT, &content)
            .await
            .expect("the same")
            .already_there
    );
    assert!(with_secret.fetch(SEGMENT).await.expect("fetched") == content);
}

/// A crash between the digest and the object leaves a digest that is of no use, and does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_without_its_object_stays_until_the_segment_goes() {
    let place = Place::new();
    let server = Server::new(&place, WITH_PUBLIC, Compression::Zstd(1));
    let (name, content): (WalFileName, _) = (SEGMENT.parse().expect("a name"), segment(3, 1));
    let left = unread::Digest {
        digest: "00".to_owned(),
        bytes: 1,
    };
    let store = server.archive.store();
    unread::write_digest(store, &name, &[1; 32], &left)
        .await
        .expect("written");
    server.push(SEGMENT, &content).await.expect("pushed");
    assert!(server.push(SEGMENT, &content).await.expect("again").already_there);
    assert_eq!(server.digests().await.len(), 2);
    let other = "000000010000000000000004";
    server.push(other, &segment(4, 1)).await.expect("pushed");
    unread::forget(store, &[name]).await.expect("forgotten");
    let noted = server.digests().await;
    assert!(noted.len() == 1 && noted[0].contains(other), "{noted:?}");
    // Of one that was never stored, after a day.
    let old = layout::digest(&"000000010000000000000009".parse().expect("a name"), &[1; 32]);
    store.put(&old, "{}".into()).await.expect("written");
    unread::forget(store, &[name]).await.expect("forgotten");
    assert_eq!(server.digests().await.len(), 2, "it may be on its way");
    let file = std::fs::File::options()
        .write(true)
        .open(place.path("store").join(&*old));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    file.expect("opened").set_modified(long_ago).expect("aged");
    unread::forget(store, &[name]).await.expect("forgotten");
    assert_eq!(server.digests().await, noted);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_timeline_comes_from_is_known_without_the_secret_key() {
    let place = Place::new();
    let server = Server::new(&place, WITH_PUBLIC, Compression::Zstd(1));
    server.push("00000002.history", HISTORY).await.expect("pushed");
    for (writer, says) in [
        (WITH_PUBLIC, "1\t0/3000000\n"),
        (PLAIN, "1\t0/3000000\n"),
        ((None, &["a"][..]), "1\t0/3000000\n"),
        ((None, &["secret"][..]), "1\t0/3000000\tno recovery target specified\n"),
    ] {
        let text = read_history(&place.store(writer.0, writer.1), 2).await.expect("read");
        assert_eq!(text.as_deref(), Some(says), "{writer:?}");
    }
    let store = server.archive.store();
    let inventory = Inventory::load(store).await.expect("loaded");
    assert!(inventory.damaged_histories.is_empty() && inventory.histories.contains_key(&2));
    let error = verify_content(store, &inventory, Selection::All, Arc::default())
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("cannot be verified here"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("secret key")));
    // Nobody believes what makes no sense.
    for note in [
        "{}",
        "{\"parents\": []}",
        "{\"parents\": [{\"timeline\": 3, \"switch\": \"0/1\"}]}",
    ] {
        store.put(&layout::timeline(2), note.into()).await.expect("written");
        read_history(store, 2).await.expect_err(note);
    }
    unread::forget(store, &[WalFileName::History(2)])
        .await
        .expect("forgotten");
    assert_eq!(store.list(&layout::TIMELINES_FOLDER).await.expect("listed"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_put_is_sealed_as_the_archive_seals() {
    let place = Place::new();
    let store = place.store(A.0, A.1);
    crate::repository::cluster::claim(&store, &identity())
        .await
        .expect("claimed");
    let put = async |store: &Store, key: &str, sealing| {
        let source = std::io::Cursor::new(HISTORY.to_vec());
        write_from(
            store,
            key,
            (Compression::Plain, sealing),
            Existing::Replace,
            source,
            "memory",
        )
        .await
    };
    let key = "wal_005/00000002.history";
    let stored = async |key: &str| store.get(key, 1000).await.expect("read").expect("there").to_vec();
    assert_eq!(put(&store, key, Sealing::AsStore).await.expect("put"), Created::Yes);
    assert!(!is_plain(key, &stored(key).await));
    let (bytes, _) = read_into(&store, key, Form::Plain, std::io::sink(), "memory")
        .await
        .expect("read");
    assert_eq!(bytes, HISTORY.len() as u64);
    put(&store, key, Sealing::None).await.expect("put");
    assert_eq!(stored(key).await, HISTORY);
    // Of another kind.
    put(&store, "notes", Sealing::AsStore).await.expect("put");
    assert_eq!(stored("notes").await, HISTORY);
    let plain = place.store(PLAIN.0, PLAIN.1);
    put(&plain, "other", Sealing::AsStore).await.expect("put");
    let error = put(&plain, "wal_005/00000003.history", Sealing::AsStore)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("in plain text"), "{error}");
    assert!(matches!(
        encryption::state(&plain).await.expect("read"),
        State::Encrypted(_)
    ));
    assert!(!Path::new(&place.path("store/wal_005/00000003.history")).exists());
}
