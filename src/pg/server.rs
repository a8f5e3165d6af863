//! Facts about the server.

use std::ffi::CStr;
use std::path::PathBuf;

use pgrx::pg_sys;
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::wal::SegmentSize;

/// The data directory. It is the working directory of every server process, but messages need the whole path.
pub fn data_directory() -> PathBuf {
    // SAFETY: DataDir is set before any library is loaded, and is never changed.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(path.to_string_lossy().into_owned())
}

/// The directory of the server's program, where the other programs are.
pub fn program_directory() -> PathBuf {
    // SAFETY: an array with a C string in it, which the postmaster fills before any library is loaded.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::my_exec_path).cast()) };
    let program = PathBuf::from(path.to_string_lossy().into_owned());
    program.parent().map(PathBuf::from).unwrap_or_default()
}

/// The identity of this cluster. Only after the control file was read: in the archiver, workers and backends, not in `_PG_init`.
pub fn identity() -> ClusterIdentity {
    // SAFETY: both are read from the control file before any child process starts.
    let (system_identifier, bytes) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::wal_segment_size) };
    ClusterIdentity {
        system_identifier,
        major_version: pg_sys::PG_VERSION_NUM / 10_000,
        segment_size: SegmentSize::new(bytes as u64).unwrap_or(SegmentSize::DEFAULT),
    }
}

/// Is this a standby, or a server in archive recovery?
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory that every server process is attached to.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Does this server recover from a crash, from the WAL that it has itself?
pub fn in_crash_recovery() -> bool {
    in_recovery() && !is_in_recovery(&data_directory())
}

/// The timeline, and the LSN up to which WAL is flushed to disk, or on a standby replayed. Every segment before that LSN is
/// complete, and marked as ready if it is to be archived here: the server marks it before it reports it as flushed.
pub fn wal_position() -> (u32, u64) {
    let mut timeline = 0;
    // SAFETY: both read shared memory that every server process is attached to, and write a timeline to a variable of ours.
    let lsn = unsafe {
        match in_recovery() {
            true => pg_sys::GetXLogReplayRecPtr(&raw mut timeline),
            false => pg_sys::GetFlushRecPtr(&raw mut timeline),
        }
    };
    (timeline, lsn)
}

/// Let recovery ask for WAL at once, if it waits until it asks again.
pub fn wake_recovery() {
    // SAFETY: sets a latch in shared memory that every server process is attached to. If nobody owns it, nothing happens.
    unsafe { pg_sys::WakeupRecovery() }
}

/// The value of any setting, as text.
pub fn setting(name: &CStr) -> String {
    // SAFETY: missing_ok, so that an unknown name is a null pointer and no error; the text is copied at once.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a C string.
    unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()
}

/// When this process read the configuration last: microseconds of PostgreSQL's clock.
pub fn reload_time() -> i64 {
    // SAFETY: a variable of the main thread.
    unsafe { pg_sys::PgReloadTime }
}

/// `server_version_num`.
pub fn version_num() -> u32 {
    setting(c"server_version_num").parse().unwrap_or(pg_sys::PG_VERSION_NUM)
}

/// `archive_mode`: "off", "on" or "always".
pub fn archive_mode() -> String {
    setting(c"archive_mode")
}

/// Is this library the one that archives?
pub fn is_archive_library() -> bool {
    let library = setting(c"archive_library");
    matches!(
        library.as_str(),
        "walarchive" | "$libdir/walarchive" | "$libdir/walarchive.so" | "walarchive.so"
    ) || library.ends_with("/walarchive")
        || library.ends_with("/walarchive.so")
}

/// Is the postmaster loading `shared_preload_libraries`? Only then shared memory and workers can be requested.
pub fn preloading() -> bool {
    // SAFETY: a flag of the main thread.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
