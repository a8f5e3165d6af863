//! Places of the server's own in a data directory. Paths are relative to it.

use std::path::Path;

use crate::data_dir::PG_VERSION;
use crate::version;

/// Up to PostgreSQL 9.6 what is called `pg_xact` since.
const PG_CLOG: &str = "pg_clog";

const PG_XACT: &str = "pg_xact";

/// The directory with the state of all transactions, without which no server starts, as this major version calls it.
pub(crate) fn transactions(major: u32) -> &'static str {
    match major {
        version::OLDEST => PG_CLOG,
        _ => PG_XACT,
    }
}

/// Does some version call that directory so?
pub(crate) fn is_transactions(path: &Path) -> bool {
    path == Path::new(PG_CLOG) || path == Path::new(PG_XACT)
}

/// The server's own entries at the top of its data directory.
const OF_SERVER_AT_TOP: [&str; 16] = [
    PG_VERSION,
    "base",
    "current_logfiles",
    "global",
    PG_CLOG,
    "pg_commit_ts",
    "pg_hba.conf",
    "pg_ident.conf",
    "pg_logical",
    "pg_multixact",
    "pg_stat",
    "pg_tblspc",
    "pg_twophase",
    PG_XACT,
    "postgresql.auto.conf",
    "postgresql.conf",
];

/// In these directories everything is the server's.
const WHOLLY_OF_SERVER: [&str; 7] = [
    PG_CLOG,
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_stat",
    "pg_twophase",
    PG_XACT,
];

/// Is this the name of something that the server has at the top of its data directory?
pub(crate) fn is_at_top(name: &str) -> bool {
    OF_SERVER_AT_TOP.contains(&name)
}

/// Is this a place of the server's own, whatever leads there? Files that it reads and writes through a symbolic link are its
/// data.
pub(crate) fn is_of_server(path: &Path) -> bool {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    let Some(parts) = parts else { return false };
    match &parts[..] {
        [top] => OF_SERVER_AT_TOP.contains(top),
        ["global", file] | ["base", _, file] if is_file_of_database(file) => true,
        ["base", database] => is_number(database),
        ["pg_tblspc", oid, version] => is_number(oid) && version.starts_with("PG_"),
        ["pg_tblspc", oid, version, database] => is_number(oid) && version.starts_with("PG_") && is_number(database),
        ["pg_tblspc", oid, version, database, file] => {
            is_number(oid) && version.starts_with("PG_") && is_number(database) && is_file_of_database(file)
        }
        [top, ..] => WHOLLY_OF_SERVER.contains(top),
        [] => false,
    }
}

fn is_file_of_database(name: &str) -> bool {
    matches!(name, PG_VERSION | "pg_filenode.map" | "pg_control") || relation(name).is_some()
}

/// The file node and the fork (the main one is empty) of a relation's file.
pub(crate) fn relation(name: &str) -> Option<(&str, &str)> {
    let (stem, segment) = name.split_once('.').unwrap_or((name, "0"));
    let (node, fork) = stem.split_once('_').unwrap_or((stem, ""));
    let known = matches!(fork, "fsm" | "vm" | "init") || (fork.is_empty() && !stem.contains('_'));
    (is_number(node) && is_number(segment) && known).then_some((node, fork))
}

pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_at_the_places_of_the_server() {
        for (path, expected) in [
            ("pg_xact", true),
            ("pg_clog/0000", true),
            ("pg_xact/0000", true),
            ("pg_multixact/members", true),
            ("base", true),
            ("base/5", true),
            ("base/5/16384.1", true),
            ("base/5/PG_VERSION", true),
            ("global/pg_control", true),
            ("postgresql.conf", true),
            ("pg_tblspc/16400/PG_15_202209061/5/16401_fsm", true),
            ("pg_tblspc/16400/PG_15_202209061", true),
            ("pg_tblspc/mine", false),
            ("base/mine", false),
            ("base/5/notes", false),
            ("global/notes", false),
            ("mine", false),
            ("mine/base", false),
            ("conf.d/x.conf", false),
            ("server.key", false),
        ] {
            assert_eq!(is_of_server(Path::new(path)), expected, "{path}");
        }
    }
}
