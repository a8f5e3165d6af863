//! Reading the local WAL file: checked, compressed, and known again later.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;

use crate::cluster::ClusterIdentity;
use crate::codec::Compression;
use crate::error::{Error, Result};
use crate::wal::{FirstPage, LONG_HEADER_BYTES, WalFileName};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// A history file has a line a timeline; more than this is not one. In bytes.
const LARGEST_HISTORY: u64 = 16 << 20;

/// Tells a file from another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    inode: u64,
    size: u64,
    modified_ns: i64,
}

impl Fingerprint {
    /// Of the file as it is now.
    pub fn of(path: &Path) -> Result<Self> {
        std::fs::metadata(path)
            .map(|meta| Self::from(&meta))
            .map_err(|error| Error::io("open", path, error))
    }

    /// As plain numbers, for memory that is shared between processes.
    pub fn to_numbers(self) -> [u64; 3] {
        [self.inode, self.size, self.modified_ns as u64]
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(meta: &Metadata) -> Self {
        Fingerprint {
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec()),
        }
    }
}

/// A local WAL file, compressed.
pub(super) struct Source {
    pub fingerprint: Fingerprint,
    pub file_bytes: u64,
    pub body: Bytes,
}

/// Read, check and compress the file. Only the compressed form is held in memory.
pub(super) fn read(
    path: &Path,
    name: &WalFileName,
    identity: &ClusterIdentity,
    compression: Compression,
) -> Result<Source> {
    let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let meta = file.metadata().map_err(|error| Error::io("open", path, error))?;
    let fingerprint = Fingerprint::from(&meta);
    check_size(path, name, meta.len(), identity)?;

    let mut encoder = compression
        .encoder(Vec::with_capacity(meta.len() as usize / 4))
        .map_err(|error| Error::io("compress", path, error))?;
    encoder
        .pledge(meta.len())
        .map_err(|error| Error::io("compress", path, error))?;
    let mut buffer = vec![0; CHUNK];
    let mut file_bytes = 0;
    loop {
        let bytes = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read", path, error)),
        };
        if file_bytes == 0 {
            check_header(path, name, &buffer[..bytes], identity)?;
        }
        file_bytes += bytes as u64;
        encoder
            .write_all(&buffer[..bytes])
            .map_err(|error| Error::io("compress", path, error))?;
    }
    let body = encoder.finish().map_err(|error| Error::io("compress", path, error))?;

    let after = file.metadata().map_err(|error| Error::io("read", path, error))?;
    if file_bytes != meta.len() || Fingerprint::from(&after) != fingerprint {
        return Err(Error::io(
            "read",
            path,
            io::Error::other("it changed while it was read"),
        ));
    }
    Ok(Source {
        fingerprint,
        file_bytes,
        body: body.into(),
    })
}

fn check_size(path: &Path, name: &WalFileName, bytes: u64, identity: &ClusterIdentity) -> Result<()> {
    let reason = match name.segment() {
        Some(_) if bytes != identity.segment_size.bytes() => {
            format!(
                "It has {bytes} bytes, a WAL segment of this cluster has {}.",
                identity.segment_size.bytes()
            )
        }
        None if bytes == 0 => "It is empty.".to_owned(),
        None if bytes > LARGEST_HISTORY => format!("It has {bytes} bytes, which is too much for a history file."),
        _ => return Ok(()),
    };
    Err(Error::InvalidWal {
        file: path.display().to_string(),
        reason,
    })
}

fn check_header(path: &Path, name: &WalFileName, start: &[u8], identity: &ClusterIdentity) -> Result<()> {
    let Some(segment) = name.segment() else { return Ok(()) };
    let invalid = |reason| Error::InvalidWal {
        file: path.display().to_string(),
        reason,
    };
    let header: &[u8; LONG_HEADER_BYTES] = start
        .first_chunk()
        .ok_or_else(|| invalid("It has no page header.".to_owned()))?;
    let page = FirstPage::parse(header);
    page.check(segment, identity.segment_size, Some(identity.system_identifier))
        .map_err(invalid)
}
