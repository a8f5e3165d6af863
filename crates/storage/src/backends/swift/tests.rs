//! Against a real Swift, and against scripted answers where a real one cannot be made to give them.

mod mock;
mod orphans;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use walarchive_testkit::{SwiftServer, TestDir};

use self::mock::Mock;
use super::multipart::SEGMENTS;
use super::store::SwiftStore;
use crate::config::StorageConfig;

fn open(options: &str, server: &SwiftServer) -> SwiftStore {
    let mut config = StorageConfig::new(server.url(""));
    config.options = options.parse().expect("options");
    config.credentials_file = Some(server.credentials_file(&server.env()));
    store_of(&config)
}

fn store_of(config: &StorageConfig) -> SwiftStore {
    let settings = crate::backends::swift::settings(config).expect("settings");
    crate::backends::swift::store(&config.url.parse().expect("a URL"), config, settings).expect("a store")
}

fn path(key: &str) -> Path {
    Path::parse(key).expect("a path")
}

async fn put(store: &SwiftStore, key: &str, content: &'static [u8]) {
    store.put(&path(key), content.into()).await.expect("written");
}

async fn get(store: &SwiftStore, key: &str) -> Bytes {
    let found = store.get(&path(key)).await.expect("found");
    found.bytes().await.expect("read")
}

