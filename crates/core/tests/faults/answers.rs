//! Servers that answer, but not what was hoped for.

use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use walarchive_storage::Error;
use walarchive_storage::{Created, Store};
use walarchive_testkit::Fault;

use crate::site::{SOON, Site, each_operation, noise, timed};

#[tokio::test(flavor = "multi_thread")]
async fn every_third_request_fails_on_the_servers_side() {
    let site = Site::new();
    site.proxy.set([Fault::status(500).every(3).into()]);
    for segment in 3..9 {
        let name = format!("00000001000000000000000{segment}");
        let (pushed, took) = timed(site.push(&name)).await;
        pushed.expect("archived");
        assert!(took < SOON, "{took:?}");
        site.assert_archived(&name).await;
    }
    // A create-only write that was not carried out is repeated, and found to be the first.
    site.proxy.set([Fault::status(500).times(2).into()]);
    let created = site.store().create("object", "some content".into()).await;
    assert_eq!(created.expect("created"), Created::Yes);

    site.proxy.set([Fault::status(500).every(3).into()]);
    let content = Bytes::from(noise(40 << 20, 5));
    let stored = site.upload(&site.backup_store(), "large", content.clone()).await;
    assert_eq!(stored.expect("stored"), content.len() as u64);
    assert!(site.stored("large").expect("there") == content);
    assert_eq!(site.unfinished_uploads(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_fail_leave_no_parts() {
    let site = Site::new();
    let content = Bytes::from(noise(40 << 20, 6));
    for (code, store) in [(500, site.store()), (403, site.backup_store())] {
        site.proxy.set([Fault::status(code).only("partNumber=3").into()]);
        let (stored, took) = timed(site.upload(&store, "large", content.clone())).await;
        let error = stored.expect_err("refused");
        match code {
            500 => assert!(matches!(error, Error::Store { .. }), "{error:?}"),
            _ => assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}"),
        }
        assert!(took < 2 * SOON, "{took:?}");
        let begun = site
            .proxy
            .requests()
            .iter()
            .any(|seen| seen.target.contains("partNumber=2"));
        assert!(begun, "parts were on their way");
        assert_eq!(site.unfinished_uploads(), Vec::<std::path::PathBuf>::new());
        assert_eq!(site.stored("large"), None);
    }
    site.proxy.heal();
    let stored = site.upload(&site.store(), "large", content.clone()).await;
    assert_eq!(stored.expect("stored"), content.len() as u64);
    assert!(site.stored("large").expect("there") == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_asked_again_when_it_says() {
    let site = Site::new();
    let mut config = site.config();
    config.patience = Duration::from_secs(10);
    let store = Store::open(&config).expect("a store");
    for (code, date) in [(429, false), (503, false), (503, true)] {
        let wait = if date {
            let at = Utc::now() + TimeDelta::seconds(4);
            at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
        } else {
            "2".to_owned()
        };
        site.proxy.set([Fault::status(code).times(1).retry_after(wait).into()]);
        site.proxy.forget();
        let key = format!("object-{code}-{date}");
        let created = store.create(&key, "some content".into()).await;
        assert_eq!(created.expect("created"), Created::Yes);
        let seen = site.proxy.requests();
        assert_eq!(seen.len(), 2, "{code}");
        let pause = seen[1].at - seen[0].at;
        assert!(
            pause >= Duration::from_millis(1900) && pause < SOON,
            "{code}: {pause:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_more_patience_than_there_is() {
    let site = Site::new();
    let store = site.store();
    site.proxy.set([Fault::status(503).retry_after("3600").into()]);
    let (created, took) = timed(store.create("object", "some content".into())).await;
    let error = created.expect_err("refused");
    assert_eq!(site.proxy.count(), 1, "it asked not to be asked");
    assert!(took < SOON && error.is_transient(), "{error:?} after {took:?}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains("3600 s") && detail.contains("503"), "{detail}");
    assert!(error.hint().unwrap_or_default().contains("overloaded"), "{error:?}");
    site.proxy.heal();
    assert_eq!(
        store.create("object", "some content".into()).await.expect("created"),
        Created::Yes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_by_itself_is_asked_once() {
    let site = Site::new();
    // A denial is not final while somebody may be writing the credentials.
    site.wait_settled();
    // A backup has patience for ten minutes.
    let store = site.backup_store();
    for code in [301, 400, 401, 403, 404] {
        site.proxy.set([Fault::status(code).into()]);
        site.proxy.forget();
        let done = each_operation(&store).await;
        // A request that a server may not know, or a user may not send, is tried in the other way once: a create-only write,
        // and the deletion of many objects.
        let others = match code {
            400 => 2,
            403 => 1,
            _ => 0,
        };
        assert_eq!(
            site.proxy.count(),
            done.len() + others,
            "{code}: {:?}",
            site.proxy.requests()
        );
        for (what, took, error) in done {
            assert!(took < SOON, "{code} {what}: {took:?}");
            let absent = code == 404 && matches!(what, "get" | "size" | "delete");
            assert!(error.is_some() != absent, "{code} {what}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_exist_is_asked_for_once() {
    let site = Site::new();
    let mut config = site.config().for_backup();
    let options = "aws_endpoint=http://no-such-host.invalid,aws_region=us-east-1,allow_http=true";
    config.options = options.parse().expect("options");
    let store = Store::open(&config).expect("a store");
    let (read, took) = timed(store.get("object", 100)).await;
    let error = read.expect_err("refused");
    println!("{error}; {:?}", error.detail());
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    // A machine without a resolver says "try again", and so does the backup.
    let temporary = error.detail().unwrap_or_default().contains("Temporary failure");
    assert!(temporary || took < 2 * SOON, "{took:?}");
}
