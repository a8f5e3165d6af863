//! The parts that are taken from each backup of a chain.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tars::Tar;
use crate::formats::Sentinel;

/// One backup of a chain, as far as a restore needs it.
#[derive(Debug)]
pub(crate) struct Level {
    /// 0 is the backup that is restored, 1 its parent.
    pub(crate) depth: usize,
    pub(crate) backup: String,
    /// The tars of the backup that are needed. The last one of depth 0 has `pg_control`.
    pub(crate) tars: Vec<Tar>,
    /// Which files are taken from here.
    pub(crate) taken: Kinds,
    /// So many bytes may its tars unpack to; none where that is not known, or the manifest tells the size of each file.
    pub(crate) most: Option<u64>,
}

/// The bytes that labels and other small files may add to the size that a sentinel announces.
const SLACK: u64 = 16 << 20;

/// So many bytes may the tars of a backup unpack to, as its sentinel announces; WAL-G 1.x did not.
pub(crate) fn announced(sentinel: &Sentinel) -> Option<u64> {
    let announced = Some(sentinel.uncompressed_size).filter(|bytes| *bytes > 0);
    announced.map(|bytes| bytes.saturating_add(SLACK))
}

/// How a file is taken from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Whole.
    Full,
    /// As an increment on an older backup's file.
    Increment,
}

/// Of each file of a table, whether and how it is taken from one backup, in two bits.
#[derive(Debug, Default, Clone)]
pub(crate) struct Kinds(Vec<u8>);

impl Kinds {
    /// None of so many files.
    pub(crate) fn none(files: usize) -> Self {
        Kinds(vec![0; files.div_ceil(4)])
    }

    /// None if it is not taken.
    pub(crate) fn get(&self, file: usize) -> Option<Taken> {
        match self.0[file / 4] >> (file % 4 * 2) & 3 {
            1 => Some(Taken::Full),
            2 => Some(Taken::Increment),
            _ => None,
        }
    }

    pub(crate) fn take(&mut self, file: usize, taken: Taken) {
        let bits = match taken {
            Taken::Full => 1,
            Taken::Increment => 2,
        };
        self.put(file, bits);
    }

    /// It is not taken after all.
    pub(crate) fn leave(&mut self, file: usize) {
        self.put(file, 0);
    }

    fn put(&mut self, file: usize, bits: u8) {
        let (byte, shift) = (&mut self.0[file / 4], file % 4 * 2);
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
            kinds.take(file, Taken::Increment);
        }
        kinds.take(3, Taken::Full);
        kinds.leave(0);
        let found: Vec<_> = (0..9)
            .filter_map(|file| kinds.get(file).map(|kind| (file, kind)))
            .collect();
        assert_eq!(found, [(3, Taken::Full), (8, Taken::Increment)]);
        assert!(!bits.set(64) && bits.set(64) && !bits.set(0));
        assert_eq!((0..65).filter(|file| bits.get(*file)).collect::<Vec<_>>(), [0, 64]);
    }
}