async fn upload(store: &SwiftStore, key: &str, parts: &[&'static [u8]]) -> Box<dyn MultipartUpload> {
    let mut upload = store.put_multipart(&path(key)).await.expect("begun");
    for part in parts {
        upload.put_part(PutPayload::from_static(part)).await.expect("a part");
    }
    upload
}

async fn put_large(store: &SwiftStore, key: &str, parts: &[&'static [u8]]) {
    upload(store, key, parts).await.complete().await.expect("complete");
}

async fn keys(store: &SwiftStore, prefix: &str) -> Vec<String> {
    let prefix = path(prefix);
    let listed = store.list(Some(&prefix)).map_ok(|meta| meta.location.to_string());
    listed.try_collect().await.expect("a listing")
}

/// One server for all that it takes a real one: it needs seconds to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_swift() {
    let dir = TestDir::new();
    let server = SwiftServer::start(&dir);
    let store = open(&server.options(), &server);
    conditions_and_ranges(&store).await;
    listings(&server).await;
    odd_names(&store, &server).await;
    large_objects(&server).await;
    copies(&store, &server).await;
    orphans::orphans(&store, &server).await;
    tokens(&store, &server).await;
}

async fn conditions_and_ranges(store: &SwiftStore) {
    let key = path("conditions/a");
    let create = || store.put_opts(&key, "0123456789".into(), PutMode::Create.into());
    let e_tag = create().await.expect("created").e_tag.expect("a tag");
    assert!(matches!(create().await, Err(Error::AlreadyExists { .. })));
    let update = PutMode::Update(object_store::UpdateVersion {
        e_tag: Some(e_tag.clone()),
        version: None,
    });
    let updated = store.put_opts(&key, "x".into(), update.into()).await;
    assert!(matches!(updated, Err(Error::NotImplemented { .. })));
    let meta = store.head(&key).await.expect("there");
    assert_eq!((meta.size, meta.e_tag.as_deref()), (10, Some(e_tag.as_str())));
    let listed = store
        .list(Some(&path("conditions")))
        .try_next()
        .await
        .expect("a listing");
    assert_eq!(listed.as_ref(), Some(&meta));
    for (range, expected) in [
        (GetRange::Bounded(2..5), "234"),
        (GetRange::Bounded(8..100), "89"),
        (GetRange::Offset(7), "789"),
        (GetRange::Suffix(3), "789"),
        (GetRange::Suffix(30), "0123456789"),
    ] {
        let options = GetOptions::new().with_range(Some(range.clone()));
        let found = store.get_opts(&key, options).await.expect("found");
        let (size, range_found) = (found.meta.size, found.range.clone());
        assert_eq!(size, 10);
        assert_eq!(found.bytes().await.expect("read"), expected, "{range:?}");
        assert_eq!(range_found.end - range_found.start, expected.len() as u64);
    }
    let beyond = GetOptions::new().with_range(Some(10..12));
    assert!(matches!(store.get_opts(&key, beyond).await, Err(Error::Generic { .. })));
    let if_match = |tag: &str| store.get_opts(&key, GetOptions::new().with_if_match(Some(tag.to_owned())));
    if_match(&e_tag).await.expect("the tag matches");
    assert!(matches!(if_match("other").await, Err(Error::Precondition { .. })));
    let none_match = GetOptions::new().with_if_none_match(Some(e_tag));
    assert!(matches!(
        store.get_opts(&key, none_match).await,
        Err(Error::NotModified { .. })
    ));
    let since = GetOptions::new().with_if_modified_since(Some(meta.last_modified + chrono::TimeDelta::seconds(2)));
    assert!(matches!(
        store.get_opts(&key, since).await,
        Err(Error::NotModified { .. })
    ));
    let missing = path("conditions/b");
    assert!(matches!(store.get(&missing).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.delete(&missing).await, Err(Error::NotFound { .. })));
    put(store, "conditions/empty", b"").await;
    assert_eq!(get(store, "conditions/empty").await, "");
    store.delete(&key).await.expect("deleted");
    assert!(matches!(store.head(&key).await, Err(Error::NotFound { .. })));
}

async fn listings(server: &SwiftServer) {
    let mut store = open(&server.options(), server);
    store.page = 7;
    let names: Vec<_> = (0..21).map(|number| format!("pages/{number:02}")).collect();
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["pages/sub/a", "pages/sub/b", "pages2/a"])
    {
        put(&store, name, b"x").await;
    }
    let mut expected = names.clone();
    expected.extend(["pages/sub/a".to_owned(), "pages/sub/b".to_owned()]);
    assert_eq!(keys(&store, "pages").await, expected);
    let after = store.list_with_offset(Some(&path("pages")), &path("pages/18"));
    let after: Vec<_> = after
        .map_ok(|meta| meta.location.to_string())
        .try_collect()
        .await
        .expect("a listing");
    assert_eq!(after, ["pages/19", "pages/20", "pages/sub/a", "pages/sub/b"]);
    let shallow = store
        .list_with_delimiter(Some(&path("pages")))
        .await
        .expect("a listing");
    let objects: Vec<_> = shallow.objects.iter().map(|meta| meta.location.to_string()).collect();
    assert_eq!(objects, names);
    assert_eq!(shallow.common_prefixes, [path("pages/sub")]);
    let locations = futures::stream::iter(expected.clone().into_iter().map(|name| Ok(path(&name)))).boxed();
    let deleted: Vec<_> = store.delete_stream(locations).try_collect().await.expect("deleted");
    assert_eq!(deleted.len(), expected.len());
    assert_eq!(keys(&store, "pages").await, Vec::<String>::new());
}

async fn odd_names(store: &SwiftStore, server: &SwiftServer) {
    let names = [
        "a b",
        "a+b&c=d;e",
        "100%25",
        "ü/ñ/日本",
        "q%3Fx#y",
        "it's (1)!",
        "a:b@c",
        "back%5Cslash",
        "..a",
    ];
    for name in names {
        let key = format!("odd/{name}");
        put(store, &key, b"odd").await;
        assert_eq!(get(store, &key).await, "odd", "{name}");
        assert!(server.names().contains(&key), "{name}");
        assert_eq!(store.head(&path(&key)).await.expect("there").location.as_ref(), key);
        put_large(store, &key, &[b"in ", b"parts"]).await;
        assert_eq!(get(store, &key).await, "in parts", "{name}");
        let copied = path(&format!("odd/{name} copied"));
        store.copy(&path(&key), &copied).await.expect("copied");
        store.delete(&copied).await.expect("deleted");
    }
    let mut listed = keys(store, "odd").await;
    let mut expected = names.map(|name| format!("odd/{name}")).to_vec();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        store.delete(&path(&format!("odd/{name}"))).await.expect("deleted");
    }
    assert_eq!(server.names(), ["conditions/empty", "pages2/a"]);
}

