//! Copies of encrypted repositories.

use tokio_util::sync::CancellationToken;
use walarchive_storage::Store;
use walarchive_storage::crypt::Method::{self, Libsodium};
use walarchive_storage::crypt::SEALED_MARK;
use walarchive_testkit::sealed::by_libsodium;

use super::*;
use crate::encrypted::metadata;
use crate::error::Result;
use crate::repository::cluster;
use crate::repository::encryption::fixture::{KEY, Place, identity};
use crate::repository::encryption::{self, Mark, State};
use crate::repository::layout;

const NAME: &str = "base_000000010000000000000002";

const A: (Option<Method>, &[&str]) = (Some(Libsodium), &["a"]);
const B: (Option<Method>, &[&str]) = (Some(Libsodium), &["b"]);
const PLAIN: (Option<Method>, &[&str]) = (None, &[]);

/// A backup and its WAL, whose tar is this object, claimed by a server with these keys.
async fn fill(store: &Store, tar: Vec<u8>) {
    cluster::claim(store, &identity()).await.expect("claimed");
    let sentinel = r#"{"LSN": 2097192, "FinishLSN": 2097292, "StartTime": "2026-11-20T10:00:00Z", "PgVersion": 150000,
                       "SystemIdentifier": 7}"#;
    for (key, content) in [
        (layout::tar(NAME, "part_001.tar.zst").to_string(), tar.clone()),
        ("wal_005/000000010000000000000002.zst".to_owned(), tar),
        (layout::sentinel(NAME).to_string(), sentinel.into()),
    ] {
        store.put(&key, content.into()).await.expect("written");
    }
}

fn plain() -> Vec<u8> {
    zstd::encode_all(&b"plain text"[..], 1).expect("compressed")
}

fn sealed() -> Vec<u8> {
    by_libsodium(&plain(), KEY)
}

async fn copied(from: &Store, to: &Store) -> Result<Copied> {
    let plan = plan(from, &CopyRequest::default()).await?;
    let (progress, cancel) = (CopyProgress::default(), CancellationToken::new());
    apply(from, to, &plan, CopyOptions::default(), &progress, &cancel).await
}

async fn mark(store: &Store) -> Option<Mark> {
    match encryption::state(store).await.expect("read") {
        State::Encrypted(mark) => Some(mark),
        State::Plain { .. } | State::Unclaimed => None,
    }
}

