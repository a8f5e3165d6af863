//! How much memory does a restore of many files take? `restore_memory DIRECTORY FILES` makes a cluster of that many small
//! relations in the directory, backs it up, restores it in a process of its own, and prints the peak of its resident memory.
//! What it made is removed again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::config::StorageConfig;
use walarchive_core::control_file::ControlFile;
use walarchive_core::inventory::list_backups;
use walarchive_core::restore::{RestoreOptions, apply, plan};
use walarchive_core::storage::Store;
use walarchive_core::{Error, Lsn, Result};

/// Relations in each database.
const IN_EACH: u32 = 10_000;
/// Every so many, one has a page; the others are empty.
const WITH_PAGE: u32 = 50;
const SYSTEM_IDENTIFIER: u64 = 7_412_345_678_901_234_567;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start threads in", "/proc/self", error))?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [place, "restore"] => runtime.block_on(restore(Path::new(place))),
        [place, files] => {
            let files = files.parse().unwrap_or(1_000_000);
            let place = PathBuf::from(place).join("restore_memory");
            let made = runtime.block_on(back_up(&place, files));
            let restored = made.and_then(|()| restore_apart(&place));
            let removed = std::fs::remove_dir_all(&place).map_err(|error| Error::io("remove", &place, error));
            restored.and(removed)
        }
        _ => Err(Error::config(
            "two arguments are needed",
            "Give a directory and a number of files.",
        )),
    }
}

fn store(place: &Path) -> Result<Store> {
    Store::open(&StorageConfig::new(format!(
        "file://{}",
        place.join("repository").display()
    )))
}

async fn back_up(place: &Path, files: u32) -> Result<()> {
    let (data, started) = (place.join("source"), Instant::now());
    make(&data, files).map_err(|error| Error::io("write", &data, error))?;
    std::fs::create_dir_all(place.join("repository")).map_err(|error| Error::io("create", place, error))?;
    println!("made {files} files in {:?}", started.elapsed());
    let started = Instant::now();
    let start_lsn = Lsn(0x200_0028);
    let control = ControlFile::read(&data)?;
    let request = BackupRequest {
        timeline: 1,
        ..BackupRequest::full(data, &control, 150_018, start_lsn)
    };
    let (options, cancel) = (BackupOptions::default(), CancellationToken::new());
    let store = store(place)?;
    let mut backup = Backup::begin(&store, request, options, Default::default(), cancel).await?;
    backup.copy().await?;
    let label = format!("START WAL LOCATION: {start_lsn} (file 000000010000000000000002)\nSTART TIMELINE: 1\n");
    let stop = StopResult::new(Lsn(0x200_0100), label);
    backup.finish(stop).await?.commit().await?;
    println!("backed up in {:?}, peak of memory {}", started.elapsed(), peak());
    Ok(())
}

fn make(data: &Path, files: u32) -> std::io::Result<()> {
    for number in 0..files {
        let database = data.join(format!("base/{}", 16_384 + number / IN_EACH));
        if number % IN_EACH == 0 {
            std::fs::create_dir_all(&database)?;
        }
        let content = vec![number as u8; if number % WITH_PAGE == 0 { 8192 } else { 0 }];
        std::fs::write(database.join(format!("{}", 100_000 + number)), content)?;
    }
    std::fs::create_dir_all(data.join("global"))?;
    std::fs::write(data.join("global/pg_control"), control())
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

fn restore_apart(place: &Path) -> Result<()> {
    let binary = std::env::current_exe().map_err(|error| Error::io("find", "restore_memory", error))?;
    let mut command = std::process::Command::new(&binary);
    let status = command.arg(place).arg("restore").status();
    match status.map_err(|error| Error::io("run", &binary, error))?.success() {
        true => Ok(()),
        false => Err(Error::config("the restore failed", "See above.")),
    }
}

async fn restore(place: &Path) -> Result<()> {
    let (store, started) = (store(place)?, Instant::now());
    for backup in list_backups(&store).await? {
        let options = RestoreOptions {
            concurrency: 4,
            ..RestoreOptions::default()
        };
        let plan = plan(&store, &backup.name, &place.join("target"), options).await?;
        println!("planned in {:?}, peak of memory {}", started.elapsed(), peak());
        let restored = apply(plan, Default::default(), CancellationToken::new()).await?;
        println!(
            "restored {} files, {} bytes in {:?}, peak of memory {}",
            restored.files,
            restored.bytes,
            started.elapsed(),
            peak()
        );
    }
    Ok(())
}

/// Of the resident memory of this process.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or("unknown").trim().to_owned()
}
