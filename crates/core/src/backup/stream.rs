//! A backup of what a server sends as tars, from another machine: they are taken apart, and their members go into tars of the
//! repository's own. Nothing is kept but what the lists say, so memory is bounded.
//!
//! Members come once and in the server's order, so one thread reads and packs. Page checksums are not verified here: a page
//! that the server was writing could not be read again. The server can do that while it sends.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tar::{Entry, EntryType};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use walarchive_storage::{Store, UploadTask};

use super::pack::packer::{Packer, Shared};
use super::progress::Phase;
use super::read::essential::{Databases, Essential};
use super::read::rules;
use super::read::walk::{Attributes, Directory};
use super::state::{Backup, SentTar};
use super::{BackupRequest, TablespaceLink};
use crate::blocking::blocking;
use crate::codec::Format;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL, TABLESPACE_MAP, wal_directory_name};
use crate::error::{Error, Result, StorageError};
use crate::repository::{encryption, layout};
use crate::stored::member::MemberPath;

/// The longest `backup_label` or `tablespace_map` that is taken, in bytes.
const LABEL_LIMIT: u64 = 8 << 20;

/// A part of what a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A tar begins: that of the tablespace with this OID, or of the data directory, which is the last one.
    Archive(Option<u32>),
    /// Bytes of it.
    Bytes(Bytes),
    /// That was all. Without it the stream was cut off.
    End,
}

/// Files that the server sent beside the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// The content of `backup_label`.
    pub backup_label: String,
    /// The content of `tablespace_map`, if there are tablespaces.
    pub tablespace_map: Option<String>,
}

impl Backup {
    /// In place of [`Backup::copy`]: take what is sent. `bytes` is about how much that will be. The data directory of the request
    /// is one of another machine, and is not touched.
    pub async fn copy_stream(
        &mut self,
        tablespaces: Vec<TablespaceLink>,
        bytes: u64,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<Labels> {
        let guard = self.shared.stop.clone().drop_guard();
        let claim = Arc::clone(&self.claim);
        self.tablespaces = tablespaces;
        self.progress.set_total(0, bytes);
        self.progress.set_phase(Phase::Copying);
        let taking = Taking {
            parts: Parts {
                store: self.store.clone(),
                shared: Arc::clone(&self.shared),
                backup: self.name.clone(),
                format: self.options.compression.format(),
                tar_bytes: self.options.tar_bytes,
                most: self.options.concurrency.max(1),
                runtime: Handle::current(),
                current: None,
                begun: 0,
                sent: Vec::new(),
                under_way: Vec::new(),
            },
            keys: rules::keys_within(&self.request.data_dir, &self.request.configuration.keys),
            request: self.request.clone(),
            found: Found::default(),
        };
        let mut taken = Box::pin(blocking(move || taking.run(Incoming::new(pieces))));
        let taken = tokio::select! {
            taken = &mut taken => taken,
            never = claim.keep() => match never {},
            refused = encryption::until_refused(&self.store, encryption::AGREED_FOR) => {
                // No upload outlives this.
                self.shared.stop.cancel();
                let _ = taken.await;
                Err(refused)
            }
        };
        let taken = match taken {
            Ok((sent, found)) => self.add(sent, found).await,
            Err(error) => Err(error),
        };
        if taken.is_ok() {
            guard.disarm();
        }
        taken.map_err(|error| match self.cancel.is_cancelled() {
            true => Error::Cancelled,
            false => error,
        })
    }

    /// The result of the copy, and `pg_control` as the last one.
    async fn add(&mut self, sent: Vec<SentTar>, found: Found) -> Result<Labels> {
        found
            .essential
            .check(&self.request.data_dir, self.request.major_version())?;
        let (content, owner) = found.control.ok_or_else(|| incomplete(PG_CONTROL))?;
        let control = ControlFile::parse(&content).map_err(|reason| Error::damaged(PG_CONTROL, reason))?;
        if control.system_identifier != self.request.system_identifier {
            return Err(Error::damaged(
                PG_CONTROL,
                format!(
                    "It belongs to system identifier {}, not {}.",
                    control.system_identifier, self.request.system_identifier
                ),
            ));
        }
        let label = found.label.ok_or_else(|| incomplete(BACKUP_LABEL))?;
        self.label_owner = Some(label.1);
        self.catalog_bytes = found.bytes + PG_CONTROL_BYTES;
        self.known = Databases::of_stream(&found.essential);
        self.essential = found.essential;
        self.tars.extend(sent);
        self.control = Some((content, owner));
        let now = self.progress.snapshot();
        self.progress.set_total(now.files_done, now.bytes_done);
        Ok(Labels {
            backup_label: label.0,
            tablespace_map: found.map,
        })
    }
}

fn incomplete(what: &str) -> Error {
    Error::server(
        format!("the server sent a base backup without {what}"),
        "Take the backup again; if this persists, report it.",
    )
}

/// Facts that the stream tells.
#[derive(Debug, Default)]
struct Found {
    essential: Essential,
    control: Option<(Vec<u8>, Attributes)>,
    label: Option<(String, Attributes)>,
    map: Option<String>,
    bytes: u64,
}

struct Taking {
    parts: Parts,
    request: BackupRequest,
    /// Files with keys of the repository in the data directory.
    keys: Vec<PathBuf>,
    found: Found,
}

impl Taking {
    fn run(mut self, mut incoming: Incoming) -> Result<(Vec<SentTar>, Found)> {
        let taken = self.archives(&mut incoming).and_then(|()| self.parts.close_all());
        match taken {
            Ok(()) => Ok((self.parts.sent, self.found)),
            Err(error) => Err(self.parts.give_up(error)),
        }
    }

