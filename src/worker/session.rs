//! The beginning and the end of an online backup, each in a transaction of its own, so that the copying in between has no snapshot.
//! PostgreSQL leaves backup mode by itself if the process ends between the two.

use std::ffi::CStr;
use std::path::PathBuf;

use chrono::DateTime;
use walarchive_core::backup::{BackupRequest, ConfigurationFiles, StopResult, check_timeline, emptied_directory};
use walarchive_core::formats::UserData;
use walarchive_core::{Lsn, Result};

use crate::guc;
use crate::pg::online_backup::{self, OnlineBackup};
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
    let keys = guc::encryption_key_files().into_iter();
    ConfigurationFiles {
        config: file(c"config_file"),
        hba: file(c"hba_file"),
        ident: file(c"ident_file"),
        secrets: secrets.into_iter().filter_map(file).collect(),
        keys: keys.map(|file| server::data_directory().join(file)).collect(),
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

/// Leave backup mode.
pub(super) fn end(backup: OnlineBackup) -> Result<StopResult> {
    let timeline = backup.timeline;
    let stopped = backup.stop()?;
    check_timeline(timeline, stopped.timeline)?;
    Ok(StopResult {
        stop_lsn: Lsn(stopped.stop_lsn),
        backup_label: stopped.backup_label,
        tablespace_map: Some(stopped.tablespace_map).filter(|map| !map.is_empty()),
        next_xid: Some(online_backup::next_transaction_id()),
    })
}
