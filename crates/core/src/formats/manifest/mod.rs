//! PostgreSQL's `backup_manifest`, as `pg_verifybackup` reads it: version 1 up to PostgreSQL 16, version 2 from 17 on.

mod digest;
mod parse;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lsn::Lsn;

pub use parse::{Manifest, Summary, listen, parse};
pub use write::ManifestWriter;

/// How the content of a file is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChecksumAlgorithm {
    /// CRC-32C: cheap, and enough against accidents.
    #[default]
    Crc32c,
    /// SHA-256: against intent too, at several times the cost.
    Sha256,
}

impl ChecksumAlgorithm {
    /// As the manifest calls it.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha256 => "SHA256",
        }
    }

    /// The bytes of one checksum.
    pub fn length(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha256 => 32,
        }
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "crc32c" => Ok(ChecksumAlgorithm::Crc32c),
            "sha256" => Ok(ChecksumAlgorithm::Sha256),
            _ => Err(Error::config(
                format!("checksum algorithm \"{text}\" is not supported"),
                "Use \"crc32c\" or \"sha256\".",
            )),
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChecksumAlgorithm::Crc32c => "crc32c",
            ChecksumAlgorithm::Sha256 => "sha256",
        })
    }
}

/// Sums up the content of one file.
#[derive(Debug, Clone)]
pub struct Checksummer(State);

#[derive(Debug, Clone)]
enum State {
    Crc32c(u32),
    Sha256(Box<Sha256>),
}

impl Checksummer {
    /// Of no bytes yet.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Checksummer(match algorithm {
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha256 => State::Sha256(Box::new(Sha256::new())),
        })
    }

    /// The next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            State::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The bytes of the checksum as the manifest prints them: those of a CRC as in a little endian machine's memory.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            State::Crc32c(crc) => crc.to_le_bytes().to_vec(),
            State::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Relative to the data directory, with no leading slash. Do not trust a path that was read from a manifest.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// To the second.
    pub last_modified: DateTime<Utc>,
    /// Absent if the manifest has none, or of an algorithm that is not known.
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// A stretch of one timeline's WAL that the backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// Timeline.
    pub timeline: u32,
    /// Its first byte.
    pub start: Lsn,
    /// The byte after its last.
    pub end: Lsn,
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_postgresql() {
        let sum = |algorithm| {
            let mut sum = Checksummer::new(algorithm);
            sum.update(b"1234");
            sum.update(b"56789");
            hex(&sum.finish())
        };
        // The check value of CRC-32C is E3069283; the manifest prints its bytes from the lowest.
        assert_eq!(sum(ChecksumAlgorithm::Crc32c), "839206e3");
        assert_eq!(
            sum(ChecksumAlgorithm::Sha256),
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
        );
        assert!("md5".parse::<ChecksumAlgorithm>().is_err());
        assert_eq!(
            "SHA256".parse::<ChecksumAlgorithm>().expect("known"),
            ChecksumAlgorithm::Sha256
        );
    }

    #[test]
    fn hex_comes_back() {
        assert_eq!(unhex("00ffA5"), Some(vec![0, 255, 0xA5]));
        for text in ["0", "0g", "+1"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
