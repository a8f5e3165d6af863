//! Copies between two stores in memory.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::error::Error;
use crate::repository::cluster::{self, ClusterIdentity};
use crate::repository::inventory::list_backups;
use crate::repository::layout;
use crate::wal::SegmentSize;
use walarchive_storage::Store;

const FULL: &str = "base_000000010000000000000002";
const DELTA: &str = "base_000000010000000000000004_D_000000010000000000000002";
const OTHER: &str = "base_000000010000000000000008";

fn memory(url: &str) -> Store {
    Store::of(Arc::new(object_store::memory::InMemory::new()), url)
}

fn identity(system_identifier: u64) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    }
}

async fn put(store: &Store, key: &str, content: &str) {
    store.put(key, Bytes::from(content.to_owned())).await.expect("written");
}

/// Full backups in segments 2 and 8, a delta in 4, and the segments 1 to 9.
async fn source() -> Store {
    let store = memory("memory:source");
    cluster::claim(&store, &identity(7)).await.expect("claimed");
    for (name, number, parent) in [(FULL, 2u64, None), (DELTA, 4, Some(FULL)), (OTHER, 8, None)] {
        let start = number << 24 | 0x28;
        let mut sentinel = format!(
            r#""LSN": {start}, "FinishLSN": {}, "StartTime": "2026-11-20T10:0{number}:00Z", "PgVersion": 150000,
               "SystemIdentifier": 7"#,
            start + 0x100
        );
        if let Some(parent) = parent {
            sentinel.push_str(&format!(
                r#", "DeltaFrom": "{parent}", "DeltaFullName": "{parent}", "DeltaLSN": {}, "DeltaCount": 1"#,
                2 << 24 | 0x28
            ));
        }
        put(&store, &layout::sentinel(name), &format!("{{{sentinel}}}")).await;
        put(
            &store,
            &layout::tar(name, "part_001.tar.zst"),
            &format!("tar of {name}"),
        )
        .await;
        put(&store, &layout::backup_claim(name), "{}").await;
    }
    for number in 1..=9 {
        put(
            &store,
            &format!("wal_005/00000001000000000000000{number}.zst"),
            &format!("wal {number}"),
        )
        .await;
    }
    put(&store, "wal_005/00000002.history.zst", "history").await;
    store
}

async fn copy_to(from: &Store, to: &Store, backup: Option<&str>, with_history: bool) -> crate::error::Result<Copied> {
    let request = CopyRequest {
        backup: backup.map(str::to_owned),
        with_history,
    };
    let plan = plan(from, &request).await?;
    apply(from, to, &plan, &CopyProgress::default(), &CancellationToken::new()).await
}

async fn wal_of(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store
        .list(&layout::WAL_FOLDER)
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key.trim_start_matches("wal_005/").to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_delta_comes_with_what_it_is_based_on_and_the_wal_that_they_need() {
    let (from, to) = (source().await, memory("memory:target"));
    let copied = copy_to(&from, &to, Some(DELTA), false).await.expect("copied");
    assert_eq!((copied.sent, copied.there), (2 + 2 + 3, 0));
    let names: Vec<String> = list_backups(&to)
        .await
        .expect("listed")
        .into_iter()
        .map(|backup| backup.name)
        .collect();
    assert_eq!(names, [FULL, DELTA]);
    assert_eq!(
        wal_of(&to).await,
        [
            "000000010000000000000002.zst",
            "000000010000000000000004.zst",
            "00000002.history.zst"
        ]
    );
    assert_eq!(cluster::owner(&to).await.expect("read"), Some(identity(7)));
    assert_eq!(
        to.size(&layout::backup_claim(FULL)).await.expect("asked"),
        None,
        "a claim is of its place"
    );
    // Again, and all of it.
    let again = copy_to(&from, &to, Some(DELTA), false).await.expect("copied");
    assert_eq!((again.sent, again.there), (0, 7));
    let all = copy_to(&from, &to, None, true).await.expect("copied");
    assert_eq!((all.sent, all.there), (2 + 6, 7));
    assert_eq!(
        wal_of(&to).await.len(),
        9,
        "what is older than the oldest backup is of no use"
    );
}

#[tokio::test]
async fn a_copy_that_was_interrupted_goes_on() {
    let (from, to) = (source().await, memory("memory:target"));
    put(&to, "wal_005/000000010000000000000002.zst", "wal 2").await;
    put(&to, &layout::tar(FULL, "part_001.tar.zst"), &format!("tar of {FULL}")).await;
    let copied = copy_to(&from, &to, Some(FULL), false).await.expect("copied");
    assert_eq!((copied.sent, copied.there), (2, 2));
}

#[tokio::test]
async fn what_is_there_with_other_content_is_not_overwritten() {
    for (key, content) in [
        ("wal_005/000000010000000000000002.zst".to_owned(), "another"),
        (layout::tar(FULL, "part_001.tar.zst").into(), "another tar"),
    ] {
        let (from, to) = (source().await, memory("memory:target"));
        put(&to, &key, content).await;
        let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert_eq!(
            to.get(&key, 100).await.expect("read").as_deref(),
            Some(content.as_bytes())
        );
        assert!(list_backups(&to).await.expect("listed").is_empty(), "no sentinel came");
    }
}

#[tokio::test]
async fn what_cannot_be_restored_is_not_copied_and_no_other_cluster_is_mixed_in() {
    let (from, to) = (source().await, memory("memory:target"));
    from.delete("wal_005/000000010000000000000004.zst")
        .await
        .expect("deleted");
    let error = copy_to(&from, &to, Some(DELTA), false).await.expect_err("refused");
    assert!(error.to_string().contains("is not in the archive"), "{error}");
    assert_eq!(wal_of(&to).await, [""; 0]);
    let error = copy_to(&from, &to, Some("base_none"), false)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("there is no backup"), "{error}");
    let foreign = memory("memory:foreign");
    cluster::claim(&foreign, &identity(8)).await.expect("claimed");
    let error = copy_to(&from, &foreign, Some(FULL), false).await.expect_err("refused");
    assert!(matches!(error, Error::ForeignRepository { .. }), "{error:?}");
    let error = copy_to(&from, &from, Some(FULL), false).await.expect_err("refused");
    assert!(error.to_string().contains("the same storage"), "{error}");
}
