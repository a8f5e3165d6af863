use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;

use super::*;
use crate::codec::Format;
use crate::repository::layout;
use crate::wal::generator::SYSTEM_IDENTIFIER;
use crate::wal::{SegmentSize, WalFileName, generator};
use walarchive_storage::{Fence, Refusal, Write};
use walarchive_testkit::pretender::{Create, Pretender};

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
    assert_eq!(worst(&checks), CheckStatus::Warning);
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
            again.status == CheckStatus::Warning && again.detail.contains(says) && again.hint.is_some(),
            "{again:?}"
        );
        assert_eq!(
            store.list("").await.expect("listed"),
            vec![],
            "something is left behind"
        );
    }
}

#[derive(Debug)]
struct NoObjects;

#[async_trait::async_trait]
impl Fence for NoObjects {
    async fn permit(&self, write: Write) -> Result<(), Refusal> {
        match write {
            Write::Deletion => Ok(()),
            Write::Object | Write::Soon | Write::Ongoing => Err(Refusal {
                reason: Arc::new(Error::refused("no", "Never.")),
                is_final: true,
            }),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_be_deleted_where_nothing_was_written() {
    let store = Store::of(Arc::new(InMemory::new()), "memory:").with_fence(Arc::new(NoObjects));
    let checks = check_store(&store, None).await;
    let expected = [
        ("store", "ok"),
        ("list", "ok"),
        ("create", "failed"),
        ("owner", "ok"),
        ("newest backup", "warning"),
    ];
    assert_eq!(rows(&checks), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_repository_and_a_backup_without_wal_fail() {
    let store = Store::of(Arc::new(InMemory::new()), "memory:");
    crate::repository::cluster::claim(&store, &identity(1))
        .await
        .expect("claimed");
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
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.status == CheckStatus::Failed)
        .collect();
    assert_eq!(failed.len(), 2, "{checks:?}");
    assert!(failed[0].name == "owner" && failed[0].detail.contains("belongs to another cluster"));
    assert!(
        failed[1].name == "newest backup" && failed[1].detail.contains("000000010000000000000002"),
        "{failed:?}"
    );
    assert!(failed.iter().all(|check| check.hint.is_some()));
    // Commits would wait for nothing.
    let row = check_synchronous(&store, &checks).await.expect("a row");
    assert_eq!((row.name, row.status), ("synchronous backup", CheckStatus::Failed));
    assert!(row.detail.contains("there is no base backup that can be"), "{row:?}");
    assert_eq!(check_synchronous(&store, &checks[..3]).await, None, "it is not known");
}

/// WAL-G's repository of a cluster with small segments; one of this cluster before it had others; and a hole in either.
#[tokio::test(flavor = "multi_thread")]
async fn segments_of_another_size_are_not_taken_for_missing() {
    let size = |bytes| SegmentSize::new(bytes).expect("a size");
    let of = |bytes| ClusterIdentity {
        segment_size: size(bytes),
        ..identity(SYSTEM_IDENTIFIER)
    };
    for is_claimed in [false, true] {
        let store = Store::of(Arc::new(InMemory::new()), "memory:");
        if is_claimed {
            crate::repository::cluster::claim(&store, &of(1 << 20))
                .await
                .expect("claimed");
        }
        let sentinel = format!(
            r#"{{"LSN": {}, "FinishLSN": {}, "SystemIdentifier": {SYSTEM_IDENTIFIER}, "PgVersion": 150000}}"#,
            (2 << 20) + 40,
            (3 << 20) + 40
        );
        let key = layout::sentinel("base_000000010000000000000002");
        store.put(&key, Bytes::from(sentinel)).await.expect("written");
        let mut keys = Vec::new();
        for (segment, bytes) in generator::segments(1, 2, 4) {
            let key = layout::wal(&WalFileName::Segment(segment), Format::Plain);
            store.put(&key, Bytes::from(bytes)).await.expect("written");
            keys.push(key);
        }
        let identity = is_claimed.then(|| of(16 << 20));
        let of_repository = |checks: &[Check]| -> Vec<String> {
            let rows = rows(&checks[9..]);
            rows.iter().map(|(name, status)| format!("{name} {status}")).collect()
        };
        let owner = if is_claimed { "owner failed" } else { "owner ok" };
        let checks = check_store(&store, identity.as_ref()).await;
        assert_eq!(
            of_repository(&checks),
            [owner, "newest backup ok", "recovery ok"],
            "{checks:?}"
        );
        let synchronous = async |checks: &[Check]| check_synchronous(&store, checks).await.expect("a row");
        assert_eq!(synchronous(&checks).await.status, CheckStatus::Ok);
        // A later one is not there.
        let later = layout::sentinel("base_000000010000000000000009");
        store.put(&later, Bytes::from_static(b"{")).await.expect("written");
        let row = synchronous(&check_store(&store, identity.as_ref()).await).await;
        assert_eq!(row.status, CheckStatus::Warning);
        assert!(
            row.detail.contains("\"base_000000010000000000000002\" on only"),
            "{row:?}"
        );
        store.delete(&later).await.expect("deleted");
        store.delete(&keys[2]).await.expect("deleted");
        let checks = check_store(&store, identity.as_ref()).await;
        assert_eq!(
            of_repository(&checks),
            [owner, "newest backup ok", "recovery warning"],
            "{checks:?}"
        );
        assert!(
            checks[11]
                .detail
                .contains("ends at LSN 0/400000, though the WAL continues to LSN 0/600000"),
            "{checks:?}"
        );
        let mut checks = checks;
        checks[11].status = CheckStatus::Failed;
        assert_eq!(synchronous(&checks).await.status, CheckStatus::Failed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_there_is_one_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("store");
    std::fs::create_dir(&place).expect("made");
    let config = walarchive_storage::StorageConfig::new(format!("file://{}", place.display()));
    let store = Store::open(&config).expect("opened");
    std::fs::remove_dir(&place).expect("removed");
    std::fs::write(&place, "a file where the store was").expect("written");
    let checks = check_store(&store, None).await;
    assert_eq!(worst(&checks), CheckStatus::Failed);
    assert!(checks.iter().all(|check| check.name != "owner"), "{checks:?}");
}
