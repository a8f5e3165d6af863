//! The relations of the database of this process, from its catalogs. There is no SQL, so the owner of the database cannot replace
//! a function, an operator or a setting.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use walarchive_core::{Error, Result};

use super::{Oid, process};

/// `pg_inherits`, which pgrx does not know.
const INHERITS: u32 = 2611;

/// The columns of its rows that are looked at. They come first, and are never NULL.
#[repr(C)]
struct Inherits {
    child: Oid,
    parent: Oid,
}

/// So many relations may be in trees, each counted for every tree that has it: some 100 MB.
const TREES_LIMIT: usize = 500_000;

unsafe extern "C-unwind" {
    /// The file of a relation that `pg_class` has none for.
    #[cfg_attr(feature = "pg15", link_name = "RelationMapOidToFilenode")]
    #[cfg_attr(not(feature = "pg15"), link_name = "RelationMapOidToFilenumber")]
    fn mapped_file(relation: Oid, shared: bool) -> Oid;
}

/// A relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its OID.
    pub oid: u32,
    /// The number of its files; 0 if it has none.
    pub relfilenode: u32,
    /// Of its schema.
    pub schema: String,
    /// Its own. What is not UTF-8 in either of them is replaced.
    pub name: String,
    /// A partition of the last one that is not, or an heir.
    pub is_part: bool,
}

/// Tell all relations with files, and the tops of trees. A tree comes with the relation at its top first. Temporary relations do
/// not belong into a backup.
pub fn each(mut take: impl FnMut(&Relation) -> Result<()>) -> Result<()> {
    process::transaction(|| {
        let schemas = schemas();
        let trees = Trees::of(inheritance()?)?;
        let mut in_trees = BTreeMap::new();
        each_of_catalog(&schemas, |relation, has_file| {
            if trees.members.contains(&relation.oid) {
                in_trees.insert(relation.oid, relation);
            } else if has_file {
                take(&relation)?;
            }
            Ok(())
        })?;
        for (top, members) in &trees.tops {
            let parts = members.iter().filter(|member| *member != top);
            for oid in std::iter::once(top).chain(parts) {
                if let Some(relation) = in_trees.get_mut(oid) {
                    relation.is_part = oid != top;
                    take(relation)?;
                }
            }
        }
        Ok(())
    })
}

/// The relations that inherit from another one, as partitions do.
struct Trees {
    /// All relations of each tree, by the one at its top.
    tops: BTreeMap<u32, BTreeSet<u32>>,
    members: BTreeSet<u32>,
}

impl Trees {
    /// Of the children of each parent.
    fn of(children: BTreeMap<u32, Vec<u32>>) -> Result<Self> {
        let below: BTreeSet<u32> = children.values().flatten().copied().collect();
        let (mut tops, mut count) = (BTreeMap::new(), 0);
        for top in children.keys().filter(|parent| !below.contains(parent)) {
            let (mut members, mut next) = (BTreeSet::from([*top]), vec![*top]);
            while let Some(parent) = next.pop() {
                for child in children.get(&parent).into_iter().flatten() {
                    if members.insert(*child) {
                        next.push(*child);
                    }
                }
                if count + members.len() > TREES_LIMIT {
                    return Err(too_many());
                }
            }
            count += members.len();
            tops.insert(*top, members);
        }
        let members = tops.values().flatten().copied().collect();
        Ok(Trees { tops, members })
    }
}

fn too_many() -> Error {
    Error::refused(
        format!("there are more than {TREES_LIMIT} partitions"),
        "A restore can choose databases, but no tables of this one.",
    )
}

/// The names of the schemas.
fn schemas() -> BTreeMap<u32, String> {
    let mut schemas = BTreeMap::new();
    scan(u32::from(pg_sys::NamespaceRelationId), |row| {
        let row = row.cast::<pg_sys::FormData_pg_namespace>();
        // SAFETY: the tuple has the struct of its catalog.
        let (oid, name) = unsafe { ((*row).oid, name_of(&(*row).nspname)) };
        schemas.insert(u32::from(oid), name);
        Ok(())
    })
    .map(|()| schemas)
    .unwrap_or_default()
}

