//! A directory repository with symbolic links in it: what they lead to is nobody's to remove.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::applied::{FIRST, SECOND, THIRD, delete, fill, retain};
use super::*;
use crate::repository::layout;
use crate::retention::{Garbage, Request};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

async fn repository(dir: &Path) -> Store {
    std::fs::create_dir(dir.join("repository")).expect("made");
    let store = Store::open(&StorageConfig::new(format!("file://{}/repository", dir.display()))).expect("opened");
    fill(&store).await;
    store
}

/// Somebody's files, which look like those of a repository.
fn precious(dir: &Path) -> PathBuf {
    let folder = dir.join("precious");
    std::fs::create_dir_all(folder.join("tar_partitions")).expect("made");
    for file in [
        "tar_partitions/part_001.tar.zst",
        "000000010000000000000001.zst",
        "letters",
    ] {
        std::fs::write(folder.join(file), "precious").expect("written");
        // Old enough for garbage.
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(10 * 86_400);
        let file = std::fs::File::options()
            .write(true)
            .open(folder.join(file))
            .expect("opened");
        file.set_modified(old).expect("set");
    }
    folder
}

fn is_whole(precious: &Path) -> bool {
    [
        "tar_partitions/part_001.tar.zst",
        "000000010000000000000001.zst",
        "letters",
    ]
    .iter()
    .all(|file| std::fs::read(precious.join(file)).is_ok_and(|content| content == b"precious"))
}

fn names(plan: &DeletionPlan, link: &str) -> bool {
    let start = format!("\"{link}\" is a symbolic link");
    plan.notes.iter().any(|note| note.starts_with(&start))
}

#[tokio::test]
async fn garbage_behind_a_link_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = repository(dir.path()).await;
    let precious = precious(dir.path());
    let leftover = "base_000000010000000000000001";
    let (folder, upload) = (
        dir.path().join(format!("repository/basebackups_005/{leftover}")),
        dir.path().join("repository/wal_005/elsewhere"),
    );
    symlink(&precious, &folder).expect("linked");
    symlink(&precious, &upload).expect("linked");
    let everything = Request::Everything { force: true };
    for request in [Request::Garbage(Garbage::All), everything] {
        let (plan, _) = delete(&store, &request).await.expect("deleted");
        assert!(names(&plan, &format!("basebackups_005/{leftover}")), "{:?}", plan.notes);
        assert!(names(&plan, "wal_005/elsewhere"), "{:?}", plan.notes);
        assert!(is_whole(&precious), "{request:?}");
        assert!(folder.symlink_metadata().is_ok() && upload.symlink_metadata().is_ok());
    }
    let backups = store.list_shallow("basebackups_005").await.expect("listed");
    assert_eq!(backups.len(), 0, "the rest is gone");
}

#[tokio::test]
async fn a_folder_of_wal_that_is_a_link_is_read_and_not_pruned() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = repository(dir.path()).await;
    let (folder, other) = (dir.path().join("repository/wal_005"), dir.path().join("other_disk"));
    std::fs::rename(&folder, &other).expect("moved");
    symlink(&other, &folder).expect("linked");
    let wal = store.list("wal_005").await.expect("listed").len();
    assert_eq!(wal, 15, "reading follows the link");
    let (plan, applied) = delete(&store, &retain(1)).await.expect("deleted");
    assert!(applied.spared.is_empty() && names(&plan, "wal_005"), "{:?}", plan.notes);
    assert_eq!(store.list("wal_005").await.expect("listed").len(), wal);
    assert!(
        store.size(&layout::sentinel(FIRST)).await.expect("asked").is_none(),
        "the backups go"
    );
    assert!(store.size(&layout::sentinel(THIRD)).await.expect("asked").is_some());
    // A deletion by its key is refused, too.
    let key = store.list("wal_005").await.expect("listed").remove(0).key;
    let error = store.delete(&key).await.expect_err("refused");
    assert!(
        matches!(&error, crate::StorageError::BehindLink { link, .. } if link == "wal_005"),
        "{error:?}"
    );
    let error = store.delete_many(&[key], |_| {}).await.expect_err("refused");
    assert!(matches!(&error, crate::StorageError::BehindLink { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("because \"wal_005\" is a symbolic link"),
        "{error}"
    );
    assert_eq!(store.list("wal_005").await.expect("listed").len(), wal);
}

#[tokio::test]
async fn a_backup_with_a_link_in_it_stays_with_all_wal() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = repository(dir.path()).await;
    let precious = precious(dir.path());
    let tars = dir
        .path()
        .join(format!("repository/basebackups_005/{FIRST}/tar_partitions"));
    std::fs::remove_dir_all(&tars).expect("removed");
    symlink(precious.join("tar_partitions"), &tars).expect("linked");
    let (plan, applied) = delete(&store, &retain(1)).await.expect("deleted");
    assert!(applied.spared.is_empty());
    assert!(plan.kept.iter().any(|kept| kept.name == FIRST), "{:?}", plan.kept);
    assert!(store.size(&layout::sentinel(FIRST)).await.expect("asked").is_some());
    assert!(store.size(&layout::sentinel(SECOND)).await.expect("asked").is_none());
    assert_eq!(store.list("wal_005").await.expect("listed").len(), 15);
    assert!(is_whole(&precious));
}

/// The directory of the whole repository may be a link: that is no more than another name for it.
#[tokio::test]
async fn a_repository_that_is_a_link_is_pruned() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path()).await;
    symlink(dir.path().join("repository"), dir.path().join("name")).expect("linked");
    let store = Store::open(&StorageConfig::new(format!("file://{}/name", dir.path().display()))).expect("opened");
    let (plan, _) = delete(&store, &retain(1)).await.expect("deleted");
    assert_eq!(plan.notes, [""; 0]);
    assert!(store.list("wal_005").await.expect("listed").len() < 15);
}
