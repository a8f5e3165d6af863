//! Names, cancels, labels and the commit.

use std::time::Duration;

use bytes::Bytes;

use super::tree::cluster;
use super::*;
use crate::error::Error;
use crate::formats::SENTINEL_LIMIT;
use crate::formats::files_metadata::FilesMetadata;
use walarchive_storage::{CreateOnly, Created};
use walarchive_testkit::meddler::{Act, Meddler, Op};

fn memory() -> Store {
    Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:")
}

async fn prepared(store: &Store, stop: StopResult) -> crate::Result<PreparedBackup> {
    let cluster = cluster();
    let mut backup = begin(store, request(&cluster.data_dir()), BackupOptions::default()).await?;
    backup.copy().await?;
    backup.finish(stop).await
}

#[tokio::test]
async fn a_taken_name_is_refused_before_the_first_byte() {
    let keys = [
        layout::sentinel(NAME),
        layout::tar(NAME, "part_001.tar.zst"),
        layout::backup_claim(NAME),
    ];
    for key in keys {
        let store = memory();
        store.put(&key, Bytes::from_static(b"{}")).await.expect("written");
        let refused = begin(&store, request(Path::new("/nowhere")), BackupOptions::default()).await;
        assert!(matches!(refused, Err(Error::BackupExists { .. })), "{key}");
        assert_eq!(store.list("").await.expect("listed").len(), 1, "{key}");
    }
    let store = memory();
    let first = begin(&store, request(Path::new("/nowhere")), BackupOptions::default())
        .await
        .expect("begun");
    let second = begin(&store, request(Path::new("/nowhere")), BackupOptions::default()).await;
    assert!(matches!(second, Err(Error::BackupExists { .. })));
    first.abort().await.expect("removed");
    assert_eq!(store.list("").await.expect("listed"), []);
}

/// The other one had looked before our claim was there, and writes his over it.
#[tokio::test]
async fn the_last_one_has_the_name_where_a_store_overwrites() {
    let meddler = Meddler::new(Arc::new(object_store::memory::InMemory::new()));
    let (claim, mut written) = (layout::backup_claim(NAME), false);
    let other = vec![(claim.to_string(), Some(r#"{"hostname": "other"}"#.to_owned()))];
    meddler.rule(move |op, key| match (op, key == claim.as_str()) {
        (Op::Put, true) => {
            written = true;
            Act::Pass
        }
        // It is still ours when we look for the first time.
        (Op::Get, true) if std::mem::take(&mut written) => Act::Then(other.clone()),
        _ => Act::Pass,
    });
    let store = Store::of(Arc::new(meddler), "memory:").knowing(CreateOnly::Ignored);
    let refused = begin(&store, request(Path::new("/nowhere")), BackupOptions::default()).await;
    assert!(matches!(refused, Err(Error::BackupExists { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_databases_are_called_is_written_down() {
    let (store, cluster) = (memory(), cluster());
    let begun = begin(&store, request(&cluster.data_dir()), BackupOptions::default()).await;
    let mut backup = begun.expect("begun");
    backup.name_databases(BTreeMap::from([("app".to_owned(), 16_400), ("postgres".to_owned(), 5)]));
    backup.copy().await.expect("copied");
    backup.finish(stop()).await.expect("finished");
    let key = layout::files_metadata(NAME);
    let text = store.get(&key, SENTINEL_LIMIT).await.expect("read").expect("there");
    let metadata = FilesMetadata::read_from(&text[..]).expect("JSON");
    let oids = metadata.databases_by_names.iter();
    let oids: Vec<(&str, u32)> = oids.map(|(name, database)| (&name[..], database.oid)).collect();
    assert_eq!(oids, [("app", 16_400), ("postgres", 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_leaves_nothing() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    cluster.write("base/5/20000", 30 << 20);
    let store = file_store(repository.path());
    let options = BackupOptions {
        // Slow enough that the cancel comes in the middle: after the first part and long before the last.
        rate_limit: Some(8 << 20),
        compression: Compression::Plain,
        ..BackupOptions::default()
    };
    let (progress, cancel) = (Arc::new(BackupProgress::default()), CancellationToken::new());
    let begun = Backup::begin(
        &store,
        request(&cluster.data_dir()),
        options,
        progress.clone(),
        cancel.clone(),
    );
    let mut backup = begun.await.expect("begun");
    let copy = tokio::spawn(async move { (backup.copy().await, backup) });
    let uploading = async {
        while progress.snapshot().stored < 9 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), uploading)
        .await
        .expect("a part was sent");
    cancel.cancel();
    let (result, backup) = tokio::time::timeout(Duration::from_secs(60), copy)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    backup.abort().await.expect("removed");
    assert_eq!(files_below(repository.path()), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_label_must_be_of_this_backup() {
    for (from, to, says) in [
        ("START TIMELINE: 1", "START TIMELINE: 2", "timeline 2"),
        ("0/2000028", "0/3000028", "0/3000028"),
        ("START TIMELINE: 1", "", "no start timeline"),
    ] {
        let mut stop = stop();
        stop.backup_label = stop.backup_label.replace(from, to);
        let store = memory();
        let error = prepared(&store, stop).await.expect_err("refused");
        assert!(error.to_string().contains(says), "{error}");
        discard(&store, NAME).await.expect("removed");
        assert_eq!(store.list("").await.expect("listed"), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_needed_wal_ends_before_the_stop() {
    let store = memory();
    let prepared = prepared(&store, stop()).await.expect("prepared");
    let names: Vec<String> = prepared.needed_segments().iter().map(ToString::to_string).collect();
    // The stop is the first byte of segment 4: nothing of it is needed.
    assert_eq!(names, ["000000010000000000000002", "000000010000000000000003"]);
    let missing = async || {
        let missing = prepared.missing_segments(&store).await.expect("listed");
        missing.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for other in [
        "000000010000000000000001.zst",
        "000000010000000000000003.partial.zst",
        "00000002.history.zst",
    ] {
        store
            .put(&format!("wal_005/{other}"), Bytes::new())
            .await
            .expect("written");
    }
    assert_eq!(missing().await, names);
    // Uncompressed, the key of the first is exactly its name.
    store
        .put(&format!("wal_005/{}", names[0]), Bytes::new())
        .await
        .expect("written");
    assert_eq!(missing().await, names[1..]);
    store
        .put(&format!("wal_005/{}.lz4", names[1]), Bytes::new())
        .await
        .expect("written");
    assert_eq!(missing().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sentinel_is_written_once() {
    let store = memory();
    let backup = prepared(&store, stop()).await.expect("prepared");
    assert_eq!(
        store.size(&layout::sentinel(NAME)).await.expect("asked"),
        None,
        "last means last"
    );
    backup.commit().await.expect("committed");
    // The answer to a create-only write may be lost, and then it is tried again.
    assert_eq!(backup.commit().await.expect("committed"), NAME);
    assert!(matches!(discard(&store, NAME).await, Err(Error::BackupExists { .. })));
    backup.abort().await.expect("removed");
    assert_eq!(store.list("").await.expect("listed"), []);

    let backup = prepared(&store, stop()).await.expect("prepared");
    let other = Bytes::from_static(b"{}");
    let created = store.create(&layout::sentinel(NAME), other).await.expect("written");
    assert_eq!(created, Created::Yes);
    assert!(matches!(backup.commit().await, Err(Error::BackupExists { .. })));
    assert!(backup.abort().await.is_err(), "it is another's now");
    assert!(store.size(&layout::metadata(NAME)).await.expect("asked").is_some());
}