/// The children of each parent.
fn inheritance() -> Result<BTreeMap<u32, Vec<u32>>> {
    let (mut children, mut count) = (BTreeMap::<u32, Vec<u32>>::new(), 0);
    scan(INHERITS, |row| {
        let row = row.cast::<Inherits>();
        // SAFETY: likewise; these columns are the first of the catalog in all versions.
        let (child, parent) = unsafe { ((*row).child, (*row).parent) };
        count += 1;
        if count > TREES_LIMIT {
            return Err(too_many());
        }
        children.entry(parent.into()).or_default().push(child.into());
        Ok(())
    })?;
    Ok(children)
}

/// Each row of `pg_class` that is no temporary relation, and whether it has files.
fn each_of_catalog(schemas: &BTreeMap<u32, String>, mut take: impl FnMut(Relation, bool) -> Result<()>) -> Result<()> {
    scan(u32::from(pg_sys::RelationRelationId), |row| {
        let row = row.cast::<pg_sys::FormData_pg_class>();
        // SAFETY: the tuple has the struct of its catalog.
        let row = unsafe { &*row };
        if row.relpersistence as u8 == b't' {
            return Ok(());
        }
        let has_file = matches!(row.relkind as u8, b'r' | b'i' | b'S' | b't' | b'm');
        let relfilenode = match u32::from(row.relfilenode) {
            // SAFETY: looks into the map of relations, which this process has read when it connected.
            0 if has_file => u32::from(unsafe { mapped_file(row.oid, row.relisshared) }),
            file => file,
        };
        // A relation of a schema that was made after the schemas were read comes with its database only.
        let Some(schema) = schemas.get(&u32::from(row.relnamespace)) else {
            return Ok(());
        };
        let relation = Relation {
            oid: row.oid.into(),
            relfilenode,
            schema: schema.clone(),
            // SAFETY: a name of the catalog.
            name: unsafe { name_of(&row.relname) },
            is_part: false,
        };
        take(relation, has_file || row.relkind as u8 == b'p')
    })
}

/// Look at all rows of a catalog, as they are now. The pointers are good until `take` returns.
fn scan(catalog: u32, mut take: impl FnMut(*const c_char) -> Result<()>) -> Result<()> {
    let mut taken = Ok(());
    // SAFETY: the relation is locked while it is scanned; each tuple lives until the next one is asked for.
    unsafe {
        // So that VACUUM removes nothing that this scan may see.
        pg_sys::GetTransactionSnapshot();
        let relation = pg_sys::table_open(Oid::from(catalog), pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        while taken.is_ok() {
            process::check_for_interrupts();
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            taken = take(pg_sys::GETSTRUCT(tuple).cast_const().cast());
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    taken
}

/// A name as UTF-8. Raises an ERROR if it is not valid in the database's encoding. Of SQL_ASCII nobody knows what it means.
///
/// # Safety
/// A name of a catalog.
unsafe fn name_of(name: &pg_sys::NameData) -> String {
    let (utf8, sql_ascii) = (pg_sys::pg_enc::PG_UTF8 as i32, pg_sys::pg_enc::PG_SQL_ASCII as i32);
    // SAFETY: a name is a C string. What the conversion answers is the argument, or a C string of the current memory context.
    unsafe {
        let bytes = CStr::from_ptr(name.data.as_ptr());
        let encoding = pg_sys::GetDatabaseEncoding();
        if encoding == utf8 || encoding == sql_ascii {
            return bytes.to_string_lossy().into_owned();
        }
        let converted = pg_sys::pg_server_to_any(bytes.as_ptr(), bytes.to_bytes().len() as i32, utf8);
        if std::ptr::eq(converted.cast_const(), bytes.as_ptr()) {
            return bytes.to_string_lossy().into_owned();
        }
        let text: Cow<'_, str> = CStr::from_ptr(converted).to_string_lossy();
        let text = text.into_owned();
        // A million names are not kept until the transaction ends.
        pg_sys::pfree(converted.cast());
        text
    }
}
