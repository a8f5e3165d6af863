//! Backups that bring standbys up: only what is left of one that was never completed is garbage.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::applied::{THIRD, delete, fill, retain};
use crate::repository::layout;
use crate::retention::{Garbage, Request};
use walarchive_storage::{StorageConfig, Store};

const KILLED: &str = "base_000000010000000000000004";
const RUNNING: &str = "base_000000010000000000000005";
const COMPLETE: &str = "base_000000010000000000000006";
/// No program of these chooses such a name.
const OTHER: &str = "somebody_s";

/// Puts an object that is as old as that.
async fn put(dir: &Path, store: &Store, key: &layout::Key, hours: u64) {
    store.put(key, "content".into()).await.expect("written");
    let file = std::fs::File::open(dir.join(key.as_str())).expect("opened");
    let time = SystemTime::now() - Duration::from_secs(hours * 3600);
    file.set_modified(time).expect("set");
}

/// The names that have any object in the folder.
async fn left(store: &Store) -> BTreeSet<String> {
    let objects = store.list(&layout::CATCHUP_FOLDER).await.expect("listed");
    let name = |key: &str| key.split('/').nth(1).unwrap_or_default().to_owned();
    objects.iter().map(|object| name(&object.key)).collect()
}

#[tokio::test]
async fn only_the_abandoned_folder_without_a_sentinel_is_garbage() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("opened");
    fill(&store).await;
    for (name, hours) in [(KILLED, 25), (RUNNING, 23), (COMPLETE, 1000), (OTHER, 1000)] {
        let place = layout::catchup_place(name);
        for key in [layout::backup_claim(&place), layout::tar(&place, "part_001.tar.zst")] {
            put(dir.path(), &store, &key, hours).await;
        }
    }
    let sentinel = layout::sentinel(&layout::catchup_place(COMPLETE));
    put(dir.path(), &store, &sentinel, 1000).await;
    let before = left(&store).await;
    assert_eq!(before.len(), 5, "{before:?}");
    let others = [
        retain(1),
        Request::Garbage(Garbage::Archives),
        Request::Target {
            name: THIRD.to_owned(),
            find_full: false,
        },
    ];
    for request in others {
        delete(&store, &request).await.expect("deleted");
        assert_eq!(left(&store).await, before, "{request:?}");
    }
    let (plan, applied) = delete(&store, &Request::Garbage(Garbage::Backups))
        .await
        .expect("deleted");
    let shown: Vec<_> = plan.actions.iter().map(|action| action.row(true)).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(
        (
            shown[0].what,
            shown[0].key.as_str(),
            shown[0].size,
            shown[0].why.as_str()
        ),
        (
            "leftover",
            "catchup_005/base_000000010000000000000004",
            14,
            "the backup was never completed"
        )
    );
    assert_eq!((applied.deleted, applied.spared), (vec![true], vec![]));
    let mut expected = before;
    expected.remove(KILLED);
    assert_eq!(left(&store).await, expected);
}

/// What a deletion that was killed has left goes at once, and nobody's link is followed.
#[tokio::test]
async fn a_deletion_that_was_cut_off_is_finished_and_a_link_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("opened");
    fill(&store).await;
    let place = layout::catchup_place(KILLED);
    store
        .put(&layout::backup_deletion(&place), "{}".into())
        .await
        .expect("written");
    let precious = tempfile::tempdir().expect("a directory");
    std::fs::write(precious.path().join("letters"), "precious").expect("written");
    let file = std::fs::File::open(precious.path().join("letters")).expect("opened");
    let old = SystemTime::now() - Duration::from_secs(100 * 3600);
    file.set_modified(old).expect("set");
    let link = dir.path().join(layout::catchup_place(RUNNING));
    std::os::unix::fs::symlink(precious.path(), link).expect("linked");
    let (plan, _) = delete(&store, &Request::Garbage(Garbage::All)).await.expect("deleted");
    let named = plan.notes.iter().any(|note| note.contains("is a symbolic link"));
    assert!(named, "{:?}", plan.notes);
    assert_eq!(left(&store).await, BTreeSet::from([RUNNING.to_owned()]));
    assert!(precious.path().join("letters").exists());
}
