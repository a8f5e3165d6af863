//! The files that an increment can stand for, and the relations that they belong to.

use std::path::Path;

use super::databases;
use crate::backup::read::rules;

/// The OID of `pg_default`, whose directory is `base`.
const PG_DEFAULT: u32 = 1663;

/// The name that the server has for a relation's files: `RelFileLocator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Locator {
    /// OID of the tablespace.
    pub(super) tablespace: u32,
    /// OID of the database.
    pub(super) database: u32,
    /// The number in the name of the file; 0 means all of the database in this tablespace.
    pub(super) relation: u32,
}

/// Can a delta backup have an increment of this file?
pub(in crate::backup) fn is_paged(path: &Path) -> bool {
    RelationFile::of(path).is_some()
}

/// The file of a relation's main fork, in a database's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationFile {
    pub(super) locator: Locator,
    /// Which of the relation's files it is, from 0.
    pub(super) segment: u32,
}

impl RelationFile {
    /// By its path, relative to the data directory. None if it is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let database = databases::of_file(path)?;
        let mut parts = path.iter().map(|part| part.to_str());
        let tablespace = match parts.next()?? {
            "base" => PG_DEFAULT,
            "pg_tblspc" => parts.next()??.parse().ok()?,
            _ => return None,
        };
        let name = path.file_name()?.to_str()?;
        let (relation, "") = rules::relation(name)? else {
            return None;
        };
        let segment = match name.split_once('.') {
            Some((_, segment)) => segment.parse().ok()?,
            None => 0,
        };
        Some(RelationFile {
            locator: Locator {
                tablespace,
                database,
                relation: relation.parse().ok()?,
            },
            segment,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_forks_in_databases_are_files_of_pages() {
        for (path, expected) in [
            ("base/5/16384", Some((1663, 5, 16384, 0))),
            ("base/5/16384.12", Some((1663, 5, 16384, 12))),
            ("pg_tblspc/16400/PG_15_202209061/6/1", Some((16400, 6, 1, 0))),
            ("base/5/16384_fsm", None),
            ("base/5/16384_vm", None),
            ("base/5/16384_init", None),
            ("base/5/PG_VERSION", None),
            ("base/5/pg_filenode.map", None),
            ("base/5/99999999999", None),
            ("global/1262", None),
            ("pg_xact/0000", None),
            ("mine/PG_x/5/1", None),
        ] {
            let found = RelationFile::of(Path::new(path)).map(|file| {
                let Locator {
                    tablespace,
                    database,
                    relation,
                } = file.locator;
                (tablespace, database, relation, file.segment)
            });
            assert_eq!(found, expected, "{path}");
        }
    }
}
