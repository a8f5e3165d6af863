//! A data directory: what its files are called, and how one is told from any other directory.

use std::path::{Path, PathBuf};

use crate::version;

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
/// The same up to PostgreSQL 9.6.
pub const PG_XLOG: &str = "pg_xlog";
/// The directory in [`PG_WAL`] that tells which files wait to be archived.
pub const ARCHIVE_STATUS: &str = "archive_status";
/// Our own directory in [`PG_WAL`], for WAL that is fetched ahead of recovery. `pgsql_tmp` is PostgreSQL's own prefix of what nobody
/// copies.
pub const SPOOL: &str = "pgsql_tmp_walarchive";
/// Tells which server runs on the data directory.
pub const POSTMASTER_PID: &str = "postmaster.pid";
/// How the server was started.
pub const POSTMASTER_OPTS: &str = "postmaster.opts";
/// The server recovers, and is a primary then.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";
/// The server is a standby.
pub const STANDBY_SIGNAL: &str = "standby.signal";
/// A standby is told to promote. It removes the file when it does.
pub const PROMOTE_SIGNAL: &str = "promote";
/// Up to PostgreSQL 11: the server recovers, and reads here how. Later servers do not start where it is.
pub const RECOVERY_CONF: &str = "recovery.conf";

/// The first major version with [`PG_WAL`].
const PG_WAL_SINCE: u32 = 10;

/// The first major version without [`RECOVERY_CONF`].
const SIGNAL_FILES_SINCE: u32 = 12;

/// The name of the WAL directory in a server of this major version; the newer name if the version is not known (0).
pub fn wal_directory_name(major: u32) -> &'static str {
    match (1..PG_WAL_SINCE).contains(&major) {
        true => PG_XLOG,
        false => PG_WAL,
    }
}

/// Does some server call the directory of WAL so?
pub fn is_wal_directory_name(name: impl AsRef<[u8]>) -> bool {
    [PG_WAL.as_bytes(), PG_XLOG.as_bytes()].contains(&name.as_ref())
}

/// The directory of WAL in a data directory, whose `PG_VERSION` is asked.
pub fn wal_directory(data_dir: &Path) -> PathBuf {
    data_dir.join(wal_directory_name(major_version(data_dir).unwrap_or(0)))
}

/// Is recovery told to a server of this major version by [`RECOVERY_CONF`]?
pub fn has_recovery_conf(major: u32) -> bool {
    (1..SIGNAL_FILES_SINCE).contains(&major)
}

/// The major version of a data directory, if its `PG_VERSION` can be read and is of one that is known.
pub fn major_version(data_dir: &Path) -> Option<u32> {
    version::parse(&std::fs::read_to_string(data_dir.join(PG_VERSION)).ok()?)
}

/// `PG_VERSION` is in every data directory, but also in those of databases.
pub fn is_data_dir(directory: &Path) -> bool {
    directory.join(PG_VERSION).is_file() && directory.join("global").is_dir()
}

/// The directory whose `pg_wal` or `pg_xlog` has or will have the file. A relative path, as the server names its WAL, starts at
/// the working directory.
pub fn above_pg_wal(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let pg_wal = file.parent()?;
    is_wal_directory_name(pg_wal.file_name()?.as_encoded_bytes()).then(|| pg_wal.parent().map(Path::to_path_buf))?
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
    fn the_directory_of_wal_has_the_name_of_its_version() {
        let dir = tempfile::tempdir().expect("a directory");
        for (version, name) in [
            ("9.6\n", "pg_xlog"),
            ("10\n", "pg_wal"),
            ("15", "pg_wal"),
            ("x", "pg_wal"),
        ] {
            std::fs::write(dir.path().join(PG_VERSION), version).expect("written");
            assert_eq!(wal_directory(dir.path()), dir.path().join(name), "{version}");
        }
        assert!(has_recovery_conf(9) && has_recovery_conf(11) && !has_recovery_conf(12) && !has_recovery_conf(0));
    }

    #[test]
    fn a_wal_file_is_below_its_data_directory() {
        let above = |path: &str| above_pg_wal(Path::new(path));
        assert_eq!(above("/data/pg_wal/0001"), Some("/data".into()));
        assert_eq!(above("pg_wal/RECOVERYXLOG"), std::env::current_dir().ok());
        assert_eq!(above("/data/pg_xlog/0001"), Some("/data".into()));
        assert_eq!(above("/data/wal/0001"), None);
        assert_eq!(above("/pg_wal"), None);
    }
}