/// Whoever copies needs no key.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_encrypted_repository_is_marked_as_it_is() {
    let place = Place::new();
    let from = place.store_at("from", A.0, A.1, false);
    fill(&from, sealed()).await;
    encryption::settle(&from).await.expect("marked");
    let (from, to) = (
        place.store_at("from", PLAIN.0, PLAIN.1, false),
        place.store_at("to", PLAIN.0, PLAIN.1, false),
    );
    copied(&from, &to).await.expect("copied");
    assert_eq!(mark(&to).await, mark(&from).await);
    copied(&from, &to).await.expect("again");
    cluster::claim(&place.store_at("to", A.0, A.1, false), &identity())
        .await
        .expect("its key");
    cluster::claim(&to, &identity()).await.expect_err("no key");
    // One that holds plain text from before goes on as well.
    encryption::disable(&from).await.expect("off");
    from.put("wal_005/000000010000000000000003.zst", plain().into())
        .await
        .expect("written");
    encryption::settle(&place.store_at("from", A.0, A.1, false))
        .await
        .expect("on");
    let all = CopyRequest {
        with_history: true,
        ..CopyRequest::default()
    };
    let mixed = place.store_at("mixed", PLAIN.0, PLAIN.1, false);
    for attempt in ["first", "again"] {
        let plan = plan(&from, &all).await.expect("planned");
        let (progress, cancel) = (CopyProgress::default(), CancellationToken::new());
        let copied = apply(&from, &mixed, &plan, CopyOptions::default(), &progress, &cancel).await;
        copied.expect(attempt);
        assert!(mark(&mixed).await.is_some_and(|mark| mark.plain_before), "{attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_its_key_opens_is_copied_into_a_marked_repository() {
    for (source, tar, copier, says) in [
        (PLAIN, plain(), PLAIN, "is not encrypted, and is not copied"),
        (A, sealed(), PLAIN, "with different keys, as far as is known"),
        (
            B,
            sealed(),
            (None, &["a"][..]),
            "with different keys, as far as is known",
        ),
        (A, sealed(), (None, &["a"][..]), ""),
        (B, sealed(), (None, &["a", "b"][..]), ""),
    ] {
        let place = Place::new();
        fill(&place.store_at("from", source.0, source.1, false), tar).await;
        cluster::claim(&place.store_at("to", A.0, A.1, false), &identity())
            .await
            .expect("claimed");
        let (from, to) = (
            place.store_at("from", PLAIN.0, PLAIN.1, false),
            place.store_at("to", copier.0, copier.1, false),
        );
        let before = mark(&to).await.expect("marked");
        let outcome = copied(&from, &to).await;
        let after = mark(&to).await.expect("marked");
        assert_eq!(after.key, before.key);
        match says {
            "" => {
                outcome.expect("one key");
                let of_source = mark(&from).await.expect("marked").key;
                assert!(after.former_keys.contains(&of_source), "{after:?}");
            }
            says => {
                let error = outcome.expect_err(says);
                assert!(error.to_string().contains(says), "{error}");
                assert_eq!(to.list(&layout::WAL_FOLDER).await.expect("listed"), [], "{says}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_makes_a_plain_repository_one_that_is() {
    let place = Place::new();
    fill(&place.store_at("from", A.0, A.1, false), sealed()).await;
    let to = place.store_at("to", PLAIN.0, PLAIN.1, false);
    cluster::claim(&to, &identity()).await.expect("claimed");
    copied(&place.store_at("from", PLAIN.0, PLAIN.1, false), &to)
        .await
        .expect("copied");
    assert!(mark(&to).await.is_some_and(|mark| mark.plain_before));
}

/// What was written down about WAL that nobody can read there comes along.
#[tokio::test(flavor = "multi_thread")]
async fn digests_come_with_their_segments() {
    let place = Place::new();
    let from = place.store_at("from", A.0, A.1, false);
    fill(&from, sealed()).await;
    let name = |name: &str| name.parse().expect("a name");
    for segment in ["000000010000000000000002", "000000010000000000000001"] {
        from.put(&layout::digest(&name(segment), &[1; 32]), "{}".into())
            .await
            .expect("written");
    }
    let to = place.store_at("to", PLAIN.0, PLAIN.1, false);
    copied(&from, &to).await.expect("copied");
    let there = to.list(&layout::DIGESTS_FOLDER).await.expect("listed");
    assert_eq!(there.len(), 1);
    assert_eq!(
        there[0].key,
        layout::digest(&name("000000010000000000000002"), &[1; 32])
    );
}

/// Whoever copies needs the key of what he lists, and no other one.
#[tokio::test(flavor = "multi_thread")]
async fn sealed_metadata_is_carried_as_it_is() {
    let place = Place::new();
    let from = place.store_of_secrets(A.0, A.1);
    fill(&from, sealed()).await;
    let sentinel = layout::sentinel(NAME);
    let text = from.get(&sentinel, 1 << 20).await.expect("read").expect("there");
    metadata::put(&from, &sentinel, text).await.expect("sealed");
    let blind = place.store_at("to", PLAIN.0, PLAIN.1, false);
    let error = copied(&place.store(None, &[]), &blind)
        .await
        .map(drop)
        .expect_err("no key");
    assert!(error.asks_for_a_key(), "{error}");
    let reader = place.store(None, A.1);
    for attempt in ["first", "again"] {
        copied(&reader, &blind).await.expect(attempt);
    }
    let get = async |store: &Store| store.get(&sentinel, 1 << 20).await.expect("read").expect("there");
    assert_eq!(get(&blind).await, get(&from).await);
    assert!(get(&blind).await.starts_with(SEALED_MARK));
}
