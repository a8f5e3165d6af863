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
use crate::repository::tail::Cover;
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
    /// A chunk is gone: the whole segment is archived by now, or others have replaced it.
    Gone,
}

/// Fetch what the chunks of a segment have, but no more than `most` bytes, to `target`, which appears there in the size of a segment or
/// not at all. It does not if `own`, the server's own file of the segment, has all those bytes: that one may have more.
pub async fn fetch_tail(
    store: &Store,
    segment: Segment,
    cover: &Cover,
    target: &Path,
    most: u64,
    own: Option<PathBuf>,
) -> Result<Brought> {
    let create = {
        let target = target.to_owned();
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
        let add = move || assembly.add(chunk, reader, &url).map(|()| assembly);
        assembly = match blocking(add).await {
            Err(Error::Storage(StorageError::NotFound { .. })) => return Ok(Brought::Gone),
            added => added?,
        };
    }
    blocking(move || assembly.finish(own.as_deref())).await
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
        let read = Format::Zstd
            .decoder(&mut object)
            .map_err(|error| Failure::Object(undecodable(&error)))
            .and_then(|decoded| self.copy(chunk, decoded));
        read.map_err(|failure| match failure {
            Failure::Object(reason) => blame(&mut object, url, Format::Zstd, reason),
            Failure::File(error) => Error::io("write", &self.temporary, error),
        })
    }

    fn copy(&mut self, chunk: TailChunk, mut decoded: impl Read) -> Result<(), Failure> {
        let bytes = chunk.end - chunk.start;
        let mut known = self.reached.saturating_sub(chunk.start);
        let (mut came, mut buffer) = (0, vec![0; CHUNK]);
        loop {
            let read = read_full(&mut decoded, &mut buffer).map_err(|error| Failure::Object(undecodable(&error)))?;
            came += read as u64;
            if came > bytes || (read == 0 && came < bytes) {
                let has = if came > bytes { "more" } else { "fewer" };
                return Err(Failure::Object(format!(
                    "It has {has} than the {bytes} bytes that its name says."
                )));
            }
            if read == 0 {
                return Ok(());
            }
            let skipped = usize::try_from(known).unwrap_or(usize::MAX).min(read);
            known -= skipped as u64;
            self.take(&buffer[skipped..read], chunk.end)?;
        }
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

fn undecodable(error: &io::Error) -> String {
    format!("It cannot be decompressed: {error}.")
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
