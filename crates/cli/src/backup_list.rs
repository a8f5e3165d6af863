//! `backup-list`.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use walarchive_core::inventory::{BackupInfo, list_backups};
use walarchive_core::storage::Store;
use walarchive_core::{Error, Result};

use crate::args::BackupList;
use crate::{settings, wal};

/// List the backups on stdout.
pub async fn run(args: &BackupList) -> Result<()> {
    let data_dir = wal::usual_data_dirs().find(|directory| wal::is_data_dir(directory));
    let settings = settings::find(&args.storage, data_dir.as_deref())?;
    let backups = list_backups(&Store::open(&settings.storage)?).await?;
    let text = match args.json {
        true => json(&backups),
        false => table(&backups),
    };
    // A reader that has seen enough is no failure.
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write", "stdout", error)),
        _ => Ok(()),
    }
}

/// One backup, with the field names of `wal-g backup-list --detail --json`.
#[derive(Serialize)]
struct Detail<'a> {
    backup_name: &'a str,
    time: String,
    wal_file_name: &'a str,
    start_time: String,
    finish_time: String,
    date_fmt: &'a str,
    hostname: &'a str,
    data_dir: &'a str,
    pg_version: u32,
    start_lsn: u64,
    finish_lsn: u64,
    is_permanent: bool,
    system_identifier: Option<u64>,
    uncompressed_size: u64,
    compressed_size: u64,
    user_data: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<&'a str>,
}

fn json(backups: &[BackupInfo]) -> String {
    let details: Vec<Detail<'_>> = backups.iter().map(detail).collect();
    serde_json::to_string_pretty(&details).unwrap_or_default()
}

fn detail(backup: &BackupInfo) -> Detail<'_> {
    let metadata = &backup.metadata;
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let start = backup.name.strip_prefix("base_").unwrap_or_default();
    Detail {
        backup_name: &backup.name,
        time: time(backup.written),
        wal_file_name: start.split('_').next().unwrap_or_default(),
        start_time: time(backup.started()),
        finish_time: time(backup.finished()),
        date_fmt: &metadata.date_fmt,
        hostname: &metadata.hostname,
        data_dir: &metadata.data_dir,
        pg_version: metadata.pg_version,
        start_lsn: metadata.start_lsn.0,
        finish_lsn: metadata.finish_lsn.0,
        is_permanent: metadata.is_permanent,
        system_identifier: metadata.system_identifier,
        uncompressed_size: metadata.uncompressed_size,
        compressed_size: metadata.compressed_size,
        user_data: metadata.user_data.as_ref(),
        damaged: backup.damaged.as_deref(),
    }
}

fn table(backups: &[BackupInfo]) -> String {
    if backups.is_empty() {
        return "no backups".to_owned();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "name",
        "started",
        "took",
        "start LSN",
        "finish LSN",
        "timeline",
        "size",
        "stored",
        "permanent",
        "note",
    ]);
    for backup in backups {
        let metadata = &backup.metadata;
        let took = (backup.finished() - backup.started()).num_seconds();
        let mut row = vec![backup.name.clone()];
        row.extend(match &backup.damaged {
            Some(_) => vec![String::new(); 8],
            None => vec![
                backup.started().format("%Y-%m-%d %H:%M:%S+00").to_string(),
                format!("{took} s"),
                metadata.start_lsn.to_string(),
                metadata.finish_lsn.to_string(),
                backup.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
                indicatif::HumanBytes(metadata.uncompressed_size).to_string(),
                indicatif::HumanBytes(metadata.compressed_size).to_string(),
                if metadata.is_permanent { "yes" } else { "" }.to_owned(),
            ],
        });
        let delta = backup.delta.as_ref().map(|delta| format!("delta of {}", delta.parent));
        row.push(backup.damaged.clone().or(delta).unwrap_or_default());
        // What a repository says is printed, not obeyed: no control characters.
        table.add_row(row.iter().map(|cell| cell.replace(char::is_control, "?")));
    }
    table.to_string()
}
