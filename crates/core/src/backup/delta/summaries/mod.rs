//! The changed blocks that PostgreSQL 17 and later know, with `summarize_wal = on`: a backup then reads only these.

mod blocks;
mod chunks;
mod cover;
mod format;

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use blocks::ChangedBlocks;
use cover::{Coverage, Summary, cover};
pub(in crate::backup) use cover::{Stretch, stretches};
#[cfg(test)]
pub(in crate::backup) use format::tests::summary_of;

use crate::blocking::blocking;
use crate::error::{Error, Result};

/// Relative to the data directory.
const FOLDER: &str = "pg_wal/summaries";

/// The summarizer is given so long to come to the start of the backup. The checkpoint there lets it write a file.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The changes in all of these stretches of WAL; or, half a sentence, why they are not known.
pub(in crate::backup) async fn changed_blocks(
    data_dir: &Path,
    stretches: &[Stretch],
    cancel: &CancellationToken,
) -> Result<Result<ChangedBlocks, String>> {
    let folder = data_dir.join(FOLDER);
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    let files = loop {
        match cover(&list(&folder)?, stretches) {
            Coverage::Whole(files) => break files,
            Coverage::Gap(why) => return Ok(Err(why)),
            Coverage::UpTo(lsn) if Instant::now() >= deadline => {
                return Ok(Err(format!("the WAL summarizer has come to {lsn} only")));
            }
            Coverage::UpTo(_) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(file.to_string())).collect();
    blocking(move || read(&paths)).await
}

/// The summaries that there are.
fn list(folder: &Path) -> Result<Vec<Summary>> {
    let failed = |error| Error::io("read", folder, error);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<Summary>().ok()));
    }
    Ok(found)
}

fn read(paths: &[PathBuf]) -> Result<Result<ChangedBlocks, String>> {
    let mut changed = ChangedBlocks::default();
    for path in paths {
        let read = match File::open(path) {
            Ok(file) => format::read(BufReader::with_capacity(64 << 10, file), &mut changed),
            // `wal_summary_keep_time` is over.
            Err(error) if error.kind() == ErrorKind::NotFound => Err("it was removed just now".to_owned()),
            Err(error) => return Err(Error::io("open", path, error)),
        };
        if let Err(why) = read {
            return Ok(Err(format!("\"{}\" cannot be used: {why}", path.display())));
        }
    }
    Ok(Ok(changed))
}
