//! Backups that begin while others are being deleted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::applied::{DELTA, FIRST, SECOND, THIRD, all_keys, delete, fill, memory, retain};
use super::*;
use crate::repository::layout;
use crate::retention::{DeletionProgress, Garbage, Mark, Request, apply, draw_up, mark};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::meddler::{Act, Meddler, Op};

/// On the first backup, later than all others.
const LATE: &str = "base_00000001000000000000000E_D_000000010000000000000003";

/// A delta on the first backup whose taking begins when all the world can see that a deletion begins.
fn claim() -> Vec<(String, Option<String>)> {
    vec![(layout::backup_claim(LATE).into(), Some("{}".to_owned()))]
}

/// The same, which is complete by then.
fn complete() -> Vec<(String, Option<String>)> {
    let sentinel = serde_json::json!({
        "LSN": lsn(14, 40).0, "FinishLSN": lsn(14, 400).0, "SystemIdentifier": 7, "StartTime": hour(14),
        "FinishTime": hour(14), "Version": 2, "DeltaFrom": FIRST,
    });
    vec![
        (layout::tar(LATE, "part_001.tar.zst").into(), Some("tar".to_owned())),
        (layout::sentinel(LATE).into(), Some(sentinel.to_string())),
    ]
}

#[tokio::test]
async fn the_parent_of_a_delta_that_has_begun_is_spared() {
    let requests = [
        retain(1),
        Request::Everything { force: false },
        Request::Everything { force: true },
    ];
    for request in requests {
        for comes in [claim(), complete()] {
            let (inner, _) = memory().await;
            let before = all_keys(&inner).await;
            let meddler = Meddler::new(Arc::clone(&inner));
            // After the deletion of two other backups, and after any list that was made before that.
            meddler.once(Op::Put, &layout::backup_deletion(FIRST), Act::Then(comes.clone()));
            let (_, applied) = delete(&Store::of(Arc::new(meddler.clone()), "memory:"), &request)
                .await
                .expect("applied");
            let spared = &applied.spared;
            assert_eq!(spared.len(), 1, "{request:?} {spared:?}");
            assert_eq!(spared[0].name, FIRST);
            assert_eq!(spared[0].why, format!("\"{LATE}\" depends on it"));
            let left = all_keys(&inner).await;
            let is_its = |key: &&String| key.contains(&FIRST[5..]) || key.starts_with("wal_005");
            assert!(before.iter().filter(is_its).all(|key| left.contains(key)), "{left:?}");
            assert!(
                !left.contains(layout::backup_deletion(FIRST).as_str()),
                "the marker is taken back"
            );
            assert!(
                [SECOND, DELTA]
                    .iter()
                    .all(|gone| !left.contains(layout::sentinel(gone).as_str()))
            );
        }
    }
}

/// The machine that took it went down, and nobody will go on.
#[tokio::test]
async fn an_abandoned_delta_does_not_keep_its_parent_for_ever() {
    for (hours, spared) in [(23, 1), (25, 0)] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("opened");
        fill(&store).await;
        // It is not known to the plan.
        let plan = draw_up(&store, &retain(1), &[], Utc::now()).await.expect("a plan");
        let claim = layout::backup_claim(LATE);
        store.put(&claim, "{}".into()).await.expect("written");
        let file = std::fs::File::open(dir.path().join(claim.as_str())).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600))
            .expect("set");
        let applied = apply(&store, &plan, &DeletionProgress::default(), &CancellationToken::new()).await;
        assert_eq!(applied.expect("applied").spared.len(), spared, "{hours} hours");
    }
}

#[tokio::test]
async fn another_delta_does_not_count() {
    let (inner, store) = memory().await;
    let on_third = LATE.replace("000000010000000000000003", &THIRD[5..]);
    store
        .put(&layout::backup_claim(&on_third), "{}".into())
        .await
        .expect("written");
    let (_, applied) = delete(&store, &retain(1)).await.expect("applied");
    assert_eq!(applied.spared, []);
    assert!(!all_keys(&inner).await.contains(layout::sentinel(FIRST).as_str()));
}

