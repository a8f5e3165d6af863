//! Restores into a directory that is not empty.

use super::*;
use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};

pub(super) const NEWER: &[u8] = b"THE content of a relation, several times over";

pub(super) fn delta() -> RestoreOptions {
    RestoreOptions {
        mode: RestoreMode::Delta,
        ..RestoreOptions::default()
    }
}

/// A backup in two tars, of a cluster with a `pg_control` that can be read.
pub(super) async fn repository() -> Repository {
    let control = sample(16 << 20, 288);
    let members = [directory("/base"), directory("/base/5"), file("/base/5/1259", CONTENT)];
    let listed: [(&str, &[u8]); 3] = [("base/5/1259", CONTENT), ("base/5/1", CONTENT), ("PG_VERSION", b"15")];
    let sentinel =
        format!(r#"{{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018, "SystemIdentifier": {SYSTEM_IDENTIFIER}}}"#);
    let repository = Repository::new(&sentinel, &members, &[]).await;
    let mut all: Vec<(&str, &[u8])> = vec![("global/pg_control", &control), ("backup_label", b"START WAL")];
    all.extend(listed);
    repository.put(&layout::backup_manifest(BACKUP), &manifest(&all)).await;
    let control = [file("/global/pg_control", &control)];
    repository.put_tar("pg_control.tar.zst", &control).await;
    let members = [file("/base/5/1", CONTENT), file("/PG_VERSION", b"15")];
    repository.put_tar("part_002.tar.zst", &members).await;
    let metadata = r#"{"Files": {"/base": {}, "/base/5": {}, "/base/5/1259": {}, "/base/5/1": {}, "/PG_VERSION": {},
        "/global/pg_control": {}, "backup_label": {}},
        "TarFileSets": {"part_001.tar.zst": ["/base", "/base/5", "/base/5/1259"],
        "part_002.tar.zst": ["/base/5/1", "/PG_VERSION"]}}"#;
    repository
        .put(&layout::files_metadata(BACKUP), metadata.as_bytes())
        .await;
    repository
}

impl Repository {
    pub(super) fn write(&self, path: &str, content: &[u8]) {
        let path = self.target().join(path);
        std::fs::create_dir_all(path.parent().expect("below")).expect("created");
        std::fs::write(path, content).expect("written");
    }

