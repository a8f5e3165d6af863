//! The verification of backups without which no server starts.

use super::*;
use crate::repository::inventory::Inventory;
use crate::verify::{VerifyStatus, verify_backup};

fn link(name: &'static str, target: &'static str) -> Member {
    Member(name, EntryType::Symlink, target, Vec::new())
}

/// The paths that are a failure, of a backup as WAL-G takes it. The control file of these cannot be read, and there is no WAL.
async fn failures(sentinel: &str, members: &[Member], metadata: Option<&str>) -> Vec<String> {
    let repository = Repository::new(sentinel, members, &[]).await;
    let manifest = layout::backup_manifest(BACKUP);
    repository.store.delete(&manifest).await.expect("deleted");
    if let Some(metadata) = metadata {
        repository
            .put(&layout::files_metadata(BACKUP), metadata.as_bytes())
            .await;
    }
    let inventory = Inventory::load(&repository.store).await.expect("loaded");
    let report = verify_backup(&repository.store, &inventory, BACKUP, Arc::default()).await;
    let found = report.expect("verified").details.into_iter();
    let bad = found.filter(|row| {
        row.status == VerifyStatus::Failure && row.what == "file" && row.path != crate::data_dir::PG_CONTROL
    });
    let mut paths: Vec<String> = bad.map(|row| row.path).collect();
    paths.sort();
    paths
}

fn whole() -> Vec<Member> {
    vec![
        file("/PG_VERSION", b"15"),
        file("/pg_xact/0000", b"x"),
        file("/base/1/PG_VERSION", b"15"),
        file("/base/5/PG_VERSION", b"15"),
        file("/base/5/1259", CONTENT),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_wal_g_is_asked_for_the_same() {
    let disabled = sentinel("");
    assert_eq!(failures(&disabled, &whole(), None).await, [""; 0]);
    let without = |index: usize| {
        let mut members = whole();
        members.remove(index);
        members
    };
    for (index, path) in [
        (0, "PG_VERSION"),
        (1, "pg_xact"),
        (2, "base/1"),
        (3, "base/5/PG_VERSION"),
    ] {
        assert_eq!(failures(&disabled, &without(index), None).await, [path]);
    }
    // WAL-G packs a link as a link.
    let mut linked = without(1);
    linked.push(link("/pg_xact", "/disk2/pg_xact"));
    assert_eq!(failures(&disabled, &linked, None).await, ["/pg_xact", "pg_xact"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_delta_has_from_its_parent_is_there() {
    let listed = r#"{"Files": {"/PG_VERSION": {"IsSkipped": true}, "/pg_xact/0000": {}, "/base/1/PG_VERSION": {"IsSkipped": true},
        "/base/5/PG_VERSION": {"IsSkipped": true}, "/base/5/1259": {}}, "TarFileSets": {"part_001.tar.zst": ["/base/5/1259"]}}"#;
    let members = [file("/pg_xact/0000", b"x"), file("/base/5/1259", CONTENT)];
    let delta = r#"{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018, "DeltaLSN": 1, "DeltaFrom": "base_x", "DeltaFullName": "base_x",
        "DeltaCount": 1}"#;
    assert_eq!(failures(delta, &members, Some(listed)).await, [""; 0]);
    let without = listed.replace(r#""/base/5/PG_VERSION": {"IsSkipped": true}, "#, "");
    assert_eq!(failures(delta, &members, Some(&without)).await, ["base/5/PG_VERSION"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_segment_and_one_file_are_told_in_the_singular() {
    let repository = Repository::new(&sentinel(""), &[file("/PG_VERSION", b"15")], &[]).await;
    let details = async || {
        let inventory = Inventory::load(&repository.store).await.expect("loaded");
        let report = verify_backup(&repository.store, &inventory, BACKUP, Arc::default()).await;
        let rows = report.expect("verified").details;
        let found = rows
            .iter()
            .map(|row| format!("{} {}: {}", row.what, row.path, row.detail));
        found.collect::<Vec<_>>()
    };
    let before = details().await;
    let says = |rows: &[String], text: &str| rows.iter().any(|row| row.ends_with(text));
    assert!(
        says(
            &before,
            "This segment is missing: the backup cannot be made consistent."
        ),
        "{before:#?}"
    );
    assert!(says(&before, "It was read to its end: 1 file, 2 bytes."), "{before:#?}");
}
