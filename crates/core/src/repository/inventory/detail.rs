//! A backup as `backup-list --json` shows it, and the function `walarchive_backup_list()`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::backups::parse_name;
use super::{BackupInfo, Inventory, list_catchups, near};
use crate::error::Result;
use crate::formats::{FollowedLink, LeftOut, UserData};
use crate::repository::drills;
use crate::wal::Segment;
use walarchive_storage::Store;

/// One backup, with the field names of `wal-g backup-list --detail --json`, and then what WAL-G does not tell.
#[derive(Debug, Clone, Serialize)]
pub struct BackupDetail {
    /// Its name.
    pub backup_name: String,
    /// When it became visible.
    #[serde(serialize_with = "rfc3339")]
    pub time: DateTime<Utc>,
    /// The segment in which it starts; empty if the name does not tell it.
    pub wal_file_name: String,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub start_time: DateTime<Utc>,
    /// When its last byte was copied.
    #[serde(serialize_with = "rfc3339")]
    pub finish_time: DateTime<Utc>,
    /// The format of those times in the sentinel.
    pub date_fmt: String,
    /// The host of the server.
    pub hostname: String,
    /// Its data directory.
    pub data_dir: String,
    /// `server_version_num`.
    pub pg_version: u32,
    /// Where it starts.
    pub start_lsn: u64,
    /// Where it ends.
    pub finish_lsn: u64,
    /// Never deleted by retention.
    pub is_permanent: bool,
    /// From `pg_control`.
    pub system_identifier: Option<u64>,
    /// Bytes that were read.
    pub uncompressed_size: u64,
    /// Bytes that are stored.
    pub compressed_size: u64,
    /// The user's data.
    pub user_data: Option<UserData>,
    /// The timeline that it was taken on.
    pub timeline: Option<u32>,
    /// Delta backups: the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Delta backups: the backups that a restore needs beside this one, the parent first, the full one last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// Pages whose checksum was wrong when they were read; none if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt_pages: Option<u64>,
    /// Symbolic links that were followed; a restore makes directories and files of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<FollowedLink>,
    /// The entries of the data directory that are not in the backup: the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Can it be restored to its end: are its parents there, and every WAL segment from its start to its end?
    pub restorable: bool,
    /// When a restore drill of it last went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven: Option<DateTime<Utc>>,
    /// Why it cannot be restored, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl BackupDetail {
    /// All backups of a repository, by start time. Of the WAL only that of the backups is looked for.
    pub async fn list(store: &Store) -> Result<Vec<Self>> {
        let (inventory, proven) = tokio::try_join!(near::of_backups(store), drills::proven(store))?;
        let detail = |backup: &BackupInfo| BackupDetail {
            proven: proven.get(&backup.name).copied(),
            ..BackupDetail::of(&inventory, backup)
        };
        Ok(inventory.backups.iter().map(detail).collect())
    }

    /// One of them.
    pub fn of(inventory: &Inventory, backup: &BackupInfo) -> Self {
        let chain = inventory.chain(backup);
        let problem = problem(inventory, backup, chain.as_ref().err());
        BackupDetail {
            chain: chain
                .map(|chain| chain[1..].iter().map(|link| link.name.clone()).collect())
                .unwrap_or_default(),
            restorable: problem.is_none(),
            problem,
            ..BackupDetail::alone(backup)
        }
    }

    /// All backups that bring standbys up, by start time.
    pub async fn list_catchups(store: &Store) -> Result<Vec<Self>> {
        let backups = list_catchups(store).await?;
        Ok(backups.iter().map(BackupDetail::alone).collect())
    }

    /// What one says of itself.
    fn alone(backup: &BackupInfo) -> Self {
        let metadata = &backup.metadata;
        BackupDetail {
            backup_name: backup.name.clone(),
            time: backup.written,
            wal_file_name: parse_name(&backup.name)
                .0
                .map(|segment| segment.to_string())
                .unwrap_or_default(),
            start_time: backup.started(),
            finish_time: backup.finished(),
            date_fmt: metadata.date_fmt.clone(),
            hostname: metadata.hostname.clone(),
            data_dir: metadata.data_dir.clone(),
            pg_version: metadata.pg_version,
            start_lsn: metadata.start_lsn.0,
            finish_lsn: metadata.finish_lsn.0,
            is_permanent: metadata.is_permanent,
            system_identifier: metadata.system_identifier,
            uncompressed_size: metadata.uncompressed_size,
            compressed_size: metadata.compressed_size,
            user_data: metadata.user_data.clone(),
            timeline: backup.timeline,
            parent: backup.delta.as_ref().map(|delta| delta.parent.clone()),
            chain: Vec::new(),
            corrupt_pages: metadata.corrupt_pages,
            links: metadata.links.clone(),
            left_out: metadata.left_out.clone(),
            restorable: backup.damaged.is_none(),
            proven: None,
            problem: backup.damaged.clone(),
        }
    }
}

fn problem(inventory: &Inventory, backup: &BackupInfo, missing_link: Option<&String>) -> Option<String> {
    if let Some(damaged) = &backup.damaged {
        return Some(damaged.clone());
    }
    if let Some(missing) = missing_link {
        return Some(format!("Backup \"{missing}\", which it is based on, is not there."));
    }
    if backup.timeline.is_none() {
        return Some("Its name does not say where it starts.".to_owned());
    }
    let chain = inventory.chain(backup).unwrap_or_default();
    if let Some(bad) = chain.iter().find(|link| link.damaged.is_some()) {
        return Some(format!("Backup \"{}\", which it is based on, is damaged.", bad.name));
    }
    let missing = inventory.missing(backup);
    let first: Segment = missing.first()?.first;
    let count: u64 = missing.iter().map(|range| range.count).sum();
    Some(match count {
        1 => format!("WAL segment \"{first}\", which it needs, is not in the archive."),
        _ => format!("{count} WAL segments that it needs are not in the archive; the first is \"{first}\"."),
    })
}

fn rfc3339<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}
