//! Restoring some databases only: of the others, relations come back as files of zeros that take no space.
//!
//! They keep their size, as replay of the WAL goes on writing into them and would stop at a page that is not there. The
//! server starts, and the databases can be dropped; nothing else can be done with them. Their maps of relations are zeros, too:
//! with one that is valid, a session would go on to catalogs that are empty, and that is a PANIC, which ends all sessions.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Content;
use super::metadata::{FileFlags, listen_to, metadata_object};
use crate::error::{Error, Result};
use crate::formats::files_metadata::{Listener, Relation, Relations};
use walarchive_storage::Store;

/// `FirstNormalObjectId`: databases below are the server's own, such as the templates and "postgres".
const FIRST_OF_USERS: u32 = 16_384;

/// The server's own, which may have been made again with OIDs like those of users.
const OF_SERVER: [&str; 3] = ["postgres", "template0", "template1"];

/// More databases than any cluster has.
const LIMIT: usize = 1 << 20;

/// Says which files the catalogs are that every session reads first.
const RELATION_MAP: &[u8] = b"pg_filenode.map";

/// `NAMEDATALEN`, or what somebody may have built it with, in bytes.
const NAME_LIMIT: usize = 1024;

/// At most so many relations are remembered, for databases with some tables wanted: some 100 MB.
const RELATIONS_LIMIT: usize = 2_000_000;

/// So many names are told in a hint.
const TOLD: usize = 50;

/// The databases that come back with their content, and the tables of them that do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Databases {
    /// All of them if none is named.
    wanted: Option<BTreeSet<u32>>,
    /// Those of [`OF_SERVER`] whose OIDs the backup tells.
    of_server: BTreeSet<u32>,
    /// For databases with some tables wanted: the files of the others, by their number.
    unwanted: BTreeMap<u32, BTreeSet<u32>>,
}

impl Databases {
    /// The databases and tables that the user named: `DATABASE`, `DATABASE/TABLE` or `DATABASE/SCHEMA.TABLE`, by names if the
    /// backup knows them, and a database by its OID, too. `*` stands for any part of a name.
    pub(crate) async fn find(store: &Store, backup: &str, wanted: &[String]) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Databases::default());
        }
        let wanted: Vec<Wanted> = wanted.iter().map(|text| Wanted::parse(text)).collect::<Result<_>>()?;
        let (key, size) = metadata_object(store, backup).await?;
        let names = listen_to(store, &key, size, Names::of(&wanted)).await?;
        let mut found = Databases {
            wanted: Some(BTreeSet::new()),
            of_server: OF_SERVER
                .iter()
                .filter_map(|name| names.databases.get(*name).copied())
                .collect(),
            unwanted: BTreeMap::new(),
        };
        for wanted in &wanted {
            let oids = names.find(wanted, backup)?;
            found.wanted.get_or_insert_default().extend(oids);
        }
        // A database that is wanted as a whole is not narrowed by a table of it.
        let whole: Vec<&Wanted> = wanted.iter().filter(|wanted| wanted.table.is_none()).collect();
        for (name, relations) in names.relations {
            let oid = names.databases.get(&name).copied().unwrap_or_default();
            if !whole.iter().any(|wanted| wanted.is_of(&name, oid)) {
                found.unwanted.insert(oid, relations.unwanted);
            }
        }
        Ok(found)
    }

    /// How the file comes back.
    pub(crate) fn content(&self, path: &[u8]) -> Content {
        let Some(wanted) = &self.wanted else {
            return Content::Whole;
        };
        let Some((oid, name)) = database_of(path) else {
            return Content::Whole;
        };
        let is_whole = oid < FIRST_OF_USERS || wanted.contains(&oid) || self.of_server.contains(&oid);
        let is_left_out = match is_whole {
            true => self.unwanted.get(&oid).is_some_and(|files| {
                let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = std::str::from_utf8(&name[..digits]).ok().and_then(oid_of);
                number.is_some_and(|number| files.contains(&number))
            }),
            false => name.first().is_some_and(u8::is_ascii_digit) || name == RELATION_MAP,
        };
        match is_left_out {
            true => Content::LeftOut,
            false => Content::Whole,
        }
    }

    /// The databases that were named must be among those that were found.
    pub(crate) fn check(&self, found: &BTreeSet<u32>, backup: &str) -> Result<()> {
        let missing = self.wanted.iter().flatten().find(|oid| !found.contains(oid));
        missing.map_or(Ok(()), |oid| {
            Err(Error::refused(
                format!("backup \"{backup}\" has no database with OID {oid}"),
                "Look for its OID in the server: SELECT oid, datname FROM pg_database.",
            ))
        })
    }

    pub(crate) fn is_all(&self) -> bool {
        self.wanted.is_none()
    }

    pub(crate) fn wanted(&self) -> impl Iterator<Item = u32> {
        self.wanted.iter().flatten().copied()
    }
}

