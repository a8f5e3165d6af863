//! Runs of `catchup-fetch` that were killed at one point or another, mostly at their very end.

use std::sync::atomic::Ordering;

use super::*;
use crate::control_file::ControlFile;
use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample_with};
use crate::restore::catchup::apply::end;
use crate::restore::catchup::plan::Control;
use crate::restore::directory::condition::Marker;
use crate::restore::directory::directories::Directories;
use crate::restore::directory::tree::Tree;
use crate::stored::member::MARKER;

/// Of a server that is running, or of a stopped standby that has come to LSN 50.
fn control(is_standby: bool) -> Vec<u8> {
    const SIZE: usize = 288;
    let mut bytes = sample_with(16 << 20, SIZE, true);
    bytes[16] = match is_standby {
        true => 2,
        false => 6,
    };
    // The checkpoint and its REDO location, with the timeline; where recovery has come to, with its timeline.
    for (at, value) in [(32, 20), (40, 10), (48, 1), (136, 50), (144, 1)] {
        bytes[at] = value;
    }
    let sum = crc32c::crc32c(&bytes[..SIZE]);
    bytes[SIZE..SIZE + 4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A stopped standby, and a repository with the backup that brings it up.
struct Standby {
    repository: Repository,
    source: String,
    check_space: bool,
}

impl Standby {
    async fn new() -> Self {
        let repository = Repository {
            store: Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:"),
            place: tempfile::tempdir().expect("a directory"),
        };
        let source = layout::catchup_place(BACKUP);
        let sentinel = format!(
            r#"{{"LSN": 60, "FinishLSN": 100, "PgVersion": 150018, "DeltaLSN": 5, "SystemIdentifier": {SYSTEM_IDENTIFIER}}}"#
        );
        repository.put(&layout::sentinel(&source), sentinel.as_bytes()).await;
        let metadata = r#"{"Files": {"/base/5/1259": {}, "/PG_VERSION": {}},
                           "TarFileSets": {"part_001.tar.zst": ["/base/5/1259", "/PG_VERSION"]}}"#;
        repository
            .put(&layout::files_metadata(&source), metadata.as_bytes())
            .await;
        for (tar, members) in [
            (
                "part_001.tar.zst",
                vec![file("/base/5/1259", CONTENT), file("/PG_VERSION", b"15\n")],
            ),
            ("pg_control.tar.zst", vec![file("/global/pg_control", &control(false))]),
            ("backup_label.tar.zst", vec![file("backup_label", b"START WAL")]),
        ] {
            repository
                .put(&layout::tar(&source, tar), &zstd(&tar_of(&members)))
                .await;
        }
        let standby = Standby {
            repository,
            source,
            check_space: true,
        };
        for directory in ["base/5", "global", "pg_tblspc", "pg_wal"] {
            std::fs::create_dir_all(standby.path(directory)).expect("created");
        }
        standby.write("PG_VERSION", b"15\n");
        standby.write("standby.signal", b"");
        standby.write("base/5/1259", b"old");
        standby.write("global/pg_control", &control(true));
        standby
    }

    fn path(&self, name: &str) -> PathBuf {
        self.repository.target().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).expect("written");
    }

    fn mark(&self, backup: &str) {
        let marker = Marker {
            system_identifier: Some(SYSTEM_IDENTIFIER),
            backup: backup.to_owned(),
        };
        self.write(MARKER, &marker.to_json());
    }

    async fn plan(&self) -> Result<PlannedCatchup> {
        let options = CatchupOptions {
            tablespace_map: TablespaceMap::default(),
            concurrency: 1,
            check_space: self.check_space,
        };
        plan_catchup(&self.repository.store, BACKUP, &self.repository.target(), options).await
    }

    /// Bring it up. Returns the files that came.
    async fn run(&self, state: CatchupState) -> u64 {
        let planned = self.plan().await.expect("planned");
        assert_eq!(planned.plan.state, state);
        let progress = Arc::<ReadProgress>::default();
        let done = apply_catchup(planned, Arc::clone(&progress), CancellationToken::new()).await;
        let done = done.expect("brought up");
        assert!(!progress.is_writing.load(Ordering::Relaxed));
        let read = |name: &str| std::fs::read(self.path(name)).expect(name);
        assert_eq!(read("base/5/1259"), CONTENT);
        assert!(read("global/pg_control").starts_with(&control(false)[..292]));
        assert!(!self.path(MARKER).exists());
        done.files
    }
}

