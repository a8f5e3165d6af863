use std::io::Read;

use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};

use super::*;
use crate::codec::Compression;
use crate::encrypted::attacks::attacks_on;
use crate::encrypted::open;
use crate::objects::{Existing, Form, Sealing, read_into, reseal_metadata, write_from};
use crate::repository::cluster;
use crate::repository::encryption;
use crate::repository::encryption::fixture::{Place, identity};
use crate::repository::layout;

const LIMIT: u64 = 1 << 20;
const TEXT: &[u8] = br#"{"Files": {"/base/5/1259": {}}}"#;

type Writer<'a> = (Method, &'a [&'a str]);

const WRITERS: [Writer<'_>; 2] = [(Libsodium, &["a"]), (OpenPgp, &["secret"])];

fn keys() -> [Key; 8] {
    let catchup = layout::catchup_place("base_1");
    [
        layout::sentinel("base_1"),
        layout::sentinel(&catchup),
        layout::metadata("base_1"),
        layout::files_metadata(&catchup),
        layout::backup_manifest("base_1"),
        layout::verified_backup("base_1"),
        layout::drill("base_1", "20260921T000000000005Z-ok"),
        layout::points(1, 2),
    ]
}

async fn stored(place: &Place, key: &str) -> Bytes {
    let blind = place.store(None, &[]);
    blind.get(key, u64::MAX).await.expect("read").expect("there")
}

/// By the reader of long metadata.
async fn streamed(store: &Store, key: &Key) -> Result<Vec<u8>> {
    let mut reader = open(store, key).await?.expect("there");
    blocking(move || {
        let mut content = Vec::new();
        match reader.read_to_end(&mut content) {
            Ok(_) => Ok(content),
            Err(error) => Err(reader
                .take_failure()
                .map_or_else(|| Error::damaged("object", error.to_string()), Error::from)),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_sealed_and_comes_back_with_the_key() {
    for (method, files) in WRITERS {
        let place = Place::new();
        let store = place.store_of_secrets(Some(method), files);
        let (blind, other) = (place.store(None, &[]), place.store(None, &["b", "public"]));
        for key in keys() {
            put(&store, &key, TEXT.into()).await.expect("written");
            let object = stored(&place, &key).await;
            assert!(object.starts_with(b"walarchive sealed metadata 1\n"), "{key}");
            assert!(
                !object.windows(6).any(|bytes| bytes == b"/base/"),
                "{key} is in plain text"
            );
            let found = find(&store, &key, LIMIT).await.expect("read").expect("there");
            assert!(found.is_sealed && found.content == TEXT, "{key}");
            assert_eq!(streamed(&store, &key).await.expect("read"), TEXT);
            for (reader, says) in [
                (&blind, "is encrypted, and no key is configured"),
                (&other, "cannot be decrypted with the keys that are configured"),
            ] {
                for error in [
                    read(reader, &key, LIMIT).await.expect_err("no key"),
                    streamed(reader, &key).await.expect_err("no key"),
                ] {
                    assert!(error.to_string().contains(says), "{key}: {error}");
                    assert!(error.asks_for_a_key() && error.is_content());
                    assert!(error.hint().is_some_and(|hint| hint.contains("--encryption-key-file")));
                }
            }
        }
        // Whoever may be asked without a key is as it was.
        let claim = layout::backup_claim("base_1");
        put(&store, &claim, TEXT.into()).await.expect("written");
        assert_eq!(stored(&place, &claim).await, TEXT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_on_sealed_metadata_are_told() {
    for (method, files) in WRITERS {
        let place = Place::new();
        let (store, key) = (place.store_of_secrets(Some(method), files), layout::sentinel("base_1"));
        // With more chunks than one.
        let text: Bytes = TEXT.repeat(1000).into();
        put(&store, &key, text.clone()).await.expect("written");
        let object = stored(&place, &key).await;
        let ciphertext = object.strip_prefix(SEALED_MARK).expect("a mark");
        for (attack, meddled) in attacks_on(ciphertext, method) {
            let meddled = [SEALED_MARK, &meddled].concat();
            store.put(&key, meddled.into()).await.expect("stored");
            for error in [
                read(&store, &key, LIMIT).await.expect_err(attack),
                streamed(&store, &key).await.expect_err(attack),
            ] {
                assert!(matches!(error, Error::Damaged { .. }), "{method} {attack}: {error}");
            }
        }
        for cut in [SEALED_MARK.len(), SEALED_MARK.len() + 10] {
            store.put(&key, object.slice(..cut)).await.expect("stored");
            let error = read(&store, &key, LIMIT).await.expect_err("truncated");
            assert!(error.is_content(), "{error}");
        }
        // What it would have to be is known by its first line, and by nothing else.
        let cut = object.slice(..SEALED_MARK.len() - 1);
        store.put(&key, cut.clone()).await.expect("stored");
        let found = find(&store, &key, LIMIT).await.expect("read").expect("there");
        assert!(!found.is_sealed && found.content == cut);
        assert_eq!(streamed(&store, &key).await.expect("read"), cut);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_too_long_is_damaged_in_either_form() {
    let place = Place::new();
    let key = layout::sentinel("base_1");
    for store in [
        place.store(None, &[]),
        place.store_of_secrets(Some(Libsodium), &["a"]),
        place.store_of_secrets(Some(OpenPgp), &["secret"]),
    ] {
        put(&store, &key, vec![b' '; 100_000].into()).await.expect("written");
        let whole = read(&store, &key, 100_000).await.expect("read").expect("there");
        assert_eq!(whole.len(), 100_000);
        for limit in [99_999, 1000] {
            let error = read(&store, &key, limit).await.expect_err("too long");
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_turned_on_and_off_at_any_time() {
    let place = Place::new();
    let (plain, sealing) = (
        place.store(Some(Libsodium), &["a"]),
        place.store_of_secrets(Some(Libsodium), &["a"]),
    );
    let key = layout::metadata("base_1");
    for (writer, is_sealed) in [(&plain, false), (&sealing, true), (&plain, false)] {
        put(writer, &key, TEXT.into()).await.expect("written");
        for reader in [&plain, &sealing] {
            let found = find(reader, &key, LIMIT).await.expect("read").expect("there");
            assert_eq!((found.is_sealed, &*found.content), (is_sealed, TEXT));
        }
    }
    // One that is edited stays as it is, or is sealed where all is.
    let only_reads = place.store(None, &["a"]);
    for (first, editor, is_sealed) in [
        (&plain, &plain, false),
        (&plain, &sealing, true),
        (&sealing, &plain, true),
        (&sealing, &sealing, true),
        (&plain, &only_reads, false),
    ] {
        put(first, &key, TEXT.into()).await.expect("written");
        let found = find(editor, &key, LIMIT).await.expect("read").expect("there");
        put_again(editor, &key, "{}".into(), &found).await.expect("written");
        let found = find(&sealing, &key, LIMIT).await.expect("read").expect("there");
        assert_eq!((found.is_sealed, &*found.content), (is_sealed, &b"{}"[..]));
    }
    put(&sealing, &key, TEXT.into()).await.expect("written");
    let found = find(&only_reads, &key, LIMIT).await.expect("read").expect("there");
    let error = put_again(&only_reads, &key, "{}".into(), &found)
        .await
        .expect_err("nothing says how");
    assert!(matches!(error, Error::Refused { .. }) && error.hint().is_some_and(|hint| hint.contains("--encryption")));
    assert_eq!(create(&plain, &key, "{}".into()).await.expect("asked"), Created::Exists);
}

/// Nothing is written by who could not read it again, or has not said how.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_method_or_a_secret_key_it_is_refused() {
    for (writes, files, says, hint) in [
        (None, &["a"][..], "no method of encryption", "walarchive.encryption"),
        (None, &[][..], "no method of encryption", "walarchive.encryption"),
        (Some(OpenPgp), &["public"][..], "no secret key", "delta backups"),
    ] {
        let place = Place::new();
        let store = place.store_of_secrets(writes, files);
        let key = layout::metadata("base_1");
        for error in [
            put(&store, &key, TEXT.into()).await.expect_err("refused"),
            cluster::claim(&store, &identity())
                .await
                .map(drop)
                .expect_err("refused"),
            encryption::permit(&store).await.expect_err("refused"),
        ] {
            assert!(matches!(error, Error::Setting { .. }), "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint().is_some_and(|found| found.contains(hint)), "{error:?}");
        }
        assert_eq!(store.list("").await.expect("listed"), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_encrypted_again_with_another_key() {
    let place = Place::new();
    let text: Bytes = TEXT.repeat(100_000).into();
    for (first, old, new, alone) in [
        (Libsodium, &["a"][..], (Libsodium, &["b", "a"][..]), "b"),
        (Libsodium, &["a"][..], (OpenPgp, &["secret", "a"][..]), "secret"),
        (OpenPgp, &["secret"][..], (Libsodium, &["b", "secret"][..]), "b"),
    ] {
        let key = layout::files_metadata("base_1");
        put(&place.store_of_secrets(Some(first), old), &key, text.clone())
            .await
            .expect("written");
        let size = stored(&place, &key).await.len() as u64;
        // Whatever new metadata is, this stays encrypted.
        let store = place.store(Some(new.0), new.1);
        assert!(reseal_metadata(&store, &key, size).await.expect("done"));
        let read = streamed(&place.store(None, &[alone]), &key).await;
        assert!(read.expect("by the new key") == text);
        streamed(&place.store(None, old), &key).await.expect_err("the old key");
        let before = stored(&place, &key).await;
        let size = before.len() as u64;
        reseal_metadata(
            &place.store(Some(Libsodium), &["a"]),
            &layout::files_metadata("base_1"),
            size,
        )
        .await
        .expect_err("another key");
        let error = reseal_metadata(&place.store(None, &["b", "secret"]), &key, size).await;
        assert!(matches!(error, Err(Error::Setting { .. })), "{error:?}");
        assert_eq!(stored(&place, &key).await, before, "it is as it was");
    }
    let (store, key) = (place.store(Some(Libsodium), &["a"]), layout::metadata("base_1"));
    for content in [TEXT, b"{}"] {
        put(&store, &key, content.into()).await.expect("written");
        assert!(
            !reseal_metadata(&store, &key, content.len() as u64)
                .await
                .expect("asked")
        );
        assert_eq!(stored(&place, &key).await, content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_put_is_sealed_and_shown() {
    let place = Place::new();
    let store = place.store_of_secrets(Some(Libsodium), &["a"]);
    let key = layout::metadata("base_1");
    for (sealing, is_sealed) in [(Sealing::AsStore, true), (Sealing::None, false)] {
        let source = std::io::Cursor::new(TEXT.to_vec());
        let how = (Compression::Plain, sealing);
        write_from(&store, &key, how, Existing::Replace, source, "memory")
            .await
            .expect("put");
        assert_eq!(stored(&place, &key).await.starts_with(SEALED_MARK), is_sealed);
        for (form, shows_text) in [(Form::Decrypted, true), (Form::Plain, true), (Form::Stored, !is_sealed)] {
            let (_, content) = read_into(&store, &key, form, Vec::new(), "memory").await.expect("read");
            assert_eq!(content == TEXT, shows_text, "{form:?}");
        }
    }
}
