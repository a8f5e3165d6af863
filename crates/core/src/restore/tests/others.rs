//! A restore's treatment of other databases that are in the directory, and the settings that it leaves for them.

use super::existing::delta;
use super::*;
use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};

/// Of a cluster with two databases of users.
async fn repository() -> Repository {
    let control = sample(16 << 20, 288);
    let members = [
        file("/base/16400/1", CONTENT),
        file("/base/16401/1", CONTENT),
        file("/base/16401/pg_filenode.map", b"map"),
    ];
    let sentinel = sentinel(&format!("\"SystemIdentifier\": {SYSTEM_IDENTIFIER},"));
    let repository = Repository::new(&sentinel, &members, &[]).await;
    let listed: [(&str, &[u8]); 5] = [
        ("base/16400/1", CONTENT),
        ("base/16401/1", CONTENT),
        ("base/16401/pg_filenode.map", b"map"),
        ("global/pg_control", &control),
        ("backup_label", b"START WAL"),
    ];
    let key = layout::backup_manifest(BACKUP);
    repository.put(&key, &manifest(&listed)).await;
    let control = [file("/global/pg_control", &control)];
    repository.put_tar("pg_control.tar.zst", &control).await;
    repository
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_of_other_databases_is_not_lost_unsaid() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let only = || RestoreOptions {
        databases: vec!["16400".to_owned()],
        ..delta()
    };
    let shown = async |options: RestoreOptions| {
        let planned = plan(&repository.store, BACKUP, &repository.target(), options).await;
        planned.expect("planned").plan.to_string()
    };
    let says = "of other databases in the directory is lost: files of zeros";
    let lost = format!(
        "note:         The content of 2 files ({} bytes) {says}",
        CONTENT.len() + 3
    );
    let text = shown(only()).await;
    assert!(text.contains(&lost), "{text}");
    assert!(!shown(delta()).await.contains(says), "all of them are wanted");
    repository.restore_with(only()).await.expect("restored");
    let read = |path: &str| std::fs::read(repository.target().join(path)).expect(path);
    assert_eq!(
        (read("base/16400/1"), read("base/16401/1")),
        (CONTENT.to_vec(), vec![0; CONTENT.len()])
    );
    assert!(!shown(only()).await.contains(says), "nothing is left to lose");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_restore_leaves_no_leave_to_go_over_damaged_pages() {
    // ALTER SYSTEM took the comments away.
    let auto = b"work_mem = '1MB'\nignore_invalid_pages = 'on'\nport = '1'\n";
    let members = [file("/postgresql.auto.conf", auto), file("/base/16400/1", CONTENT)];
    let listed: [(&str, &[u8]); 2] = [("postgresql.auto.conf", auto), ("base/16400/1", CONTENT)];
    let with_archive_off = RestoreOptions {
        archive_off: true,
        ..RestoreOptions::default()
    };
    for (options, expected) in [
        (RestoreOptions::default(), "work_mem = '1MB'\nport = '1'\n"),
        (
            with_archive_off,
            "work_mem = '1MB'\nport = '1'\n# written by walarchive backup-fetch\narchive_mode = 'off'\n",
        ),
    ] {
        let repository = Repository::new(&sentinel(""), &members, &listed).await;
        repository.restore_with(options).await.expect("restored");
        let written = std::fs::read_to_string(repository.target().join("postgresql.auto.conf"));
        assert_eq!(written.expect("read"), expected);
    }
}