async fn large_objects(server: &SwiftServer) {
    let mut store = open(&server.options(), server);
    let segments = || server.names().iter().filter(|name| name.starts_with(SEGMENTS)).count();
    let parts: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"", b"e", b"f", b"g"];
    for (limit, manifests) in [(1000, 0), (3, 3), (2, 6)] {
        store.manifest_segments = limit;
        put_large(&store, "large/a", &parts).await;
        assert_eq!(get(&store, "large/a").await, "abcdefg");
        assert_eq!(store.get_range(&path("large/a"), 2..5).await.expect("a range"), "cde");
        // The objects of before are gone, with the copy of the manifest.
        assert_eq!(segments(), 7 + manifests);
        assert_eq!(store.head(&path("large/a")).await.expect("there").size, 7);
    }
    let listed = store
        .list(Some(&path("large")))
        .try_next()
        .await
        .expect("a listing")
        .expect("an object");
    assert_eq!(listed, store.head(&path("large/a")).await.expect("there"));
    // A listing of the whole container shows no segments, a listing of the segments does.
    let all: Vec<_> = store
        .list(None)
        .map_ok(|meta| meta.location.to_string())
        .try_collect()
        .await
        .expect("a listing");
    assert_eq!(all, ["conditions/empty", "large/a", "pages2/a"]);
    let roots = store
        .list_with_delimiter(None)
        .await
        .expect("a listing")
        .common_prefixes;
    assert_eq!(roots, [path("conditions"), path("large"), path("pages2")]);
    assert_eq!(keys(&store, ".walarchive-segments/large/a").await.len(), 13);

    put(&store, "large/a", b"small").await;
    assert_eq!((get(&store, "large/a").await, segments()), (Bytes::from("small"), 0));
    put_large(&store, "large/a", &parts).await;
    store.delete(&path("large/a")).await.expect("deleted");
    assert_eq!((keys(&store, "large").await.len(), segments()), (0, 0));

    store.manifest_segments = 1000;
    let mut given_up = upload(&store, "large/b", &parts).await;
    assert_eq!(segments(), 7);
    given_up.abort().await.expect("given up");
    assert_eq!((keys(&store, "large").await.len(), segments()), (0, 0));
    // A client that did not hear that the upload was complete gives it up too.
    let mut complete = upload(&store, "large/b", &parts).await;
    complete.complete().await.expect("complete");
    complete.abort().await.expect("given up");
    assert_eq!((keys(&store, "large").await.len(), segments()), (0, 0));
    // But not what somebody else wrote since then.
    complete = upload(&store, "large/b", &parts).await;
    complete.complete().await.expect("complete");
    put_large(&store, "large/b", &[b"another's"]).await;
    complete.abort().await.expect("given up");
    assert_eq!(
        (get(&store, "large/b").await, segments()),
        (Bytes::from("another's"), 1)
    );
    store.delete(&path("large/b")).await.expect("deleted");
    put_large(&store, "large/c", &[b""]).await;
    assert_eq!((get(&store, "large/c").await, segments()), (Bytes::new(), 0));
    put_large(&store, "large/c", &[]).await;
    store.delete(&path("large/c")).await.expect("deleted");
}

