//! Which data directory a call is about.

use std::path::{Path, PathBuf};

use walarchive_core::archive::prefetch::Running;
use walarchive_core::data_dir::{POSTMASTER_PID, above_pg_wal, is_data_dir, wal_directory};
use walarchive_core::recovery_state;
use walarchive_core::server_config::data_directories;
use walarchive_core::wal::WalFileName;

/// Is the server that wants the file a standby?
pub fn is_standby(path: &Path) -> bool {
    data_dir_of(path).is_some_and(|data_dir| recovery_state::is_standby(&data_dir))
}

/// Can the server that wants the file go on without an answer? At the end of recovery, when the signal files are gone already, it
/// asks for the history of the timeline that it leaves, and takes its own copy if the archive has none. Without that history,
/// which only timeline 1 has not, the next one would not be whole. A server that is kept from ending its recovery here stays on
/// the old timeline when it is started again.
pub fn has_history_itself(name: &str, path: &Path) -> bool {
    let Ok(WalFileName::History(timeline)) = name.parse() else {
        return false;
    };
    data_dir_of(path).is_some_and(|data_dir| {
        let is_over = !recovery_state::is_in_recovery(&data_dir);
        is_over && (timeline == 1 || wal_directory(&data_dir).join(name).exists())
    })
}

/// The data directory that a path in `pg_wal` or `pg_xlog` belongs to: the directory above, or the working directory, which is
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

/// The first of the usual ones that is one.
pub fn usual_data_dir() -> Option<PathBuf> {
    usual_data_dirs().find(|directory| is_data_dir(directory))
}

/// The data directory whose `pg_wal` has the file.
pub fn data_dir_beside(path: &Path) -> Option<PathBuf> {
    above_pg_wal(path).filter(|directory| is_data_dir(directory))
}

/// The process ID of the server that runs on a data directory, if one does.
pub fn running_postmaster(data_dir: &Path) -> Option<i32> {
    running_server(data_dir).map(|server| server.pid)
}

/// The same server, told from an earlier start with the same process ID.
pub fn running_server(data_dir: &Path) -> Option<Running> {
    let text = std::fs::read_to_string(data_dir.join(POSTMASTER_PID)).ok()?;
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next()?.parse().ok().filter(|pid| *pid > 0)?;
    // Behind the data directory. It is written at once with the first line.
    let started = lines.nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
    let asked = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    (asked != Err(nix::errno::Errno::ESRCH)).then_some(Running { pid, started })
}
