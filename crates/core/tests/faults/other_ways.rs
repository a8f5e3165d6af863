//! Servers that do not know a request, and users who may not send it, where another way leads to the same.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use walarchive_core::check::check_store;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::{CreateOnly, Created, Store};
use walarchive_testkit::{Answer, Fault, HttpMock, Request};

use crate::site::{SOON, Site, timed};

async fn write(store: &Store, keys: &[String]) {
    for key in keys {
        store.put(key, "content".into()).await.expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_many_cannot_be_deleted_at_once_each_is_deleted_by_itself() {
    for code in [403, 501, 405, 400] {
        let site = Site::new();
        // A backup has patience for ten minutes.
        let store = site.backup_store();
        let keys: Vec<String> = (0..5).map(|number| format!("many/{number}")).collect();
        write(&store, &keys).await;
        site.proxy.set([Fault::status(code).only("?delete").into()]);
        site.proxy.forget();
        let mut gone = Vec::new();
        let (deleted, took) = timed(store.delete_many(&keys, |index| gone.push(index))).await;
        deleted.unwrap_or_else(|error| panic!("{code}: {error:?}"));
        assert_eq!(gone, [0, 1, 2, 3, 4], "{code}");
        assert!(took < SOON, "{code}: {took:?}");
        assert!(keys.iter().all(|key| site.stored(key).is_none()), "{code}");
        let asked = |wanted: &str| {
            let requests = site.proxy.requests();
            requests.iter().filter(|seen| seen.method == wanted).count()
        };
        assert_eq!((asked("POST"), asked("DELETE")), (1, 5), "{code}");
        // The process remembers, also for a store that is opened later.
        write(&store, &keys).await;
        site.proxy.forget();
        site.store().delete_many(&keys, |_| {}).await.expect("deleted");
        site.store().delete(&keys[0]).await.expect("it is gone");
        assert_eq!((asked("POST"), asked("DELETE")), (0, 6), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_delete_nothing_is_told_so() {
    let site = Site::new();
    let store = site.store();
    let keys = ["many/1".to_owned(), "many/2".to_owned()];
    write(&store, &keys).await;
    site.proxy.set([
        Fault::status(403).only("?delete").into(),
        Fault::status(403).only("DELETE ").into(),
    ]);
    let error = store.delete_many(&keys, |_| {}).await.expect_err("refused");
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    site.proxy.heal();
    site.proxy.forget();
    store.delete_many(&keys, |_| {}).await.expect("deleted");
    assert_eq!(site.proxy.count(), 1, "the one request still serves");
}

/// As much of S3 as it takes to write and to look, with a server that refuses a condition.
fn refuses_conditions(status: u16, code: &'static str) -> HttpMock {
    let objects = Mutex::new(BTreeMap::<String, Vec<u8>>::new());
    HttpMock::start(move |request: &Request| {
        let mut objects = objects.lock().expect("no panic");
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        let found = |content: &Vec<u8>| {
            Answer::new(200, content.clone())
                .header("ETag", "\"1\"")
                .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
        };
        match request.method.as_str() {
            "PUT" if request.header("if-none-match").is_some() => {
                Answer::new(status, format!("<Error><Code>{code}</Code></Error>"))
            }
            "PUT" => {
                objects.insert(path, request.body.clone());
                Answer::new(200, "").header("ETag", "\"1\"")
            }
            "GET" if request.target.contains("list-type=2") => {
                Answer::new(200, "<ListBucketResult></ListBucketResult>")
            }
            _ => objects.get(&path).map_or_else(|| Answer::new(404, ""), found),
        }
    })
}

fn store_at(mock: &HttpMock) -> Store {
    let mut config = StorageConfig::new("s3://bucket/p");
    let options = format!(
        "aws_endpoint=http://127.0.0.1:{},allow_http=true,skip_signature=true",
        mock.port()
    );
    config.options = options.parse().expect("options");
    config.request_timeout = std::time::Duration::from_secs(5);
    config.patience = std::time::Duration::from_secs(5);
    Store::open(&config).expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_condition_is_refused_an_object_is_looked_for_first() {
    for (status, code) in [
        (400, "InvalidArgument"),
        (405, "MethodNotAllowed"),
        (501, "NotImplemented"),
    ] {
        let mock = refuses_conditions(status, code);
        let store = store_at(&mock);
        let one = Bytes::from_static(b"one");
        let created = store.create("a", one.clone()).await;
        assert_eq!(
            created.unwrap_or_else(|error| panic!("{status}: {error:?}")),
            Created::Yes
        );
        assert_eq!(store.create_only(), Some(CreateOnly::Unsupported), "{status}");
        let again = store.create("a", Bytes::from_static(b"two")).await;
        assert_eq!(again.expect("asked"), Created::Exists, "{status}");
        assert_eq!(store.get("a", 10).await.expect("read"), Some(one));
        let other = store_at(&mock);
        let probed = other.probe_create_only("a", Bytes::from_static(b"one")).await;
        assert_eq!(probed.expect("probed"), CreateOnly::Unsupported, "{status}");
        let checks = check_store(&store_at(&mock), None).await;
        let row = checks.iter().find(|check| check.name == "create again").expect("a row");
        assert!(row.detail.contains("is looked for before it is written"), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_moment_says_nothing_about_conditions() {
    for code in ["RequestTimeout", "ExpiredToken"] {
        let mock = refuses_conditions(400, code);
        let store = store_at(&mock);
        let created = store.create("a", Bytes::from_static(b"one")).await;
        assert!(created.is_err(), "{code}");
        assert_eq!(store.create_only(), None, "{code}");
    }
}
