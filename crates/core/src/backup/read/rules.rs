//! Names that a backup leaves out. PostgreSQL's own base backup is the authority; the format page asks for more to be left out
//! (server logs, recovery signals), and that is left out at the top of the data directory only.

use std::path::{Component, Path, PathBuf};

use crate::data_dir::{
    BACKUP_LABEL, BACKUP_MANIFEST, POSTMASTER_OPTS, POSTMASTER_PID, RECOVERY_CONF, RECOVERY_SIGNAL, STANDBY_SIGNAL,
    TABLESPACE_MAP, wal_directory_name,
};
use crate::places;
use crate::places::is_number;
pub(crate) use crate::places::{is_of_server, relation};

/// Directories whose content the server makes again, at any depth.
const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// The same, at the top only.
const EMPTIED_AT_TOP: [&str; 2] = ["log", "pg_log"];

/// Files that are of the running server or of its start, at any depth.
const LEFT_OUT: [&str; 8] = [
    BACKUP_LABEL,
    BACKUP_MANIFEST,
    "current_logfiles.tmp",
    "pg_internal.init",
    "postgresql.auto.conf.tmp",
    POSTMASTER_OPTS,
    POSTMASTER_PID,
    TABLESPACE_MAP,
];

/// The same, at the top only: a restore writes its own.
const LEFT_OUT_AT_TOP: [&str; 5] = [
    "backup_label.old",
    RECOVERY_CONF,
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    "tablespace_map.old",
];

/// Does a server of this major version keep its WAL there, which comes back from the archive?
pub(crate) fn is_wal_directory(path: &Path, major: u32) -> bool {
    path == Path::new(wal_directory_name(major))
}

/// Is this directory kept empty, for a server of this major version? The path is relative to the data directory.
pub(crate) fn is_emptied(path: &Path, major: u32) -> bool {
    let name = name(path);
    let at_top = || EMPTIED_AT_TOP.contains(&name) || is_wal_directory(path, major);
    EMPTIED.contains(&name) || (is_at_top(path) && at_top())
}

/// The directory below the data directory, relative to it, that a setting like `log_directory` names, if its content can be left
/// out: it is neither the data directory nor one that the server has for its data, nor does it hold one of these.
pub fn emptied_directory(data_dir: &Path, setting: &str) -> Option<PathBuf> {
    let below = below(data_dir, Path::new(setting))?;
    let top = below.iter().next()?.to_str();
    (!top.is_some_and(places::is_at_top)).then_some(below)
}

/// Those of the files with keys that are in the data directory, relative to it. No file of the server's is one.
pub(crate) fn keys_within(data_dir: &Path, keys: &[PathBuf]) -> Vec<PathBuf> {
    let within = keys.iter().filter_map(|key| below(data_dir, key));
    within.filter(|key| !is_of_server(key)).collect()
}

/// The path below the data directory, relative to it, if it is there.
fn below(data_dir: &Path, path: &Path) -> Option<PathBuf> {
    // The server's working directory is the data directory.
    let joined = data_dir.join(path);
    match plain_below(data_dir, &joined) {
        Some(below) => Some(below),
        None => plain_below(&data_dir.canonicalize().ok()?, &joined.canonicalize().ok()?),
    }
}

/// The path below a directory, if nothing in it goes up.
fn plain_below(directory: &Path, path: &Path) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for part in path.strip_prefix(directory).ok()?.components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(below)
}

/// Is this file or directory left out altogether?
pub(crate) fn is_left_out(path: &Path) -> bool {
    let name = name(path);
    name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || LEFT_OUT.contains(&name)
        || (is_at_top(path) && LEFT_OUT_AT_TOP.contains(&name))
}

/// Is it in a tablespace, beside the directory of this major version, whose name begins like that? Then it is nothing of
/// this cluster, and a restore would not take it.
pub(crate) fn is_beside_version(path: &Path, version: &str) -> bool {
    let parent = path.parent().filter(|parent| {
        let is_oid = is_number(name(parent));
        is_oid && parent.parent() == Some(Path::new("pg_tblspc"))
    });
    parent.is_some() && !name(path).starts_with(version)
}

/// Does this directory hold the relations of one database?
pub(crate) fn is_database(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return false };
    is_number(name(path)) && (parent == Path::new("base") || name(parent).starts_with("PG_"))
}

/// Is this a file of a temporary relation, `t<backend>_<relation>` with fork and segment?
pub(crate) fn is_temporary_relation(name: &str) -> bool {
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    is_number(backend) && relation(rest).is_some()
}

