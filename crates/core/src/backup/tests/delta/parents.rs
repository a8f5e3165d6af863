//! Which backup becomes the parent, and which does not.

use super::*;
use crate::error::Error;

async fn why(world: &World, wanted: &WantedParent) -> String {
    match world.choose(wanted).await.expect("chosen") {
        Choice::Full { why } => why.unwrap_or_default(),
        Choice::Delta(parent) => panic!("{} is a parent", parent.name),
    }
}

/// The error if the backup is asked for by name.
async fn refusal(world: &World, name: &str) -> String {
    let error = world
        .choose(&WantedParent::Named(name.to_owned()))
        .await
        .expect_err("refused");
    assert!(error.hint().is_some_and(|hint| hint.ends_with('.')), "{error:?}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_counted() {
    let mut world = World::new(false).await;
    assert_eq!(why(&world, &WantedParent::Full).await, "");
    assert_eq!(why(&world, &latest(0)).await, "");
    assert_eq!(
        why(&world, &latest(2)).await,
        "there is no backup of this cluster that can be restored"
    );
    let root = world.full().await;
    let mut names = vec![root.clone()];
    for step in 1..=2 {
        let parent = world.parent(&latest(2)).await;
        assert_eq!((parent.count, &parent.name), (step, &names[names.len() - 1]));
        assert_eq!(parent.full_name, root);
        names.push(world.take(Some(parent)).await);
    }
    assert_eq!(
        names[2],
        format!("base_000000010000000000000004_D_{}", &names[1][5..29])
    );
    assert_eq!(
        why(&world, &latest(2)).await,
        format!("\"{}\" is 2 steps away from its full backup", names[2])
    );
    let full = |max_steps| WantedParent::Automatic {
        max_steps,
        origin: Origin::LatestFull,
    };
    assert_eq!(why(&world, &full(2)).await, format!("\"{root}\" has 2 delta backups"));
    let parent = world.parent(&full(3)).await;
    assert_eq!((parent.count, parent.name), (1, root.clone()));
    // By name whatever the limit is, and one that is not the newest.
    let parent = world.parent(&WantedParent::Named(names[1].clone())).await;
    assert_eq!((parent.count, &parent.full_name), (2, &root));
    let child = world.take(Some(parent)).await;
    world.check(&child).await;
    assert_eq!(why(&world, &full(3)).await, format!("\"{root}\" has 3 delta backups"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let mut world = World::new(false).await;
    let root = world.full().await;
    let both = async |world: &World, expected: &str| {
        assert_eq!(
            refusal(world, &root).await,
            format!("backup \"{root}\" cannot be the parent of a delta backup: {expected}")
        );
        assert_eq!(
            why(world, &latest(1)).await,
            format!("\"{root}\" cannot be its parent: {expected}")
        );
    };
    // It ends after our start, as on a standby whose last restartpoint was long ago.
    world.next -= 1;
    both(&world, "it ends at 0/2000128, after this backup's start at 0/2000028").await;
    world.next += 1;
    // Checksums were enabled.
    world.write("global/pg_control", &sample_with(16 << 20, 288, true));
    both(&world, "data checksums were off when it was taken, and are on now").await;
    world.write("global/pg_control", &sample_with(16 << 20, 288, false));
    // On another timeline: nothing is known of ours; it has left the parent's before its end; it has never been there.
    world.timeline = 3;
    both(
        &world,
        "it is of timeline 1, and the history of timeline 3 is not known",
    )
    .await;
    world.write("pg_wal/00000003.history", b"1\t0/2000100\tx\n2\t0/2000200\tx\n");
    both(
        &world,
        "it ends at 0/2000128, after timeline 3 had left its timeline 1 at 0/2000100",
    )
    .await;
    world.write("pg_wal/00000003.history", b"2\t0/2000200\tx\n");
    both(&world, "its timeline 1 is not an ancestor of timeline 3").await;
    std::fs::remove_file(world.data().join("pg_wal/00000003.history")).expect("removed");
    let history = "1\t0/2000128\tx\n";
    world
        .store
        .put("wal_005/00000003.history", history.into())
        .await
        .expect("written");
    assert_eq!(world.parent(&latest(1)).await.name, root);
    world.timeline = 1;
    let text = "cannot be used";
    let metadata = layout::files_metadata(&root);
    let saved = world.object(&metadata).await;
    world.store.put(&metadata, text.into()).await.expect("written");
    let found = refusal(&world, &root).await;
    assert!(found.contains("files_metadata.json\" cannot be used"), "{found}");
    world.store.put(&metadata, saved).await.expect("written");
    world
        .store
        .delete(&layout::backup_manifest(&root))
        .await
        .expect("removed");
    both(&world, "it has no backup manifest; WAL-G's backups have none").await;
    world
        .store
        .delete(&layout::tar(&root, "pg_control.tar.zst"))
        .await
        .expect("removed");
    both(&world, "its copy of pg_control cannot be read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_no_use_is_not_asked() {
    let mut world = World::new(false).await;
    let root = world.full().await;
    let later = world.full().await;
    let marker = layout::backup_deletion(&later);
    world.store.put(&marker, "{}".into()).await.expect("written");
    assert_eq!(world.parent(&latest(1)).await.name, root, "the newest is being deleted");
    assert!(refusal(&world, &later).await.ends_with(": it is being deleted"));
    world.store.delete(&marker).await.expect("removed");
    assert_eq!(world.parent(&latest(1)).await.name, later);
    let wal = "wal_005/000000010000000000000003.zst";
    world.store.delete(wal).await.expect("removed");
    assert_eq!(world.parent(&latest(1)).await.name, root, "the newest lacks its WAL");
    assert!(refusal(&world, &later).await.ends_with(
        ": it cannot be restored (WAL segment \"000000010000000000000003\", which it needs, is not in the archive)"
    ));
    let none = world.choose(&WantedParent::Named("base_x".to_owned())).await;
    assert!(matches!(none, Err(Error::NoBackup { .. })));

    let asked = |change: fn(&mut BackupRequest)| {
        let mut request = world.request();
        change(&mut request);
        let (store, root) = (world.store.clone(), root.clone());
        async move {
            let named = choose(&store, &request, false, &WantedParent::Named(root)).await;
            named.expect_err("refused").to_string()
        }
    };
    let said = asked(|request| request.system_identifier = 5).await;
    assert!(
        said.ends_with(&format!("system identifier {SYSTEM_IDENTIFIER}, not 5")),
        "{said}"
    );
    let said = asked(|request| request.server_version_num = 160_004).await;
    assert!(said.ends_with("it is of PostgreSQL 15, not 16"), "{said}");
    let key = layout::sentinel(&root);
    let mut sentinel = world.sentinel(&root).await;
    sentinel.files_metadata_disabled = true;
    let text = serde_json::to_vec(&sentinel).expect("JSON");
    world.store.put(&key, text.into()).await.expect("written");
    assert!(
        refusal(&world, &root)
            .await
            .ends_with("it was taken without files metadata")
    );
}
