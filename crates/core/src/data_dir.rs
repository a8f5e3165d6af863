//! A data directory: what its files are called, and how one is told from any other directory.

use std::path::{Path, PathBuf};

/// Describes the cluster. Without it no server starts.
pub const PG_CONTROL: &str = "global/pg_control";
/// The major version, of the data directory and of each database.
pub const PG_VERSION: &str = "PG_VERSION";
/// From where a restored backup is recovered.
pub const BACKUP_LABEL: &str = "backup_label";
/// The places of the tablespaces of a restored backup.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// The list of the files of a backup.
pub const BACKUP_MANIFEST: &str = "backup_manifest";
/// The directory of WAL, or a link to it.
pub const PG_WAL: &str = "pg_wal";
/// Tells which server runs on the data directory.
pub const POSTMASTER_PID: &str = "postmaster.pid";
/// How the server was started.
pub const POSTMASTER_OPTS: &str = "postmaster.opts";
/// The server recovers, and is a primary then.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";
/// The server is a standby.
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// `PG_VERSION` is in every data directory, but also in those of databases.
pub fn is_data_dir(directory: &Path) -> bool {
    directory.join(PG_VERSION).is_file() && directory.join("global").is_dir()
}

/// The directory whose `pg_wal` has or will have the file. A relative path, as the server names its WAL, starts at the working
/// directory.
pub fn above_pg_wal(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let pg_wal = file.parent()?;
    (pg_wal.file_name()? == PG_WAL).then(|| pg_wal.parent().map(Path::to_path_buf))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_told_by_what_is_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(PG_VERSION), "15\n").expect("written");
        assert!(!is_data_dir(dir.path()), "that may be a database");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        assert!(is_data_dir(dir.path()));
    }

    #[test]
    fn a_wal_file_is_below_its_data_directory() {
        let above = |path: &str| above_pg_wal(Path::new(path));
        assert_eq!(above("/data/pg_wal/0001"), Some("/data".into()));
        assert_eq!(above("pg_wal/RECOVERYXLOG"), std::env::current_dir().ok());
        assert_eq!(above("/data/wal/0001"), None);
        assert_eq!(above("/pg_wal"), None);
    }
}
