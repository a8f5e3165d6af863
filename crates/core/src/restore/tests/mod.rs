//! Restores of small repositories that are built here; [`damage`] has those that must fail.

mod between;
mod catchup;
mod chain;
mod damage;
mod essential;
mod existing;
mod lies;
mod links;
mod mounts;
mod options;
mod others;
mod outlook;
mod places;
mod replaced;
mod waldir;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::codec::Compression;
use crate::error::{Error, Result};
use crate::formats::manifest::{ChecksumAlgorithm, Checksummer, ManifestFile, ManifestWriter};
use crate::repository::layout;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

const BACKUP: &str = "base_000000010000000000000002";
const CONTENT: &[u8] = b"the content of a relation, several times over";

/// A member of a tar: its raw name, kind, link target and content.
struct Member(&'static str, EntryType, &'static str, Vec<u8>);

fn file(name: &'static str, content: &[u8]) -> Member {
    Member(name, EntryType::Regular, "", content.to_vec())
}

fn directory(name: &'static str) -> Member {
    Member(name, EntryType::Directory, "", Vec::new())
}

fn tar_of(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for Member(name, kind, link, content) in members {
        let mut header = Header::new_ustar();
        // The crate's own setter refuses what a hostile tar may have.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, &content[..]).expect("appended");
    }
    tar.into_inner().expect("finished")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("finished")
}

/// A repository with one backup, which a test may spoil before it restores it.
struct Repository {
    store: Store,
    place: tempfile::TempDir,
}

impl Repository {
    /// With the usual tars, and `members` in `part_001`. The manifest lists the usual files and `listed`.
    async fn new(sentinel: &str, members: &[Member], listed: &[(&str, &[u8])]) -> Self {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        let repository = Repository {
            store,
            place: tempfile::tempdir().expect("a directory"),
        };
        repository.put(&layout::sentinel(BACKUP), sentinel.as_bytes()).await;
        repository.put_tar("part_001.tar.zst", members).await;
        repository
            .put_tar("pg_control.tar.zst", &[file("/global/pg_control", b"control")])
            .await;
        let label = [file("backup_label", b"START WAL"), file("tablespace_map", b"")];
        repository.put_tar("backup_label.tar.zst", &label).await;
        let mut all: Vec<(&str, &[u8])> = vec![("global/pg_control", b"control"), ("backup_label", b"START WAL")];
        all.extend_from_slice(listed);
        repository.put(&layout::backup_manifest(BACKUP), &manifest(&all)).await;
        repository
    }

    /// One with a good backup of one relation and one empty directory.
    async fn good() -> Self {
        let members = [
            directory("/base"),
            file("/base/5/1259", CONTENT),
            directory("/pg_twophase"),
        ];
        Self::new(&sentinel(""), &members, &[("base/5/1259", CONTENT)]).await
    }

    async fn put(&self, key: &str, content: &[u8]) {
        self.store.put(key, content.to_vec().into()).await.expect("written");
    }

    async fn put_tar(&self, name: &str, members: &[Member]) {
        self.put(&layout::tar(BACKUP, name), &zstd(&tar_of(members))).await;
    }

    fn target(&self) -> PathBuf {
        self.place.path().join("data")
    }

    async fn restore(&self) -> Result<Restored> {
        self.restore_with(RestoreOptions::default()).await
    }

    async fn restore_with(&self, options: RestoreOptions) -> Result<Restored> {
        let plan = plan(&self.store, BACKUP, &self.target(), options).await?;
        apply(plan, Arc::default(), CancellationToken::new()).await
    }

    /// The restore must fail as damaged, for a reason that has these words, and leave no file that could be taken for good.
    async fn refuses(&self, says: &str) {
        let error = self.restore().await.expect_err(says);
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        let text = format!("{error} {}", error.detail().unwrap_or_default());
        assert!(text.contains(says), "\"{text}\" does not say \"{says}\"");
        assert!(
            !self.target().join("global/pg_control").exists(),
            "{says}: it could be started"
        );
        for path in walk(self.place.path()) {
            assert!(!path.to_string_lossy().ends_with("-tmp"), "{says}: {path:?} was left");
            let content = std::fs::read(&path).expect("read");
            assert!(
                [CONTENT, b"START WAL"].contains(&&content[..]),
                "{says}: {path:?} has {content:?}"
            );
        }
    }
}

