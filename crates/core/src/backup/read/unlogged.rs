//! Unlogged relations: a backup holds their init forks only. When recovery ends, the server makes the other forks from these.
//!
//! An init fork tells that a relation is unlogged, and the init fork may come late: while an index of an unlogged table is
//! being built, its main fork is there and grows, and its init fork comes when the index is complete. Replay makes the init
//! fork then, and a main fork that a backup has copied before is in the way of the new one: recovery ends with "could not
//! create file …: File exists" (`ResetUnloggedRelations`). So init forks are looked for three times: when the data directory is
//! walked, just before a file is packed, and after `pg_backup_stop`. A file that is in a tar by then is left out of the files
//! metadata and of the manifest: they tell a restore which files to take out of a tar.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::rules;
use crate::error::{Error, Result};

/// The relations that have an init fork, by directory; of each directory of a database, if there are none in it, too. It takes
/// some ten bytes a relation.
#[derive(Debug, Default)]
pub(crate) struct Unlogged(HashMap<PathBuf, HashSet<u32>>);

impl Unlogged {
    /// Note what is in a database's directory. Paths are relative to the data directory.
    pub(crate) fn note(&mut self, directory: &Path, names: &[OsString]) {
        let relations = names.iter().filter_map(|name| relation(name));
        let unlogged = relations.filter(|(_, fork)| *fork == INIT).map(|(number, _)| number);
        self.0.insert(directory.to_owned(), unlogged.collect());
    }

    /// Is this a file of one of them, and not of its init fork?
    pub(crate) fn has(&self, path: &Path) -> bool {
        let relations = path.parent().and_then(|directory| self.0.get(directory));
        let Some(relations) = relations.filter(|relations| !relations.is_empty()) else {
            return false;
        };
        path.file_name()
            .and_then(relation)
            .is_some_and(|(number, fork)| fork != INIT && relations.contains(&number))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(HashSet::len).sum()
    }

    /// Those in the same directories that are there now, and are not among these.
    pub(crate) fn since(&self, data_dir: &Path) -> Result<Self> {
        let mut late = Unlogged::default();
        for (directory, known) in &self.0 {
            let full = data_dir.join(directory);
            let failed = |error| Error::io("read", &full, error);
            let entries = match std::fs::read_dir(&full) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let mut found = HashSet::new();
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                found.extend(relation(&name).and_then(|(number, fork)| {
                    let is_late = fork == INIT && !known.contains(&number);
                    is_late.then_some(number)
                }));
            }
            if !found.is_empty() {
                late.0.insert(directory.clone(), found);
            }
        }
        Ok(late)
    }
}

/// Is this a file of a relation that has an init fork by now, and not of that fork?
pub(crate) fn is_known_now(data_dir: &Path, path: &Path) -> Result<bool> {
    let directory = path.parent().filter(|directory| rules::is_database(directory));
    let found = path.file_name().and_then(relation).filter(|(_, fork)| *fork != INIT);
    let (Some(directory), Some((number, _))) = (directory, found) else {
        return Ok(false);
    };
    let init = data_dir.join(directory).join(format!("{number}_{INIT}"));
    match std::fs::symlink_metadata(&init) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("open", init, error)),
    }
}

const INIT: &str = "init";

/// The number and the fork of a relation's file, as the server writes them.
fn relation(name: &OsStr) -> Option<(u32, &str)> {
    let (number, fork) = rules::relation(name.to_str()?)?;
    let number = number.parse().ok().filter(|_| !number.starts_with('0'))?;
    Some((number, fork))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_come_late_are_told_from_the_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let directories = ["base/5", "pg_tblspc/1/PG_15_1/5", "base/6"].map(Path::new);
        for directory in directories {
            std::fs::create_dir_all(dir.path().join(directory)).expect("made");
        }
        let mut known = Unlogged::default();
        let names = ["7_init", "7", "7_fsm", "8", "9_init", "PG_VERSION"].map(OsString::from);
        known.note(directories[0], &names);
        directories[1..].iter().for_each(|directory| known.note(directory, &[]));
        for (path, is_one) in [
            ("base/5/7", true),
            ("base/5/7.1", true),
            ("base/5/7_fsm", true),
            ("base/5/7_init", false),
            ("base/5/8", false),
            ("base/6/7", false),
            ("base/7/7", false),
            ("base/5/07", false),
            ("base/5/PG_VERSION", false),
            ("7", false),
        ] {
            assert_eq!(known.has(Path::new(path)), is_one, "{path}");
        }
        for path in [
            "base/5/7_init",
            "base/5/8_init",
            "pg_tblspc/1/PG_15_1/5/7_init",
            "base/5/10",
        ] {
            std::fs::write(dir.path().join(path), []).expect("written");
        }
        // It was dropped.
        std::fs::remove_dir(dir.path().join("base/6")).expect("removed");
        let late = known.since(dir.path()).expect("looked");
        assert_eq!((known.len(), late.len()), (2, 2));
        assert!(late.has(Path::new("base/5/8")) && late.has(Path::new("pg_tblspc/1/PG_15_1/5/7_vm")));
        assert!(!late.has(Path::new("base/5/7")) && !late.has(Path::new("base/5/10")));
        let is_known = |path: &str| is_known_now(dir.path(), Path::new(path)).expect("looked");
        assert!(is_known("base/5/8.3") && is_known("base/5/7_vm"));
        assert!(!is_known("base/5/8_init") && !is_known("base/5/10") && !is_known("base/6/7") && !is_known("8"));
    }
}
