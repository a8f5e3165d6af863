//! The directories of a restore that exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::links::LinkPlace;
use super::root::Root;
use super::tablespaces::Tablespace;
use crate::error::Result;

/// Those of the directories of a restore that exist, open and locked from the plan on.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    pub(crate) target: Option<Root>,
    /// By OID.
    pub(crate) tablespaces: BTreeMap<Vec<u8>, Root>,
    /// The target of `pg_wal`, if it is a link.
    pub(crate) wal: Option<WalDirectory>,
    /// The new targets of other links.
    pub(crate) links: Vec<LinkPlace>,
}

/// The target of `pg_wal`, if it is a link.
#[derive(Debug)]
pub(crate) struct WalDirectory {
    /// Of the link: `pg_wal` or `pg_xlog`.
    pub(crate) name: &'static str,
    /// As the link has it.
    pub(crate) path: PathBuf,
    /// If it exists.
    pub(crate) root: Option<Root>,
}

impl Directories {
    pub(crate) fn find(target: &Path, tablespaces: &[Tablespace]) -> Result<Self> {
        let mut found = Directories {
            target: Root::find(target)?,
            tablespaces: BTreeMap::new(),
            wal: None,
            links: Vec::new(),
        };
        for tablespace in tablespaces {
            let Some(location) = &tablespace.location else { continue };
            if let Some(root) = Root::find(location)? {
                found.tablespaces.insert(tablespace.oid.clone().into_bytes(), root);
            }
        }
        let roots = found.target.iter().chain(found.tablespaces.values());
        roots.into_iter().try_for_each(Root::lock)?;
        Ok(found)
    }
}
