//! The databases of the cluster that is backed up, and the timeline at the end. The server and the binary ask for them in their own
//! ways.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// A database of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its OID.
    pub oid: u32,
    /// The OID of its tablespace.
    pub tablespace: u32,
    /// In the encoding of the database that created or renamed it.
    pub name: Vec<u8>,
    /// False after a `DROP DATABASE` that was interrupted: some of its files may be gone, and it cannot be used.
    pub is_valid: bool,
    /// May anybody connect to it? Nobody may to `template0`.
    pub allows_connections: bool,
}

impl Database {
    /// The OIDs of those that can be used.
    pub fn oids(databases: &[Database]) -> impl Iterator<Item = u32> {
        let valid = databases.iter().filter(|database| database.is_valid);
        valid.map(|database| database.oid)
    }

    /// The OIDs by name. A name that is not UTF-8 is left out, because it cannot be given to a restore.
    pub fn oids_by_name(databases: &[Database]) -> BTreeMap<String, u32> {
        let named = |database: &Database| Some((String::from_utf8(database.name.clone()).ok()?, database.oid));
        databases.iter().filter_map(named).collect()
    }

    /// Refuse the backup if a database was moved to another tablespace during it. Recovery repeats the move: it copies the
    /// database from its old place over its new one, and the backup has only a part of the old one, or nothing.
    pub fn check_places(before: &[Database], after: &[Database]) -> Result<()> {
        for now in after {
            let then = before.iter().find(|then| then.oid == now.oid);
            if then.is_some_and(|then| then.tablespace != now.tablespace) {
                return Err(Error::refused(
                    format!(
                        "database \"{}\" was moved to another tablespace during the backup, and a restore would lose it",
                        String::from_utf8_lossy(&now.name)
                    ),
                    "Take another backup. Do not move databases while a backup is being taken.",
                ));
            }
        }
        Ok(())
    }
}

/// Refuse a backup that ends on another timeline than it began: on a standby the primary may have failed over during it, and it is
/// not known which WAL the backup needs. An end of 0 is not known.
pub fn check_timeline(start: u32, end: u32) -> Result<()> {
    if end == start || end == 0 {
        return Ok(());
    }
    Err(Error::refused(
        format!("the backup started on timeline {start} and ended on timeline {end}"),
        "The primary was replaced during the backup. Take another backup.",
    ))
}
