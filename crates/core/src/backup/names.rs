//! The names of the relations of each database, collected while the backup is taken.

use std::collections::BTreeMap;
use std::io;

use super::pack::spool::{Lines, Spool};
use crate::error::{Error, Result};
use crate::formats::files_metadata::{Rank, RelationEntry};

/// A restore can choose among so many relations of a database at most.
const LIMIT: usize = 2_000_000;

/// The names of the relations of all databases, compressed.
#[derive(Default)]
pub struct RelationNames(BTreeMap<u32, Lines>);

/// The names of the relations of one database. It takes about a MB while it is open.
#[derive(Default)]
pub struct DatabaseNames {
    spool: Spool,
    count: usize,
}

impl RelationNames {
    /// Add those of the database with this OID.
    pub fn add(&mut self, database: u32, names: DatabaseNames) -> Result<()> {
        let lines = names.spool.close().map_err(|error| unwritten(&error))?;
        self.0.insert(database, lines);
        Ok(())
    }

    /// Add those that [`DatabaseNames::into_bytes`] gave to another process.
    pub fn add_bytes(&mut self, database: u32, bytes: Vec<u8>) -> Result<()> {
        let lines = Lines::of_bytes(bytes);
        let read = lines.each(|line| RelationEntry::of_line(line).map(|_| ()));
        read.map_err(|error| Error::damaged("the names of relations", error.to_string()))?;
        self.0.insert(database, lines);
        Ok(())
    }

    pub(super) fn into_lines(self) -> BTreeMap<u32, Lines> {
        self.0
    }
}

impl DatabaseNames {
    /// All of them, to be given to another process.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        let lines = self.spool.close().map_err(|error| unwritten(&error))?;
        Ok(lines.into_bytes())
    }

    /// Add a relation with the number of its files. A partition, or what inherits, comes behind the relation at the top of its
    /// tree.
    pub fn push(&mut self, schema: &str, name: &str, oid: u32, relfilenode: u32, rank: Rank) -> Result<()> {
        self.count += 1;
        if self.count > LIMIT {
            return Err(Error::refused(
                format!("there are more than {LIMIT} relations"),
                "A restore can choose databases, but no tables of this one.",
            ));
        }
        let pushed = RelationEntry::line(schema, name, oid, relfilenode, rank).and_then(|line| self.spool.push(&line));
        pushed.map_err(|error| unwritten(&error))
    }
}

fn unwritten(error: &io::Error) -> Error {
    Error::defect(format!("cannot keep the names of relations: {error}"))
}