fn oid_of(text: &str) -> Option<u32> {
    text.parse().ok().filter(|oid| *oid > 0)
}

/// The OID of the database whose directory has the file, and the name of the file there.
pub(crate) fn database_of(path: &[u8]) -> Option<(u32, &[u8])> {
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').take(6).collect();
    let (oid, name) = match components[..] {
        [b"base", oid, name] => (oid, name),
        [b"pg_tblspc", _, _, oid, name] => (oid, name),
        _ => return None,
    };
    Some((std::str::from_utf8(oid).ok().and_then(oid_of)?, name))
}

/// The databases and tables that the user named.
#[derive(Debug, Clone)]
struct Wanted {
    text: String,
    database: String,
    /// With its schema.
    table: Option<String>,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (database, table) = match parts[..] {
            [database] => (database, None),
            // PostgreSQL's names may have dots; then the schema must be told.
            [database, table] if table.contains('.') => (database, Some(table.to_owned())),
            [database, table] => (database, Some(format!("public.{table}"))),
            [database, schema, table] => (database, Some(format!("{schema}.{table}"))),
            _ => ("", None),
        };
        if database.is_empty()
            || table
                .as_ref()
                .is_some_and(|table| table.ends_with('.') || table.starts_with('.'))
        {
            return Err(Error::config(
                format!("\"{}\" names neither a database nor a table", text.escape_debug()),
                "Write DATABASE, DATABASE/TABLE or DATABASE/SCHEMA.TABLE.",
            ));
        }
        Ok(Wanted {
            text: text.to_owned(),
            database: database.to_owned(),
            table,
        })
    }

    /// Is the database meant, by its name or by its OID?
    fn is_of(&self, name: &str, oid: u32) -> bool {
        is_like(name, &self.database) || oid_of(&self.database) == Some(oid)
    }
}

/// Is it the name, in which `*` stands for any part?
fn is_like(name: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    false
}

/// The names of the databases, as files metadata has them, and what it says of the tables that matter.
#[derive(Default)]
struct Names {
    databases: BTreeMap<String, u32>,
    /// With a table.
    wanted: Vec<Wanted>,
    relations: BTreeMap<String, OfDatabase>,
    /// So many relations were remembered.
    count: usize,
}

/// Of one database, if some of its tables are wanted.
#[derive(Default)]
struct OfDatabase {
    /// For each of [`Names::wanted`], whether a table was found.
    found: BTreeSet<usize>,
    /// The files of all other tables of users.
    unwanted: BTreeSet<u32>,
    /// The files of those that are wanted, and their OIDs.
    files: BTreeSet<u32>,
    oids: BTreeSet<u32>,
    /// The files of TOAST tables and their indexes, by the OID of their table.
    toast: Vec<(u32, u32)>,
}

impl Names {
    fn of(wanted: &[Wanted]) -> Self {
        Names {
            wanted: wanted.iter().filter(|wanted| wanted.table.is_some()).cloned().collect(),
            ..Names::default()
        }
    }