async fn copies(store: &SwiftStore, server: &SwiftServer) {
    let segments = || server.names().iter().filter(|name| name.starts_with(SEGMENTS)).count();
    let before = segments();
    put_large(store, "copy/large", &[b"in ", b"parts"]).await;
    put(store, "copy/small", b"small").await;
    store.copy(&path("copy/large"), &path("copy/a")).await.expect("copied");
    let again = store.copy_if_not_exists(&path("copy/small"), &path("copy/a")).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    store
        .copy_if_not_exists(&path("copy/small"), &path("copy/b"))
        .await
        .expect("copied");
    assert_eq!(get(store, "copy/b").await, "small");
    let missing = store.copy(&path("copy/none"), &path("copy/c")).await;
    assert!(
        matches!(&missing, Err(Error::NotFound { path, .. }) if path == "copy/none"),
        "{missing:?}"
    );
    // An object that was renamed has no segments any more: they would be below its old name.
    let exists = store.rename_if_not_exists(&path("copy/small"), &path("copy/b")).await;
    assert!(matches!(exists, Err(Error::AlreadyExists { .. })), "{exists:?}");
    store
        .rename_if_not_exists(&path("copy/b"), &path("copy/c"))
        .await
        .expect("renamed");
    store.rename(&path("copy/c"), &path("copy/b")).await.expect("renamed");
    store
        .rename(&path("copy/large"), &path("copy/b"))
        .await
        .expect("renamed");
    assert_eq!(
        (get(store, "copy/b").await, segments() - before),
        (Bytes::from("in parts"), 0)
    );
    store
        .rename(&path("copy/small"), &path("copy/b"))
        .await
        .expect("renamed");
    assert_eq!(
        (get(store, "copy/b").await, segments() - before),
        (Bytes::from("small"), 0)
    );
    // The copy does not need the segments of its original.
    assert_eq!(get(store, "copy/a").await, "in parts");
    assert_eq!(keys(store, "copy").await, ["copy/a", "copy/b"]);
}

async fn tokens(store: &SwiftStore, server: &SwiftServer) {
    put(store, "tokens/a", b"before").await;
    server.forget_tokens();
    assert_eq!(get(store, "tokens/a").await, "before");
    server.forget_tokens();
    put(store, "tokens/a", b"after").await;
    assert_eq!(get(store, "tokens/a").await, "after");
}

