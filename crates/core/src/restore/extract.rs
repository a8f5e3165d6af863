//! One tar: every member checked before it gets its name.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tar::EntryType;
use tokio_util::sync::CancellationToken;

use super::apply::Progress;
use super::member::{BACKUP_LABEL, MemberPath, PG_CONTROL, TABLESPACE_MAP};
use super::members::{Stop, TRUNCATED, each_member};
use super::plan::{Manifest, Tar, TarKind};
use super::tree::{NewFile, Tree};
use crate::error::{Error, Result};
use crate::formats::files_metadata::FilesMetadata;
use crate::formats::manifest::Checksummer;
use crate::storage::RangeReader;

/// Bytes that are copied at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What all tars of a restore share.
pub(super) struct Context {
    pub(super) tree: Tree,
    pub(super) manifest: Option<Manifest>,
    pub(super) files: Option<FilesMetadata>,
    pub(super) restored: Mutex<HashSet<MemberPath>>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: CancellationToken,
}

/// Unpack a tar; blocks. `object` is its URL, for messages.
pub(super) fn extract(context: &Context, tar: &Tar, object: &str, mut reader: RangeReader) -> Result<()> {
    let source = Counted {
        inner: &mut reader,
        context,
    };
    let unpacker = Unpacker {
        context,
        tar,
        object,
        control: RefCell::new(None),
    };
    match unpacker.unpack(source) {
        Ok(()) => Ok(()),
        Err(Stop::Other(error)) => Err(error),
        Err(Stop::Read(error)) => Err(match reader.take_failure() {
            Some(failure) => failure,
            None if context.cancel.is_cancelled() => Error::Cancelled,
            None => Error::damaged(object, format!("It cannot be unpacked: {error}.")),
        }),
    }
}

struct Unpacker<'a> {
    context: &'a Context,
    tar: &'a Tar,
    object: &'a str,
    /// `pg_control` and its mode, until the tar is known to be whole: it makes the directory one that a server starts on.
    control: RefCell<Option<(NewFile, u32)>>,
}

impl Unpacker<'_> {
    fn unpack(&self, source: impl Read + Send) -> Result<(), Stop> {
        if !each_member(self.tar.format, source, |entry| self.member(entry))? {
            return Err(self.damaged(TRUNCATED).into());
        }
        match self.control.take() {
            Some((control, mode)) => Ok(control.keep(mode, true)?),
            None => Ok(()),
        }
    }

    fn member(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Stop> {
        let raw = entry.path_bytes().into_owned();
        let refused = |reason: &str| {
            let name = String::from_utf8_lossy(&raw).escape_debug().to_string();
            Stop::Other(self.damaged(format!("Its member \"{name}\" is refused: {reason}.")))
        };
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = MemberPath::parse(&raw).map_err(refused)?;
        let mode = entry.header().mode()?;
        match kind {
            EntryType::Directory => Ok(self.context.tree.create_directory(&path, mode)?),
            EntryType::Regular | EntryType::Continuous if raw.ends_with(b"/") => {
                Err(refused("a file has the name of a directory"))
            }
            EntryType::Regular | EntryType::Continuous => self.file(entry, &path, mode),
            EntryType::Symlink if path.content_is_left_out() => {
                tracing::warn!("\"{path}\" was a symbolic link; it is restored as an empty directory");
                Ok(self.context.tree.create_directory(&path, 0o700)?)
            }
            EntryType::Symlink => Err(refused("it is a symbolic link")),
            EntryType::Link => Err(refused("it is a hard link")),
            EntryType::Char | EntryType::Block => Err(refused("it is a device")),
            EntryType::Fifo => Err(refused("it is a named pipe")),
            _ => Err(refused("it is neither a file nor a directory")),
        }
    }

    fn file(&self, entry: &mut tar::Entry<'_, impl Read>, path: &MemberPath, mode: u32) -> Result<(), Stop> {
        let context = self.context;
        let wrong = |reason: String| Stop::Other(self.damaged(format!("Its member \"{path}\" {reason}.")));
        let is_control = path.is(PG_CONTROL);
        // The links to tablespaces were made already, to where they are now.
        if path.is_never_restored() || path.is(TABLESPACE_MAP) {
            return Ok(());
        }
        if is_control && self.tar.kind != TarKind::Control {
            return Err(wrong(
                "does not belong into this tar, as it must be restored last".to_owned(),
            ));
        }
        let always = is_control || path.is(BACKUP_LABEL);
        if let Some(files) = &context.files
            && !always
            && !files.files.contains_key(&path.key())
        {
            tracing::debug!("\"{path}\" is not in the backup's files metadata and was left out");
            return Ok(());
        }
        let size = entry.size();
        let expected = context
            .manifest
            .as_ref()
            .map(|manifest| manifest.files.get(&path.to_path()));
        let expected = match expected {
            Some(None) if !path.is(BACKUP_LABEL) => return Err(wrong("is not in the backup manifest".to_owned())),
            expected => expected.flatten(),
        };
        if let Some(expected) = expected.filter(|expected| expected.size != size) {
            return Err(wrong(format!(
                "has {size} bytes, the backup manifest says {}",
                expected.size
            )));
        }
        if !context.restored.lock().insert(path.clone()) {
            return Err(wrong("was restored already: it is in the backup twice".to_owned()));
        }
        let mut new = context.tree.create_file(path)?;
        let mut sum = expected
            .and_then(|expected| expected.checksum.as_ref())
            .map(|(algorithm, checksum)| (Checksummer::new(*algorithm), checksum));
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES)).max(1)];
        let mut copied = 0;
        loop {
            if context.cancel.is_cancelled() {
                return Err(Stop::Other(Error::Cancelled));
            }
            let bytes = entry.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            let bytes = &buffer[..bytes];
            if let Some((sum, _)) = &mut sum {
                sum.update(bytes);
            }
            new.file
                .write_all(bytes)
                .map_err(|error| Error::io("write", &new.path, error))?;
            copied += bytes.len() as u64;
        }
        if copied != size {
            return Err(wrong(format!("is truncated: it has {copied} of {size} bytes")));
        }
        if let Some((sum, checksum)) = sum
            && sum.finish() != *checksum
        {
            return Err(wrong("has a checksum other than in the backup manifest".to_owned()));
        }
        if is_control {
            *self.control.borrow_mut() = Some((new, mode));
        } else {
            new.keep(mode, false)?;
        }
        context.progress.files_done.fetch_add(1, Ordering::Relaxed);
        context.progress.bytes_written.fetch_add(copied, Ordering::Relaxed);
        Ok(())
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::damaged(self.object, reason)
    }
}

/// Counts downloaded bytes, and stops when the restore is cancelled.
struct Counted<'a> {
    inner: &'a mut RangeReader,
    context: &'a Context,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.context.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        let bytes = self.inner.read(buffer)?;
        self.context
            .progress
            .bytes_done
            .fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