    fn archives(&mut self, incoming: &mut Incoming) -> Result<()> {
        while let Some(tablespace) = incoming.next_archive()? {
            let base = tablespace.map_or_else(PathBuf::new, |oid| Path::new("pg_tblspc").join(oid.to_string()));
            let mut archive = tar::Archive::new(&mut *incoming);
            let entries = archive.entries().map_err(broken)?;
            for entry in entries {
                self.member(&base, entry.map_err(broken)?)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, base: &Path, mut entry: Entry<'_, &mut Incoming>) -> Result<()> {
        let raw = entry.path_bytes().into_owned();
        let raw = raw.strip_prefix(b"./").unwrap_or(&raw);
        let name = raw.strip_suffix(b"/").unwrap_or(raw);
        // The root of the archive itself.
        if name.is_empty() || name == b"." {
            return Ok(());
        }
        let member = MemberPath::parse(name).map_err(|reason| {
            Error::damaged("the tar that the server sends", format!("It has a bad path: {reason}."))
        })?;
        let path = base.join(OsStr::from_bytes(&member.joined()));
        let owner = attributes(&entry)?;
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(path, owner),
            EntryType::Regular | EntryType::Continuous => self.file(&path, &owner, &mut entry),
            // The server sends links of tablespaces only, which are made again by what it says of these.
            other => {
                tracing::debug!(path = %path.display(), kind = ?other, "left out of the backup");
                Ok(())
            }
        }
    }

    fn directory(&mut self, path: PathBuf, owner: Attributes) -> Result<()> {
        if self.is_in_emptied(&path) && !path.starts_with(wal_directory_name(self.request.major_version())) {
            return Ok(());
        }
        self.parts.packer(0)?.directory(&Directory { path, owner })
    }

    fn file(&mut self, path: &Path, owner: &Attributes, entry: &mut Entry<'_, &mut Incoming>) -> Result<()> {
        let size = entry.size();
        if path == Path::new(PG_CONTROL) {
            self.found.control = Some((whole(entry, PG_CONTROL_BYTES)?, *owner));
            return Ok(());
        }
        if path == Path::new(BACKUP_LABEL) {
            self.found.label = Some((text(whole(entry, LABEL_LIMIT)?)?, *owner));
            return Ok(());
        }
        if path == Path::new(TABLESPACE_MAP) {
            self.found.map = Some(text(whole(entry, LABEL_LIMIT)?)?).filter(|map| !map.is_empty());
            return Ok(());
        }
        let is_key = self.keys.iter().any(|key| key == path);
        if is_key || rules::is_left_out(path) || self.is_in_emptied(path) {
            return Ok(());
        }
        self.found.essential.note(path);
        self.found.bytes += size;
        let taken = self.parts.packer(size)?.streamed(path, size, owner, entry);
        taken?;
        self.parts.filled(size)
    }

    /// Is it below a directory that is kept empty?
    fn is_in_emptied(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|above| {
            !above.as_os_str().is_empty()
                && (rules::is_emptied(above, self.request.major_version())
                    || self.request.emptied.iter().any(|emptied| emptied == above))
        })
    }
}

fn attributes(entry: &Entry<'_, &mut Incoming>) -> Result<Attributes> {
    let header = entry.header();
    let number = |value: io::Result<u64>| value.map_err(broken).map(|value| u32::try_from(value).unwrap_or(0));
    let modified = header.mtime().map_err(broken)?;
    Ok(Attributes {
        mode: header.mode().map_err(broken)? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        modified: (i64::try_from(modified).unwrap_or(0), 0),
    })
}

fn whole(entry: &mut Entry<'_, &mut Incoming>, limit: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    entry.take(limit + 1).read_to_end(&mut content).map_err(broken)?;
    match content.len() as u64 <= limit {
        true => Ok(content),
        false => Err(Error::damaged(
            "the tar that the server sends",
            format!("A file has more than {limit} bytes that has few in every cluster."),
        )),
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| {
        Error::refused(
            "the location of a tablespace is not UTF-8",
            "Give its directory a name in UTF-8. A backup cannot describe another one.",
        )
    })
}

/// The part of the stream that could not be read.
fn broken(error: io::Error) -> Error {
    Error::server(
        format!("the base backup that the server sends cannot be read: {error}"),
        "Look for why the server stopped in its log, and take the backup again.",
    )
}

/// The tars that are made of the stream.
struct Parts {
    store: Store,
    shared: Arc<Shared>,
    backup: String,
    format: Format,
    tar_bytes: u64,
    /// So many uploads may be under way beside the one that is filled.
    most: usize,
    runtime: Handle,
    current: Option<Part>,
    begun: usize,
    sent: Vec<SentTar>,
    under_way: Vec<JoinHandle<Result<SentTar>>>,
}

struct Part {
    packer: Packer,
    task: UploadTask,
    file_name: String,
    bytes: u64,
}

impl Parts {
    /// The packer of a tar that has room for a file of that size.
    fn packer(&mut self, size: u64) -> Result<&mut Packer> {
        let is_full = |part: &Part| part.bytes > 0 && part.bytes.saturating_add(size) > self.tar_bytes;
        if self.current.as_ref().is_some_and(is_full) {
            self.close()?;
        }
        let part = match self.current.take() {
            Some(part) => part,
            None => self.open()?,
        };
        Ok(&mut self.current.insert(part).packer)
    }

