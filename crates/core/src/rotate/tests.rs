//! Rotations in a directory.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use walarchive_storage::crypt::{EncryptionConfig, Method, Under};
use walarchive_storage::{StorageConfig, Store};
use walarchive_testkit::sealed::{by_libsodium, by_openpgp, without_last_chunk};

use super::*;
use crate::codec::{Compression, Format};
use crate::objects::{Form, read_into};
use crate::repository::cluster::{self, ClusterIdentity};
use crate::repository::encryption::{self, Mark, State};
use crate::repository::inventory::read_history;
use crate::repository::layout::{self, Key};
use crate::repository::unread::read_digest;
use crate::wal::SegmentSize;

const OLD: [u8; 32] = [0x17; 32];
const NEW: [u8; 32] = [0x2a; 32];
const OTHER: [u8; 32] = [1; 32];
const PUBLIC: &[u8] = include_bytes!("../../../storage/tests/wal-g/pgp-public.asc");
const SECRET: &[u8] = include_bytes!("../../../storage/tests/wal-g/pgp-secret.asc");

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("store")).expect("made");
        Place { dir }
    }

    fn key_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .expect("made");
        file.write_all(content).expect("written");
        path
    }

    /// The store with these keys, the first of which writes by this method.
    fn store(&self, writes: Method, keys: &[&[u8]], accept_plain: bool) -> Store {
        let key_files = keys
            .iter()
            .enumerate()
            .map(|(number, key)| self.key_file(&number.to_string(), key));
        let mut config = StorageConfig::new(format!("file://{}/store", self.dir.path().display()));
        config.encryption = EncryptionConfig {
            writes: Some(writes),
            key_files: key_files.collect(),
            accept_plain,
            ..EncryptionConfig::default()
        };
        Store::open(&config).expect("opened")
    }
}

fn history(timeline: u32) -> Key {
    layout::wal(
        &format!("{timeline:08X}.history").parse().expect("a name"),
        Format::Zstd,
    )
}

/// A line of a history file, but for its first number.
const LINE: &str = "\t0/3000000\tno recovery target specified\n";

/// As it is stored before it is encrypted.
fn packed(timeline: u32) -> Vec<u8> {
    let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
    let line = format!("{}{LINE}", timeline - 1);
    encoder.write_all(line.as_bytes()).expect("compressed");
    encoder.finish().expect("finished")
}

async fn put(store: &Store, timeline: u32, object: &[u8]) {
    store
        .put(&history(timeline), object.to_vec().into())
        .await
        .expect("stored");
}

async fn stored(store: &Store, timeline: u32) -> Vec<u8> {
    let key = history(timeline);
    let read = read_into(store, &key, Form::Stored, Vec::new(), "memory").await;
    read.expect("read").1
}

/// The repository belongs to a cluster, which has encrypted with this key.
async fn claim(place: &Place, writes: Method, keys: &[&[u8]]) {
    let identity = ClusterIdentity {
        system_identifier: 7,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    };
    let claimed = cluster::claim(&place.store(writes, keys, false), &identity).await;
    claimed.expect("claimed");
}

async fn mark(store: &Store) -> Mark {
    match encryption::state(store).await.expect("read") {
        State::Encrypted(mark) => mark,
        other => panic!("{other:?}"),
    }
}

async fn looked(store: &Store) -> Survey {
    survey(store, &RotateProgress::default()).await.expect("looked")
}

async fn rotate(store: &Store, survey: &Survey) -> crate::Result<Rotated> {
    apply(store, survey, &RotateProgress::default(), &CancellationToken::new()).await
}

