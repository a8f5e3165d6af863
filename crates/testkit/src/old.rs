//! Names that servers before PostgreSQL 15 have for things. Tests use the words of 15.

use std::fs;
use std::path::Path;

use crate::builder::append_settings;
use crate::dir::give_to_server;
use crate::pg::Pg;

impl Pg {
    /// Tells a restored data directory to recover, with these settings: by `recovery.signal` and `postgresql.conf`, or up to
    /// PostgreSQL 11 by `recovery.conf`.
    pub fn tell_to_recover<'a>(&self, datadir: &Path, settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let (file, told) = match self.major() {
            ..12 => ("recovery.conf", "recovery.conf"),
            _ => ("recovery.signal", "postgresql.conf"),
        };
        let path = datadir.join(file);
        fs::write(&path, "").unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
        // The server opens it for writing before it gives it another name.
        give_to_server(&path);
        append_settings(&datadir.join(told), settings);
    }

    /// SQL with the functions that this version has.
    pub fn in_own_words(&self, sql: &str) -> String {
        let renamed = OLD_NAMES.iter().filter(|(before, ..)| self.major() < *before);
        renamed.fold(sql.to_owned(), |sql, (_, new, old)| sql.replace(new, old))
    }

    /// The directory of WAL in a data directory.
    pub fn wal_directory(&self) -> &'static str {
        match self.major() {
            ..10 => "pg_xlog",
            _ => "pg_wal",
        }
    }

    /// Does it write the state that it has into `postmaster.pid`?
    pub(crate) fn tells_when_it_is_ready(&self) -> bool {
        self.major() >= 10
    }
}

/// Before which major version, what it is called since, and what it was called; in this order.
const OLD_NAMES: [(u32, &str, &str); 12] = [
    (
        15,
        "pg_backup_start('test', true)",
        "pg_start_backup('test', true, false)",
    ),
    (15, "pg_backup_stop(false)", "pg_stop_backup(false, false)"),
    // A version that cannot tell when recovery has paused tells whether it is to.
    (
        14,
        "pg_get_wal_replay_pause_state()",
        "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' END",
    ),
    (13, "pg_current_xact_id()", "txid_current()"),
    (10, "pg_walfile_name", "pg_xlogfile_name"),
    (10, "pg_switch_wal", "pg_switch_xlog"),
    (10, "pg_current_wal_insert_lsn", "pg_current_xlog_insert_location"),
    (10, "pg_current_wal_lsn", "pg_current_xlog_location"),
    (10, "pg_current_wal_flush_lsn", "pg_current_xlog_flush_location"),
    (10, "pg_last_wal_replay_lsn", "pg_last_xlog_replay_location"),
    (10, "pg_is_wal_replay_paused", "pg_is_xlog_replay_paused"),
    // The second parameter came with 10.
    (10, "pg_stop_backup(false, false)", "pg_stop_backup(false)"),
];
