//! The work that `bench/size` and `bench/courtesy` measure: a base backup without a server.
//!
//! ```text
//! base_backup make DIR FILES [BYTES]     a data directory with so many relations, of a page each or of so many bytes
//! base_backup take DIR STORE [--spare-cache]
//! base_backup fetch DIR STORE [--verify-only]
//! ```
//!
//! `take` and `fetch` print one line of JSON: seconds, files, bytes, and the most memory that the process ever had, in kB.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use walarchive_core::backup::{Backup, BackupOptions, BackupProgress, BackupRequest, StopResult};
use walarchive_core::control_file::ControlFile;
use walarchive_core::data_dir::PG_CONTROL;
use walarchive_core::repository::inventory::list_backups;
use walarchive_core::restore::{RestoreMode, RestoreOptions, apply, plan};
use walarchive_core::{Error, Lsn, Result};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

#[path = "../../../src/pg/page_cache.rs"]
mod page_cache;

/// Relations of one database.
const RELATIONS: usize = 100_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["make", dir, files] => make(Path::new(dir), number(files), 8192).map_err(|error| error.to_string()),
        ["make", dir, files, bytes] => {
            make(Path::new(dir), number(files), number(bytes)).map_err(|error| error.to_string())
        }
        ["take", dir, store] => take(dir, store, false).await.map_err(|error| format!("{error:?}")),
        ["take", dir, store, "--spare-cache"] => take(dir, store, true).await.map_err(|error| format!("{error:?}")),
        ["fetch", dir, store] => fetch(dir, store, false).await.map_err(|error| format!("{error:?}")),
        ["fetch", dir, store, "--verify-only"] => fetch(dir, store, true).await.map_err(|error| format!("{error:?}")),
        _ => Err("see the source for what it takes".to_owned()),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn number(argument: &str) -> usize {
    argument.parse().expect("a number")
}

/// The files differ from each other, and half of each can be compressed.
fn make(dir: &Path, files: usize, bytes: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir.join("global"))?;
    std::fs::write(dir.join(PG_CONTROL), control())?;
    let mut page = vec![0u8; bytes];
    for number in 0..files {
        let database = dir.join(format!("base/{}", 16_384 + number / RELATIONS));
        if number % RELATIONS == 0 {
            std::fs::create_dir_all(&database)?;
        }
        for (at, byte) in page.iter_mut().enumerate().skip(bytes / 2) {
            *byte = (number.wrapping_mul(at) >> 7) as u8;
        }
        std::fs::write(database.join((20_000 + number % RELATIONS).to_string()), &page)?;
    }
    Ok(())
}

/// The fields of a control file that are read: PostgreSQL 15, no data checksums.
fn control() -> Vec<u8> {
    let mut bytes = vec![0u8; 288];
    bytes[..8].copy_from_slice(&1u64.to_le_bytes());
    bytes[200..208].copy_from_slice(&1_234_567.0f64.to_le_bytes());
    for (at, value) in [(208, 8192u32), (212, 131_072), (216, 8192), (220, 16 << 20)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.resize(8192, 0);
    bytes
}

async fn take(dir: &str, store: &str, spare_cache: bool) -> Result<()> {
    let control = ControlFile::read(Path::new(dir))?;
    let store = Store::open(&StorageConfig::new(format!("file://{store}")))?;
    let request = BackupRequest {
        timeline: 1,
        ..BackupRequest::full(dir.into(), &control, 150_000, Lsn(0x200_0028))
    };
    let options = BackupOptions {
        find_resident: spare_cache.then_some(page_cache::resident),
        ..BackupOptions::default()
    };
    let (progress, start) = (Arc::new(BackupProgress::default()), Instant::now());
    let cancel = CancellationToken::new();
    let mut backup = Backup::begin(&store, request, options, Arc::clone(&progress), cancel).await?;
    backup.copy().await?;
    let copied = progress.snapshot();
    let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n";
    let prepared = backup.finish(StopResult::new(Lsn(0x200_0100), label.to_owned()));
    prepared.await?.commit().await?;
    tell(start, copied.files_done, copied.bytes_done);
    Ok(())
}

/// Restore the newest backup, or only read it.
async fn fetch(dir: &str, store: &str, verify_only: bool) -> Result<()> {
    let (store, start) = (
        Store::open(&StorageConfig::new(format!("file://{store}")))?,
        Instant::now(),
    );
    let backup = list_backups(&store).await?.pop();
    let backup = backup.ok_or_else(|| Error::config("there is no backup", "Take one."))?;
    let options = RestoreOptions {
        concurrency: 4,
        mode: if verify_only {
            RestoreMode::VerifyOnly
        } else {
            RestoreMode::Fresh
        },
        ..RestoreOptions::default()
    };
    let plan = plan(&store, &backup.name, Path::new(dir), options).await?;
    let restored = apply(plan, Arc::default(), CancellationToken::new()).await?;
    tell(start, restored.files, restored.bytes);
    Ok(())
}

fn tell(start: Instant, files: u64, bytes: u64) {
    println!(
        "{{\"seconds\": {:.1}, \"files\": {files}, \"bytes\": {bytes}, \"peak_kb\": {}}}",
        start.elapsed().as_secs_f64(),
        peak_kb()
    );
}

/// `VmHWM`.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}
