use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::repository::layout;
use crate::retention::{DeletionProgress, Garbage, Request, Rule, Situation, apply, draw_up, plan};
use walarchive_storage::PendingUploads;
use walarchive_storage::{PendingUpload, Store};

const DONE: &str = "base_000000010000000000000003";
const RUNNING: &str = "base_000000010000000000000006";

fn upload(key: &str, hours: i64) -> PendingUpload {
    let seen = Utc::now();
    let touched = seen - TimeDelta::hours(hours);
    PendingUpload {
        key: key.to_owned(),
        id: "1".to_owned(),
        begun: touched,
        touched,
        seen,
        bytes: Some(7),
    }
}

/// A store's second half: what it lists, and what was removed.
#[derive(Clone, Default)]
struct Uploads {
    list: Arc<Mutex<Vec<PendingUpload>>>,
    /// Refuses to list.
    refuses: bool,
}

impl Uploads {
    fn of(uploads: Vec<PendingUpload>) -> Self {
        Uploads {
            list: Arc::new(Mutex::new(uploads)),
            refuses: false,
        }
    }

    fn left(&self) -> Vec<String> {
        self.list.lock().iter().map(|upload| upload.key.clone()).collect()
    }
}

#[async_trait]
impl PendingUploads for Uploads {
    fn list(&self, _: &Path) -> BoxStream<'_, object_store::Result<Vec<PendingUpload>>> {
        let page = match self.refuses {
            true => Err(object_store::Error::PermissionDenied {
                path: String::new(),
                source: "AccessDenied".into(),
            }),
            false => Ok(self.list.lock().clone()),
        };
        futures::stream::iter([page]).boxed()
    }

    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> object_store::Result<bool> {
        let mut list = self.list.lock();
        let young = list
            .iter()
            .any(|found| found.key == upload.key && found.age() < older_than);
        if !young {
            list.retain(|found| found.key != upload.key);
        }
        Ok(!young)
    }

    fn permission(&self) -> Option<&'static str> {
        Some("the permission to list them")
    }
}

/// A complete backup, one that is being taken, and WAL.
async fn store(uploads: &Uploads) -> Store {
    let store = Store::of(Arc::new(InMemory::new()), "memory:").with_pending(uploads.clone());
    let owner = r#"{"format_version": 1, "system_identifier": 7, "pg_major_version": 15, "wal_segment_size": 16777216,
                    "encryption": false}"#;
    let sentinel = serde_json::json!({
        "LSN": lsn(3, 40).0, "FinishLSN": lsn(3, 400).0, "StartTime": hour(3), "FinishTime": hour(3), "Version": 2,
    });
    for (key, content) in [
        (layout::CLUSTER.clone(), owner.to_owned()),
        (layout::sentinel(DONE), sentinel.to_string()),
        (layout::tar(DONE, "part_001.tar.zst"), "tar".to_owned()),
        (layout::backup_claim(RUNNING), "{}".to_owned()),
    ] {
        store.put(&key, content.into()).await.expect("written");
    }
    for object in wal(1, 1..=5) {
        store.put(&object.key(), "wal".into()).await.expect("written");
    }
    store
}

fn keys_in(uploads: &[&str]) -> Vec<PendingUpload> {
    uploads.iter().map(|key| upload(key, 25)).collect()
}

fn uploads_of(plan: &DeletionPlan) -> Vec<String> {
    let uploads = plan.actions.iter().filter(|action| action.what() == "upload");
    uploads.map(|action| action.key().into()).collect()
}

async fn run(store: &Store, plan: &DeletionPlan) -> crate::retention::Applied {
    apply(store, plan, &DeletionProgress::default(), &CancellationToken::new())
        .await
        .expect("applied")
}

#[tokio::test]
async fn garbage_has_what_was_abandoned_and_no_more() {
    let (wal, done) = (
        "wal_005/000000010000000000000009.zst",
        layout::tar(DONE, "part_002.tar.zst"),
    );
    let running = layout::tar(RUNNING, "part_001.tar.zst");
    let own = "walarchive_005/verified/wal.json";
    let mut all = keys_in(&[wal, &done, &running, own]);
    all.push(upload("wal_005/00000001000000000000000A.zst", 23));
    let uploads = Uploads::of(all);
    let store = store(&uploads).await;
    for (kind, expected) in [
        (Garbage::Archives, vec![wal]),
        (Garbage::Backups, vec![done.as_str()]),
        (Garbage::All, vec![&done, wal, own]),
    ] {
        let plan = draw_up(&store, &Request::Garbage(kind), &[], Utc::now())
            .await
            .expect("a plan");
        assert_eq!(uploads_of(&plan), expected, "{kind:?}");
    }
    for request in [
        Request::retain(1, Default::default(), None).expect("a request"),
        Request::Rule(Rule::OutsideWindow("1 day".parse().expect("a span"))),
    ] {
        let plan = draw_up(&store, &request, &[], Utc::now()).await.expect("a plan");
        assert!(uploads_of(&plan).is_empty(), "{request:?}");
    }
    let plan = draw_up(&store, &Request::Garbage(Garbage::All), &[], Utc::now())
        .await
        .expect("a plan");
    let row = plan.actions.last().expect("a row").row(false);
    let begun = (Utc::now() - TimeDelta::hours(25)).format("%Y-%m-%d");
    assert!(
        row.why.starts_with(&format!("its upload was begun {begun} ")) && row.why.ends_with(" UTC and never completed"),
        "{}",
        row.why
    );
    assert_eq!((row.what, row.size), ("upload", 7));
    // Before everything else that goes has gone, none of them does.
    let kinds: Vec<_> = plan.actions.iter().map(|action| action.what()).collect();
    assert_eq!(kinds, ["wal", "wal", "upload", "upload", "upload"]);
    let applied = run(&store, &plan).await;
    assert!(applied.deleted.iter().all(|deleted| *deleted) && applied.bytes(&plan) == 27);
    assert_eq!(
        uploads.left(),
        [running.as_str(), "wal_005/00000001000000000000000A.zst"]
    );
}

