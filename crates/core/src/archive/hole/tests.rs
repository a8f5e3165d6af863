use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::local::tests::pages;
use super::*;
use crate::control_file::tests::sample;

const MB: u64 = 1 << 20;

/// A data directory of a cluster with segments of 1 MB, and an archive with these files.
struct Fixture {
    dir: TempDir,
    store: Store,
}

impl Fixture {
    async fn new(objects: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["global", "pg_wal"] {
            std::fs::create_dir(dir.path().join(name)).expect("created");
        }
        let control = sample(MB as u32, 288);
        std::fs::write(dir.path().join("global/pg_control"), control).expect("written");
        // A listing that is not in order is seen as a whole.
        let store = Store::of(Arc::new(InMemory::new()), "memory:");
        for (name, content) in objects {
            let content = Bytes::copy_from_slice(content.as_bytes());
            store.put(&format!("wal_005/{name}"), content).await.expect("written");
        }
        Fixture { dir, store }
    }

    async fn gap(&self, segment: Segment, tail: Option<&str>) -> Result<Gap> {
        let target = self.dir.path().join("pg_wal/RECOVERYXLOG");
        let tail = tail.map(|later| (later.parse().expect("a segment"), Utc::now()));
        find_hole(&self.store, segment, tail, None, (&target, self.dir.path())).await
    }

    async fn find(&self, segment: &str) -> Option<String> {
        let segment = segment.parse().expect("a segment");
        let found = match self.gap(segment, None).await.expect("looked") {
            Gap::Hole(hole) => Some(hole.later.to_string()),
            Gap::End => None,
            Gap::Closed => panic!("{segment} is there"),
        };
        let all = look_at_all(&self.store, segment).await.expect("looked");
        let in_order = look_in_order(&self.store, segment).await.expect("looked");
        assert_eq!(
            all.later.map(|(later, _)| later),
            in_order.later.map(|(later, _)| later)
        );
        found
    }
}

#[tokio::test]
async fn later_wal_of_the_timeline_makes_a_hole() {
    let fixture = Fixture::new(&[
        ("000000010000000000000003.zst", ""),
        ("000000010000000000000003.00000028.backup.zst", ""),
        ("000000010000000000000006.lz4", ""),
        ("000000010000000000000007.partial.zst", ""),
        ("README", ""),
    ])
    .await;
    let later = Some("000000010000000000000006".to_owned());
    assert_eq!(fixture.find("000000010000000000000004").await, later);
    assert_eq!(fixture.find("000000010000000000000005").await, later);
    assert_eq!(fixture.find("000000010000000000000007").await, None, "the end");
    assert_eq!(fixture.find("000000020000000000000004").await, None);

    // What the server has itself is no hole, if it is not a file that waits to be used again.
    let four = "000000010000000000000004".parse().expect("a segment");
    let page = pages(four, 128);
    for name in ["000000010000000000000004", "000000010000000000000005"] {
        std::fs::write(fixture.dir.path().join("pg_wal").join(name), &page).expect("written");
    }
    assert_eq!(fixture.find("000000010000000000000004").await, None);
    assert_eq!(fixture.find("000000010000000000000005").await, later);
    // Half of it ends too early.
    let path = fixture.dir.path().join("pg_wal/000000010000000000000004");
    std::fs::write(path, pages(four, 64)).expect("written");
    assert_eq!(fixture.find("000000010000000000000004").await, later);
}

#[tokio::test]
async fn a_timeline_that_branches_later_makes_a_hole() {
    // Timeline 2 leaves in segment 5, timeline 3 leaves timeline 2 in segment 8.
    let objects = [
        ("000000010000000000000003", ""),
        ("000000010000000000000005.partial", ""),
        ("00000002.history", "1\t0/500028\tx\n"),
        ("000000020000000000000006", ""),
        ("00000003.history", "1\t0/500028\tx\n2\t0/800000\tx\n"),
        ("000000030000000000000008", ""),
    ];
    let fixture = Fixture::new(&objects).await;
    let find = |name| fixture.find(name);
    assert_eq!(
        find("000000010000000000000004").await.as_deref(),
        Some("00000002.history")
    );
    assert_eq!(find("000000010000000000000005").await, None, "the timeline ends in it");
    assert_eq!(
        find("000000020000000000000007").await.as_deref(),
        Some("00000003.history")
    );
    assert_eq!(find("000000020000000000000008").await, None);
    // The first segment of timeline 2 is missing. The one of its parent goes on with WAL that timeline 2 has left.
    let later = Some("000000020000000000000006");
    assert_eq!(find("000000020000000000000005").await.as_deref(), later);
    fixture
        .store
        .put("wal_005/000000010000000000000005.zst", Bytes::new())
        .await
        .expect("written");
    assert_eq!(find("000000020000000000000005").await.as_deref(), later);
    // Older servers ask the newest timeline for everything.
    assert_eq!(find("000000020000000000000004").await, None);
    assert_eq!(find("000000030000000000000009").await, None);
}

/// A control file that cannot be read is a failure, and no end of the archive.
#[tokio::test]
async fn an_unreadable_control_file_ends_no_recovery() {
    let fixture = Fixture::new(&[("000000010000000000000004.zst", "later")]).await;
    let control = fixture.dir.path().join("global/pg_control");
    let segment: Segment = "000000010000000000000003".parse().expect("a segment");
    let look = async || fixture.gap(segment, None).await;
    assert!(matches!(look().await, Ok(Gap::Hole(_))), "it is a hole");
    std::fs::write(&control, "not one").expect("written");
    assert!(look().await.is_err(), "damaged");
    std::fs::remove_file(&control).expect("removed");
    std::fs::create_dir(&control).expect("created");
    assert!(look().await.is_err(), "it cannot be read");
    // Without one no server recovers there.
    std::fs::remove_dir(&control).expect("removed");
    assert_eq!(look().await.expect("looked"), Gap::End);
}

/// The segment that was not there a moment ago may be there now, in whatever format; and its tail is gone then.
#[tokio::test]
async fn a_segment_that_has_come_meanwhile_is_no_gap() {
    for object in ["000000010000000000000004.lz4", "000000010000000000000004"] {
        let fixture = Fixture::new(&[(object, ""), ("000000010000000000000005.zst", "")]).await;
        let segment = "000000010000000000000004".parse().expect("a segment");
        assert_eq!(fixture.gap(segment, None).await.expect("looked"), Gap::Closed);
        assert!(look_at_all(&fixture.store, segment).await.expect("looked").itself);
        assert!(look_in_order(&fixture.store, segment).await.expect("looked").itself);
    }
}

#[tokio::test]
async fn the_tail_of_a_later_segment_makes_a_hole() {
    let fixture = Fixture::new(&[("000000010000000000000003.zst", "")]).await;
    let segment = "000000010000000000000004".parse().expect("a segment");
    let later = "000000010000000000000006";
    match fixture.gap(segment, Some(later)).await.expect("looked") {
        Gap::Hole(hole) => assert_eq!(hole.later.to_string(), later),
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.gap(segment, None).await.expect("looked"), Gap::End);
}
