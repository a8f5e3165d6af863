//! Stores that misbehave: a real S3 server behind a proxy with faults. Every failure comes in time and says what it is, and
//! when the fault is gone the same work succeeds. Times are of the order of magnitude only.

mod answers;
mod other_ways;
mod site;
mod transfers;

use std::time::Duration;

use bytes::Bytes;
use walarchive_storage::Error;
use walarchive_storage::{Created, Store};
use walarchive_testkit::Fault;

use site::{SOON, Site, assert_too_slow, each_operation, noise, timed};

const FIRST: &str = "000000010000000000000003";
const SECOND: &str = "000000010000000000000004";

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_accepts_and_never_answers() {
    let site = Site::new();
    let store = site.store();
    site.push(FIRST).await.expect("archived");
    store.put("object", "some content".into()).await.expect("written");
    site.proxy.set([Fault::Silent]);
    for (what, took, error) in each_operation(&store).await {
        assert_too_slow(what, error.expect(what));
        assert!(took < SOON, "{what}: {took:?}");
    }
    let (pushed, took) = timed(site.push(SECOND)).await;
    assert_too_slow("push", pushed.expect_err("refused"));
    assert!(took < SOON, "{took:?}");

    site.proxy.heal();
    assert!(!site.push(SECOND).await.expect("archived").already_there);
    site.assert_archived(FIRST).await;
    site.assert_archived(SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_store_is_asked_again_while_patience_lasts() {
    let site = Site::new();
    let mut config = site.config();
    config.request_timeout = Duration::from_secs(1);
    config.patience = Duration::from_secs(4);
    let store = Store::open(&config).expect("a store");
    site.proxy.set([Fault::Silent]);
    // Requests that object_store believes not to be repeatable are repeated too.
    let (created, took) = timed(store.create("object", "some content".into())).await;
    assert_too_slow("create", created.expect_err("refused"));
    assert!(took > Duration::from_secs(2) && took < SOON, "{took:?}");
    let requests = site.proxy.count();
    assert!((2..10).contains(&requests), "{requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_one_byte_a_second() {
    let site = Site::new();
    let store = site.store();
    let content = noise(300 << 10, 1);
    store.put("object", content.clone().into()).await.expect("written");
    site.proxy.set([Fault::Trickle]);
    for (what, took, error) in each_operation(&store).await {
        assert_too_slow(what, error.expect(what));
        assert!(took < SOON, "{what}: {took:?}");
    }
    let (pushed, took) = timed(site.push(FIRST)).await;
    assert_too_slow("push", pushed.expect_err("refused"));
    assert!(took < SOON, "{took:?}");

    // Bytes keep coming, so that only the deadline of the operation ends it; it has time for the size of the object.
    site.proxy.set([Fault::TrickleBody]);
    let (read, took) = timed(store.get("object", 1 << 20)).await;
    let error = read.expect_err("refused");
    assert!(
        matches!(error, Error::Timeout { deadline, .. } if deadline >= Duration::from_secs(4) && took >= deadline),
        "{error:?} after {took:?}"
    );
    assert_too_slow("get", error);
    assert!(took < 2 * SOON, "{took:?}");

    site.proxy.heal();
    let read = store.get("object", 1 << 20).await.expect("read").expect("there");
    assert!(read == content);
    // The archiver looks for a segment without an answer: the first attempt may have arrived.
    site.push(FIRST).await.expect("archived");
    site.assert_archived(FIRST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_outlasted_by_backups_only() {
    let site = Site::new();
    site.proxy.set([Fault::Refuse]);
    let (created, took) = timed(site.store().create("object", "some content".into())).await;
    let error = created.expect_err("refused");
    assert!(
        matches!(error, Error::Store { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(took < SOON, "{took:?}");

    let store = site.backup_store();
    let waiting = tokio::spawn(async move { store.create("object", "some content".into()).await });
    // An outage that is longer than what an archiver waits.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished(), "the backup has given up");
    site.proxy.heal();
    let created = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    let created = created.expect("in time").expect("no panic").expect("created");
    assert_eq!(created, Created::Yes);
    assert_eq!(site.stored("object").as_deref(), Some(&b"some content"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_change_nothing() {
    let site = Site::new();
    let store = site.store();
    let lose = |only: &str| Fault::LoseAnswers {
        times: 1,
        only: only.to_owned(),
    };
    site.push(FIRST).await.expect("archived");
    site.proxy.set([lose("PUT /bucket/prefix/wal_005/")]);
    site.proxy.forget();
    let pushed = site.push(SECOND).await.expect("archived");
    let puts = site.proxy.requests();
    assert!(
        pushed.already_there,
        "the second attempt finds the object of the first: {puts:#?}"
    );
    let puts = puts
        .iter()
        .filter(|seen| seen.method == "PUT" && seen.target.contains("wal_005"));
    assert!(puts.count() >= 2);
    site.assert_archived(SECOND).await;

    let content = Bytes::from(noise(20 << 20, 3));
    for (what, only) in [
        ("a part", "partNumber=2"),
        ("the end", "POST /bucket/prefix/large?uploadId="),
    ] {
        site.proxy.set([lose(only)]);
        let stored = site.upload(&store, "large", content.clone()).await;
        assert_eq!(stored.expect(what), content.len() as u64, "{what}");
        assert!(site.stored("large").expect("there") == content, "{what}");
        assert_eq!(site.unfinished_uploads(), Vec::<std::path::PathBuf>::new(), "{what}");
        store.delete("large").await.expect("deleted");
    }
    store.put("object", "some content".into()).await.expect("written");
    site.proxy.set([lose("POST")]);
    store.delete("object").await.expect("deleted");
    assert_eq!(site.stored("object"), None);
}
