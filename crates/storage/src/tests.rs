use bytes::Bytes;

use std::sync::Arc;

use crate::*;

#[test]
fn a_url_must_name_a_place_and_nothing_else() {
    for url in [
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/",
        "s3://bucket/a/",
        "file:///tmp/x",
        "file:///tmp/with%20space",
    ] {
        Store::check_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    }
    for (url, says) in [
        ("", "not a URL"),
        ("/tmp", "not a URL"),
        ("s3://", "names no bucket"),
        ("file://host/path", "not an absolute path"),
        ("file:///", "not an absolute path"),
        ("ftp://host/path", "scheme \"ftp\" is not supported"),
        ("s3://key:hunter2@bucket/x", "has more than a bucket and a prefix"),
        ("s3://bucket/x?secret=hunter2", "has more than a bucket and a prefix"),
        ("s3://bucket//prefix", "has an invalid prefix"),
        ("s3://bucket//", "has an invalid prefix"),
        ("gs://bucket/x//y", "has an invalid prefix"),
        ("az://container/x//", "has an invalid prefix"),
        ("swift://container/x/./y", "has an invalid prefix"),
        ("s3://bucket/../x", "has an invalid prefix"),
        ("s3://bucket/x%2F%2Fy", "has an invalid prefix"),
        ("s3://bucket/x\ty", "has an invalid prefix"),
    ] {
        let error = Store::check_url(url).expect_err(url);
        assert!(error.to_string().contains(says), "{url}: {error}");
        assert!(!format!("{error}").contains("key:hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_directory_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
    assert_eq!(
        store.create("a/b", Bytes::from_static(b"one")).await.expect("created"),
        Created::Yes
    );
    assert_eq!(
        store.create("a/b", Bytes::from_static(b"two")).await.expect("asked"),
        Created::Exists
    );
    assert_eq!(store.get("a/b", 10).await.expect("read").as_deref(), Some(&b"one"[..]));
    assert!(matches!(store.get("a/b", 2).await, Err(Error::Damaged { .. })));
    assert_eq!(store.size("a/b").await.expect("asked"), Some(3));
    assert_eq!(store.size("a/c").await.expect("asked"), None);
    assert_eq!(store.list("nowhere").await.expect("listed"), vec![]);
    assert_eq!(store.list("a").await.expect("listed").len(), 1);
    store.delete("a/b").await.expect("deleted");
    store.delete("a/b").await.expect("deleted twice");
}

#[tokio::test]
async fn a_missing_directory_is_not_created() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}/missing", dir.path().display());
    assert!(matches!(
        Store::open(&StorageConfig::new(url)),
        Err(Error::NoSuchStore { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_read_in_parts() {
    use std::io::Read as _;
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
    let content: Vec<u8> = (0..PART_BYTES * 2 + 17).map(|at| (at % 251) as u8).collect();
    store.put("large", Bytes::from(content.clone())).await.expect("written");
    let read = |size| {
        let mut reader = RangeReader::new(&store, "large", size);
        tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let result = reader.read_to_end(&mut out);
            (result.map(|_| out), reader.take_failure())
        })
    };
    let (whole, failure) = read(content.len() as u64).await.expect("read");
    assert!(failure.is_none() && whole.expect("read") == content);
    let (_, failure) = read(content.len() as u64 + 1).await.expect("read");
    assert!(failure.is_some());
}

#[test]
fn a_store_does_not_show_its_credentials() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    for (url, options, credentials) in [
        (
            "az://c/p",
            "account_name=a",
            "azure_storage_sas_token = sv=1&sig=hunter2",
        ),
        ("gs://b/p", "", "google_bearer_token = hunter2"),
        (
            "s3://b/p",
            "",
            "aws_access_key_id = a\naws_secret_access_key = hunter2\naws_session_token = hunter2",
        ),
    ] {
        std::fs::write(file.path(), credentials).expect("written");
        let mut config = StorageConfig::new(url);
        config.options = options.parse().expect("options");
        config.credentials_file = Some(file.path().to_owned());
        let store = Store::open(&config).expect("a store");
        let shown = format!("{store:?} {config:?}");
        assert!(shown.contains(url) && !shown.contains("hunter2"), "{shown}");
    }
}
