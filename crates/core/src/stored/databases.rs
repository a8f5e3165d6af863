//! Restoring some databases only: of the others, relations come back as files of zeros that take no space.
//!
//! They keep their size, as replay of the WAL goes on writing into them and would stop at a page that is not there. The
//! server starts, and the databases can be dropped; nothing else can be done with them. Their maps of relations are zeros, too:
//! with one that is valid, a session would go on to catalogs that are empty, and that is a PANIC, which ends all sessions.

use std::collections::{BTreeMap, BTreeSet};

use super::metadata::{FileFlags, listen_to, metadata_object};
use super::table::Content;
use crate::error::{Error, Result};
use crate::formats::files_metadata::Listener;
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

/// So many names are told in a hint.
const TOLD: usize = 50;

/// The databases that come back with their content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Databases {
    /// All of them if none is named.
    wanted: Option<BTreeSet<u32>>,
    /// Those of [`OF_SERVER`] whose OIDs the backup tells.
    of_server: BTreeSet<u32>,
}

impl Databases {
    /// The databases that the user named: names, if the backup knows them, or OIDs.
    pub(crate) async fn find(store: &Store, backup: &str, wanted: &[String]) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Databases::default());
        }
        let (key, size) = metadata_object(store, backup).await?;
        let names = listen_to(store, &key, size, Names::default()).await?;
        let found = wanted.iter().map(|name| names.find(name, backup));
        Ok(Databases {
            wanted: Some(found.collect::<Result<_>>()?),
            of_server: OF_SERVER
                .iter()
                .filter_map(|name| names.0.get(*name).copied())
                .collect(),
        })
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
        match !is_whole && (name.first().is_some_and(u8::is_ascii_digit) || name == RELATION_MAP) {
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

/// The names of the databases, as files metadata has them.
#[derive(Default)]
struct Names(BTreeMap<String, u32>);

impl Names {
    fn find(&self, name: &str, backup: &str) -> Result<u32> {
        if let Some(oid) = self.0.get(name).copied().or_else(|| oid_of(name)) {
            return Ok(oid);
        }
        if self.0.is_empty() {
            return Err(Error::refused(
                format!("backup \"{backup}\" does not have the names of its databases, so \"{name}\" cannot be found"),
                "Give its OID: SELECT oid, datname FROM pg_database.",
            ));
        }
        let told = self
            .0
            .keys()
            .take(TOLD)
            .map(|name| format!("\"{}\"", name.escape_debug()));
        let told = told.collect::<Vec<_>>().join(", ");
        let more = match self.0.len().saturating_sub(TOLD) {
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
}

impl Listener for Names {
    type File = FileFlags;

    fn file(&mut self, _: &str, _: FileFlags) -> Result<(), String> {
        Ok(())
    }

    fn database(&mut self, name: &str, oid: u32) -> Result<(), String> {
        if self.0.len() < LIMIT && name.len() < NAME_LIMIT {
            self.0.insert(name.to_owned(), oid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relations_of_other_users_databases_are_left_out() {
        let some = Databases {
            wanted: Some(BTreeSet::from([16_400])),
            of_server: BTreeSet::from([16_500]),
        };
        for (path, expected) in [
            ("base/16401/2619", true),
            ("base/16401/2619_fsm", true),
            ("base/16401/t3_5", false),
            ("pg_tblspc/16390/PG_15_202209061/16401/2619.1", true),
            ("pg_tblspc/16390/PG_15_202209061/16400/2619.1", false),
            ("base/16401/PG_VERSION", false),
            ("base/16401/pg_filenode.map", true),
            ("pg_tblspc/16390/PG_15_202209061/16401/pg_filenode.map", true),
            ("base/16400/pg_filenode.map", false),
            ("base/5/pg_filenode.map", false),
            ("global/pg_filenode.map", false),
            ("base/16400/2619", false),
            ("base/5/2619", false),
            ("base/16500/2619", false),
            ("global/1262", false),
            ("base/16401", false),
            ("base/x/1", false),
            ("base/16401/1/2", false),
        ] {
            assert_eq!(some.content(path.as_bytes()) == Content::LeftOut, expected, "{path}");
            assert_eq!(Databases::default().content(path.as_bytes()), Content::Whole);
        }
    }
}