fn count(survey: &Survey, is: impl Fn(&Under) -> bool) -> u64 {
    let found = survey.groups.iter().filter(|(under, _)| is(under));
    found.map(|(_, group)| group.objects).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_an_older_key_is_encrypted_again() {
    let place = Place::new();
    claim(&place, Method::Libsodium, &[&OLD]).await;
    let store = place.store(Method::Libsodium, &[&NEW, &OLD, SECRET], false);
    put(&store, 2, &by_libsodium(&packed(2), OLD)).await;
    put(&store, 3, &by_libsodium(&packed(3), NEW)).await;
    put(&store, 4, &by_openpgp(&packed(4), PUBLIC)).await;
    put(&store, 5, &by_libsodium(&packed(5), OTHER)).await;
    put(&store, 6, &packed(6)).await;
    let untouched = [
        stored(&store, 3).await,
        stored(&store, 5).await,
        stored(&store, 6).await,
    ];
    let survey = looked(&store).await;
    assert_eq!(survey.stale.len(), 2, "{survey:?}");
    assert_eq!(
        count(&survey, |under| matches!(under, Under::Writing(Method::Libsodium, _))),
        1
    );
    assert_eq!(
        count(&survey, |under| matches!(under, Under::Reading(Method::Libsodium, _))),
        1
    );
    assert_eq!(
        count(&survey, |under| matches!(under, Under::Reading(Method::OpenPgp, _))),
        1
    );
    assert_eq!(count(&survey, |under| *under == Under::Unknown(None)), 1);
    assert_eq!(count(&survey, |under| *under == Under::Plain(false)), 1);
    assert_eq!(survey.leaves().objects, 2);

    let rotated = rotate(&store, &survey).await.expect("rotated");
    assert_eq!((rotated.objects, rotated.vanished), (2, 0));
    let only_new = place.store(Method::Libsodium, &[&NEW], false);
    for timeline in [2, 3, 4] {
        let read = read_into(&only_new, &history(timeline), Form::Decrypted, Vec::new(), "memory").await;
        assert!(
            read.expect("readable with the new key alone").1 == packed(timeline),
            "{timeline}"
        );
    }
    assert_eq!(
        untouched,
        [
            stored(&store, 3).await,
            stored(&store, 5).await,
            stored(&store, 6).await
        ]
    );
    assert!(looked(&store).await.stale.is_empty(), "nothing is left to do");
    // The mark names the old key as long as something else is there.
    let progress = RotateProgress::default();
    assert!(!is_complete(&store, &progress).await.expect("looked"));
    assert_eq!(mark(&store).await.former_keys.len(), 1);
    for timeline in [5, 6] {
        store.delete(&history(timeline)).await.expect("deleted");
    }
    // A backup that is being taken may be under the old key.
    let tar = layout::tar("base_000000010000000000000002", "part_001.tar.zst");
    store
        .put(&tar, by_libsodium(&packed(2), NEW).into())
        .await
        .expect("stored");
    assert!(!is_complete(&store, &progress).await.expect("looked"));
    let sentinel = layout::sentinel("base_000000010000000000000002");
    store.put(&sentinel, "{}".into()).await.expect("stored");
    assert!(is_complete(&store, &progress).await.expect("looked"));
    assert!(mark(&store).await.former_keys.is_empty());
    // Who has only the old key writes nothing any more, and who has only the new one does.
    let error = encryption::permit(&place.store(Method::Libsodium, &[&OLD], false)).await;
    assert!(error.is_err_and(|error| error.to_string().contains("another libsodium key")));
    encryption::permit(&only_new).await.expect("permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_for_all_recipients_or_are_encrypted_again() {
    let place = Place::new();
    claim(&place, Method::Libsodium, &[&OLD]).await;
    let store = place.store(Method::OpenPgp, &[PUBLIC, &OLD, SECRET], false);
    put(&store, 2, &by_libsodium(&packed(2), OLD)).await;
    rotate(&store, &looked(&store).await).await.expect("rotated");
    let survey = looked(&store).await;
    assert_eq!(
        count(&survey, |under| matches!(under, Under::Writing(Method::OpenPgp, _))),
        1
    );
    // Who has only the public key sees that it is the right one.
    let without_secret = place.store(Method::OpenPgp, &[PUBLIC], false);
    let seen = looked(&without_secret).await;
    assert_eq!(seen.groups, survey.groups);
    // It can compare the file with its own, and knows the timeline.
    let read = read_history(&without_secret, 2).await.expect("known");
    assert!(read.is_some_and(|text| text.starts_with("1\t0/3000000")));
    let sum = Sha256::digest(stored(&store, 2).await).into();
    let noted = read_digest(&store, &"00000002.history".parse().expect("a name"), &sum).await;
    let bytes = noted.expect("read").expect("written down").bytes;
    assert_eq!(bytes, 1 + LINE.len() as u64, "of the plain text");
    let other = place.store(Method::Libsodium, &[&NEW], false);
    assert_eq!(
        looked(&other).await.groups.into_keys().collect::<Vec<_>>(),
        [Under::Unknown(Some(Method::OpenPgp))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_encrypted_only_where_it_is_accepted() {
    let place = Place::new();
    claim(&place, Method::Libsodium, &[&NEW]).await;
    let store = place.store(Method::Libsodium, &[&NEW], true);
    put(&store, 2, &packed(2)).await;
    let survey = looked(&store).await;
    assert_eq!(count(&survey, |under| *under == Under::Plain(true)), 1);
    rotate(&store, &survey).await.expect("rotated");
    let strict = place.store(Method::Libsodium, &[&NEW], false);
    let read = read_into(&strict, &history(2), Form::Decrypted, Vec::new(), "memory").await;
    assert!(read.expect("encrypted").1 == packed(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_stays_as_it_is() {
    let place = Place::new();
    claim(&place, Method::Libsodium, &[&OLD]).await;
    let store = place.store(Method::Libsodium, &[&NEW, &OLD], false);
    // More than one chunk, so that its beginning is right.
    let noise: Vec<u8> = (0..100_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let whole = by_libsodium(&noise, OLD);
    put(&store, 2, without_last_chunk(&whole)).await;
    let survey = looked(&store).await;
    assert_eq!(survey.stale.len(), 1);
    put(&store, 3, &by_libsodium(&packed(3), OLD)).await;
    let survey = looked(&store).await;
    let rotated = rotate(&store, &survey).await.expect("the others are rotated");
    assert_eq!(rotated.objects, 1);
    assert!(
        matches!(&rotated.damaged[..], [error] if error.is_content()),
        "{rotated:?}"
    );
    assert!(stored(&store, 2).await == without_last_chunk(&whole));
    // What was deleted meanwhile does not come back.
    store.delete(&history(2)).await.expect("deleted");
    let rotated = rotate(&store, &survey).await.expect("nothing to do");
    assert_eq!(
        (rotated.objects, rotated.vanished),
        (1, 1),
        "the other one is rotated once more"
    );
    assert_eq!(store.size(&history(2)).await.expect("asked"), None);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let ended = apply(&store, &survey, &RotateProgress::default(), &cancel).await;
    assert!(matches!(ended, Err(crate::Error::Cancelled)), "{ended:?}");
}

/// Chunks of the tail are as WAL files are, and go at any time.
#[tokio::test(flavor = "multi_thread")]
async fn the_tail_is_encrypted_again() {
    let place = Place::new();
    claim(&place, Method::Libsodium, &[&OLD]).await;
    let store = place.store(Method::Libsodium, &[&NEW, &OLD], false);
    let keys: Vec<Key> = [(0, 8), (8, 16)]
        .into_iter()
        .map(|(start, end)| layout::TailChunk {
            segment: "000000010000000000000003".parse().expect("a segment"),
            epoch: 1,
            start,
            end,
        })
        .map(|chunk| chunk.key())
        .collect();
    for key in &keys {
        store
            .put(key, by_libsodium(&packed(2), OLD).into())
            .await
            .expect("stored");
    }
    let survey = looked(&store).await;
    assert_eq!(survey.stale.len(), 2, "{survey:?}");
    store.delete(&keys[1]).await.expect("deleted");
    let rotated = rotate(&store, &survey).await.expect("rotated");
    assert_eq!((rotated.objects, rotated.vanished), (1, 1));
    let only_new = place.store(Method::Libsodium, &[&NEW], false);
    let read = read_into(&only_new, &keys[0], Form::Decrypted, Vec::new(), "memory").await;
    assert!(read.expect("readable with the new key alone").1 == packed(2));
}