    pub(super) fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = walk(&self.target())
            .iter()
            .map(|path| {
                path.strip_prefix(self.target())
                    .expect("below")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        files.sort();
        files
    }
}

pub(super) fn marker() -> String {
    format!(r#"{{"system_identifier": {SYSTEM_IDENTIFIER}, "backup": "x"}}"#)
}

pub(super) const FILES: [&str; 6] = [
    "PG_VERSION",
    "backup_label",
    "backup_manifest",
    "base/5/1",
    "base/5/1259",
    "global/pg_control",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_is_kept_and_what_is_not_in_the_backup_goes() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    assert_eq!(repository.files(), FILES);
    // The cluster lived on: one file changed, others came, and its label was used up.
    repository.write("base/5/1259", NEWER);
    repository.write("base/16400/1", b"of a database that came later");
    repository.write("pg_wal/000000010000000000000007", b"WAL");
    repository.write("recovery.signal", b"");
    repository.write("postmaster.opts", b"/x\n");
    repository.write("base/5/1.deadbeef.walarchive-tmp", b"half");
    std::fs::remove_file(repository.target().join("backup_label")).expect("removed");
    std::os::unix::fs::symlink("/nowhere", repository.target().join("link")).expect("linked");
    // All of this tar is there.
    repository
        .put(&layout::tar(BACKUP, "part_002.tar.zst"), b"rubbish")
        .await;
    let planned = plan(&repository.store, BACKUP, &repository.target(), delta())
        .await
        .expect("planned");
    let text = planned.plan.to_string();
    let there =
        "there:        2 files, 47 bytes as in the backup, which stay; fetched: 3; not in the backup and removed: 6";
    assert!(
        text.contains(there) && text.contains("removes 1 file from pg_wal"),
        "{text}"
    );
    assert!(
        repository.target().join("global/pg_control").exists(),
        "a plan removes nothing"
    );
    drop(planned);
    let restored = repository.restore_with(delta()).await.expect("restored");
    assert_eq!(restored.files, 3);
    assert_eq!(repository.files(), FILES);
    let read = |path: &str| std::fs::read(repository.target().join(path)).expect(path);
    assert_eq!(
        (read("base/5/1259"), read("base/5/1")),
        (CONTENT.to_vec(), CONTENT.to_vec())
    );
    assert!(
        !repository.target().join("base/16400").exists()
            && !repository.target().join(crate::stored::member::MARKER).exists()
    );
    // Without a manifest nothing can be compared.
    repository
        .store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    assert!(
        repository.restore_with(delta()).await.is_err(),
        "the rubbish is needed now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_another_kind_is_fetched() {
    let repository = repository().await;
    let target = repository.target();
    for with_manifest in [true, false] {
        repository.restore_with(delta()).await.expect("restored");
        // Directories where files were, and the other way round.
        for name in ["base/5/1259", "PG_VERSION", "backup_label"] {
            std::fs::remove_file(target.join(name)).expect("removed");
            repository.write(&format!("{name}/x/y"), NEWER);
        }
        std::fs::remove_file(target.join("base/5/1")).expect("removed");
        std::fs::create_dir(target.join("base/5/1")).expect("created");
        std::fs::remove_dir_all(target.join("global")).expect("removed");
        repository.write("global", b"");
        repository.write(crate::stored::member::MARKER, marker().as_bytes());
        // They tell the server what to do, so they never stay.
        repository.write("tablespace_map", b"16400 /old\n");
        repository.write("standby.signal", b"");
        if !with_manifest {
            let manifest = layout::backup_manifest(BACKUP);
            repository.store.delete(&manifest).await.expect("deleted");
        }
        repository.restore_with(delta()).await.expect("restored");
        let expected = FILES
            .into_iter()
            .filter(|name| with_manifest || *name != "backup_manifest");
        assert_eq!(repository.files(), expected.collect::<Vec<_>>());
        let read = |path: &str| std::fs::read(target.join(path)).expect(path);
        assert_eq!(
            (read("base/5/1259"), read("base/5/1")),
            (CONTENT.to_vec(), CONTENT.to_vec())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_goes_to_the_owner_too() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let target = repository.target();
    // A file that has another name outside would be given away there, too.
    let outside = repository.place.path().join("outside");
    std::fs::hard_link(target.join("PG_VERSION"), &outside).expect("linked");
    let options = RestoreOptions {
        owner: Some(Owner {
            uid: 12_345,
            gid: 23_456,
        }),
        ..delta()
    };
    let restored = repository.restore_with(options).await.expect("restored");
    assert_eq!(restored.files, 3, "of five, two are kept");
    let owner = |path: &Path| {
        let meta = path.symlink_metadata().expect("there");
        (meta.uid(), meta.gid())
    };
    let mut paths = walk(&target);
    paths.extend(["", "base", "base/5", "pg_wal", "global"].map(|path| target.join(path)));
    for path in paths {
        assert_eq!(owner(&path), (12_345, 23_456), "{path:?}");
    }
    assert_eq!(owner(&outside), (0, 0));
    assert_eq!(std::fs::read(&outside).expect("read"), b"15");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_no_room_makes_none() {
    use std::os::unix::fs::MetadataExt;
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let target = repository.target();
    repository.write("base/5/1259", NEWER);
    repository.write("base/5/hole", b"");
    let hole = std::fs::OpenOptions::new().write(true).open(target.join("base/5/hole"));
    hole.and_then(|hole| hole.set_len(1 << 40)).expect("extended");
    let elsewhere = repository.place.path().join("elsewhere");
    std::fs::write(&elsewhere, vec![1; 1 << 20]).expect("written");
    std::fs::hard_link(&elsewhere, target.join("base/5/linked")).expect("linked");
    let planned = plan(&repository.store, BACKUP, &target, delta())
        .await
        .expect("planned");
    let removed = ["base/5/1259", "base/5/hole", "backup_label", "global/pg_control"];
    let freed = removed.map(|name| target.join(name).metadata().expect(name).blocks() * 512);
    // Two files are kept.
    let room = freed.iter().sum::<u64>() + 2 * 4096;
    assert_eq!(planned.plan.existing.expect("compared").room, [(None, room)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_goes_on() {
    let repository = repository().await;
    let part = layout::tar(BACKUP, "part_002.tar.zst");
    let good = repository
        .store
        .get(&part, 1 << 20)
        .await
        .expect("asked")
        .expect("there");
    repository.put(&part, b"rubbish").await;
    let options = RestoreOptions {
        concurrency: 1,
        ..RestoreOptions::default()
    };
    repository.restore_with(options).await.expect_err("damaged");
    assert!(repository.target().join(crate::stored::member::MARKER).exists());
    let error = repository.restore().await.expect_err("not empty");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("--delta to go on")),
        "{error:?}"
    );
    repository.put(&part, &good).await;
    repository.restore_with(delta()).await.expect("restored");
    assert_eq!(repository.files(), FILES);
    assert!(!repository.target().join(crate::stored::member::MARKER).exists());
    // Into an empty directory it is as without.
    std::fs::remove_dir_all(repository.target()).expect("removed");
    repository.restore_with(delta()).await.expect("restored");
    assert_eq!(repository.files(), FILES);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_something_else_is_refused() {
    let repository = repository().await;
    let refused = async |says: &str| {
        let before = repository.files();
        let error = repository.restore_with(delta()).await.expect_err(says);
        assert!(error.to_string().contains(says) && error.hint().is_some(), "{error}");
        assert_eq!(repository.files(), before);
    };
    repository.write("precious", b"mine");
    refused("is not empty, and is not a data directory").await;
    let mut other = sample(16 << 20, 288);
    other[0] ^= 1;
    let sum = crc32c::crc32c(&other[..288]);
    other[288..292].copy_from_slice(&sum.to_le_bytes());
    repository.write("global/pg_control", &other);
    refused("belongs to system identifier").await;
    repository.write("global/pg_control", b"rubbish");
    refused("is damaged").await;
    repository.write("global/pg_control", &sample(16 << 20, 288));
    // That no process has this number here proves nothing.
    repository.write("postmaster.pid", b"999999999\n/x\n");
    refused("a server is or was running").await;
    std::fs::remove_file(repository.target().join("postmaster.pid")).expect("removed");
    repository.restore_with(delta()).await.expect("restored");
    assert_eq!(repository.files(), FILES);
}

/// Whoever has no key keeps the directory that could be started.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_without_its_key_changes_nothing() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let before = repository.files();
    repository.write("base/5/1259", NEWER);
    for tar in [
        "part_001.tar.zst",
        "part_002.tar.zst",
        "pg_control.tar.zst",
        "backup_label.tar.zst",
    ] {
        let sealed = walarchive_testkit::sealed::by_libsodium(&zstd(b"a tar"), [7; 32]);
        repository.put(&layout::tar(BACKUP, tar), &sealed).await;
    }
    let error = repository.restore_with(delta()).await.expect_err("no key");
    assert!(error.asks_for_a_key(), "{error:?}");
    assert_eq!(repository.files(), before);
    let kept = std::fs::read(repository.target().join("base/5/1259")).expect("read");
    assert_eq!(kept, NEWER);
}