/// All files below, but for the mark of a restore that did not end.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("read") {
        let path = entry.expect("read").path();
        if path.ends_with(crate::stored::member::MARKER) {
            continue;
        }
        match path.symlink_metadata().expect("read").is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}

/// Of a full backup without files metadata; `more` are further fields, each with a comma after it.
fn sentinel(more: &str) -> String {
    format!(r#"{{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018, {more} "FilesMetadataDisabled": true}}"#)
}

fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ManifestWriter::new(Vec::new(), 15, 1).expect("a writer");
    for (path, content) in files {
        let mut sum = Checksummer::new(ChecksumAlgorithm::Sha256);
        sum.update(content);
        let entry = ManifestFile {
            path: PathBuf::from(path),
            size: content.len() as u64,
            last_modified: chrono::DateTime::UNIX_EPOCH,
            checksum: Some((ChecksumAlgorithm::Sha256, sum.finish())),
        };
        writer.file(&entry).expect("written");
    }
    writer.finish(&[]).expect("finished")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back() {
    use std::os::unix::fs::PermissionsExt;
    let repository = Repository::good().await;
    let restored = repository.restore().await.expect("restored");
    assert_eq!(restored.files, 3);
    let target = repository.target();
    let read = |path: &str| std::fs::read(target.join(path)).expect(path);
    assert_eq!(read("base/5/1259"), CONTENT);
    assert_eq!(read("global/pg_control"), b"control");
    assert_eq!(read("backup_label"), b"START WAL");
    assert!(target.join("pg_twophase").is_dir() && target.join("pg_wal").is_dir());
    assert!(!target.join("tablespace_map").exists() && !target.join("recovery.signal").exists());
    let manifest = repository
        .store
        .get(&layout::backup_manifest(BACKUP), 1 << 20)
        .await
        .expect("asked");
    assert_eq!(read("backup_manifest"), manifest.expect("there"));
    let mode = |path: &str| std::fs::metadata(target.join(path)).expect(path).permissions().mode() & 0o7777;
    assert_eq!(
        (mode("."), mode("base"), mode("base/5/1259")),
        (0o700, 0o750, 0o750),
        "0777 and setuid are not taken"
    );
    let again = repository.restore().await.expect_err("not empty");
    assert!(
        matches!(again, Error::Refused { .. }) && again.to_string().contains("is not empty"),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leading_slash_is_relative_to_the_target() {
    let repository = Repository::new(
        &sentinel(""),
        &[file("//tmp/walarchive-x", CONTENT)],
        &[("tmp/walarchive-x", CONTENT)],
    )
    .await;
    repository.restore().await.expect("restored");
    assert!(repository.target().join("tmp/walarchive-x").is_file() && !Path::new("/tmp/walarchive-x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_metadata_decides_what_is_restored() {
    let with_metadata = r#"{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018}"#;
    let members = [file("/base/5/1259", CONTENT), file("/base/5/stray", CONTENT)];
    let repository = Repository::new(with_metadata, &members, &[]).await;
    repository
        .store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    repository.refuses("files_metadata.json").await;
    let key = layout::files_metadata(BACKUP);
    let metadata = r#"{"Files": {"/base/5/1259": {}}, "TarFileSets": {"part_002.tar.zst": ["/base/5/1259"]}}"#;
    repository.put(&key, metadata.as_bytes()).await;
    repository.refuses("part_002.tar.zst").await;
    repository
        .put(&key, br#"{"Files": {"/base/5/1259": {"IsSkipped": true}}}"#)
        .await;
    repository.refuses("not here in full").await;
    repository.put(&key, metadata.replace("002", "001").as_bytes()).await;
    repository.restore().await.expect("restored");
    let target = repository.target();
    assert!(target.join("base/5/1259").exists() && !target.join("base/5/stray").exists());
    // WAL-G before 2.0 kept it in the sentinel.
    let old = Repository::new(
        &with_metadata.replace('}', r#", "Files": {"/base/5/1259": {}}}"#),
        &members,
        &[],
    )
    .await;
    old.store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    old.restore().await.expect("restored");
    assert!(old.target().join("base/5/1259").exists() && !old.target().join("base/5/stray").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_go_where_they_are_told_to() {
    let members = || {
        [
            file("/pg_tblspc/16400/PG_15_1/5/1", CONTENT),
            directory("/pg_tblspc/16400"),
        ]
    };
    let listed: [(&str, &[u8]); 1] = [("pg_tblspc/16400/PG_15_1/5/1", CONTENT)];
    let spec = r#""Spec": {"base_prefix": "/d", "tablespaces": ["16400"], "16400": {"loc": "/old place", "link": "pg_tblspc/16400"}},"#;
    // Named by the sentinel, and by the tablespace map alone.
    for sentinel in [sentinel(spec), sentinel("")] {
        let repository = Repository::new(&sentinel, &members(), &listed).await;
        let label = [
            file("backup_label", b"START WAL"),
            file("tablespace_map", b"16400 /old place\n"),
        ];
        repository.put_tar("backup_label.tar.zst", &label).await;
        let location = repository.place.path().join("new place");
        let mut options = RestoreOptions::default();
        options
            .tablespace_map
            .add(&format!("/old place={}", location.display()))
            .expect("a mapping");
        repository.restore_with(options).await.expect("restored");
        assert_eq!(std::fs::read(location.join("PG_15_1/5/1")).expect("read"), CONTENT);
        let link = repository.target().join("pg_tblspc/16400");
        assert_eq!(std::fs::read_link(link).expect("a link"), location);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_settings_join_what_was_there() {
    let auto = b"work_mem = '1MB'\nrestore_command = 'false'\n";
    let repository = Repository::new(
        &sentinel(""),
        &[file("/postgresql.auto.conf", auto)],
        &[("postgresql.auto.conf", auto)],
    )
    .await;
    let options = RestoreOptions {
        recovery: Some(RecoverySettings {
            mode: RecoveryMode::Standby,
            restore_command: RestoreCommand {
                binary: PathBuf::from("/usr/bin/walarchive"),
                storage: StorageConfig::new("s3://b/p"),
                flags: Vec::new(),
            },
            target: RecoveryTarget::default(),
        }),
        ..RestoreOptions::default()
    };
    let planned = plan(&repository.store, BACKUP, &repository.target(), options.clone())
        .await
        .expect("planned")
        .plan;
    assert!(planned.to_string().contains("standby.signal"), "{planned}");
    assert!(!repository.target().exists(), "a plan writes nothing");
    repository.restore_with(options).await.expect("restored");
    let text = std::fs::read_to_string(repository.target().join("postgresql.auto.conf")).expect("read");
    assert!(
        text.starts_with("work_mem = '1MB'\n") && !text.contains("'false'"),
        "{text}"
    );
    assert!(
        text.contains("restore_command = '/usr/bin/walarchive wal-fetch --storage s3://b/p %f \"%p\"'\n"),
        "{text}"
    );
    assert!(
        repository.target().join("standby.signal").exists() && !repository.target().join("recovery.signal").exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_leaves_nothing_that_starts() {
    let repository = Repository::good().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let plan = plan(
        &repository.store,
        BACKUP,
        &repository.target(),
        RestoreOptions::default(),
    )
    .await
    .expect("planned");
    assert!(matches!(
        apply(plan, Arc::default(), cancel).await,
        Err(Error::Cancelled)
    ));
    assert!(!repository.target().join("global/pg_control").exists());
}
