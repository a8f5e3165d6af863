//! Backups of data directories that PostgreSQL made: healthy and damaged.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walarchive_core::Lsn;
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::control_file::{ControlFile, read_major_version};
use walarchive_core::repository::cluster::{self, ClusterIdentity};
use walarchive_core::repository::inventory::Inventory;
use walarchive_core::repository::layout;
use walarchive_core::verify::{BackupReport, VerifiedBackup, VerifyStatus, verify_backup};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{Cluster, StopMode, TestDir, run};

/// A cluster that was stopped in order, so that its pages are as they are.
fn stopped(dir: &TestDir) -> Cluster {
    let cluster = Cluster::builder(dir, "primary").start();
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a; CREATE INDEX ON t (a);");
    cluster.stop(StopMode::Fast);
    cluster
}

fn store(dir: &TestDir) -> Store {
    let place = dir.subdir("repository");
    Store::open(&StorageConfig::new(format!("file://{}", place.display()))).expect("a store")
}

async fn back_up(store: &Store, data: &Path) -> String {
    let control = ControlFile::read(data).expect("intact");
    // The pages were all written before.
    let start_lsn = Lsn(control.checkpoint.0 + (64 << 20));
    let version = read_major_version(data).expect("a version") * 10_000;
    let request = BackupRequest::full(data.to_owned(), &control, version, start_lsn);
    let identity = ClusterIdentity {
        system_identifier: control.system_identifier,
        major_version: request.server_version_num / 10_000,
        segment_size: control.segment_size,
    };
    cluster::claim(store, &identity).await.expect("claimed");
    let cancel = CancellationToken::new();
    let begun = Backup::begin(store, request, BackupOptions::default(), Arc::default(), cancel);
    let mut backup = begun.await.expect("begun");
    backup.copy().await.expect("copied");
    let label = format!("START WAL LOCATION: {start_lsn} (file 000000010000000000000006)\nSTART TIMELINE: 1\n");
    let stop = StopResult::new(Lsn(start_lsn.0 + 100), label);
    let name = backup
        .finish(stop)
        .await
        .expect("finished")
        .commit()
        .await
        .expect("committed");
    // Its WAL; nobody looks into it.
    for segment in walarchive_core::wal::Segment::range(1, start_lsn, Lsn(start_lsn.0 + 100), control.segment_size) {
        let key = format!("{}/{segment}", layout::WAL_FOLDER);
        store.put(&key, "x".into()).await.expect("written");
    }
    name
}

async fn verify(store: &Store, name: &str) -> BackupReport {
    let inventory = Inventory::load(store).await.expect("loaded");
    verify_backup(store, &inventory, name, Arc::default())
        .await
        .expect("verified")
}

/// The faults: kind, path and detail.
fn problems(report: &BackupReport) -> Vec<(&str, &str, &str)> {
    let bad = report.details.iter().filter(|row| row.status != VerifyStatus::Ok);
    bad.map(|row| (row.what, row.path.as_str(), row.detail.as_str()))
        .collect()
}

fn detail<'a>(report: &'a BackupReport, what: &str) -> &'a str {
    let row = report.details.iter().find(|row| row.what == what);
    &row.unwrap_or_else(|| panic!("no {what} in {report:?}")).detail
}

