//! An index of an unlogged table may be being built for longer than one backup takes.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_parent_has_is_not_said_of_a_relation_that_is_unlogged_by_now() {
    let mut world = World::new(true).await;
    for path in ["base/5/100", "base/5/101", "base/5/200"] {
        world.relation(path, 10, Lsn(0x100_0000));
    }
    world.settle();
    let root = world.full().await;
    world.change("base/5/101", &[(3, page(world.start(), 3))]);
    let request = BackupRequest {
        parent: Some(world.parent(&latest(1)).await),
        ..world.request()
    };
    let begun = begin(&world.store, request, BackupOptions::default()).await;
    let mut backup = begun.expect("begun");
    backup.copy().await.expect("copied");
    world.write("base/5/100_init", &[]);
    world.write("base/5/101_init", &[]);
    let prepared = backup.finish(world.stop()).await.expect("finished");
    world.archive(prepared.needed_segments()).await;
    let name = prepared.commit().await.expect("committed");
    let files = world.files(&name).await;
    assert!(files["/base/5/200"].is_skipped, "what rests is left out of the tars");
    let manifest = manifest::parse(&world.object(&layout::backup_manifest(&name)).await).expect("a manifest");
    for path in ["base/5/100", "base/5/101"] {
        assert!(world.files(&root).await.contains_key(&format!("/{path}")), "{path}");
        assert!(!files.contains_key(&format!("/{path}")), "{path}");
        assert!(manifest.files.iter().all(|file| file.path != Path::new(path)), "{path}");
    }

    // The next one knows, and has the init forks.
    world.next += 1;
    let next = world.delta().await;
    let files = world.files(&next).await;
    assert!(files.contains_key("/base/5/100_init") && files.contains_key("/base/5/101_init"));
    assert!(!files.contains_key("/base/5/100") && !files.contains_key("/base/5/101"));
}