#[tokio::test]
async fn what_is_touched_or_running_by_now_stays() {
    let (first, second) = (
        "wal_005/000000010000000000000009.zst",
        "wal_005/00000001000000000000000A.zst",
    );
    let tar = layout::tar("base_000000010000000000000009", "part_001.tar.zst");
    let uploads = Uploads::of(keys_in(&[first, second, &tar]));
    let store = store(&uploads).await;
    let request = Request::Garbage(Garbage::All);
    let plan = draw_up(&store, &request, &[], Utc::now()).await.expect("a plan");
    assert_eq!(uploads_of(&plan), [tar.as_str(), first, second]);
    // Between the plan and its execution.
    uploads.list.lock()[0].touched = Utc::now();
    let claim = layout::backup_claim("base_000000010000000000000009");
    store.put(&claim, "{}".into()).await.expect("written");
    let applied = run(&store, &plan).await;
    assert_eq!(uploads.left(), [first, tar.as_str()]);
    assert!(applied.spared.is_empty() && applied.deleted.ends_with(&[false, false, true]));
    // A caller who knows that the backup is running does not even plan it, though its folder is empty.
    store.delete(&claim).await.expect("deleted");
    let protected = ["base_000000010000000000000009".to_owned()];
    let plan = draw_up(&store, &request, &protected, Utc::now()).await.expect("a plan");
    assert!(uploads_of(&plan).is_empty());
}

#[tokio::test]
async fn everything_takes_them_too() {
    let (old, young) = (
        "wal_005/000000010000000000000009.zst",
        "wal_005/00000001000000000000000A.zst",
    );
    let all = || {
        vec![
            upload(old, 25),
            upload(young, 1),
            upload(&layout::tar(RUNNING, "part_001.tar.zst"), 25),
        ]
    };
    let uploads = Uploads::of(all());
    let store = store(&uploads).await;
    let folder = layout::backup_folder(RUNNING);
    let everything = |force| Request::Everything { force };
    let refused = draw_up(&store, &everything(false), &[], Utc::now()).await;
    assert!(refused.is_err(), "{refused:?}");
    let plan = draw_up(&store, &everything(true), &[], Utc::now())
        .await
        .expect("a plan");
    assert_eq!(uploads_of(&plan).len(), 3);
    assert_eq!(plan.actions.last().expect("a row").key(), layout::CLUSTER);
    run(&store, &plan).await;
    assert_eq!(uploads.left(), Vec::<String>::new());

    let uploads = Uploads::of(all());
    let store = self::store(&uploads).await;
    store.delete_folder(&folder).await.expect("deleted");
    let plan = draw_up(&store, &everything(false), &[], Utc::now())
        .await
        .expect("a plan");
    run(&store, &plan).await;
    assert_eq!(uploads.left(), [young], "somebody may be at work on it");
}

#[tokio::test]
async fn a_store_that_does_not_say_is_a_note() {
    let uploads = Uploads {
        refuses: true,
        ..Uploads::default()
    };
    let store = store(&uploads).await;
    for request in [Request::Garbage(Garbage::All), Request::Everything { force: true }] {
        let plan = draw_up(&store, &request, &[], Utc::now()).await.expect("a plan");
        assert_eq!(
            plan.notes,
            [
                "Uploads that were never completed are not deleted, because the store refuses to list them: the permission to \
              list them is missing."
            ]
        );
        assert!(!plan.actions.is_empty());
    }
}

#[test]
fn a_running_backup_is_told_by_its_folder() {
    let uploads = keys_in(&[&layout::tar(RUNNING, "part_001.tar.zst")]);
    let mut situation = Situation::at(Utc::now());
    situation.uploads = uploads;
    for (hours, deleting, expected) in [(1, false, 0), (25, false, 1), (1, true, 1)] {
        let mut inventory = inventory(Vec::new(), Vec::new(), Vec::new());
        inventory.unfinished = vec![leftover(RUNNING, situation.now - TimeDelta::hours(hours), deleting)];
        let plan = plan(&inventory, &Request::Garbage(Garbage::All), &situation).expect("a plan");
        assert_eq!(uploads_of(&plan).len(), expected, "{hours} {deleting}");
    }
}
