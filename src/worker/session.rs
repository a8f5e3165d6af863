//! The beginning and the end of an online backup, each in a transaction of its own, so that the copying in between has no snapshot.
//! PostgreSQL leaves backup mode by itself if the process ends between the two.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::PathBuf;

use chrono::DateTime;
use walarchive_core::backup::{BackupRequest, ConfigurationFiles, StopResult, emptied_directory};
use walarchive_core::formats::UserData;
use walarchive_core::{Error, Lsn, Result};

use crate::pg::online_backup::{self, Database, OnlineBackup};
use crate::pg::server;

/// Enter backup mode, and say what is to be backed up.
pub(super) fn begin(permanent: bool, user_data: Option<UserData>, started_us: i64) -> (BackupRequest, OnlineBackup) {
    let backup = OnlineBackup::start(c"walarchive");
    let identity = server::identity();
    let hostname = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let request = BackupRequest {
        data_dir: server::data_directory(),
        start_lsn: Lsn(backup.start_lsn),
        timeline: backup.timeline,
        segment_size: identity.segment_size,
        server_version_num: server::version_num(),
        system_identifier: identity.system_identifier,
        hostname,
        permanent,
        user_data,
        start_time: DateTime::from_timestamp_micros(started_us).unwrap_or_default(),
        tablespaces: Vec::new(),
        emptied: emptied(),
        configuration: configuration(),
        parent: None,
        catchup: None,
    };
    (request, backup)
}

/// The paths of the server's configuration, and of its secrets.
fn configuration() -> ConfigurationFiles {
    let file = |name: &CStr| {
        let path = server::setting(name);
        (!path.is_empty()).then(|| server::data_directory().join(path))
    };
    let secrets = [c"ssl_key_file", c"krb_server_keyfile", c"walarchive.credentials_file"];
    ConfigurationFiles {
        config: file(c"config_file"),
        hba: file(c"hba_file"),
        ident: file(c"ident_file"),
        secrets: secrets.into_iter().filter_map(file).collect(),
    }
}

/// The directories in the data directory that the server uses for its log and for temporary statistics.
fn emptied() -> Vec<PathBuf> {
    let written = [
        (server::setting(c"logging_collector") == "on").then(|| server::setting(c"log_directory")),
        // Up to PostgreSQL 14.
        Some(server::setting(c"stats_temp_directory")),
    ];
    let written = written.into_iter().flatten();
    written
        .filter_map(|directory| emptied_directory(&server::data_directory(), &directory))
        .collect()
}

/// The OIDs of databases.
pub(super) fn oids(databases: &[Database]) -> impl Iterator<Item = u32> {
    let valid = databases.iter().filter(|database| database.is_valid);
    valid.map(|database| database.oid)
}

/// The OIDs by name. A name that is not UTF-8 is left out, because it cannot be given to a restore.
pub(super) fn oids_by_name(databases: &[Database]) -> BTreeMap<String, u32> {
    let named = |database: &Database| Some((String::from_utf8(database.name.clone()).ok()?, database.oid));
    databases.iter().filter_map(named).collect()
}

/// Refuse the backup if a database was moved to another tablespace during it. Recovery repeats the move: it copies the database from
/// its old place over its new one, and the backup has only a part of the old one, or nothing. Returns the databases as they are now.
pub(super) fn check_places(before: &[Database]) -> Result<Vec<Database>> {
    let after = online_backup::databases();
    for now in &after {
        let then = before.iter().find(|then| then.oid == now.oid);
        if then.is_some_and(|then| then.tablespace != now.tablespace) {
            return Err(Error::refused(
                format!(
                    "database \"{}\" was moved to another tablespace during the backup, and a restore would lose it",
                    String::from_utf8_lossy(&now.name)
                ),
                "Take another backup. Do not move databases while a backup is being taken.",
            ));
        }
    }
    Ok(after)
}

/// Leave backup mode. On a standby the primary may have failed over during the backup. A backup that starts on one timeline and ends
/// on another is refused, because it is not known which WAL it needs.
pub(super) fn end(backup: OnlineBackup) -> Result<StopResult> {
    let timeline = backup.timeline;
    let stopped = backup.stop()?;
    if stopped.timeline != timeline && stopped.timeline != 0 {
        return Err(Error::refused(
            format!(
                "the backup started on timeline {timeline} and ended on timeline {}",
                stopped.timeline
            ),
            "The primary was replaced during the backup. Take another backup.",
        ));
    }
    Ok(StopResult {
        stop_lsn: Lsn(stopped.stop_lsn),
        backup_label: stopped.backup_label,
        tablespace_map: Some(stopped.tablespace_map).filter(|map| !map.is_empty()),
        next_xid: Some(online_backup::next_transaction_id()),
    })
}
