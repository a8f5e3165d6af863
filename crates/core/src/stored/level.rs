//! What is taken from each backup of a chain.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Stored;
use super::tars::Tar;
use crate::formats::Sentinel;

/// One backup of a chain, as far as a restore needs it.
#[derive(Debug)]
pub(crate) struct Level {
    /// 0 is the backup that is restored, 1 its parent.
    pub(crate) depth: usize,
    pub(crate) backup: String,
    /// Those of the backup in which something is needed. The last one of depth 0 has `pg_control`.
    pub(crate) tars: Vec<Tar>,
    /// Which files are taken from here.
    pub(crate) taken: Kinds,
    /// So many bytes may its tars unpack to; none where that is not known, or the manifest tells the size of each file.
    pub(crate) most: Option<u64>,
}

/// What labels and other small files may add to the size that a sentinel announces, in bytes.
const SLACK: u64 = 16 << 20;

/// So many bytes may the tars of a backup unpack to, as its sentinel announces; WAL-G 1.x did not.
pub(crate) fn announced(sentinel: &Sentinel) -> Option<u64> {
    let announced = Some(sentinel.uncompressed_size).filter(|bytes| *bytes > 0);
    announced.map(|bytes| bytes.saturating_add(SLACK))
}

/// Of each file of a table, whether and how it is taken from one backup, in two bits.
#[derive(Debug, Default, Clone)]
pub(crate) struct Kinds(Vec<u8>);

impl Kinds {
    /// None of so many files.
    pub(crate) fn none(files: usize) -> Self {
        Kinds(vec![0; files.div_ceil(4)])
    }

    pub(crate) fn get(&self, file: usize) -> Option<Stored> {
        match self.0[file / 4] >> (file % 4 * 2) & 3 {
            1 => Some(Stored::Full),
            2 => Some(Stored::Increment),
            _ => None,
        }
    }

    /// What is skipped is not taken.
    pub(crate) fn set(&mut self, file: usize, stored: Stored) {
        let (byte, shift) = (&mut self.0[file / 4], file % 4 * 2);
        let bits = match stored {
            Stored::Full => 1,
            Stored::Increment => 2,
            Stored::Skipped => 0,
        };
        *byte = *byte & !(3 << shift) | bits << shift;
    }
}

/// A bit for each file, to be set by any thread.
#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<AtomicU64>);

impl Bits {
    /// None is set.
    pub(crate) fn none(files: usize) -> Self {
        Bits((0..files.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn get(&self, file: usize) -> bool {
        self.0[file / 64].load(Ordering::Relaxed) >> (file % 64) & 1 != 0
    }

    /// Set it. Returns whether it was set before.
    pub(crate) fn set(&self, file: usize) -> bool {
        let bit = 1 << (file % 64);
        self.0[file / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_not_disturb_each_other() {
        let mut kinds = Kinds::none(9);
        let bits = Bits::none(65);
        for file in [0, 3, 8] {
            kinds.set(file, Stored::Increment);
        }
        kinds.set(3, Stored::Full);
        kinds.set(0, Stored::Skipped);
        let found: Vec<_> = (0..9)
            .filter_map(|file| kinds.get(file).map(|kind| (file, kind)))
            .collect();
        assert_eq!(found, [(3, Stored::Full), (8, Stored::Increment)]);
        assert!(!bits.set(64) && bits.set(64) && !bits.set(0));
        assert_eq!((0..65).filter(|file| bits.get(*file)).collect::<Vec<_>>(), [0, 64]);
    }
}
