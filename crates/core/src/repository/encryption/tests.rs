//! Who may write into which repository, and what becomes of its mark.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};
use walarchive_testkit::sealed::{by_libsodium, by_openpgp};

use super::fixture::{KEY, PUBLIC, Place, identity};
use super::*;
use crate::codec::Format;
use crate::repository::cluster;

type Writer<'a> = (Option<Method>, &'a [&'a str]);

const PLAIN: Writer<'_> = (None, &[]);
const A: Writer<'_> = (Some(Libsodium), &["a"]);
const B: Writer<'_> = (Some(Libsodium), &["b"]);
const SECRET: Writer<'_> = (Some(OpenPgp), &["secret"]);
const WITH_PUBLIC: Writer<'_> = (Some(OpenPgp), &["public"]);

impl Place {
    fn of(&self, (writes, keys): Writer<'_>) -> Store {
        self.store(writes, keys)
    }

    async fn claim(&self, writer: Writer<'_>) -> Result<()> {
        cluster::claim(&self.of(writer), &identity()).await.map(drop)
    }

    async fn mark(&self) -> Mark {
        match state(&self.of(PLAIN)).await.expect("read") {
            State::Encrypted(mark) => mark,
            other => panic!("it is not marked: {other:?}"),
        }
    }

    async fn content(&self) -> Option<Bytes> {
        self.of(PLAIN).get(&layout::CLUSTER, LIMIT).await.expect("read")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_repository_says_so_from_its_claim_on() {
    for (writer, method) in [(A, "libsodium"), (SECRET, "openpgp"), (WITH_PUBLIC, "openpgp")] {
        let place = Place::new();
        place.claim(writer).await.expect(method);
        let mark = place.mark().await;
        assert_eq!(mark.key.method, method);
        assert!(mark.key.key_id.len() == 16 && mark.key.salt.len() == 32, "{mark:?}");
        assert!(!mark.plain_before && mark.former_keys.is_empty());
        let content = place.content().await.expect("there");
        let text = String::from_utf8_lossy(&content).into_owned();
        assert!(text.contains(r#""format_version": 2"#), "{text}");
        assert!(!text.contains("1717"), "it shows the key: {text}");
        // Whose it is takes no key to read.
        let plain = place.of(PLAIN);
        assert_eq!(cluster::owner(&plain).await.expect("read"), Some(identity()));
        assert!(cluster::is_owned(&plain, &identity()).await.expect("asked"));
        place.claim(writer).await.expect("again");
        assert_eq!(place.content().await, Some(content), "it was written again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_the_key_writes_nothing() {
    for (owner, writer, says) in [
        (A, PLAIN, "are to be stored in plain text"),
        (A, B, "another libsodium key"),
        (
            A,
            SECRET,
            "is encrypted by libsodium, and new objects are to be encrypted by openpgp",
        ),
        (
            SECRET,
            A,
            "is encrypted by openpgp, and new objects are to be encrypted by libsodium",
        ),
        (WITH_PUBLIC, PLAIN, "are to be stored in plain text"),
        // To read with it is not to write with it.
        (A, (None, &["a"][..]), "are to be stored in plain text"),
    ] {
        let place = Place::new();
        place.claim(owner).await.expect("claimed");
        let before = place.content().await;
        let error = place.claim(writer).await.expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error, Error::Refused { .. }) && error.hint().is_some() && !error.is_transient());
        permit(&place.of(writer)).await.expect_err(says);
        settle(&place.of(writer)).await.expect_err(says);
        assert_eq!(place.content().await, before, "{says}");
        assert_eq!(place.of(PLAIN).list("").await.expect("listed").len(), 1, "{says}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_turned_on_and_off_over_what_is_there() {
    let place = Place::new();
    place.claim(PLAIN).await.expect("claimed");
    assert_eq!(disable(&place.of(PLAIN)).await.expect("asked"), None);
    permit(&place.of(A)).await.expect("permitted");
    assert_eq!(
        state(&place.of(A)).await.expect("read"),
        State::Plain { former_keys: vec![] },
        "to ask is not to write"
    );
    place.claim(A).await.expect("turned on");
    let mark = place.mark().await;
    assert!(mark.plain_before);
    place.claim(PLAIN).await.expect_err("it is on");
    assert_eq!(disable(&place.of(PLAIN)).await.expect("turned off"), Some(mark.clone()));
    let text = place.content().await.expect("there");
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains(r#""encryption": false"#) && text.contains(r#""format_version": 1"#),
        "{text}"
    );
    place.claim(PLAIN).await.expect("it is off");
    let State::Plain { former_keys } = state(&place.of(PLAIN)).await.expect("read") else {
        panic!("it is marked");
    };
    assert_eq!(former_keys, std::slice::from_ref(&mark.key));
    place.claim(B).await.expect("on again, with another key");
    assert_eq!(place.mark().await.former_keys, [mark.key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_old_key_too_goes_over_to_the_new_one() {
    let (b_and_a, pgp_and_b): (Writer<'_>, Writer<'_>) =
        ((Some(Libsodium), &["b", "a"]), (Some(OpenPgp), &["secret", "b"]));
    let place = Place::new();
    place.claim(A).await.expect("claimed");
    let first = place.mark().await;
    // The order says which one writes.
    place.claim((Some(Libsodium), &["a", "b"])).await.expect("the same");
    assert_eq!(place.mark().await, first);
    permit(&place.of(b_and_a)).await.expect("permitted");
    assert_eq!(place.mark().await, first, "to ask is not to write");
    place.claim(b_and_a).await.expect("rotated");
    let second = place.mark().await;
    assert_eq!(second.former_keys, std::slice::from_ref(&first.key));
    place.claim(B).await.expect("the new one is enough");
    // Who took a backup with the old one meanwhile may end it, and begins no other.
    permit(&place.of(A)).await.expect_err("begins");
    permit_to_end(&place.of(A)).await.expect("ends");
    permit_to_end(&place.of((Some(Libsodium), &["c"])))
        .await
        .expect_err("never was");
    permit_to_end(&place.of(PLAIN)).await.expect_err("plain text");
    place.claim(A).await.expect_err("the old one is not");
    settle(&place.of(pgp_and_b)).await.expect("by another method");
    let third = place.mark().await;
    assert_eq!(third.key.method, "openpgp");
    assert_eq!(third.former_keys, [second.key, first.key]);
    place.claim(B).await.expect_err("the old method is not enough");
    // Whoever cannot decrypt cannot show that it has the old key.
    place.claim(WITH_PUBLIC).await.expect("the same recipient");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_somebody_has_meddled_with_is_told() {
    let place = Place::new();
    place.claim(A).await.expect("claimed");
    let content = place.content().await.expect("there");
    let text = String::from_utf8_lossy(&content).into_owned();
    let token = place.mark().await.token;
    let others = {
        let other = Place::new();
        let identity = cluster::ClusterIdentity {
            system_identifier: 8,
            ..identity()
        };
        cluster::claim(&other.of(A), &identity).await.expect("claimed");
        other.mark().await.token
    };
    for wrong in [STANDARD.encode([7; 80]), "no base64!".to_owned(), String::new(), others] {
        let content = text.replace(&token, &wrong);
        let plain = place.of(PLAIN);
        plain.put(&layout::CLUSTER, content.into()).await.expect("written");
        let error = place.claim(A).await.expect_err("damaged");
        assert!(
            matches!(&error, Error::Damaged { object, .. } if object.ends_with("cluster.json")),
            "{error:?}"
        );
    }
    let later = text.replace(r#""format_version": 2"#, r#""format_version": 3"#);
    place
        .of(PLAIN)
        .put(&layout::CLUSTER, later.into())
        .await
        .expect("written");
    permit(&place.of(A)).await.expect_err("of a later version");
    for wrong in [r#""encryption": true"#, r#""encryption": 7"#] {
        let (before, _) = text.split_once(r#""encryption""#).expect("a mark");
        let content = format!("{before}{wrong}}}");
        place
            .of(PLAIN)
            .put(&layout::CLUSTER, content.into())
            .await
            .expect("written");
        for writer in [A, PLAIN] {
            place.claim(writer).await.expect_err(wrong);
            settle(&place.of(writer)).await.expect_err(wrong);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_objects_of_wal_g_only_their_key_writes() {
    let wal = layout::wal(&"000000010000000000000003".parse().expect("a name"), Format::Zstd);
    let plain = zstd::encode_all(&b"wal"[..], 1).expect("compressed");
    let (sodium, pgp) = (by_libsodium(&plain, KEY), by_openpgp(&plain, PUBLIC));
    for (object, writer, may) in [
        (&sodium, A, true),
        (&sodium, B, false),
        (&sodium, PLAIN, false),
        (&sodium, SECRET, false),
        (&pgp, SECRET, true),
        (&pgp, A, false),
        (&pgp, PLAIN, false),
        // It cannot be read, and is to the same recipient.
        (&pgp, WITH_PUBLIC, true),
        (&sodium, WITH_PUBLIC, false),
        (&plain, A, true),
        (&plain, PLAIN, true),
    ] {
        let place = Place::new();
        let store = place.of(PLAIN);
        store.put(&wal, object.clone().into()).await.expect("written");
        let claimed = place.claim(writer).await;
        let asked = permit(&place.of(writer)).await;
        assert_eq!((claimed.is_ok(), asked.is_ok()), (may, may), "{writer:?}: {claimed:?}");
        assert_eq!(place.content().await.is_some(), may, "{writer:?}");
        match claimed {
            Ok(()) if writer.0.is_some() => assert_eq!(place.mark().await.plain_before, *object == plain, "{writer:?}"),
            Ok(()) => {}
            Err(error) => assert!(error.to_string().contains("is encrypted, and "), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_adds_stays() {
    let place = Place::new();
    place.claim(PLAIN).await.expect("claimed");
    let content = place.content().await.expect("there");
    let text = String::from_utf8_lossy(&content).replacen('{', r#"{"later": {"a": 1},"#, 1);
    place
        .of(PLAIN)
        .put(&layout::CLUSTER, text.into())
        .await
        .expect("written");
    place.claim(A).await.expect("turned on");
    let content = place.content().await.expect("there");
    let value: serde_json::Value = serde_json::from_slice(&content).expect("JSON");
    assert_eq!(value["later"]["a"], 1, "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_come_at_once_with_one_key_may_write() {
    let place = Place::new();
    place.claim(PLAIN).await.expect("claimed");
    let claims = (0..6).map(|_| place.claim(A));
    for claimed in futures::future::join_all(claims).await {
        claimed.expect("one key");
    }
    let mark = place.mark().await;
    assert!(mark.plain_before && mark.former_keys.is_empty(), "{mark:?}");
    place.claim(A).await.expect("the mark is whole");
}

/// A backup takes hours.
#[tokio::test(flavor = "multi_thread")]
async fn who_writes_for_long_is_told_when_he_may_no_longer() {
    let place = Place::new();
    place.claim(PLAIN).await.expect("claimed");
    let store = place.of(PLAIN);
    let mut refused = std::pin::pin!(until_refused(&store, Duration::from_millis(5)));
    let soon = tokio::time::timeout(Duration::from_millis(100), &mut refused).await;
    assert!(soon.is_err(), "he may write: {soon:?}");
    place.claim(A).await.expect("turned on");
    let error = tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .expect("told");
    assert!(error.to_string().contains("in plain text"), "{error}");
}

/// What is wrong with a key is told before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_claims_nothing() {
    let place = Place::new();
    place
        .claim((Some(Libsodium), &["none"]))
        .await
        .expect_err("no such file");
    place
        .claim((Some(Libsodium), &["secret"]))
        .await
        .expect_err("no key of libsodium");
    place
        .claim((Some(OpenPgp), &["a"]))
        .await
        .expect_err("no key of OpenPGP");
    assert_eq!(place.content().await, None);
}
