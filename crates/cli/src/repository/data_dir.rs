//! Which data directory a call is about.

use std::path::{Path, PathBuf};

use walarchive_core::server_config::data_directories;

/// Is the server that wants the file a standby?
pub fn is_standby(path: &Path) -> bool {
    data_dir_of(path).is_some_and(|data_dir| data_dir.join("standby.signal").exists())
}

/// The data directory that a path in `pg_wal` belongs to: the directory above `pg_wal`, or the working directory, which is
/// the data directory when the server calls this program, or PGDATA.
pub fn data_dir_of(path: &Path) -> Option<PathBuf> {
    let above = std::path::absolute(path)
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_path_buf()));
    above
        .into_iter()
        .chain(usual_data_dirs())
        .find(|directory| is_data_dir(directory))
}

/// The working directory, then PGDATA, then that of the only cluster that Debian's tools know.
pub fn usual_data_dirs() -> impl Iterator<Item = PathBuf> {
    let pgdata = std::env::var_os("PGDATA").map(PathBuf::from);
    let known = || {
        let known = data_directories();
        (known.len() == 1).then_some(known).into_iter().flatten()
    };
    let usual = std::env::current_dir().ok().into_iter().chain(pgdata);
    usual.chain(std::iter::once_with(known).flatten())
}

/// `PG_VERSION` is in every data directory, but also in those of databases.
pub fn is_data_dir(directory: &Path) -> bool {
    directory.join("PG_VERSION").is_file() && directory.join("global").is_dir()
}

/// The first of the usual ones that is one.
pub fn usual_data_dir() -> Option<PathBuf> {
    usual_data_dirs().find(|directory| is_data_dir(directory))
}

/// The data directory whose `pg_wal` has the file.
pub fn data_dir_beside(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let pg_wal = path
        .parent()
        .filter(|folder| folder.file_name().is_some_and(|name| name == "pg_wal"))?;
    pg_wal
        .parent()
        .filter(|directory| is_data_dir(directory))
        .map(Path::to_path_buf)
}
