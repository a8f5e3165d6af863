use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;

use super::*;
use crate::layout;
use crate::storage::pretender::{Create, Pretender};
use crate::wal::SegmentSize;

fn identity(system_identifier: u64) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    }
}

fn rows(checks: &[Check]) -> Vec<(&str, &str)> {
    checks.iter().map(|check| (check.name, check.status.as_str())).collect()
}

const ALL_WELL: [(&str, &str); 11] = [
    ("store", "ok"),
    ("list", "ok"),
    ("create", "ok"),
    ("create again", "ok"),
    ("clock", "ok"),
    ("read", "ok"),
    ("range", "ok"),
    ("multipart", "ok"),
    ("delete", "ok"),
    ("owner", "ok"),
    ("newest backup", "warning"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_new_repository_lacks_nothing_but_a_backup() {
    let store = Store::of(Arc::new(InMemory::new()), "memory:");
    let checks = check_store(&store, Some(&identity(1))).await;
    assert_eq!(rows(&checks), ALL_WELL);
    assert_eq!(
        store.list("").await.expect("listed"),
        vec![],
        "something is left behind"
    );
    assert_eq!(worst(&checks), Status::Warning);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_which_way_is_in_use_where_create_only_is_not_honoured() {
    for (create, says) in [
        (Create::Overwrites, "overwrites where it was told to create"),
        (Create::Refused, "knows no create-only writes"),
        (Create::Bad, "knows no create-only writes"),
    ] {
        let store = Store::of(Arc::new(Pretender::new(create)), "memory:");
        let checks = check_store(&store, None).await;
        let again = checks.iter().find(|check| check.name == "create again").expect("a row");
        assert!(
            again.status == Status::Warning && again.detail.contains(says) && again.hint.is_some(),
            "{again:?}"
        );
        assert_eq!(
            store.list("").await.expect("listed"),
            vec![],
            "something is left behind"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_repository_and_a_backup_without_wal_fail() {
    let store = Store::of(Arc::new(InMemory::new()), "memory:");
    crate::cluster::claim(&store, &identity(1)).await.expect("claimed");
    let name = "base_000000010000000000000002";
    let sentinel = format!(
        r#"{{"LSN": {}, "FinishLSN": {}, "SystemIdentifier": 1, "PgVersion": 150000}}"#,
        2 << 24,
        3 << 24
    );
    store
        .put(&layout::sentinel(name), Bytes::from(sentinel))
        .await
        .expect("written");
    let checks = check_store(&store, Some(&identity(2))).await;
    let failed: Vec<_> = checks.iter().filter(|check| check.status == Status::Failed).collect();
    assert_eq!(failed.len(), 2, "{checks:?}");
    assert!(failed[0].name == "owner" && failed[0].detail.contains("belongs to another cluster"));
    assert!(
        failed[1].name == "newest backup" && failed[1].detail.contains("000000010000000000000002"),
        "{failed:?}"
    );
    assert!(failed.iter().all(|check| check.hint.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_there_is_one_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("store");
    std::fs::create_dir(&place).expect("made");
    let config = crate::config::StorageConfig::new(format!("file://{}", place.display()));
    let store = Store::open(&config).expect("opened");
    std::fs::remove_dir(&place).expect("removed");
    std::fs::write(&place, "a file where the store was").expect("written");
    let checks = check_store(&store, None).await;
    assert_eq!(worst(&checks), Status::Failed);
    assert!(checks.iter().all(|check| check.name != "owner"), "{checks:?}");
}
