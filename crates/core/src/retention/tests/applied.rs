use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::repository::layout;
use crate::retention::{
    Confirmed, DeletionProgress, Mark, Mode, Order, OtherBranches, Request, Rule, apply, draw_up, mark,
};
use walarchive_storage::Store;
use walarchive_testkit::meddler::{Act, Meddler, Op};

pub(super) const FIRST: &str = "base_000000010000000000000003";
pub(super) const SECOND: &str = "base_000000010000000000000006";
pub(super) const DELTA: &str = "base_000000010000000000000008_D_000000010000000000000006";
pub(super) const THIRD: &str = "base_00000001000000000000000B";

/// Two full backups, a delta of the second one, a third; WAL from 1 to 15.
pub(super) async fn fill(store: &Store) {
    for (name, at, parent) in [
        (FIRST, 3, None),
        (SECOND, 6, None),
        (DELTA, 8, Some(SECOND)),
        (THIRD, 11, None),
    ] {
        let mut sentinel = serde_json::json!({
            "LSN": lsn(at, 40).0, "FinishLSN": lsn(at, 400).0, "SystemIdentifier": 18_446_744_073_709_551_615u64,
            "StartTime": hour(at), "FinishTime": hour(at), "Version": 2, "SomethingNew": {"a": [1, 18_446_744_073_709_551_614u64]},
        });
        if let (Some(parent), Some(object)) = (parent, sentinel.as_object_mut()) {
            object.insert("DeltaFrom".to_owned(), parent.into());
        }
        let metadata = serde_json::json!({
            "start_lsn": lsn(at, 40).0, "finish_lsn": lsn(at, 400).0, "start_time": hour(at), "finish_time": hour(at),
            "system_identifier": 18_446_744_073_709_551_615u64, "new": 1,
        });
        for (key, content) in [
            (layout::tar(name, "part_001.tar.zst"), "tar".to_owned()),
            (layout::tar(name, "pg_control.tar.zst"), "tar".to_owned()),
            (layout::metadata(name), metadata.to_string()),
            (layout::sentinel(name), sentinel.to_string()),
        ] {
            store.put(&key, content.into()).await.expect("written");
        }
    }
    for object in wal(1, 1..=15) {
        store.put(&object.key(), "wal".into()).await.expect("written");
    }
    let owner = r#"{"format_version": 1, "system_identifier": 7, "pg_major_version": 15, "wal_segment_size": 16777216,
                    "encryption": false}"#;
    store.put(&layout::CLUSTER, owner.into()).await.expect("written");
}

pub(super) async fn memory() -> (Arc<InMemory>, Store) {
    let inner = Arc::new(InMemory::new());
    let store = Store::of(Arc::clone(&inner) as Arc<dyn ObjectStore>, "memory:");
    fill(&store).await;
    (inner, store)
}

pub(super) async fn all_keys(inner: &InMemory) -> BTreeSet<String> {
    let objects: Vec<_> = inner.list(None).try_collect().await.expect("listed");
    objects.into_iter().map(|object| object.location.to_string()).collect()
}

pub(super) fn retain(count: u32) -> Request {
    Request::Rule(Rule::Retain {
        count,
        mode: Mode::Full,
        after: None,
    })
}

pub(super) async fn delete(
    store: &Store,
    request: &Request,
) -> crate::Result<(DeletionPlan, crate::retention::Applied)> {
    let plan = draw_up(store, request, &[], Utc::now()).await?;
    let applied = apply(store, &plan, &DeletionProgress::default(), &CancellationToken::new()).await?;
    Ok((plan, applied))
}

/// What was written down about WAL that cannot be read goes with it, and the user is shown nothing of that.
#[tokio::test]
async fn what_was_written_down_about_wal_goes_with_it() {
    let (_, store) = memory().await;
    let segments: Vec<_> = wal(1, 1..=15).collect();
    let expected = draw_up(&store, &retain(1), &[], Utc::now())
        .await
        .expect("a plan")
        .actions
        .len();
    for object in &segments {
        let key = layout::digest(&object.name, &[1; 32]);
        store.put(&key, "{}".into()).await.expect("written");
    }
    let (plan, _) = delete(&store, &retain(1)).await.expect("deleted");
    assert_eq!(plan.actions.len(), expected);
    let mut digests = 0;
    for object in &segments {
        let (key, digest) = (object.key(), layout::digest(&object.name, &[1; 32]));
        let (there, noted) = tokio::try_join!(store.size(&key), store.size(&digest)).expect("asked");
        assert_eq!(there.is_some(), noted.is_some(), "{}", object.name);
        digests += usize::from(noted.is_some());
    }
    assert!((1..15).contains(&digests), "{digests}");
}

