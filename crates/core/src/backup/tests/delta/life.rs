//! A parent must be there for as long as the delta.

use super::*;
use crate::error::Error;

/// Is this the error of a delta whose parent is gone?
pub(super) fn is_orphaned<T: std::fmt::Debug>(result: crate::Result<T>) -> bool {
    match result {
        Err(Error::NoBackup { message, .. }) => message.ends_with("was deleted during the backup"),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn with_parent() -> (World, String, BackupRequest) {
    let mut world = World::new(false).await;
    world.relation("base/5/100", 20, Lsn(0x100_0000));
    let root = world.full().await;
    let request = BackupRequest {
        parent: Some(world.parent(&latest(3)).await),
        ..world.request()
    };
    (world, root, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_parent_ends_the_backup() {
    let (world, root, request) = with_parent().await;
    let marker = layout::backup_deletion(&root);
    world.store.put(&marker, "{}".into()).await.expect("written");
    assert!(is_orphaned(
        begin(&world.store, request.clone(), BackupOptions::default())
            .await
            .map(|_| ())
    ));
    let folder = layout::backup_folder(&request.name());
    assert_eq!(world.store.list(&folder).await.expect("listed"), [], "nothing is left");
    world.store.delete(&marker).await.expect("removed");

    let prepared = world.prepare(request.clone()).await.expect("prepared");
    world.store.put(&marker, "{}".into()).await.expect("written");
    assert!(is_orphaned(prepared.commit().await));
    let sentinel = layout::sentinel(&request.name());
    assert_eq!(world.store.size(&sentinel).await.expect("asked"), None);
    world.store.delete(&marker).await.expect("removed");
    world.store.delete(&layout::sentinel(&root)).await.expect("removed");
    assert!(is_orphaned(prepared.commit().await));
    assert_eq!(world.store.size(&sentinel).await.expect("asked"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_spares_the_parent_of_a_running_delta() {
    let (mut world, root, request) = with_parent().await;
    let begun = begin(&world.store, request.clone(), BackupOptions::default())
        .await
        .expect("begun");
    world.next += 1;
    let later = world.full().await;
    let everything_old = retention::Request::from("full 1".parse::<retention::Policy>().expect("a policy"));
    let plan = async || {
        let plan = retention::draw_up(&world.store, &everything_old, &[], Utc::now()).await;
        plan.expect("planned")
            .kept
            .into_iter()
            .map(|kept| kept.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(plan().await, [root.clone(), later.clone()]);
    begun.abort().await.expect("removed");
    assert_eq!(plan().await, [later]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_delta_makes_its_ancestors_permanent() {
    let (mut world, root, mut request) = with_parent().await;
    let first = world.take(request.parent.clone()).await;
    assert!(!world.sentinel(&root).await.is_permanent);
    request = BackupRequest {
        parent: Some(world.parent(&latest(3)).await),
        permanent: true,
        ..world.request()
    };
    let prepared = world.prepare(request).await.expect("prepared");
    assert!(!world.sentinel(&first).await.is_permanent, "not before the end");
    let name = prepared.commit().await.expect("committed");
    for name in [&root, &first, &name] {
        assert!(world.sentinel(name).await.is_permanent, "{name}");
    }
}