/// Killed before `pg_control` was set aside, it has changed nothing: the standby may be started, and another backup taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_beside_pg_control_is_no_obstacle() {
    for backup in [
        "catchup_005/base_000000010000000000000001",
        "base_000000010000000000000001",
    ] {
        let standby = Standby::new().await;
        standby.mark(backup);
        standby.run(CatchupState::New).await;
    }
    let standby = Standby::new().await;
    standby.mark(&standby.source);
    standby.run(CatchupState::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_in_the_middle_goes_on() {
    let standby = Standby::new().await;
    std::fs::remove_file(standby.path("global/pg_control")).expect("removed");
    standby.mark("catchup_005/base_000000010000000000000001");
    let refused = standby.plan().await.expect_err("a part of another backup");
    assert!(refused.to_string().contains("has only a part of backup"), "{refused}");
    standby.mark(&standby.source);
    assert!(standby.run(CatchupState::Interrupted).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_room_is_known_before_anything_is_changed() {
    let mut standby = Standby::new().await;
    let sentinel = format!(
        r#"{{"LSN": 60, "FinishLSN": 100, "PgVersion": 150018, "DeltaLSN": 5, "SystemIdentifier": {SYSTEM_IDENTIFIER},
            "DataCatalogSize": {}}}"#,
        u64::MAX / 2
    );
    let key = layout::sentinel(&standby.source);
    standby.repository.put(&key, sentinel.as_bytes()).await;
    let error = standby.plan().await.expect_err("too large");
    assert!(error.to_string().contains("bytes free"), "{error}");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("--no-space-check") && !hint.contains("restore"), "{hint}");
    standby.check_space = false;
    standby.run(CatchupState::New).await;
}

/// Killed when `pg_control` had its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_before_it_removed_its_marker_is_complete() {
    let standby = Standby::new().await;
    assert!(standby.run(CatchupState::New).await > 0);
    standby.mark(&standby.source);
    assert_eq!(standby.run(CatchupState::Complete).await, 0);
    // Without the marker nobody knows that it was a standby.
    let refused = standby.plan().await.expect_err("no standby");
    assert!(refused.to_string().contains("no standby"), "{refused}");
    // The server was started on it, and has stopped.
    standby.mark(&standby.source);
    standby.write("global/pg_control", &control(true));
    assert!(standby.run(CatchupState::New).await > 0);
}

/// Then the disk may not have `pg_control`, and no server may start.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_flushed_takes_pg_control_away() {
    let standby = Standby::new().await;
    let target = standby.repository.target();
    std::fs::remove_file(standby.path("global/pg_control")).expect("removed");
    standby.mark(&standby.source);
    let tree = Tree::open(Directories::default(), &target, &[], None).expect("open");
    let progress = ReadProgress::default();
    progress.is_writing.store(true, Ordering::Relaxed);
    let content = control(false);
    let control = Control {
        facts: ControlFile::parse(&content).expect("intact"),
        content,
        mode: 0o600,
    };
    let is_there = || standby.path("global/pg_control").exists();
    let broken = |_: &Tree| {
        assert!(is_there());
        Err(Error::io("flush", &target, std::io::Error::other("broken")))
    };
    end(&tree, &control, &progress, broken).expect_err("broken");
    assert!(!is_there() && standby.path(MARKER).exists() && progress.is_writing.load(Ordering::Relaxed));
    drop(tree);
    standby.run(CatchupState::Interrupted).await;
}

/// Whoever has no key keeps the standby that could be started.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_without_its_key_locks_no_server_out() {
    let standby = Standby::new().await;
    let planned = standby.plan().await.expect("planned");
    for tar in ["part_001.tar.zst", "pg_control.tar.zst", "backup_label.tar.zst"] {
        let key = layout::tar(&standby.source, tar);
        let size = standby.repository.store.size(&key).await.expect("asked");
        let mut sealed = walarchive_testkit::sealed::by_libsodium(&zstd(b"a tar"), [7; 32]);
        sealed.resize(size.expect("there") as usize, 7);
        standby.repository.put(&key, &sealed).await;
    }
    let progress = Arc::<ReadProgress>::default();
    let error = apply_catchup(planned, Arc::clone(&progress), CancellationToken::new()).await;
    let error = error.expect_err("no key");
    assert!(error.asks_for_a_key(), "{error:?}");
    assert!(!progress.is_writing.load(Ordering::Relaxed));
    assert!(standby.path("global/pg_control").exists());
    assert_eq!(std::fs::read(standby.path("base/5/1259")).expect("read"), b"old");
}
