//! Which entries of a standby's data directory are the server's data.

use crate::data_dir::PG_VERSION;

/// In these directories everything is data, which is to be as on the primary.
const DATA: [&str; 10] = [
    "base",
    "global",
    "pg_clog",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_stat",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
];

/// The content of these directories belongs to a state that is gone then, and no backup holds it. A replication slot among it asks
/// for WAL that the standby will never have, and would keep all that comes.
const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// By the path below the data directory, with slashes between the components and none around them.
pub(super) fn is_data(path: &[u8]) -> bool {
    let (top, below) = match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], true),
        None => (path, false),
    };
    let is_in = |names: &[&str]| names.iter().any(|name| top == name.as_bytes());
    is_in(&DATA) || (below && is_in(&EMPTIED)) || path == PG_VERSION.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_servers_data_stays() {
        for (path, expected) in [
            ("base", true),
            ("base/5/16384", true),
            ("global/pg_control", true),
            ("PG_VERSION", true),
            ("pg_tblspc/16400/PG_15_202209061/5/1", true),
            ("pg_replslot/slot/state", true),
            ("pg_replslot", false),
            ("pg_wal/000000010000000000000001", false),
            ("pg_xlog", false),
            ("postgresql.conf", false),
            ("standby.signal", false),
            ("recovery.conf", false),
            ("backup_label.old", false),
            ("log/x", false),
            ("server.key", false),
            ("baseball/x", false),
        ] {
            assert_eq!(is_data(path.as_bytes()), expected, "{path}");
        }
    }
}
