//! Without what no server starts, or a database cannot be used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::rules;
use crate::data_dir::PG_VERSION;
use crate::error::{Error, Result};
use crate::places;

/// The OID of `template1`, which `CREATE DATABASE` copies.
const TEMPLATE1: u32 = 1;

/// The part that the walk has seen. `global/pg_control` is not here: without it no backup begins.
#[derive(Debug, Default)]
pub(crate) struct Essential {
    has_version: bool,
    has_transactions: bool,
    /// By the OID: the directories with files in them, and whether one of them has a `PG_VERSION`.
    databases: BTreeMap<u32, (BTreeSet<PathBuf>, bool)>,
}

/// Which databases there are, by their OIDs, if anybody says.
#[derive(Debug, Default)]
pub(crate) struct Databases {
    /// When the backup began.
    pub(crate) before: BTreeSet<u32>,
    /// When the last file was copied.
    pub(crate) after: Option<BTreeSet<u32>>,
}

impl Databases {
    /// Of a stream nobody lists the databases: those whose `PG_VERSION` came are known, and so is template1, which must have
    /// come.
    pub(crate) fn of_stream(found: &Essential) -> Self {
        let whole = found.databases.iter().filter(|(_, (_, has_version))| *has_version);
        let mut known: BTreeSet<u32> = whole.map(|(oid, _)| *oid).collect();
        known.insert(TEMPLATE1);
        Databases {
            before: known.clone(),
            after: Some(known),
        }
    }
}

impl Essential {
    /// Note a file.
    pub(crate) fn note(&mut self, path: &Path) {
        let (Some(parent), name) = (path.parent(), path.file_name().unwrap_or_default()) else {
            return;
        };
        let is_version = name == PG_VERSION;
        if parent.as_os_str().is_empty() {
            self.has_version |= is_version;
        } else if places::is_transactions(parent) {
            self.has_transactions = true;
        } else if let Some(oid) = database(parent) {
            let (directories, has_version) = self.databases.entry(oid).or_default();
            if directories.last().is_none_or(|last| last != parent) {
                directories.insert(parent.to_owned());
            }
            *has_version |= is_version;
        }
    }

    /// After the walk: is everything there without which no server of this major version starts?
    pub(crate) fn check(&self, data_dir: &Path, major: u32) -> Result<()> {
        let missing = match self {
            Essential { has_version: false, .. } => PG_VERSION,
            Essential {
                has_transactions: false,
                ..
            } => places::transactions(major),
            _ => return Ok(()),
        };
        Err(missing_in(data_dir, missing, HINT))
    }

    /// After the last file: has each database that was there all the time its `PG_VERSION`, and is `template1` there? Returns
    /// the OIDs of databases that the backup may have in part only.
    pub(crate) fn check_databases(&self, data_dir: &Path, databases: &Databases) -> Result<Vec<u32>> {
        let known = databases.after.as_ref().map(|after| &databases.before & after);
        let expected = match &known {
            Some(known) => known.clone(),
            None => self.there_now(data_dir),
        };
        for oid in &expected {
            if !self.databases.get(oid).is_some_and(|(_, has_version)| *has_version) {
                return Err(missing_in(data_dir, &format!("base/{oid}/PG_VERSION"), DATABASE_HINT));
            }
        }
        if known.is_none() && !self.databases.contains_key(&TEMPLATE1) {
            return Err(missing_in(data_dir, "base/1", HINT));
        }
        let mut incomplete: BTreeSet<u32> = self.databases.keys().copied().collect();
        incomplete.insert(TEMPLATE1);
        Ok((&incomplete - &expected).into_iter().collect())
    }

    /// Those that still have a file in a directory. By then one that was being created has its `PG_VERSION`, though the walk has
    /// not seen it; the WAL makes it again.
    fn there_now(&self, data_dir: &Path) -> BTreeSet<u32> {
        let is_there = |(directories, has_version): &(BTreeSet<PathBuf>, bool)| {
            let has_file = |directory: &PathBuf| {
                std::fs::read_dir(data_dir.join(directory)).is_ok_and(|mut entries| entries.next().is_some())
            };
            let came_late = |directory: &PathBuf| data_dir.join(directory).join(PG_VERSION).exists();
            match has_version {
                true => directories.iter().any(came_late),
                false => directories.iter().any(has_file) && !directories.iter().any(came_late),
            }
        };
        let there = self.databases.iter().filter(|(_, database)| is_there(database));
        there.map(|(oid, _)| *oid).collect()
    }
}

/// The OID of the database whose directory this is.
fn database(directory: &Path) -> Option<u32> {
    match rules::is_database(directory) {
        true => directory.file_name()?.to_str()?.parse().ok(),
        false => None,
    }
}

const HINT: &str = "A backup without it could not be restored, so none was taken. See what became of it, and whether the server still works.";

/// A move away and back again leaves the catalog as it was.
const DATABASE_HINT: &str = "A backup without it could not be restored, so none was taken. If the database was moved \
                             to another tablespace and back during the backup, take another backup. Otherwise find \
                             out what became of that file, and whether the database still works.";

fn missing_in(data_dir: &Path, what: &str, hint: &str) -> Error {
    Error::server(
        format!("\"{}\" is not in the data directory", data_dir.join(what).display()),
        hint,
    )
}