    fn filled(&mut self, bytes: u64) -> Result<()> {
        if let Some(part) = &mut self.current {
            part.bytes += bytes;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<Part> {
        self.begun += 1;
        let file_name = layout::part_name(self.begun, self.format);
        let key = layout::tar(&self.backup, &file_name);
        // An upload is a task of the runtime.
        let _entered = self.runtime.enter();
        let (upload, task) = self.store.upload(&key, self.shared.stop.clone());
        let packer = Packer::new(Arc::clone(&self.shared), (&key, self.store.object_url(&key)), upload, 0)?;
        Ok(Part {
            packer,
            task,
            file_name,
            bytes: 0,
        })
    }

    /// The tar is complete; its last bytes are sent while the next one is filled.
    fn close(&mut self) -> Result<()> {
        let Some(Part {
            packer,
            task,
            file_name,
            ..
        }) = self.current.take()
        else {
            return Ok(());
        };
        let packed = match packer.finish() {
            Ok(packed) => packed,
            Err(error) => return Err(self.reason(task, error)),
        };
        self.under_way.push(self.runtime.spawn(async move {
            task.outcome().await?;
            Ok(SentTar { file_name, packed })
        }));
        while self.under_way.len() > self.most {
            let first = self.under_way.remove(0);
            self.end(first)?;
        }
        Ok(())
    }

    fn close_all(&mut self) -> Result<()> {
        self.close()?;
        // After a failure the others stay there, and are waited for.
        while !self.under_way.is_empty() {
            let first = self.under_way.remove(0);
            self.end(first)?;
        }
        Ok(())
    }

    fn end(&mut self, task: JoinHandle<Result<SentTar>>) -> Result<()> {
        let ended = self.runtime.block_on(task);
        self.sent.push(ended.unwrap_or(Err(Error::Cancelled))?);
        Ok(())
    }

    /// Nothing more is sent. Waits for what is under way, so that no upload outlives this. Returns the reason: what the store
    /// says of the tar that is being filled comes before an error of writing into it.
    fn give_up(mut self, error: Error) -> Error {
        let error = match self.current.take() {
            Some(Part { packer, task, .. }) => {
                drop(packer);
                self.reason(task, error)
            }
            None => error,
        };
        self.shared.stop.cancel();
        for task in std::mem::take(&mut self.under_way) {
            let _ = self.runtime.block_on(task);
        }
        error
    }

    fn reason(&self, task: UploadTask, error: Error) -> Error {
        match self.runtime.block_on(task.outcome()) {
            Ok(_) | Err(StorageError::Cancelled) => error,
            Err(of_store) => of_store.into(),
        }
    }
}

/// The pieces, as something to read. An archive ends where the next one begins.
struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    bytes: Bytes,
    /// Bytes after the archive that is read.
    next: Option<Piece>,
}

impl Incoming {
    fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Incoming {
            pieces,
            bytes: Bytes::new(),
            next: None,
        }
    }

    /// Pass over what is left of this archive. None at the end of the stream.
    fn next_archive(&mut self) -> Result<Option<Option<u32>>> {
        while self.fill().map_err(broken)? {
            self.bytes.clear();
        }
        match self.next.take() {
            Some(Piece::Archive(tablespace)) => Ok(Some(tablespace)),
            _ => Ok(None),
        }
    }

    /// Have bytes of this archive, if there are any.
    fn fill(&mut self) -> io::Result<bool> {
        while self.bytes.is_empty() && self.next.is_none() {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.bytes = bytes,
                Some(other) => self.next = Some(other),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "it ended before its end was reached",
                    ));
                }
            }
        }
        Ok(!self.bytes.is_empty())
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let count = buffer.len().min(self.bytes.len());
        self.bytes.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
