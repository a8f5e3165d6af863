//! Facts about one file of a backup.

use super::level::Taken;
use crate::formats::manifest::{ChecksumAlgorithm, Checksummer};

/// The manifest's entry for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// In bytes.
    pub(crate) size: u64,
    /// None if the manifest has none that is known.
    pub(crate) sum: Option<Sum>,
}

/// A checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    Crc32c(u32),
    Sha256([u8; 32]),
}

impl Sum {
    pub(crate) fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            ChecksumAlgorithm::Crc32c => bytes
                .try_into()
                .ok()
                .map(|bytes| Sum::Crc32c(u32::from_le_bytes(bytes))),
            ChecksumAlgorithm::Sha256 => bytes.try_into().ok().map(Sum::Sha256),
        }
    }

    /// Of no bytes yet, in the same algorithm.
    pub(crate) fn begin(self) -> Checksummer {
        Checksummer::new(match self {
            Sum::Crc32c(_) => ChecksumAlgorithm::Crc32c,
            Sum::Sha256(_) => ChecksumAlgorithm::Sha256,
        })
    }

    pub(crate) fn is(self, content: Checksummer) -> bool {
        let bytes = content.finish();
        match self {
            Sum::Crc32c(sum) => bytes == sum.to_le_bytes(),
            Sum::Sha256(sum) => bytes == sum,
        }
    }
}

/// How a backup has a file, as its files metadata says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Whole, in a tar.
    Full,
    /// As an increment, in a tar.
    Increment,
    /// Unchanged since the parent, in no tar.
    Skipped,
}

impl Stored {
    /// How it is taken from that backup; none if the backup does not hold it.
    pub(crate) fn taken(self) -> Option<Taken> {
        match self {
            Stored::Full => Some(Taken::Full),
            Stored::Increment => Some(Taken::Increment),
            Stored::Skipped => None,
        }
    }
}

/// The numbers of a member in the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// In the manifest; where there is none, as `described`.
    pub(crate) own: Option<usize>,
    /// In the files metadata.
    pub(crate) described: Option<usize>,
}

impl Found {
    /// The number that stands for it.
    pub(crate) fn number(self) -> Option<usize> {
        self.own.or(self.described)
    }
}

/// How a file comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Whole,
    /// The file is there, and reads as zeros: it is of a database that was not asked for.
    LeftOut,
}
