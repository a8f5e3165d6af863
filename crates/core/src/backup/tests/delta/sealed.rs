//! Backups whose metadata is encrypted.

use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};
use walarchive_storage::crypt::SEALED_MARK;

use super::*;
use crate::objects::{Form, read_into};
use crate::repository::drills::{Drill, DrillStatus, proven};
use crate::repository::encryption::fixture::Place;
use crate::repository::inventory::{Inventory, list_backups};
use crate::retention::{Mark, mark};
use crate::verify::{VerifiedBackup, VerifyStatus, verify_backup};
use walarchive_testkit::meddler::{Act, Op};

/// What only metadata has, in what is told of this cluster.
const TELLING: [&str; 6] = ["base/5", "pg_xact", "IsPermanent", "\"Files\"", "start_lsn", "checks"];

async fn world(place: &Place, store: Store) -> World {
    let mut world = World::new(false).await;
    world.store = store;
    let identity = ClusterIdentity {
        system_identifier: SYSTEM_IDENTIFIER,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    };
    assert!(place.path("store").exists());
    cluster::claim(&world.store, &identity).await.expect("claimed");
    world.relation("base/5/100", 20, Lsn(0x100_0000));
    world
}

async fn change_and_take(world: &mut World) -> String {
    let lsn = world.start();
    world.change("base/5/100", &[(3, page(lsn, 3))]);
    world.settle();
    world.delta().await
}

async fn note_all(store: &Store, name: &str) {
    let time = Utc::now();
    let drill = Drill {
        backup: name.to_owned(),
        host: "host".to_owned(),
        start_time: time,
        stop_time: time,
        status: DrillStatus::Ok,
        target: "the restore point".to_owned(),
        stored_bytes: 1,
        restore_seconds: None,
        segments: 1,
        replay_seconds: None,
        lsn: None,
        timeline: None,
        last_transaction_time: None,
        checks: Vec::new(),
    };
    drill.write(store).await.expect("noted");
    mark(store, name, Mark::Permanent).await.expect("marked");
    let inventory = Inventory::load(store).await.expect("loaded");
    let backup = inventory.backup(name).expect("listed");
    VerifiedBackup::write(store, backup, VerifyStatus::Ok, time)
        .await
        .expect("noted");
}

