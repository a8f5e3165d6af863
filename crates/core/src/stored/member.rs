//! The path of a tar member: untrusted input.

use std::fmt;

use crate::data_dir::{
    BACKUP_LABEL, BACKUP_MANIFEST, PG_CONTROL, PG_WAL, PG_XLOG, POSTMASTER_OPTS, POSTMASTER_PID, RECOVERY_CONF,
    RECOVERY_SIGNAL, STANDBY_SIGNAL, TABLESPACE_MAP,
};
use crate::error::{Error, Result};

/// The longest name that a file can have (`NAME_MAX`), in bytes.
pub(crate) const LONGEST_NAME: usize = 255;

/// Ours: it is in a data directory while that is being restored.
pub(crate) const MARKER: &str = "walarchive_restore.json";

/// No backup holds these; if one did, the restored server would not start, or not do what it is asked for.
const NEVER: [&str; 7] = [
    POSTMASTER_PID,
    POSTMASTER_OPTS,
    RECOVERY_CONF,
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    BACKUP_MANIFEST,
    MARKER,
];

/// Directories whose content no backup holds. WAL-G packs a link where one of them is a link; what is needed is the directory.
const CONTENT_LEFT_OUT: [&str; 11] = [
    PG_WAL,
    PG_XLOG,
    "log",
    "pg_log",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_stat_tmp",
    "pg_snapshots",
    "pg_subtrans",
];

/// Is it a file that never stays as it was found in a data directory, whatever the backup says? By its path with slashes between
/// its components and none around them.
pub(crate) fn is_always_new(path: &[u8]) -> bool {
    let special = [PG_CONTROL, BACKUP_LABEL, TABLESPACE_MAP];
    special.iter().chain(&NEVER).any(|special| path == special.as_bytes())
}

/// The components of a path below the data directory, each one a plain name. None at all is the data directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MemberPath(Vec<Vec<u8>>);

impl MemberPath {
    /// Leading slashes are taken as relative to the data directory, trailing ones are dropped.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, &'static str> {
        let start = raw.iter().take_while(|byte| **byte == b'/').count();
        let end = raw.len() - raw[start..].iter().rev().take_while(|byte| **byte == b'/').count();
        if raw.is_empty() {
            return Err("its path is empty");
        }
        if start == end {
            return Ok(MemberPath(Vec::new()));
        }
        let components = raw[start..end].split(|byte| *byte == b'/');
        components
            .map(|component| match component {
                b"" => Err("its path has an empty component"),
                b"." => Err("its path has a \".\" in it"),
                b".." => Err("its path has a \"..\" in it"),
                name if name.contains(&0) => Err("its path has a zero byte in it"),
                name if name.len() > LONGEST_NAME => {
                    Err("its path has a name in it that is longer than a file's can be")
                }
                name => Ok(name.to_vec()),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(MemberPath)
    }

    pub(crate) fn components(&self) -> &[Vec<u8>] {
        &self.0
    }

    pub(crate) fn is(&self, path: &str) -> bool {
        self.0.iter().map(Vec::as_slice).eq(path.split('/').map(str::as_bytes))
    }

    pub(crate) fn is_never_restored(&self) -> bool {
        NEVER.iter().any(|path| self.is(path))
    }

    /// Is it in a tablespace's directory, in a part without any cluster's files? There are directories of the servers'
    /// versions, as `PG_15_202209061`, and in them those of databases. The repository names the place of a tablespace, and
    /// files that a program finds in a directory by their name alone, as configuration is, must not get there.
    pub(crate) fn is_beside_tablespace(&self, is_directory: bool) -> bool {
        let [links, oid, below @ ..] = &self.0[..] else {
            return false;
        };
        if links != b"pg_tblspc" || !is_number(oid) {
            return false;
        }
        match below {
            [] => !is_directory,
            [version] => !is_directory || !is_version(version),
            [version, temporary] if temporary == b"pgsql_tmp" => !is_directory || !is_version(version),
            [version, database] => !is_directory || !is_version(version) || !is_number(database),
            [version, database, ..] => !is_version(version) || !is_number(database),
        }
    }

    pub(crate) fn content_is_left_out(&self) -> bool {
        CONTENT_LEFT_OUT.iter().any(|path| self.is(path))
    }

    /// The key of `Files`: a leading slash, and U+FFFD where it is not UTF-8, as JSON cannot have it otherwise.
    pub(crate) fn key(&self) -> String {
        let mut key = String::new();
        for component in &self.0 {
            key.push('/');
            key.push_str(&String::from_utf8_lossy(component));
        }
        key
    }

    /// The components with slashes between them.
    pub(crate) fn joined(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }

    pub(crate) fn is_text(&self) -> bool {
        self.0.iter().all(|component| std::str::from_utf8(component).is_ok())
    }
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// `PG_<major>_<catalog version>`; before 10, a major version had a dot.
fn is_version(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'_');
    let (prefix, major, catalog) = (parts.next(), parts.next(), parts.next());
    let is_major = |major: &[u8]| major.split(|byte| *byte == b'.').all(is_number);
    prefix == Some(b"PG") && major.is_some_and(is_major) && catalog.is_some_and(is_number) && parts.next().is_none()
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters of a hostile name do not belong on a terminal.
        write!(f, "{}", self.key().trim_start_matches('/').escape_debug())
    }
}