/// A store in front of scripted answers.
fn mocked(mock: &Mock) -> SwiftStore {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credentials");
    std::fs::write(&file, "st_user = u\nst_key = hunter2\n").expect("written");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("protected");
    let mut config = StorageConfig::new("swift://c/");
    config.options = format!("st_auth={}/auth,allow_http=true", mock.url())
        .parse()
        .expect("options");
    config.credentials_file = Some(file);
    config.request_timeout = Duration::from_secs(2);
    config.patience = Duration::from_secs(8);
    store_of(&config)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_pause_is_kept() {
    let mock = Mock::start(|url, head, seen| match (head, seen) {
        ("GET /auth", _) => Mock::token(url, "t"),
        (_, 0) => Mock::answer("503 Service Unavailable", "Retry-After: 2\r\n", ""),
        (_, 1) => Mock::answer("498 Rate Limited", "", ""),
        _ => Mock::answer("201 Created", "ETag: x\r\n", ""),
    });
    let start = Instant::now();
    put(&mocked(&mock), "a", b"x").await;
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(mock.seen("PUT /v1/c/a"), 3);
    // A pause beyond our patience is none.
    let mock = Mock::start(|url, head, _| match head {
        "GET /auth" => Mock::token(url, "t"),
        _ => Mock::answer("503 Service Unavailable", "Retry-After: 3600\r\n", "<h1>busy</h1>"),
    });
    let start = Instant::now();
    let error = mocked(&mock).head(&path("a")).await.expect_err("busy");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(error.to_string().contains("503 Service Unavailable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_serves_all_who_wait() {
    let mock = Mock::start(|url, head, seen| match head {
        "GET /auth" => {
            std::thread::sleep(Duration::from_millis(300));
            Mock::token(url, &format!("token-{seen}"))
        }
        // The first token was revoked.
        head if head.contains("token-0") => Mock::answer("401 Unauthorized", "", ""),
        _ => Mock::answer("200 OK", "Content-Length: 0\r\n", ""),
    });
    let store = Arc::new(mocked(&mock));
    let many = (0..20).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.head(&path(&format!("a{number}"))).await })
    });
    for found in futures::future::join_all(many).await {
        found.expect("no panic").expect("found");
    }
    assert_eq!(mock.seen("GET /auth"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_no_retries_and_show_no_secret() {
    let mock = Mock::start(|url, head, _| match head {
        "GET /auth" => Mock::token(url, "secret-token"),
        head if head.starts_with("PUT") => Mock::answer("403 Forbidden", "", "<p>not yours</p>"),
        _ => Mock::answer("401 Unauthorized", "", ""),
    });
    let store = mocked(&mock);
    let put = store
        .put_opts(&path("a"), "x".into(), PutMode::Create.into())
        .await
        .expect_err("refused");
    assert!(matches!(put, Error::PermissionDenied { .. }), "{put:?}");
    assert!(put.to_string().contains("not yours"));
    let listed = store.list(None).try_next().await.expect_err("refused");
    assert!(matches!(listed, Error::Unauthenticated { .. }), "{listed:?}");
    // Each was tried once, the second with a new token too.
    assert_eq!(mock.seen("PUT /v1/c/a"), 1);
    assert_eq!(mock.seen("GET /v1/c?"), 2);
    let shown = format!("{put} {put:?} {listed} {listed:?} {store:?}");
    assert!(!shown.contains("secret-token") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on() {
    let content: String = (0..1000).map(|number| format!("{number:04}")).collect();
    let whole = content.clone();
    let mock = Mock::start(move |url, head, seen| {
        let from = seen * 1000;
        match head {
            "GET /auth" => Mock::token(url, "t"),
            // Each connection breaks after 1000 bytes of 4000.
            _ if seen == 0 => Mock::answer("200 OK", "ETag: e\r\nContent-Length: 4000\r\n", &whole[..1000]),
            head if head.contains(&format!("range: bytes={from}-3999")) && head.contains("if-match: \"e\"") => {
                let range = format!(
                    "Content-Range: bytes {from}-3999/4000\r\nContent-Length: {}\r\n",
                    4000 - from
                );
                Mock::answer("206 Partial Content", &range, &whole[from..from + 1000])
            }
            _ => Mock::answer("400 Bad Request", "", head),
        }
    });
    assert_eq!(get(&mocked(&mock), "a").await, content.as_bytes());
    assert_eq!(mock.seen("GET /v1/c/a"), 4);
    // Not with another object's bytes.
    let mock = Mock::start(|url, head, seen| match (head, seen) {
        ("GET /auth", _) => Mock::token(url, "t"),
        (_, 0) => Mock::answer("200 OK", "ETag: e\r\nContent-Length: 4000\r\n", "x"),
        _ => Mock::answer("412 Precondition Failed", "", ""),
    });
    let found = mocked(&mock).get(&path("a")).await.expect("begun");
    let error = found.bytes().await.expect_err("another object");
    assert!(error.to_string().contains("was overwritten"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_a_failure_in_time() {
    let mock = Mock::start(|url, head, _| match head {
        "GET /auth" => Mock::token(url, "t"),
        _ => Mock::hang(),
    });
    let start = Instant::now();
    let error = mocked(&mock).head(&path("a")).await.expect_err("nothing came");
    assert!(error.to_string().contains("not answered within 2000 ms"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_container_is_no_missing_object() {
    let mock = Mock::start(|url, head, _| match head {
        "GET /auth" => Mock::token(url, "t"),
        _ => Mock::answer("404 Not Found", "", ""),
    });
    let error = mocked(&mock).head(&path("a")).await.expect_err("nothing there");
    assert!(error.to_string().contains("No such container: \"c\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_kept_is_none() {
    let mock = Mock::start(|url, head, _| match head {
        "GET /auth" => Mock::token(url, "t"),
        head if head.starts_with("PUT") => Mock::answer("202 Accepted", "", ""),
        _ => Mock::answer("200 OK", "", ""),
    });
    let store = mocked(&mock);
    let created = store.put_opts(&path("a"), "x".into(), PutMode::Create.into()).await;
    assert!(matches!(created, Err(Error::AlreadyExists { .. })), "{created:?}");
    let written = store.put(&path("a"), "x".into()).await;
    assert!(matches!(&written, Err(Error::Precondition { .. })), "{written:?}");
}
