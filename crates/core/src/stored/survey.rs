//! Sums that are added up while the files of a backup are read.

use std::collections::{BTreeMap, BTreeSet};

use super::databases::{Databases, database_of};
use super::essential::Essential;
use super::facts::Content;

/// More tablespaces and databases than any cluster has: what is in more of them counts for the data directory.
const LIMIT: usize = 100_000;

/// File systems give files whole blocks of so many bytes.
pub(crate) const BLOCK: u64 = 4096;

/// Sums over the files of a manifest.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) databases: Databases,
    /// The bytes that files take, by the OID of their tablespace, those of the data directory under none.
    pub(crate) bytes: BTreeMap<Option<u32>, u64>,
    /// The same for files that are to be behind links, by the path of the link; they count there alone. The deepest ones come
    /// last.
    pub(crate) linked: Vec<(Vec<u8>, u64)>,
    /// The OIDs of the databases that have files.
    pub(crate) found: BTreeSet<u32>,
    pub(crate) essential: Essential,
}

impl Survey {
    pub(crate) fn new(databases: Databases) -> Self {
        Survey {
            databases,
            ..Survey::default()
        }
    }

    /// Look at a file, and say how it comes back.
    pub(crate) fn look_at(&mut self, path: &[u8], size: u64) -> Content {
        self.essential.note(path);
        if let Some((oid, _)) = database_of(path)
            && self.found.len() < LIMIT
        {
            self.found.insert(oid);
        }
        let content = self.databases.content(path);
        if content == Content::Whole {
            let bytes = size.div_ceil(BLOCK).saturating_mul(BLOCK);
            let is_behind = |link: &[u8]| {
                let below = path.strip_prefix(link);
                below.is_some_and(|below| below.is_empty() || below[0] == b'/')
            };
            if let Some((_, sum)) = self.linked.iter_mut().rev().find(|(link, _)| is_behind(link)) {
                *sum += bytes;
                return content;
            }
            let tablespace = tablespace_of(path).filter(|_| self.bytes.len() < LIMIT);
            *self.bytes.entry(tablespace).or_default() += bytes;
        }
        content
    }
}

/// The OID of the tablespace that has a file; none for the data directory.
pub(crate) fn tablespace_of(path: &[u8]) -> Option<u32> {
    let rest = path.strip_prefix(b"pg_tblspc/")?;
    let oid = rest.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(oid).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_behind_a_link_counts_there_alone() {
        let mut survey = Survey::new(Databases::default());
        survey.linked = vec![
            (b"base".to_vec(), 0),
            (b"postgresql.conf".to_vec(), 0),
            (b"base/5".to_vec(), 0),
        ];
        for path in [
            "base/1/1259",
            "base/5/1259",
            "base/50/1259",
            "base/5/1",
            "postgresql.conf",
            "pg_xact/0000",
            "basement",
        ] {
            survey.look_at(path.as_bytes(), 1);
        }
        survey.look_at(b"pg_tblspc/16400/PG_15_1/5/1", 1);
        let bytes: Vec<u64> = survey.linked.iter().map(|(_, bytes)| bytes / BLOCK).collect();
        assert_eq!(bytes, [2, 1, 2]);
        assert_eq!(survey.bytes, [(None, 2 * BLOCK), (Some(16_400), BLOCK)].into());
    }
}
