//! Does a backup hold what no server starts without, and what no database can be used without?

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::databases::database_of;
use crate::data_dir::PG_VERSION;
use crate::places;

/// More databases than any cluster has: those beyond are not looked at.
const LIMIT: usize = 100_000;

/// The OID of `template1`, which `CREATE DATABASE` copies.
const TEMPLATE1: u32 = 1;

/// The files that were seen.
#[derive(Debug, Default)]
pub(crate) struct Essential {
    has_version: bool,
    has_transactions: bool,
    /// By the OID: is its `PG_VERSION` there?
    databases: BTreeMap<u32, bool>,
    /// Those that the backup names.
    named: BTreeSet<u32>,
}

impl Essential {
    /// Note a file, by its path with slashes between the components and none around them.
    pub(crate) fn note(&mut self, path: &[u8]) {
        match database_of(path) {
            Some((oid, name)) if self.databases.len() < LIMIT || self.databases.contains_key(&oid) => {
                *self.databases.entry(oid).or_default() |= name == PG_VERSION.as_bytes();
            }
            Some(_) => {}
            None => {
                self.has_version |= path == PG_VERSION.as_bytes();
                let above = Path::new(OsStr::from_bytes(path)).parent();
                self.has_transactions |= above.is_some_and(places::is_transactions);
            }
        }
    }

    /// Note a database that the backup names.
    pub(crate) fn name(&mut self, oid: u32) {
        if self.named.len() < LIMIT {
            self.named.insert(oid);
        }
    }

    /// The files that a server of this major version misses, and why they matter, as a sentence. Nothing is asked of the databases
    /// `incomplete`.
    pub(crate) fn missing(&self, incomplete: &[u32], major: u32) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        let transactions = places::transactions(major);
        let needed = [(self.has_version, PG_VERSION), (self.has_transactions, transactions)];
        for (_, what) in needed.iter().filter(|(is_there, _)| !is_there) {
            let detail = "It is not in the backup: a server does not start without it.";
            missing.push(((*what).to_owned(), detail.to_owned()));
        }
        let has_template = self.databases.contains_key(&TEMPLATE1);
        let is_expected = self.named.is_empty() || self.named.contains(&TEMPLATE1);
        if !has_template && is_expected && !incomplete.contains(&TEMPLATE1) {
            let detail =
                "It is not in the backup: without it no database can be created, and tools find none to connect to.";
            missing.push((format!("base/{TEMPLATE1}"), detail.to_owned()));
        }
        let without = self.databases.iter().filter(|(_, has_version)| !**has_version);
        for (oid, _) in without.filter(|(oid, _)| !incomplete.contains(oid)) {
            let detail = "It is not in the backup: nobody can connect to the database, unless it was dropped or created while \
                          the backup was taken.";
            missing.push((format!("base/{oid}/PG_VERSION"), detail.to_owned()));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(paths: &[&str], incomplete: &[u32]) -> Vec<String> {
        let mut essential = Essential::default();
        paths.iter().for_each(|path| essential.note(path.as_bytes()));
        let missing = essential.missing(incomplete, 15).into_iter();
        missing.map(|(path, _)| path).collect()
    }

    #[test]
    fn what_is_missing_is_named() {
        let whole = [
            "PG_VERSION",
            "pg_xact/0000",
            "base/1/PG_VERSION",
            "pg_tblspc/9/PG_15_1/7/PG_VERSION",
            "base/7/1259",
        ];
        assert_eq!(missing(&whole, &[]), [""; 0]);
        assert_eq!(missing(&whole[1..], &[]), ["PG_VERSION"]);
        assert_eq!(
            missing(&["base/7/1259", "pg_xact"], &[]),
            ["PG_VERSION", "pg_xact", "base/1", "base/7/PG_VERSION"]
        );
        assert_eq!(
            missing(&["base/7/1259", "PG_VERSION", "pg_clog/0000"], &[1, 7]),
            [""; 0]
        );
        let mut named = Essential::default();
        whole[..2].iter().for_each(|path| named.note(path.as_bytes()));
        named.name(5);
        assert!(
            named.missing(&[], 15).is_empty(),
            "template1 may have been made anew, with another OID"
        );
    }
}