/// A path of the server's own, from the data directory on.
pub(crate) fn path_of(path: &str) -> Result<MemberPath> {
    MemberPath::parse(path.as_bytes()).map_err(|reason| Error::damaged(path, reason))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Component, PathBuf};

    use super::*;
    use proptest::prelude::*;

    fn to_path(path: &MemberPath) -> PathBuf {
        OsString::from_vec(path.joined()).into()
    }

    #[test]
    fn only_plain_names_pass() {
        for (raw, path) in [
            ("/base/5/1259", "base/5/1259"),
            ("backup_label", "backup_label"),
            ("//etc/passwd", "etc/passwd"),
            ("/base/", "base"),
            ("..x/y..", "..x/y.."),
        ] {
            assert_eq!(
                to_path(&MemberPath::parse(raw.as_bytes()).expect(raw)),
                PathBuf::from(path)
            );
        }
        assert!(MemberPath::parse(b"/").expect("the root").components().is_empty());
        for raw in ["", "..", "/../x", "a/../b", "a//b", "./a", "a/.", "a/..", "a\0b"] {
            assert!(MemberPath::parse(raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn nothing_but_databases_is_in_a_tablespace() {
        for (path, is_directory, is_beside) in [
            ("pg_tblspc/1", true, false),
            ("pg_tblspc/1", false, true),
            ("pg_tblspc/1/PG_15_202209061", true, false),
            ("pg_tblspc/1/PG_9.6_201608131/5/7", false, false),
            ("pg_tblspc/1/PG_15_202209061", false, true),
            ("pg_tblspc/1/PG_x.conf", false, true),
            ("pg_tblspc/1/PG_x.conf", true, true),
            ("pg_tblspc/1/PG_x/5/1", false, true),
            ("pg_tblspc/1/PG_15_2_3/5/1", false, true),
            ("pg_tblspc/1/PG_15_/5/1", false, true),
            ("pg_tblspc/1/PG_15_202209061/5", true, false),
            ("pg_tblspc/1/PG_15_202209061/5", false, true),
            ("pg_tblspc/1/PG_15_202209061/x.d/1", false, true),
            ("pg_tblspc/1/PG_15_202209061/5/1", false, false),
            ("pg_tblspc/1/x", false, true),
            ("base/1/PG_VERSION", false, false),
        ] {
            let path = MemberPath::parse(path.as_bytes()).expect(path);
            assert_eq!(
                path.is_beside_tablespace(is_directory),
                is_beside,
                "{path} {is_directory}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_passes_stays_inside(raw: Vec<u8>) {
            if let Ok(path) = MemberPath::parse(&raw) {
                prop_assert!(to_path(&path).components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(to_path(&path).components().count(), path.components().len());
            }
        }
    }
}
