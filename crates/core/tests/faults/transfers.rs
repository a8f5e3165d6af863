//! Connections that break or crawl in the middle of a transfer.

use std::time::Duration;

use bytes::Bytes;
use walarchive_storage::Error;
use walarchive_storage::{Created, PART_BYTES, Store};
use walarchive_testkit::Fault;

use crate::site::{SOON, Site, noise, timed};

const MB: u64 = 1 << 20;
const NAME: &str = "000000010000000000000003";

#[tokio::test(flavor = "multi_thread")]
async fn downloads_go_on_where_their_connection_broke() {
    let site = Site::new();
    let store = site.store();
    let content = noise(PART_BYTES as usize, 1);
    store.put("object", content.clone().into()).await.expect("written");
    // With entity tags object_store goes on by itself, a few times. Without it does not at all.
    for faults in [vec![Fault::Cut(MB)], vec![Fault::Cut(MB), Fault::StripHeader("etag")]] {
        site.proxy.set(faults);
        site.proxy.forget();
        let (read, took) = timed(store.get_range("object", 0..PART_BYTES)).await;
        assert!(read.expect("read") == content);
        assert!(took < SOON, "{took:?}");
        assert!(site.proxy.count() >= 8, "{} requests", site.proxy.count());
        let read = store.get("object", PART_BYTES).await.expect("read").expect("there");
        assert!(read == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_meanwhile_is_not_pieced_together() {
    let site = Site::new();
    let store = site.store();
    let (old, new) = (noise(3 << 20, 1), noise(3 << 20, 2));
    store.put("object", old.clone().into()).await.expect("written");
    // The first connection stalls in the middle of the old object.
    site.proxy.set([Fault::Stall(MB)]);
    site.proxy.forget();
    let reading = tokio::spawn(async move { store.get("object", 3 << 20).await });
    let begun = || site.proxy.count() > 0;
    walarchive_testkit::wait_until("the download has begun", SOON, begun);
    // Another client's write, not through the proxy.
    let mut config = site.config();
    config.options = site.server.options().parse().expect("options");
    let direct = Store::open(&config).expect("a store");
    tokio::time::sleep(Duration::from_millis(500)).await;
    direct.put("object", new.clone().into()).await.expect("written");
    let read = reading.await.expect("no panic");
    match read {
        Ok(Some(read)) => assert!(read == old || read == new, "pieces of both"),
        Ok(None) => panic!("the object is there"),
        Err(error) => assert!(
            matches!(error, Error::Store { .. } | Error::NoAnswer { .. }),
            "{error:?}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_connections_that_break_fail_whole() {
    let site = Site::new();
    let store = site.store();
    site.proxy.set([Fault::Cut(MB)]);
    let content = Bytes::from(noise(3 << 20, 1));
    let (created, took) = timed(store.create("object", content.clone())).await;
    let error = created.expect_err("refused");
    assert!(
        matches!(error, Error::Store { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(took < SOON, "{took:?}");
    assert_eq!(site.stored("object"), None);

    let large = Bytes::from(noise(20 << 20, 2));
    let (stored, took) = timed(site.upload(&store, "large", large.clone())).await;
    let error = stored.expect_err("refused");
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    assert!(took < SOON, "{took:?}");
    assert_eq!(site.stored("large"), None);
    assert_eq!(site.unfinished_uploads(), Vec::<std::path::PathBuf>::new());

    let (pushed, took) = timed(site.push(NAME)).await;
    let error = pushed.expect_err("refused");
    assert!(error.is_transient() && error.hint().is_some(), "{error:?}");
    assert!(took < SOON, "{took:?}");

    site.proxy.heal();
    assert!(!site.push(NAME).await.expect("archived").already_there);
    site.assert_archived(NAME).await;
    assert_eq!(
        store.create("object", content.clone()).await.expect("created"),
        Created::Yes
    );
    assert!(site.stored("object").expect("there") == content);
    let stored = site.upload(&store, "large", large.clone()).await;
    assert_eq!(stored.expect("stored"), large.len() as u64);
    assert!(site.stored("large").expect("there") == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_stops_is_noticed_before_its_deadline() {
    let site = Site::new();
    let mut config = site.config();
    config.request_timeout = Duration::from_secs(6);
    let store = Store::open(&config).expect("a store");
    let content = noise(4 << 20, 1);
    store.put("object", content.clone().into()).await.expect("written");
    // The deadline of the whole would be more than a minute; each connection brings a piece before it dies.
    site.proxy.set([Fault::Stall(MB)]);
    let (read, took) = timed(store.get("object", 4 << 20)).await;
    assert!(read.expect("read").expect("there") == content);
    assert!(took > Duration::from_secs(6) && took < 2 * SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_no_failure() {
    let site = Site::new();
    let store = site.store();
    let content = Bytes::from(noise(1 << 20, 1));
    site.proxy.set([Fault::Slow(200 << 10)]);
    // More than the three seconds that a request may take, much less than the time for a link of 64 kB/s.
    let (created, took) = timed(store.create("object", content.clone())).await;
    assert_eq!(created.expect("created"), Created::Yes);
    assert!(took > Duration::from_secs(3), "{took:?}");
    let (read, took) = timed(store.get("object", 1 << 20)).await;
    assert!(read.expect("read").expect("there") == content);
    assert!(took > Duration::from_secs(3), "{took:?}");
    assert_eq!(site.proxy.count(), 2, "each at the first attempt");
}
