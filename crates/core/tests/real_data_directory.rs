//! Data directories that PostgreSQL made: `pg_control` is read, and `pg_verifybackup` accepts a backup's manifest.
//!
//! `WALARCHIVE_TEST_BINDIR` may name other installations than Debian's, separated by colons. Without any the tests pass with
//! a remark.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walarchive_core::Lsn;
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::codec::Format;
use walarchive_core::control_file::{ControlFile, read_major_version};
use walarchive_core::formats::manifest::ChecksumAlgorithm;
use walarchive_core::repository::layout;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

fn bin_dirs() -> Vec<PathBuf> {
    let given = std::env::var("WALARCHIVE_TEST_BINDIR").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = given
        .split(':')
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .collect();
    dirs.push("/usr/lib/postgresql/15/bin".into());
    dirs.retain(|dir| dir.join("initdb").exists());
    if dirs.is_empty() {
        eprintln!("no PostgreSQL is installed: nothing was tested");
    }
    dirs
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// `initdb` refuses to run as root.
fn initdb(bin: &Path, parent: &Path, segment_mb: u32) -> PathBuf {
    let data = parent.join("data");
    let root = nix::unistd::geteuid().is_root();
    let mut command = if root {
        run(Command::new("chown").arg("postgres").arg(parent));
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(bin.join("initdb"));
        command
    } else {
        Command::new(bin.join("initdb"))
    };
    command
        .args([
            "--auth=trust",
            "--no-sync",
            &format!("--wal-segsize={segment_mb}"),
            "-D",
        ])
        .arg(&data);
    run(&mut command);
    data
}

#[test]
fn pg_control_is_read_whatever_the_version() {
    for bin in bin_dirs() {
        for segment_mb in [1, 64] {
            let dir = tempfile::tempdir().expect("a directory");
            let data = initdb(&bin, dir.path(), segment_mb);
            let control = ControlFile::read(&data).expect("intact");
            assert_eq!(control.segment_size.bytes(), u64::from(segment_mb) << 20);
            let said = run(Command::new(bin.join("pg_controldata")).env("LC_ALL", "C").arg(&data));
            let value = |name: &str| -> u64 {
                let line = said.lines().find_map(|line| line.strip_prefix(name)).expect(name);
                line.trim().parse().expect("a number")
            };
            assert_eq!(control.system_identifier, value("Database system identifier:"));
            assert_eq!(
                u64::from(control.pg_control_version),
                value("pg_control version number:")
            );
            assert_eq!(u64::from(control.catalog_version), value("Catalog version number:"));
            assert_eq!(u64::from(control.timeline), value("Latest checkpoint's TimeLineID:"));
            assert_eq!(
                u64::from(control.relation_segment_pages),
                value("Blocks per segment of large relation:")
            );
            assert_eq!(control.data_checksums, value("Data page checksum version:") != 0);
            let checkpoint = format!("Latest checkpoint location:           {}\n", control.checkpoint);
            assert!(said.contains(&checkpoint), "{said}");
            let version = run(Command::new(bin.join("initdb")).arg("--version"));
            let major = read_major_version(&data).expect("a version");
            assert!(version.contains(&format!(" {major}.")), "{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_accepts_what_is_unpacked() {
    for bin in bin_dirs() {
        // That of some binary distributions crashes before it reads anything.
        let version = Command::new(bin.join("pg_verifybackup")).arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            eprintln!("{} does not work: not tested", bin.join("pg_verifybackup").display());
            continue;
        }
        for checksum_algorithm in [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Sha256] {
            let dir = tempfile::tempdir().expect("a directory");
            let data = initdb(&bin, dir.path(), 1);
            let (repository, target) = (dir.path().join("repository"), dir.path().join("target"));
            for place in [&repository, &target] {
                std::fs::create_dir(place).expect("created");
            }
            let store = Store::open(&StorageConfig::new(format!("file://{}", repository.display()))).expect("a store");
            let name = back_up(&store, &data, checksum_algorithm).await;
            unpack(&store, &name, &target).await;
            let verify = || {
                let mut command = Command::new(bin.join("pg_verifybackup"));
                command.arg("--no-parse-wal").arg(&target);
                command
            };
            run(&mut verify());
            // It would notice.
            std::fs::write(target.join("PG_VERSION"), "99\n").expect("written");
            assert!(!verify().output().expect("started").status.success());
        }
    }
}

async fn back_up(store: &Store, data: &Path, checksum_algorithm: ChecksumAlgorithm) -> String {
    let control = ControlFile::read(data).expect("intact");
    let version = read_major_version(data).expect("a version") * 10_000;
    let request = BackupRequest::full(data.to_owned(), &control, version, Lsn(0x200_0028));
    let options = BackupOptions {
        checksum_algorithm,
        ..BackupOptions::default()
    };
    let begun = Backup::begin(store, request, options, Arc::default(), CancellationToken::new());
    let mut backup = begun.await.expect("begun");
    backup.copy().await.expect("copied");
    let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000020)\nSTART TIMELINE: 1\n";
    let stop = StopResult::new(Lsn(0x200_0100), label.to_owned());
    let prepared = backup.finish(stop).await.expect("finished");
    prepared.commit().await.expect("committed")
}

/// The `tar` crate takes a leading slash as relative to the target, as a reader of the format must.
async fn unpack(store: &Store, name: &str, target: &Path) {
    for object in store.list(&layout::tar_folder(name)).await.expect("listed") {
        let stored = store.get(&object.key, u64::MAX).await.expect("read").expect("there");
        let (format, _) = Format::of_key(&object.key);
        let decoder = format.decoder(stored.as_ref()).expect("a decoder");
        tar::Archive::new(decoder).unpack(target).expect("unpacked");
    }
    let manifest = store
        .get(&layout::backup_manifest(name), u64::MAX)
        .await
        .expect("read")
        .expect("there");
    std::fs::write(target.join("backup_manifest"), manifest).expect("written");
}