#[tokio::test]
async fn a_leftover_that_is_completed_meanwhile_keeps_its_parent() {
    let (inner, store) = memory().await;
    store
        .put(&layout::backup_claim(LATE), "{}".into())
        .await
        .expect("written");
    let meddler = Meddler::new(Arc::clone(&inner));
    let everything = Request::Everything { force: true };
    meddler.once(Op::Put, &layout::backup_deletion(FIRST), Act::Then(complete()));
    let (_, applied) = delete(&Store::of(Arc::new(meddler.clone()), "memory:"), &everything)
        .await
        .expect("applied");
    let spared: Vec<&str> = applied.spared.iter().map(|spared| spared.name.as_str()).collect();
    assert_eq!(spared, [FIRST, LATE]);
    // One that is not goes with all the others.
    let (inner, store) = memory().await;
    store
        .put(&layout::backup_claim(LATE), "{}".into())
        .await
        .expect("written");
    let (_, applied) = delete(&store, &everything).await.expect("applied");
    assert_eq!(applied.spared, []);
    assert_eq!(all_keys(&inner).await.len(), 0);
}

#[tokio::test]
async fn a_backup_that_begins_while_everything_goes_keeps_the_wal() {
    for force in [false, true] {
        let (inner, _) = memory().await;
        let newcomer = "base_00000001000000000000000F";
        let meddler = Meddler::new(Arc::clone(&inner));
        let comes = vec![
            (layout::backup_claim(newcomer).into(), Some("{}".to_owned())),
            (format!("{}/mine/notes", layout::BACKUPS_FOLDER), Some("{}".to_owned())),
        ];
        meddler.once(Op::Put, &layout::backup_deletion(FIRST), Act::Then(comes));
        let everything = Request::Everything { force };
        let (_, applied) = delete(&Store::of(Arc::new(meddler.clone()), "memory:"), &everything)
            .await
            .expect("applied");
        assert_eq!(applied.spared.len(), 1, "{:?}", applied.spared);
        assert_eq!(applied.spared[0].name, newcomer);
        let left = all_keys(&inner).await;
        assert_eq!(left.iter().filter(|key| key.starts_with("wal_005")).count(), 15);
        assert!(left.contains(layout::CLUSTER.as_str()));
        assert!(left.iter().all(|key| !key.contains("sentinel")), "{left:?}");
        // An object of another name is in nobody's way.
        Store::of(Arc::new(meddler.clone()), "memory:")
            .delete(&layout::backup_claim(newcomer))
            .await
            .expect("removed");
        let everything = Request::Everything { force: true };
        let (_, applied) = delete(&Store::of(Arc::new(meddler.clone()), "memory:"), &everything)
            .await
            .expect("applied");
        assert_eq!(applied.spared, []);
        let left = all_keys(&inner).await;
        assert!(left.iter().all(|key| !key.starts_with("wal_005")), "{left:?}");
    }
}

/// A permanent backup stays, and needs no WAL but its own.
#[tokio::test]
async fn a_backup_that_begins_before_garbage_goes_keeps_the_wal() {
    let garbage = Request::GarbageWithoutBackups(Garbage::Archives);
    for is_new in [true, false] {
        let (inner, store) = memory().await;
        for name in [FIRST, DELTA, THIRD] {
            mark(&store, name, Mark::Permanent).await.expect("marked");
        }
        let newcomer = layout::backup_claim("base_00000001000000000000000F");
        if !is_new {
            store.put(&newcomer, "{}".into()).await.expect("written");
        }
        let plan = draw_up(&store, &garbage, &[], Utc::now()).await.expect("a plan");
        let count = |keys: &BTreeSet<String>| keys.iter().filter(|key| key.starts_with("wal_005")).count();
        let before = count(&all_keys(&inner).await);
        store.put(&newcomer, "{}".into()).await.expect("written");
        let applied = apply(&store, &plan, &DeletionProgress::default(), &CancellationToken::new())
            .await
            .expect("applied");
        let after = count(&all_keys(&inner).await);
        match is_new {
            true => assert_eq!((applied.spared.len(), after), (1, before), "{plan:?}"),
            false => assert!(applied.spared.is_empty() && after < before, "{applied:?}"),
        }
    }
}
