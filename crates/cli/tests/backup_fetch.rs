//! `backup-fetch` from outside: what it says, and its exit codes.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;
use walarchive_core::Lsn;
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::control_file::ControlFile;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

const SYSTEM_IDENTIFIER: u64 = 7_412_345_678_901_234_567;
const NAME: &str = "base_000000010000000000000002";

/// A repository with a backup of a made-up cluster.
struct Place(tempfile::TempDir);

impl Place {
    async fn new() -> Self {
        let place = Place(tempfile::tempdir().expect("a directory"));
        for (path, content) in [
            ("PG_VERSION", b"15\n".to_vec()),
            ("postgresql.conf", b"archive_mode = on\n".to_vec()),
            ("pg_xact/0000", vec![0; 8192]),
            ("base/1/PG_VERSION", b"15\n".to_vec()),
            ("base/5/PG_VERSION", b"15\n".to_vec()),
            ("base/16400/PG_VERSION", b"15\n".to_vec()),
            ("base/5/1259", vec![7; 8192]),
            ("base/16400/2619", vec![8; 16384]),
            ("global/pg_control", control()),
        ] {
            let path = place.path("source").join(path);
            std::fs::create_dir_all(path.parent().expect("below")).expect("created");
            std::fs::write(path, content).expect("written");
        }
        std::fs::create_dir(place.path("store")).expect("created");
        place.back_up().await;
        place
    }

    async fn back_up(&self) {
        let store = Store::open(&StorageConfig::new(self.url())).expect("a store");
        let start_lsn = Lsn(0x200_0028);
        let control = ControlFile::parse(&control()).expect("intact");
        let request = BackupRequest {
            timeline: 1,
            ..BackupRequest::full(self.path("source"), &control, 150_018, start_lsn)
        };
        let options = BackupOptions::default();
        let begun = Backup::begin(&store, request, options, Default::default(), CancellationToken::new());
        let mut backup = begun.await.expect("begun");
        backup.copy().await.expect("copied");
        let label = format!("START WAL LOCATION: {start_lsn} (file 000000010000000000000002)\nSTART TIMELINE: 1\n");
        let stop = StopResult::new(Lsn(0x200_0100), label);
        let prepared = backup.finish(stop).await.expect("finished");
        assert_eq!(prepared.commit().await.expect("committed"), NAME);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("store").display())
    }

    /// Exit code, and what was said on stdout and stderr.
    fn fetch(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_walarchive"))
            .args(["backup-fetch", &self.path("target").display().to_string(), "LATEST"])
            .args(["--storage", &self.url()])
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .output()
            .expect("run");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        println!("{args:?}: {:?}\n{said}", output.status.code());
        (output.status.code().expect("an exit code"), said)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path("target").join(path)).expect(path)
    }
}

/// As PostgreSQL 15 writes it, as far as it is read.
fn control() -> Vec<u8> {
    let mut bytes = vec![0; 288];
    bytes[..8].copy_from_slice(&SYSTEM_IDENTIFIER.to_le_bytes());
    bytes[200..208].copy_from_slice(&1_234_567.0f64.to_le_bytes());
    bytes[220..224].copy_from_slice(&(16u32 << 20).to_le_bytes());
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.resize(8192, 0);
    bytes
}