/// Relations' names and those of the rules are ASCII; any other is none of them.
fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_at_top(path: &Path) -> bool {
    path.components().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_told_by_their_names() {
        for (name, expected) in [
            ("1259", Some(("1259", ""))),
            ("1259.12", Some(("1259", ""))),
            ("1259_fsm", Some(("1259", "fsm"))),
            ("1259_vm.1", Some(("1259", "vm"))),
            ("1259_init", Some(("1259", "init"))),
            ("1259_", None),
            ("1259_other", None),
            ("1259.", None),
            ("1259.x", None),
            ("PG_VERSION", None),
            ("", None),
        ] {
            assert_eq!(relation(name), expected, "{name}");
        }
        for (name, expected) in [
            ("t3_16384", true),
            ("t3_16384_fsm", true),
            ("t3_16384.1", true),
            ("t_16384", false),
            ("t3_", false),
            ("t3", false),
            ("table", false),
            ("t3_16384_x", false),
        ] {
            assert_eq!(is_temporary_relation(name), expected, "{name}");
        }
    }

    #[test]
    fn a_directory_of_the_servers_data_is_never_emptied() {
        let dir = tempfile::tempdir().expect("a directory");
        for made in ["base/5", "mylogs/deep", "pg_wal"] {
            std::fs::create_dir_all(dir.path().join(made)).expect("made");
        }
        let absolute = dir.path().join("mylogs").display().to_string();
        for (setting, expected) in [
            ("mylogs", Some("mylogs")),
            (&absolute, Some("mylogs")),
            ("mylogs/deep/../deep/", Some("mylogs/deep")),
            ("./mylogs", Some("mylogs")),
            ("base", None),
            ("base/5", None),
            (".", None),
            ("", None),
            ("mylogs/..", None),
            ("../elsewhere", None),
            ("/var/log/postgresql", None),
            ("not/../there", None),
        ] {
            assert_eq!(
                emptied_directory(dir.path(), setting),
                expected.map(PathBuf::from),
                "{setting}"
            );
        }
    }

    #[test]
    fn keys_in_the_data_directory_are_found_whatever_they_are_called_by() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("keys")).expect("made");
        std::fs::write(data.join("keys/new"), "a key").expect("written");
        std::os::unix::fs::symlink("data", dir.path().join("link")).expect("linked");
        let within = |key: &str| keys_within(&data, &[dir.path().join(key)]);
        for key in [
            "data/keys/new",
            "data/keys/./new",
            "data/keys/../keys/new",
            "link/keys/new",
        ] {
            assert_eq!(within(key), [PathBuf::from("keys/new")], "{key}");
        }
        assert_eq!(
            keys_within(&data, &[PathBuf::from("keys/new")]),
            [PathBuf::from("keys/new")]
        );
        for key in [
            "elsewhere",
            "data/../elsewhere",
            "data/global/pg_control",
            "data/postgresql.conf",
        ] {
            assert!(within(key).is_empty(), "{key}");
        }
    }

    #[test]
    fn what_is_left_out_depends_on_the_place() {
        let left_out = |path: &str| is_left_out(Path::new(path));
        for path in [
            "postmaster.pid",
            "base/5/pg_internal.init",
            "global/pg_internal.init.123",
            "base/pgsql_tmp",
            "pg_tblspc/1/PG_15_202209061/pgsql_tmp",
            "standby.signal",
            "backup_label.old",
        ] {
            assert!(left_out(path), "{path}");
        }
        for path in [
            "PG_VERSION",
            "mine/standby.signal",
            "postgresql.auto.conf",
            "current_logfiles",
        ] {
            assert!(!left_out(path), "{path}");
        }
        for (path, major, expected) in [
            ("pg_wal", 9, false),
            ("pg_xlog", 9, true),
            ("pg_xlog", 10, false),
            ("log", 9, true),
        ] {
            assert_eq!(is_emptied(Path::new(path), major), expected, "{path} {major}");
        }
        for (path, expected) in [
            ("pg_wal", true),
            ("pg_replslot", true),
            ("log", true),
            ("mine/log", false),
            ("base/pg_wal", false),
            ("pg_xact", false),
        ] {
            assert_eq!(is_emptied(Path::new(path), 15), expected, "{path}");
        }
        for (path, expected) in [
            ("pg_tblspc/16400/lost+found", true),
            ("pg_tblspc/16400/PG_14_202107181", true),
            ("pg_tblspc/16400/PG_15_202209061", false),
            ("pg_tblspc/16400/PG_15_202209061/x", false),
            ("pg_tblspc/16400", false),
            ("pg_tblspc/mine/notes", false),
            ("base/16400/notes", false),
        ] {
            assert_eq!(is_beside_version(Path::new(path), "PG_15_"), expected, "{path}");
        }
        let of_old = Path::new("pg_tblspc/16400/PG_9.6_201608131");
        assert!(!is_beside_version(of_old, &crate::version::tablespace_prefix(9)));
        for (path, expected) in [
            ("base/5", true),
            ("pg_tblspc/16400/PG_15_202209061/5", true),
            ("global", false),
            ("base/x", false),
            ("5", false),
            ("pg_tblspc/16400", false),
        ] {
            assert_eq!(is_database(Path::new(path)), expected, "{path}");
        }
    }
}