/// Metadata in plain text, and other objects that tell what it has.
async fn readable(place: &Place) -> (Vec<String>, Vec<String>) {
    let blind = place.store(None, &[]);
    let (mut plain, mut telling) = (Vec::new(), Vec::new());
    for object in blind.list("").await.expect("listed") {
        let stored = blind.get(&object.key, u64::MAX).await.expect("read").expect("there");
        let text = String::from_utf8_lossy(&stored);
        if layout::is_metadata(&object.key) && !stored.starts_with(SEALED_MARK) {
            plain.push(object.key);
        } else if TELLING.iter().any(|telltale| text.contains(telltale)) {
            telling.push(object.key);
        }
    }
    (plain, telling)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_tells_what_is_in_full_and_delta_backups() {
    let writers: [(Method, &[&str]); 2] = [(Libsodium, &["a"]), (OpenPgp, &["secret"])];
    for (method, keys) in writers {
        let place = Place::new();
        let mut world = world(&place, place.store_of_secrets(Some(method), keys)).await;
        world.settle();
        let full = world.full().await;
        let delta = change_and_take(&mut world).await;
        assert!(delta.contains("_D_"), "{delta}");
        note_all(&world.store, &delta).await;
        assert_eq!(readable(&place).await, (Vec::new(), Vec::new()), "{method}");
        // With the key all is there.
        let reader = place.store(None, keys);
        let backups = list_backups(&reader).await.expect("listed");
        let told: Vec<_> = backups
            .iter()
            .map(|backup| (&backup.name, backup.metadata.is_permanent, &backup.damaged))
            .collect();
        assert_eq!(told, [(&full, true, &None), (&delta, true, &None)]);
        assert_eq!(proven(&reader).await.expect("listed").len(), 1);
        assert!(Drill::newest(&reader, "host").await.expect("read").is_some());
        let inventory = Inventory::load(&reader).await.expect("loaded");
        let verified = VerifiedBackup::read(&reader, inventory.backup(&delta).expect("listed")).await;
        assert!(verified.expect("read").is_some());
        for name in [&full, &delta] {
            let report = verify_backup(&reader, &inventory, name, Arc::default())
                .await
                .expect("verified");
            let bad: Vec<_> = report
                .details
                .iter()
                .filter(|row| row.status == VerifyStatus::Failure)
                .collect();
            assert!(bad.is_empty(), "{method} {name}: {bad:?}");
        }
        let files = layout::files_metadata(&delta);
        let (_, text) = read_into(&reader, &files, Form::Plain, Vec::new(), "memory")
            .await
            .expect("read");
        let files = FilesMetadata::read_from(&text[..]).expect("files metadata").files;
        assert!(files["/base/5/100"].is_incremented);
        // Without it nothing is.
        for (keys, says) in [
            (&[][..], "no key is configured"),
            (&["b", "public"][..], "cannot be decrypted"),
        ] {
            let error = list_backups(&place.store(None, keys)).await.expect_err("refused");
            assert!(error.to_string().contains(says) && error.asks_for_a_key(), "{error}");
            let error = Inventory::load(&place.store(None, keys))
                .await
                .map(drop)
                .expect_err("refused");
            assert!(
                error.hint().is_some_and(|hint| hint.contains("--encryption-key-file")),
                "{error}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_has_both() {
    let place = Place::new();
    let plain = place.store(Some(Libsodium), &["a"]);
    let mut world = world(&place, plain.clone()).await;
    world.settle();
    let mut names = vec![world.full().await];
    let before = readable(&place).await.0;
    assert!(before.len() >= 4, "{before:?}");
    world.store = place.store_of_secrets(Some(Libsodium), &["a"]);
    names.push(change_and_take(&mut world).await);
    let mut after = readable(&place).await.0;
    assert_eq!(after, before);
    world.store = plain.clone();
    names.push(change_and_take(&mut world).await);
    assert!(names[1..].iter().all(|name| name.contains("_D_")), "{names:?}");
    after = readable(&place).await.0;
    assert!(after.iter().any(|key| key.contains(&names[2])) && !after.iter().any(|key| key.contains(&names[1])));
    let backups = list_backups(&plain).await.expect("listed");
    assert_eq!(
        backups.iter().map(|backup| &backup.name).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    // A mark seals nothing that was plain, and nothing that was sealed is plain after one.
    mark(&plain, &names[2], Mark::Permanent).await.expect("marked");
    let now = readable(&place).await.0;
    assert_eq!(now, after);
    let backups = list_backups(&plain).await.expect("listed");
    assert!(backups.iter().all(|backup| backup.metadata.is_permanent));
}

/// The answer to the write of the sentinel is lost. The next attempt seals it again, and knows the first one by its content.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_sentinel_that_is_there_already_is_ours() {
    let place = Place::new();
    let mut world = World::new(false).await;
    world.store = world
        .store
        .with_keys_of(&place.store_of_secrets(Some(Libsodium), &["a"]));
    world.relation("base/5/100", 20, Lsn(0x100_0000));
    world.settle();
    let prepared = world.prepare(world.request()).await.expect("prepared");
    world.archive(prepared.needed_segments()).await;
    let (key, mut writes) = (layout::sentinel(prepared.name()).to_string(), 0);
    world.meddler.rule(move |op, found| match op {
        Op::Put if found == key => {
            writes += 1;
            if writes == 1 { Act::Lose } else { Act::Pass }
        }
        _ => Act::Pass,
    });
    let name = match prepared.commit().await {
        Ok(name) => name,
        Err(error) => {
            assert!(error.is_transient(), "{error}");
            prepared.commit().await.expect("committed")
        }
    };
    assert!(world.object(&layout::sentinel(&name)).await.starts_with(SEALED_MARK));
    let backups = list_backups(&world.store).await.expect("listed");
    assert_eq!(backups.len(), 1);
}
