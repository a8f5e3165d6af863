//! Put together what the tail has of a segment.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::archive::fetch::temporary_name;
use crate::archive::identity;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result, StorageError};
use crate::files::read_full;
use crate::repository::layout::TailChunk;
use crate::repository::tail::{Cover, read_chunk};
use crate::wal::{PageHeaders, Segment};
use walarchive_storage::{RangeReader, Store};

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// Chunks that are asked for ahead: most are small, and each is a request.
const AHEAD: usize = 4;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// The segment is there, with so many bytes of WAL and zeros behind them.
    Fetched(u64),
    /// The server has all that itself.
    AlreadyThere,
    /// The first chunk is damaged.
    Nothing,
    /// A chunk is gone: the whole segment is archived by now, or others have replaced it.
    Gone,
}

/// What is given out.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// No more bytes than these.
    pub most: Option<u64>,
    /// The server's own file of the segment. If it has all that, it may have more, and nothing is given out.
    pub own: Option<PathBuf>,
    /// Of a damaged chunk nothing, and no more, where else it would be an error.
    pub before_damage: bool,
}

/// Fetch what the chunks of a segment have, within these limits, to `target`, which appears there in the size of a segment or not at all.
pub async fn fetch_tail(
    store: &Store,
    segment: Segment,
    cover: &Cover,
    target: &Path,
    limits: Limits,
) -> Result<Brought> {
    let create = {
        let (target, most) = (target.to_owned(), limits.most.unwrap_or(u64::MAX));
        move || Assembly::create(segment, target, most)
    };
    let mut assembly = blocking(create).await?;
    let chunks = cover.chunks.clone();
    let mut opened = futures::stream::iter(chunks)
        .map(|chunk| async move {
            let key = chunk.key();
            let reader = encrypted::open(store, &key).await?;
            Ok::<_, Error>(reader.map(|reader| (chunk, reader, store.object_url(&key))))
        })
        .buffered(AHEAD);
    while let Some(next) = opened.next().await {
        let Some((chunk, reader, url)) = next? else {
            return Ok(Brought::Gone);
        };
        let add = move || {
            let begin = assembly.reached;
            let added = assembly.add(chunk, reader, &url);
            Ok((assembly, begin, added))
        };
        let (begin, added);
        (assembly, begin, added) = blocking(add).await?;
        match added {
            Ok(()) => {}
            Err(Error::Storage(StorageError::NotFound { .. })) => return Ok(Brought::Gone),
            Err(error) if limits.before_damage && error.is_content() => {
                tracing::warn!(%error, "the WAL of \"{segment}\" is given out up to a part of its tail that cannot be read");
                if begin == 0 {
                    return Ok(Brought::Nothing);
                }
                assembly.reached = begin;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    blocking(move || assembly.finish(limits.own.as_deref())).await
}

/// The segment as far as it is put together. It is removed when this is dropped before it has its name.
struct Assembly {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    headers: PageHeaders,
    /// So many bytes of the segment came.
    reached: u64,
    /// No more of them are written.
    most: u64,
}

impl Assembly {
    fn create(segment: Segment, target: PathBuf, most: u64) -> Result<Self> {
        let temporary = temporary_name(&target);
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary);
        Ok(Assembly {
            file: opened.map_err(|error| Error::io("create", &temporary, error))?,
            headers: PageHeaders::new(segment, identity::system_identifier_near(&target)),
            temporary,
            target,
            reached: 0,
            most,
        })
    }

    /// Add a chunk, which begins where the one before ends, or earlier.
    fn add(&mut self, chunk: TailChunk, mut object: RangeReader, url: &str) -> Result<()> {
        let read = read_chunk(chunk, self.reached, &mut object, |bytes| self.take(bytes, chunk.end));
        read.map_err(|failure| match failure {
            Failure::Object(reason) => blame(&mut object, url, Format::Zstd, reason),
            Failure::File(error) => Error::io("write", &self.temporary, error),
        })
    }

    /// The next bytes of the segment, from a chunk that ends at `end`.
    fn take(&mut self, bytes: &[u8], end: u64) -> Result<(), Failure> {
        self.headers.feed(bytes).map_err(Failure::Object)?;
        if let Some(size) = self.headers.size().map(|size| size.bytes()).filter(|size| end > *size) {
            return Err(Failure::Object(format!(
                "Its name says that it ends at byte {end} of the segment, a WAL segment of this cluster has {size}."
            )));
        }
        let left = usize::try_from(self.most.saturating_sub(self.reached)).unwrap_or(usize::MAX);
        self.file
            .write_all(&bytes[..bytes.len().min(left)])
            .map_err(Failure::File)?;
        self.reached += bytes.len() as u64;
        Ok(())
    }

    fn finish(self, own: Option<&Path>) -> Result<Brought> {
        let Some(size) = self.headers.size() else {
            return Err(Error::damaged(
                self.target.display().to_string(),
                format!(
                    "The tail has {} bytes of it, which is less than the header of a page.",
                    self.reached
                ),
            ));
        };
        let has = self.reached.min(self.most);
        if own.is_some_and(|own| begins_with(own, &self.temporary, has)) {
            return Ok(Brought::AlreadyThere);
        }
        let failed = |error| Error::io("write", &self.temporary, error);
        // More of it may have been written of a chunk that proved damaged then.
        self.file.set_len(has).map_err(failed)?;
        self.file.set_len(size.bytes()).map_err(failed)?;
        // The server may write into it later, when the disk is full. Not each file system can, and none has to.
        let room = i64::try_from(size.bytes()).unwrap_or(0);
        let _ = fallocate(&self.file, FallocateFlags::empty(), 0, room);
        std::fs::rename(&self.temporary, &self.target).map_err(|error| Error::io("rename", &self.temporary, error))?;
        Ok(Brought::Fetched(has))
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

enum Failure {
    Object(String),
    File(io::Error),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure::Object(reason)
    }
}

/// Does this file begin with the first bytes of the other? One that cannot be read does not.
fn begins_with(file: &Path, other: &Path, bytes: u64) -> bool {
    let compare = || -> io::Result<bool> {
        let (mut file, mut other) = (File::open(file)?.take(bytes), File::open(other)?.take(bytes));
        let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            let (a, b) = (read_full(&mut file, &mut ours)?, read_full(&mut other, &mut theirs)?);
            if ours[..a] != theirs[..b] {
                return Ok(false);
            }
            if a == 0 {
                return Ok(true);
            }
        }
    };
    compare().unwrap_or(false)
}

#[cfg(test)]
mod tests;
