//! Reading the local WAL file: checked, compressed, and known again later.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::frames::Frame;
use crate::encrypted::{KeyedDigest, Wrapped, Wrapping};
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
    /// An error if the file is not as it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let path = &self.path;
        let now = self.file.metadata().map_err(|error| Error::io("read", path, error))?;
        match Fingerprint::from(&now) == self.fingerprint {
            true => Ok(()),
            false => Err(Error::io(
                "read",
                path,
                io::Error::other("it changed while it was read"),
            )),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Read, check, compress and encrypt the file into `sink`, which gets the object with this key, and give that back; with a digest of
    /// the file where the object cannot be read again. What `frames` have of the file is not compressed again. An error that `sink`
    /// gave is one of compressing.
    pub(super) fn compress<W: Write + Send + 'static>(
        self,
        identity: &ClusterIdentity,
        wrapping: &Wrapping,
        key: &Key,
        frames: &[Frame],
        sink: W,
    ) -> Result<(W, Option<KeyedDigest>)> {
        let mut compressing = self.begin(identity, wrapping, key, frames, sink)?;
        while compressing.go_on()? {}
        compressing.finish()
    }

    /// Begin to do so.
    pub(super) fn begin<W: Write + Send + 'static>(
        mut self,
        identity: &ClusterIdentity,
        wrapping: &Wrapping,
        key: &Key,
        frames: &[Frame],
        sink: W,
    ) -> Result<Compressing<W>> {
        let frames = self.those_of_file(frames)?;
        let path = &self.path;
        let failed = |error| Error::io("compress", path, error);
        let compressed = frames.iter().map(|frame| &*frame.content);
        let mut encoder = wrapping.begin_after(key, sink, compressed).map_err(failed)?;
        let begun = frames.last().map_or(0, |frame| frame.end);
        encoder.pledge(self.bytes - begun).map_err(failed)?;
        let digest = wrapping.digest();
        check_header(path, &self.name, &self.file, identity)?;
        // A digest is of the whole file.
        let read = if digest.is_none() { begun } else { 0 };
        self.file
            .seek(SeekFrom::Start(read))
            .map_err(|error| Error::io("read", path, error))?;
        Ok(Compressing {
            source: self,
            encoder,
            digest,
            begun,
            read,
            buffer: vec![0; CHUNK],
        })
    }

    /// The frames, if they have what is in the file. The file is what counts: whatever they were made of is compared with it.
    fn those_of_file<'a>(&self, frames: &'a [Frame]) -> Result<&'a [Frame]> {
        let failed = |error| Error::io("read", &self.path, error);
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        for frame in frames {
            if frame.start != at || frame.end > self.bytes {
                return Ok(&[]);
            }
            let mut crc = 0;
            while at < frame.end {
                let bytes = buffer.len().min(usize::try_from(frame.end - at).unwrap_or(usize::MAX));
                self.file.read_exact_at(&mut buffer[..bytes], at).map_err(failed)?;
                crc = crc32c::crc32c_append(crc, &buffer[..bytes]);
                at += bytes as u64;
            }
            if crc != frame.crc {
                tracing::warn!(name = %self.name, "differs from what the tail has of it, and is compressed anew");
                return Ok(&[]);
            }
        }
        Ok(frames)
    }
}

/// A file that is being compressed. It can be left at any time, and gone on with elsewhere.
pub(super) struct Compressing<W: Write + Send + 'static> {
    source: SegmentSource,
    encoder: Wrapped<W>,
    digest: Option<KeyedDigest>,
    /// So many bytes of the file come compressed before what is compressed here.
    begun: u64,
    read: u64,
    buffer: Vec<u8>,
}

impl<W: Write + Send + 'static> Compressing<W> {
    /// Compress the next bytes. False: there are none.
    pub(super) fn go_on(&mut self) -> Result<bool> {
        let path = &self.source.path;
        let bytes = loop {
            match self.source.file.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(bytes) => break bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", path, error)),
            }
        };
        if let Some(digest) = &mut self.digest {
            digest.update(&self.buffer[..bytes]);
        }
        // Where the frames end, a buffer may be of both.
        let known = usize::try_from(self.begun.saturating_sub(self.read)).unwrap_or(bytes);
        self.encoder
            .write_all(&self.buffer[known.min(bytes)..bytes])
            .map_err(|error| Error::io("compress", path, error))?;
        self.read += bytes as u64;
        Ok(true)
    }

    /// Write the end, and see that the file was the same all the time.
    pub(super) fn finish(self) -> Result<(W, Option<KeyedDigest>)> {
        let source = self.source;
        let path = &source.path;
        let sink = self
            .encoder
            .finish()
            .map_err(|error| Error::io("compress", path, error))?;
        if self.read != source.bytes {
            let changed = io::Error::other("its size changed while it was read");
            return Err(Error::io("read", path, changed));
        }
        source.check_unchanged()?;
        Ok((sink, self.digest))
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

fn check_header(path: &Path, name: &WalFileName, file: &File, identity: &ClusterIdentity) -> Result<()> {
    let Some(segment) = name.segment() else { return Ok(()) };
    let mut header = [0; LONG_HEADER_BYTES];
    file.read_exact_at(&mut header, 0)
        .map_err(|error| Error::io("read", path, error))?;
    FirstPage::parse(&header)
        .check(segment, identity.segment_size, Some(identity.system_identifier))
        .map_err(|reason| Error::InvalidWal {
            file: path.display().to_string(),
            reason,
        })
}