fn says((code, said): &(i32, String), expected: i32, words: &[&str]) {
    assert_eq!(*code, expected, "{said}");
    for words in words {
        assert!(said.contains(words), "\"{words}\" is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_restored_and_brought_back_again() {
    let place = Place::new().await;
    let planned = place.fetch(&["--dry-run", "--archive-off"]);
    says(
        &planned,
        0,
        &["checked with: the backup manifest (10 files)", "archiving:    off"],
    );
    assert!(!place.path("target").exists());
    says(&place.fetch(&[]), 0, &["restored backup", "start the server on"]);
    assert_eq!(place.read("base/5/1259"), vec![7; 8192]);
    let auto = String::from_utf8(place.read("postgresql.auto.conf")).expect("text");
    assert!(
        auto.starts_with("# written by walarchive backup-fetch\nrestore_command = "),
        "{auto}"
    );
    says(&place.fetch(&[]), 1, &["is not empty", "With --delta"]);
    std::fs::write(place.path("target/base/5/1259"), vec![9; 8192]).expect("written");
    // The third is what tells a restored directory from its original, in pg_wal.
    let planned = place.fetch(&["--delta", "--dry-run"]);
    says(
        &planned,
        0,
        &[
            "there:        7 files, 24606 bytes as in the backup, which stay; fetched: 3; not in the backup and removed: 3",
        ],
    );
    says(&place.fetch(&["--delta"]), 0, &["restored backup"]);
    assert_eq!(place.read("base/5/1259"), vec![7; 8192]);
    std::fs::remove_dir_all(place.path("target")).expect("removed");
    says(
        &place.fetch(&["--restore-only", "16401"]),
        1,
        &["has no database with OID 16401", "HINT:"],
    );
    says(
        &place.fetch(&["--restore-only", "app"]),
        1,
        &["does not have the names of its databases", "HINT:  Give its OID"],
    );
}

/// The plan on stdout has all notes, and stderr has none of them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_each_note_once() {
    let place = Place::new().await;
    let directory = place.path("configuration").display().to_string();
    let (code, said) = place.fetch(&["--dry-run", "--restore-only", "5", "--config-dir", &directory]);
    assert_eq!(code, 0, "{said}");
    let note = |line: &str| line.split_once("note:").map(|(_, note)| note.trim().to_owned());
    let mut notes: Vec<String> = said.lines().filter_map(note).collect();
    assert!(
        notes.iter().any(|note| note.contains("no configuration files")),
        "{said}"
    );
    notes.sort();
    let (all, before) = (notes.len(), notes.clone());
    notes.dedup();
    assert!(all > 1 && notes.len() == all, "{before:#?}");
}

/// A server that holds the lease does not lose it to itself; a copy of its directory takes it from the original.
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_takes_over_from_nobody() {
    let place = Place::new().await;
    let take_over = |directory: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_walarchive"))
            .args(["take-over", "--storage", &place.url(), "--pgdata"])
            .arg(place.path(directory))
            .current_dir(place.0.path())
            .env_clear()
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        println!("{directory}: {:?}\n{said}", output.status.code());
        (output.status.code().expect("an exit code"), said)
    };
    std::fs::create_dir(place.path("source/pg_wal")).expect("created");
    says(&take_over("source"), 0, &["took the lease, which nobody held"]);
    says(&take_over("source"), 0, &["this server already holds the lease"]);
    let copied = Command::new("cp")
        .arg("-a")
        .args([place.path("source"), place.path("copy")])
        .status();
    assert!(copied.expect("run").success());
    let original = place.path("source").display().to_string();
    says(&take_over("copy"), 0, &["took the lease over from server", &original]);
    says(&take_over("copy"), 0, &["this server already holds the lease"]);
    says(&take_over("source"), 0, &["took the lease over from server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_only_tells_by_its_exit_code() {
    let place = Place::new().await;
    says(&place.fetch(&["--verify-only"]), 0, &["can be restored: 10 files"]);
    let tars = place.path("store/basebackups_005").join(NAME).join("tar_partitions");
    spoil(&tars.join("pg_control.tar.zst"));
    says(&place.fetch(&["--verify-only"]), 1, &["is damaged", "DETAIL:"]);
    says(
        &place.fetch(&[]),
        200,
        &["is damaged", "run the same command with --delta"],
    );
    std::fs::remove_dir_all(place.path("store")).expect("removed");
    says(&place.fetch(&["--verify-only"]), 2, &["does not exist"]);
}

fn spoil(path: &Path) {
    let mut content = std::fs::read(path).expect("read");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(path, content).expect("written");
}
