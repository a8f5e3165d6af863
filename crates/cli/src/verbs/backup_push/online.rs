//! The beginning and the end of backup mode by SQL, and what the server says of itself.

use std::path::{Path, PathBuf};

use chrono::Utc;
use walarchive_client::Session;
use walarchive_client::server::{self, Facts, Start};
use walarchive_core::Result;
use walarchive_core::backup::{
    BackupRequest, ConfigurationFiles, Database, StopResult, check_timeline, emptied_directory,
};
use walarchive_core::server_config::encryption;
use walarchive_core::wal::SegmentSize;

/// The server's name for the backup.
const LABEL: &str = "walarchive";

/// Enter backup mode, and say what is to be backed up.
pub async fn begin(session: &mut Session, facts: &Facts, data_dir: &Path) -> Result<BackupRequest> {
    let start_time = Utc::now();
    let Start { lsn, timeline } = server::start_backup(session, facts, LABEL).await?;
    let hostname = nix::unistd::gethostname();
    Ok(BackupRequest {
        data_dir: data_dir.to_owned(),
        start_lsn: lsn,
        timeline,
        segment_size: SegmentSize::new(facts.segment_bytes)?,
        server_version_num: facts.version_num,
        system_identifier: facts.system_identifier,
        hostname: hostname
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        permanent: false,
        user_data: None,
        start_time,
        tablespaces: Vec::new(),
        emptied: emptied(facts, data_dir),
        configuration: configuration(facts, data_dir),
        parent: None,
        catchup: None,
    })
}

/// The paths of the server's configuration, and of its secrets, as far as the role may see them.
fn configuration(facts: &Facts, data_dir: &Path) -> ConfigurationFiles {
    let file = |name: &str| facts.setting(name).map(|path| data_dir.join(path));
    let secrets = ["ssl_key_file", "krb_server_keyfile", "walarchive.credentials_file"];
    let keys = facts.setting("walarchive.encryption_key_file").unwrap_or_default();
    // The server takes no other value.
    let keys = encryption::key_files(keys).unwrap_or_default().into_iter();
    ConfigurationFiles {
        config: file("config_file"),
        hba: file("hba_file"),
        ident: file("ident_file"),
        secrets: secrets.into_iter().filter_map(file).collect(),
        keys: keys.map(|path| data_dir.join(path)).collect(),
    }
}

/// The directories in the data directory that the server uses for its log and for temporary statistics.
fn emptied(facts: &Facts, data_dir: &Path) -> Vec<PathBuf> {
    let collects = facts.setting("logging_collector") == Some("on");
    let written = [
        facts.setting("log_directory").filter(|_| collects),
        // Up to PostgreSQL 14.
        facts.setting("stats_temp_directory"),
    ];
    let written = written.into_iter().flatten();
    written
        .filter_map(|directory| emptied_directory(data_dir, directory))
        .collect()
}

/// Leave backup mode. Returns what it says, and the databases as they are now.
pub async fn end(
    session: &mut Session,
    facts: &Facts,
    timeline: u32,
    before: &[Database],
) -> Result<(StopResult, Vec<Database>)> {
    let stopped = server::stop_backup(session, facts).await?;
    check_timeline(timeline, stopped.timeline)?;
    let after = server::databases(session).await?;
    Database::check_places(before, &after)?;
    let result = StopResult {
        stop_lsn: stopped.lsn,
        backup_label: stopped.label,
        tablespace_map: Some(stopped.tablespace_map).filter(|map| !map.is_empty()),
        next_xid: Some(stopped.next_xid),
    };
    Ok((result, after))
}
