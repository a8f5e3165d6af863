//! Backups in an encrypted repository.

use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};

use super::tree::{Cluster, cluster};
use super::*;
use crate::backup::delta::{Choice, WantedParent, choose};
use crate::encrypted::attacks::attacks_on;
use crate::encrypted::is_plain;
use crate::formats::ExtendedMetadata;
use crate::objects::{Form, read_into};
use crate::repository::cluster::{self, ClusterIdentity};
use crate::repository::encryption::fixture::Place;
use crate::repository::encryption::{self, State};
use crate::repository::inventory::Inventory;
use crate::verify::{VerifyStatus, verify_backup};

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: SYSTEM_IDENTIFIER,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    }
}

fn with_configuration(cluster: &Cluster) -> BackupRequest {
    let config = cluster.dir.path().join("etc.conf");
    std::fs::write(&config, "port = 1\n").expect("written");
    BackupRequest {
        configuration: ConfigurationFiles {
            config: Some(config),
            ..ConfigurationFiles::default()
        },
        ..request(&cluster.data_dir())
    }
}

async fn take(store: &Store, request: BackupRequest) -> crate::Result<String> {
    cluster::claim(store, &identity()).await?;
    let mut backup = begin(store, request, BackupOptions::default()).await?;
    backup.copy().await?;
    backup.finish(stop()).await?.commit().await
}

async fn read(store: &Store, key: &str) -> crate::Result<u64> {
    let read = read_into(store, key, Form::Plain, std::io::sink(), "memory").await;
    read.map(|(bytes, _)| bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tars_are_sealed_and_what_is_said_of_them_is_not() {
    let cluster = cluster();
    let keys: [(Method, &[&str]); 3] = [(Libsodium, &["a"]), (OpenPgp, &["secret"]), (OpenPgp, &["public"])];
    for (method, keys) in keys {
        let (place, case) = (Place::new(), format!("{method} {keys:?}"));
        let store = place.store(Some(method), keys);
        take(&store, with_configuration(&cluster)).await.expect(&case);
        let (reader, blind) = (place.store(None, &["secret", "a"]), place.store(None, &[]));
        let (mut sealed, mut open) = (Vec::new(), Vec::new());
        for object in store.list(&layout::backup_folder(NAME)).await.expect("listed") {
            let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
            let stored = blind.get(&object.key, u64::MAX).await.expect("read").expect("there");
            if !name.contains(".tar") {
                serde_json::from_slice::<serde_json::Value>(&stored).expect("JSON");
                open.push(name);
                continue;
            }
            assert!(!is_plain(&object.key, &stored), "{case}: {name} is in plain text");
            assert!(read(&reader, &object.key).await.expect(&name) > 0);
            read(&blind, &object.key).await.expect_err("there is no key");
            for (attack, meddled) in attacks_on(&stored, method) {
                blind.put(&object.key, meddled.into()).await.expect("stored");
                let error = read(&reader, &object.key).await.expect_err(attack);
                assert!(error.is_content(), "{case} {name} {attack}: {error}");
            }
            blind.put(&object.key, stored).await.expect("stored");
            sealed.push(name);
        }
        sealed.sort();
        let expected =
            ["backup_label", "configuration", "part_001", "pg_control"].map(|name| format!("{name}.tar.zst"));
        assert_eq!(sealed, expected, "{case}");
        assert!(open.contains(&"metadata.json".to_owned()) && open.contains(&"backup_manifest".to_owned()));
        let inventory = Inventory::load(&reader).await.expect("loaded");
        let report = verify_backup(&reader, &inventory, NAME, Arc::default())
            .await
            .expect("verified");
        let bad = |row: &&crate::verify::BackupFinding| row.status == VerifyStatus::Failure;
        let bad: Vec<_> = report.details.iter().filter(bad).collect();
        assert!(
            bad.iter().all(|row| format!("{row:?}").contains("wal")),
            "{case}: {bad:?}"
        );
    }
}

/// The server that takes a delta cannot read what its parent has stored, and has to know no more than was written in plain text.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_public_keys_only_takes_deltas() {
    let (place, cluster) = (Place::new(), cluster());
    let store = place.store(Some(OpenPgp), &["public"]);
    take(&store, request(&cluster.data_dir())).await.expect("a full backup");
    let metadata = store
        .get(&layout::metadata(NAME), u64::MAX)
        .await
        .expect("read")
        .expect("there");
    let metadata = ExtendedMetadata::parse(&metadata).expect("JSON");
    let control = ControlFile::read(&cluster.data_dir()).expect("read");
    assert_eq!(metadata.data_checksums, Some(control.data_checksums));
    for segment in 2..=4 {
        let name = format!("00000001000000000000000{segment}").parse().expect("a name");
        let key = layout::wal(&name, Format::Zstd);
        store.put(&key, vec![7; 100].into()).await.expect("written");
    }
    let later = BackupRequest {
        start_lsn: Lsn(0x600_0028),
        ..request(&cluster.data_dir())
    };
    let wanted = WantedParent::Named(NAME.to_owned());
    match choose(&store, &later, false, &wanted).await.expect("chosen") {
        Choice::Delta(parent) => assert_eq!(parent.name, NAME),
        Choice::Full { why } => panic!("{why:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_plain_text_does_not_exist_if_encryption_was_turned_on_meanwhile() {
    let (place, cluster) = (Place::new(), cluster());
    let store = place.store(None, &[]);
    cluster::claim(&store, &identity()).await.expect("claimed");
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    encryption::settle(&place.store(Some(Libsodium), &["a"]))
        .await
        .expect("turned on");
    let prepared = backup.finish(stop()).await.expect("prepared");
    let error = prepared.commit().await.expect_err("refused");
    assert!(error.to_string().contains("in plain text"), "{error}");
    assert_eq!(store.size(&layout::sentinel(NAME)).await.expect("asked"), None);
    prepared.abort().await.expect("removed");
    // And no other one begins.
    let error = begin(&store, request(&cluster.data_dir()), BackupOptions::default()).await;
    let error = error.err().expect("refused");
    assert!(error.to_string().contains("in plain text"), "{error}");
    assert_eq!(store.list(&layout::backup_folder(NAME)).await.expect("listed"), []);
    assert!(matches!(
        encryption::state(&store).await.expect("read"),
        State::Encrypted(_)
    ));
}