#[tokio::test]
async fn a_crash_after_any_deletion_leaves_whole_backups_and_the_next_run_finishes() {
    let (whole, store) = memory().await;
    let before = all_keys(&whole).await;
    delete(&store, &retain(1)).await.expect("deleted");
    let finished = all_keys(&whole).await;
    assert!(
        finished.iter().all(|key| !key.contains("walarchive_deleted")),
        "{finished:?}"
    );
    assert_eq!(finished.iter().filter(|key| key.contains("sentinel")).count(), 1);

    let mut crashes = 0;
    loop {
        let (inner, _) = memory().await;
        let (mortal, mut left) = (Meddler::new(Arc::clone(&inner)), crashes);
        mortal.rule(move |op, _| match (op, left) {
            (Op::Delete, 0) => Act::Fail,
            (Op::Delete, _) => {
                left -= 1;
                Act::Pass
            }
            _ => Act::Pass,
        });
        let outcome = delete(&Store::of(Arc::new(mortal.clone()), "memory:"), &retain(1)).await;
        let store = Store::of(Arc::clone(&inner) as Arc<dyn ObjectStore>, "memory:");
        let inventory = Inventory::load(&store).await.expect("loaded");
        for backup in &inventory.backups {
            assert!(
                inventory.is_restorable(backup),
                "{} after {crashes} deletions",
                backup.name
            );
            let folder = format!("{}/", layout::backup_folder(&backup.name));
            for key in before.iter().filter(|key| key.starts_with(&folder)) {
                assert!(
                    store.size(key).await.expect("asked").is_some(),
                    "{key} after {crashes} deletions"
                );
            }
        }
        // With the sentinel gone, what is left is known to be garbage without waiting.
        assert!(inventory.unfinished.iter().all(|folder| folder.deleting), "{crashes}");
        delete(&store, &retain(1)).await.expect("deleted");
        assert_eq!(
            all_keys(&inner).await,
            finished,
            "after a crash after {crashes} deletions"
        );
        if outcome.is_ok() {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 20, "{crashes}");
}

#[tokio::test]
async fn nothing_is_left_of_everything() {
    let (inner, store) = memory().await;
    mark(&store, FIRST, Mark::Permanent).await.expect("marked");
    assert!(delete(&store, &Request::Everything { force: false }).await.is_err());
    mark(&store, FIRST, Mark::Impermanent).await.expect("marked");
    delete(&store, &Request::Everything { force: false })
        .await
        .expect("deleted");
    assert_eq!(
        all_keys(&inner).await.into_iter().collect::<Vec<_>>(),
        [layout::CLUSTER.as_str()]
    );
    let (inner, store) = memory().await;
    mark(&store, FIRST, Mark::Permanent).await.expect("marked");
    delete(&store, &Request::Everything { force: true })
        .await
        .expect("deleted");
    assert_eq!(all_keys(&inner).await.len(), 0);
}

#[tokio::test]
async fn only_what_is_confirmed_is_deleted() {
    let (inner, store) = memory().await;
    let before = all_keys(&inner).await;
    let request = retain(1);
    let (progress, cancel) = (DeletionProgress::default(), CancellationToken::new());
    for is_confirmed in [false, true] {
        let order = Order {
            request: &request,
            protected: &[],
            others: OtherBranches::Keep,
        };
        let confirmed = is_confirmed.then_some(Confirmed {
            store: &store,
            progress: &progress,
            cancel: &cancel,
        });
        let mut planned = 0;
        let deletion = crate::retention::delete(&store, order, confirmed, |plan| planned = plan.actions.len());
        let deletion = deletion.await.expect("planned");
        assert!(planned > 0 && deletion.plan.actions.len() == planned, "{planned}");
        assert_eq!(deletion.rows().count(), planned);
        assert!(deletion.rows().all(|row| row.deleted == is_confirmed), "{deletion:?}");
        assert_eq!(all_keys(&inner).await == before, !is_confirmed);
    }
    assert_eq!(progress.done.into_inner(), progress.total.into_inner());
}

#[tokio::test]
async fn what_changes_after_the_plan_is_spared_with_all_wal() {
    let (inner, store) = memory().await;
    let before = all_keys(&inner).await;
    let plan = draw_up(&store, &retain(1), &[], Utc::now()).await.expect("a plan");
    // Only the sentinel: a listing does not even see it.
    let key = layout::sentinel(FIRST);
    let sentinel = store.get(&key, 1 << 20).await.expect("read").expect("there");
    let marked = String::from_utf8_lossy(&sentinel).replacen('{', "{\"IsPermanent\": true,", 1);
    store.put(&key, marked.into()).await.expect("written");
    let applied = apply(&store, &plan, &DeletionProgress::default(), &CancellationToken::new())
        .await
        .expect("applied");
    assert_eq!(applied.spared.len(), 1);
    assert_eq!((applied.spared[0].name.as_str(), applied.deleted[0]), (FIRST, false));
    let left = all_keys(&inner).await;
    assert!(
        before
            .iter()
            .filter(|key| key.starts_with("wal_005") || key.contains(FIRST))
            .all(|key| left.contains(key))
    );
    assert!(
        !left.contains(layout::sentinel(SECOND).as_str()) && !left.contains(layout::backup_deletion(FIRST).as_str())
    );
    // The next plan knows.
    let (plan, applied) = delete(&store, &retain(1)).await.expect("deleted");
    assert!(
        applied.spared.is_empty()
            && plan
                .kept
                .iter()
                .any(|kept| kept.name == FIRST && kept.why == "it is permanent")
    );
    let inventory = Inventory::load(&store).await.expect("loaded");
    assert_eq!(inventory.segments(1), [3, 11, 12, 13, 14, 15]);
}

#[tokio::test]
async fn a_backup_that_is_completed_or_gone_meanwhile_is_no_leftover() {
    let (_, store) = memory().await;
    let sentinel = store
        .get(&layout::sentinel(SECOND), 1 << 20)
        .await
        .expect("read")
        .expect("there");
    store.delete(&layout::sentinel(SECOND)).await.expect("deleted");
    let later = Utc::now() + TimeDelta::days(2);
    let garbage = Request::Garbage(crate::retention::Garbage::Backups);
    let plan = draw_up(&store, &garbage, &[], later).await.expect("a plan");
    assert_eq!(keys(&plan), [SECOND]);
    let run = || async {
        apply(&store, &plan, &DeletionProgress::default(), &CancellationToken::new())
            .await
            .expect("applied")
    };
    assert_eq!(run().await.spared[0].why, "it is being written to");
    store.put(&layout::sentinel(SECOND), sentinel).await.expect("written");
    assert_eq!(run().await.spared[0].why, "it was completed since the plan was made");

    // Two deletions of one plan.
    let plan = draw_up(&store, &retain(1), &[], Utc::now()).await.expect("a plan");
    for _ in 0..2 {
        let applied = apply(&store, &plan, &DeletionProgress::default(), &CancellationToken::new())
            .await
            .expect("applied");
        assert!(applied.spared.is_empty() && applied.deleted.iter().all(|deleted| *deleted));
    }
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let (_, store) = memory().await;
    let outcome = apply(&store, &plan, &DeletionProgress::default(), &cancelled).await;
    assert!(matches!(outcome, Err(crate::Error::Cancelled)));
    assert!(store.size(&layout::sentinel(FIRST)).await.expect("asked").is_some());
}

#[tokio::test]
async fn a_mark_changes_its_field_and_nothing_else() {
    let (inner, store) = memory().await;
    let read = async |key: layout::Key| {
        let content = inner
            .get(&key.as_str().into())
            .await
            .expect("there")
            .bytes()
            .await
            .expect("read");
        serde_json::from_slice::<serde_json::Value>(&content).expect("JSON")
    };
    let before = read(layout::sentinel(DELTA)).await;
    assert_eq!(
        mark(&store, DELTA, Mark::Permanent).await.expect("marked"),
        [SECOND, DELTA]
    );
    assert!(mark(&store, DELTA, Mark::Permanent).await.expect("again").is_empty());
    let mut after = read(layout::sentinel(DELTA)).await;
    assert_eq!(after["IsPermanent"], true);
    assert_eq!(read(layout::metadata(SECOND)).await["is_permanent"], true);
    after.as_object_mut().expect("an object").remove("IsPermanent");
    assert_eq!(after, before);

    let error = mark(&store, SECOND, Mark::Impermanent).await.expect_err("refused");
    assert!(error.to_string().contains(DELTA), "{error}");
    assert_eq!(mark(&store, DELTA, Mark::Impermanent).await.expect("unmarked"), [DELTA]);
    assert_eq!(
        mark(&store, SECOND, Mark::Impermanent).await.expect("unmarked"),
        [SECOND]
    );
    // A mark that was interrupted between the two objects is completed.
    store
        .put(&layout::metadata(THIRD), r#"{"is_permanent": true}"#.into())
        .await
        .expect("written");
    assert_eq!(mark(&store, THIRD, Mark::Permanent).await.expect("marked"), [THIRD]);
    assert_eq!(read(layout::sentinel(THIRD)).await["IsPermanent"], true);
    assert!(mark(&store, "base_x", Mark::Permanent).await.is_err());
    // A backup that is being deleted cannot be saved.
    store
        .put(&layout::backup_deletion(FIRST), "{}".into())
        .await
        .expect("written");
    assert!(
        mark(&store, FIRST, Mark::Permanent)
            .await
            .expect_err("too late")
            .to_string()
            .contains("being deleted")
    );
}
