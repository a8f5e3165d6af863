//! Reading the local WAL file: checked, compressed, and known again later.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::encrypted::{KeyedDigest, Wrapping};
use crate::error::{Error, Result};
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::Key;
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

    /// Was the file written for the last time before that moment, by the clock of this machine?
    pub fn is_older_than(&self, moment: SystemTime) -> bool {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i128::from(self.modified_ns) < since.as_nanos() as i128
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

/// A local WAL file that was opened for archiving, and whose size is right.
pub(super) struct SegmentSource {
    path: PathBuf,
    name: WalFileName,
    file: File,
    fingerprint: Fingerprint,
    bytes: u64,
}

impl SegmentSource {
    /// Open the file and check its size.
    pub(super) fn open(path: &Path, name: &WalFileName, identity: &ClusterIdentity) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let meta = file.metadata().map_err(|error| Error::io("open", path, error))?;
        check_size(path, name, meta.len(), identity)?;
        Ok(SegmentSource {
            path: path.to_owned(),
            name: *name,
            file,
            fingerprint: Fingerprint::from(&meta),
            bytes: meta.len(),
        })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that is open, whatever has its path by now.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tells the file from another of its name.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Read, check, compress and encrypt the file into `sink`, which gets the object with this key, and give that back; with a digest of
    /// the file where the object cannot be read again. An error that `sink` gave is one of compressing.
    pub(super) fn compress<W: Write + Send + 'static>(
        mut self,
        identity: &ClusterIdentity,
        wrapping: &Wrapping,
        key: &Key,
        sink: W,
    ) -> Result<(W, Option<KeyedDigest>)> {
        let path = &self.path;
        let failed = |error| Error::io("compress", path, error);
        let mut encoder = wrapping.begin(key, sink, 0).map_err(failed)?;
        encoder.pledge(self.bytes).map_err(failed)?;
        let mut digest = wrapping.digest();
        let mut buffer = vec![0; CHUNK];
        let mut read = 0;
        loop {
            let bytes = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", path, error)),
            };
            if read == 0 {
                check_header(path, &self.name, &buffer[..bytes], identity)?;
            }
            read += bytes as u64;
            if let Some(digest) = &mut digest {
                digest.update(&buffer[..bytes]);
            }
            encoder.write_all(&buffer[..bytes]).map_err(failed)?;
        }
        let sink = encoder.finish().map_err(failed)?;
        let after = self.file.metadata().map_err(|error| Error::io("read", path, error))?;
        if read != self.bytes || Fingerprint::from(&after) != self.fingerprint {
            let changed = io::Error::other("it changed while it was read");
            return Err(Error::io("read", path, changed));
        }
        Ok((sink, digest))
    }
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