    /// The OIDs of the databases that are meant.
    fn find(&self, wanted: &Wanted, backup: &str) -> Result<Vec<u32>> {
        let name = &wanted.database;
        let like = self.databases.iter().filter(|(known, _)| is_like(known, name));
        let mut oids: Vec<u32> = like.map(|(_, oid)| *oid).collect();
        if oids.is_empty() {
            oids.extend(oid_of(name));
        }
        if let (Some(table), false) = (&wanted.table, oids.is_empty()) {
            return self.find_table(wanted, table, backup).map(|()| oids);
        }
        if !oids.is_empty() {
            return Ok(oids);
        }
        if self.databases.is_empty() {
            return Err(Error::refused(
                format!("backup \"{backup}\" does not have the names of its databases, so \"{name}\" cannot be found"),
                "Give its OID: SELECT oid, datname FROM pg_database.",
            ));
        }
        let told = self
            .databases
            .keys()
            .take(TOLD)
            .map(|name| format!("\"{}\"", name.escape_debug()));
        let told = told.collect::<Vec<_>>().join(", ");
        let more = match self.databases.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Error::refused(
            format!("backup \"{backup}\" knows no database \"{name}\""),
            format!(
                "When it started, there were {told}{more}. A database that was created or renamed later can be given \
                 by its OID."
            ),
        ))
    }

    fn find_table(&self, wanted: &Wanted, table: &str, backup: &str) -> Result<()> {
        let at = self.wanted.iter().position(|known| known.text == wanted.text);
        let of_database = self.relations.iter().filter(|(name, _)| {
            let oid = self.databases.get(*name).copied().unwrap_or_default();
            wanted.is_of(name, oid)
        });
        let mut known = of_database.map(|(_, relations)| relations).peekable();
        if known.peek().is_none() {
            return Err(Error::refused(
                format!(
                    "backup \"{backup}\" does not have the names of its tables, so \"{}\" cannot be found",
                    wanted.text
                ),
                "Restore the whole database with --restore-only DATABASE, and copy the table out of it.",
            ));
        }
        if known.any(|relations| at.is_some_and(|at| relations.found.contains(&at))) {
            return Ok(());
        }
        Err(Error::refused(
            format!(
                "backup \"{backup}\" knows no table \"{table}\" in database \"{}\"",
                wanted.database
            ),
            "Write the schema, too, if it is not \"public\". A table that was created later can only come with its database.",
        ))
    }
}

/// `pg_toast.pg_toast_OID` and `pg_toast.pg_toast_OID_index` belong to the table with this OID.
fn table_of_toast(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("pg_toast.pg_toast_")?;
    oid_of(rest.strip_suffix("_index").unwrap_or(rest))
}

impl Listener for Names {
    type File = FileFlags;

    const RELATIONS: Relations = Relations::Told;

    fn file(&mut self, _: &str, _: FileFlags) -> Result<(), String> {
        Ok(())
    }

    fn database(&mut self, name: &str, oid: u32) -> Result<(), String> {
        if self.databases.len() < LIMIT && name.len() < NAME_LIMIT {
            self.databases.insert(name.to_owned(), oid);
        }
        let Some(relations) = self.relations.get_mut(name) else {
            return Ok(());
        };
        for (table, file) in std::mem::take(&mut relations.toast) {
            if relations.oids.contains(&table) {
                relations.files.insert(file);
            }
        }
        let files = std::mem::take(&mut relations.files);
        relations.unwanted.retain(|file| !files.contains(file));
        Ok(())
    }

    fn relation(&mut self, database: &str, name: &str, relation: &Relation) -> Result<(), String> {
        // Its OID is not known before its end; a database that is given by its OID counts by its name.
        let here: Vec<usize> = (0..self.wanted.len())
            .filter(|at| is_like(database, &self.wanted[*at].database) || oid_of(&self.wanted[*at].database).is_some())
            .collect();
        if here.is_empty() {
            return Ok(());
        }
        self.count += 1 + relation.subtables.len();
        if self.count > RELATIONS_LIMIT {
            return Err("it has more tables than can be chosen from".to_owned());
        }
        let relations = self.relations.entry(database.to_owned()).or_default();
        let matching: Vec<usize> = here
            .into_iter()
            .filter(|at| {
                let table = self.wanted[*at].table.as_deref();
                table.is_some_and(|table| is_like(name, table))
            })
            .collect();
        let is_wanted = !matching.is_empty();
        relations.found.extend(matching);
        let parts = relation.subtables.iter();
        let parts = parts.map(|part| (part.oid, part.relfilenode));
        for (oid, file) in std::iter::once((relation.oid, relation.relfilenode)).chain(parts) {
            if is_wanted {
                relations.files.insert(file);
                relations.oids.insert(oid);
            } else if oid >= FIRST_OF_USERS && file != 0 {
                relations.unwanted.insert(file);
            }
        }
        if let Some(table) = table_of_toast(name) {
            relations.toast.push((table, relation.relfilenode));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