#[tokio::test(flavor = "multi_thread")]
async fn all_page_checksums_are_those_of_pg_checksums() {
    let dir = TestDir::new();
    let cluster = stopped(&dir);
    let store = store(&dir);
    // The leavings of a crash are not copied.
    let name = back_up(&store, cluster.datadir()).await;
    let report = verify(&store, &name).await;
    assert_eq!((report.status, problems(&report)), (VerifyStatus::Ok, Vec::new()));
    let output = run(cluster.pg().program("pg_checksums").arg("-D").arg(cluster.datadir())).expect_success();
    let scanned = output.lines().find_map(|line| line.strip_prefix("Blocks scanned:"));
    let scanned: u64 = scanned.expect("a number").trim().parse().expect("a number");
    let looked: u64 = detail(&report, "pages")
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number");
    assert!(scanned > 1000, "{scanned}");
    // It also counts pages that were never used.
    assert!(
        looked <= scanned && looked * 100 > scanned * 99,
        "{looked} of {scanned}"
    );
    let inventory = Inventory::load(&store).await.expect("loaded");
    let backup = inventory.backup(&name).expect("there");
    let remembered = VerifiedBackup::read(&store, backup).await.expect("read");
    assert_eq!(remembered.map(|record| record.status), Some(VerifyStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_damaged_before_it_was_copied_is_named() {
    let dir = TestDir::new();
    let cluster = stopped(&dir);
    let path = "base/1/1259";
    let file = cluster.datadir().join(path);
    let mut content = std::fs::read(&file).expect("read");
    content[3 * 8192 + 5000] ^= 1;
    std::fs::write(&file, content).expect("written");
    let store = store(&dir);
    let name = back_up(&store, cluster.datadir()).await;
    let report = verify(&store, &name).await;
    let [("pages", found, detail)] = &problems(&report)[..] else {
        panic!("{report:?}")
    };
    assert!(
        *found == path && detail.contains("1 page with a wrong checksum: 3."),
        "{detail}"
    );
    assert_eq!(report.status, VerifyStatus::Warning);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named() {
    let dir = TestDir::new();
    let cluster = stopped(&dir);
    let store = store(&dir);
    let name = back_up(&store, cluster.datadir()).await;
    let (part, intact) = tar_with_version(&store, &name).await;
    let mut flipped = intact.to_vec();
    flipped[intact.len() / 2] ^= 1;
    for content in [
        intact.slice(..intact.len() / 2),
        intact.slice(..intact.len() - 1),
        flipped.into(),
    ] {
        store.put(&part, content).await.expect("written");
        let report = verify(&store, &name).await;
        let found = problems(&report);
        assert!(
            found.iter().any(|(what, path, _)| *what == "tar" && *path == part),
            "{found:?}"
        );
        assert!(found.len() < 15, "{found:?}");
    }
    let inventory = Inventory::load(&store).await.expect("loaded");
    let backup = inventory.backup(&name).expect("there");
    assert_eq!(VerifiedBackup::read(&store, backup).await.expect("read"), None);
    store.delete(&part).await.expect("deleted");
    let report = verify(&store, &name).await;
    let missing = problems(&report)
        .into_iter()
        .any(|(what, path, detail)| what == "tar" && path == part && detail.contains("missing"));
    assert!(missing, "{report:?}");

    // The tar is whole, and one of its files is another.
    store
        .put(&part, repack(&intact, "/PG_VERSION", Some(b"99\n")))
        .await
        .expect("written");
    let report = verify(&store, &name).await;
    let expected = [(
        "file",
        "PG_VERSION",
        "Its checksum is another than in the backup manifest.",
    )];
    assert_eq!(problems(&report), expected);
    store
        .put(&part, repack(&intact, "/PG_VERSION", Some(b"more bytes\n")))
        .await
        .expect("written");
    let report = verify(&store, &name).await;
    assert_eq!(
        problems(&report),
        [("file", "PG_VERSION", "It has 11 bytes, the backup manifest says 3.")]
    );
    store
        .put(&part, repack(&intact, "/PG_VERSION", None))
        .await
        .expect("written");
    let report = verify(&store, &name).await;
    assert_eq!(
        problems(&report),
        [(
            "file",
            "PG_VERSION",
            "It is in the backup manifest, and cannot be found in any tar."
        )]
    );
    store.put(&part, intact).await.expect("written");
    assert_eq!(verify(&store, &name).await.status, VerifyStatus::Ok);

    let manifest = layout::backup_manifest(&name);
    let text = store.get(&manifest, u64::MAX).await.expect("read").expect("there");
    store.put(&manifest, text.slice(1..)).await.expect("written");
    assert!(
        problems(&verify(&store, &name).await)
            .iter()
            .any(|(what, ..)| *what == "manifest")
    );
    store.delete(&manifest).await.expect("deleted");
    let report = verify(&store, &name).await;
    assert_eq!(problems(&report), []);
    assert!(
        detail(&report, "manifest").contains("The backup has none"),
        "{report:?}"
    );
    for object in store.list(&layout::WAL_FOLDER).await.expect("listed") {
        store.delete(&object.key).await.expect("deleted");
    }
    let report = verify(&store, &name).await;
    assert!(matches!(problems(&report)[..], [("wal", _, _)]), "{report:?}");
}

/// The tar that holds "PG_VERSION", and its content.
async fn tar_with_version(store: &Store, name: &str) -> (String, bytes::Bytes) {
    for object in store.list(&layout::tar_folder(name)).await.expect("listed") {
        let content = store.get(&object.key, u64::MAX).await.expect("read").expect("there");
        if repack(&content, "/PG_VERSION", None) != repack(&content, "", None) {
            return (object.key, content);
        }
    }
    panic!("no tar has it")
}

/// The tar with one member's content replaced, or without it.
fn repack(object: &[u8], member: &str, content: Option<&[u8]>) -> bytes::Bytes {
    use std::io::{Read, Write};
    use walarchive_core::codec::{Compression, Format};
    let mut tar = tar::Archive::new(Format::Zstd.decoder(object).expect("a decoder"));
    let mut new = tar::Builder::new(Compression::Zstd(1).encoder(Vec::new()).expect("an encoder"));
    for entry in tar.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let mut header = entry.header().clone();
        let mut bytes = Vec::new();
        if entry.path_bytes().as_ref() == member.as_bytes() {
            let Some(content) = content else { continue };
            bytes.write_all(content).expect("written");
        } else {
            entry.read_to_end(&mut bytes).expect("read");
        }
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        new.append(&header, bytes.as_slice()).expect("appended");
    }
    let encoder = new.into_inner().expect("finished");
    encoder.finish().expect("finished").into()
}
