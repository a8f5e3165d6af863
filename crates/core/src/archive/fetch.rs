//! Bring one WAL file back.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use futures::future::try_join_all;
use futures::{join, try_join};

use super::identity;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame, is_text};
use crate::error::{Error, MAY_BE_ENCRYPTED, Result, StorageError};
use crate::files::read_full;
use crate::repository::layout::Key;
use crate::repository::{self, layout};
use crate::wal::{FirstPage, LONG_HEADER_BYTES, SegmentSize, WalFileName};
use walarchive_storage::{RangeReader, Store};

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// The largest WAL segment, in bytes: more than that is not written, whatever an object decompresses to.
const LARGEST: u64 = 1 << 30;

/// A WAL file that was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// How the object was compressed.
    pub format: Format,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Fetch a WAL file to `target`, which appears there whole or not at all. The object is looked for with the suffix of
/// `first`, then with those of all other formats. [`Error::NotFound`]: the archive was asked and does not have the file.
pub async fn fetch(store: &Store, name: &WalFileName, target: &Path, first: Format) -> Result<Fetched> {
    fetch_part(store, name, target, first, u64::MAX).await
}

/// The same with no more than so many bytes of the file. Zeros come after them, as in a segment that was not written to its end.
pub async fn fetch_part(store: &Store, name: &WalFileName, target: &Path, first: Format, most: u64) -> Result<Fetched> {
    let Some(found) = find_or_doubt(store, name, first).await? else {
        return Err(Error::Storage(StorageError::NotFound {
            object: store.object_url(&layout::wal(name, first)),
        }));
    };
    bring(store, name, target, found, most).await
}

/// The same, of an object in this format only; none if it is not there. One request tells that.
pub async fn fetch_in(store: &Store, name: &WalFileName, target: &Path, format: Format) -> Result<Option<Fetched>> {
    match find_in(store, name, format).await? {
        Some(found) => bring(store, name, target, found, u64::MAX).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn bring(
    store: &Store,
    name: &WalFileName,
    target: &Path,
    found: Found,
    most: u64,
) -> Result<Fetched> {
    let (format, key, object) = found;
    let url = store.object_url(&key);
    let (name, target) = (*name, target.to_owned());
    let work = move || {
        let temporary = temporary_name(&target);
        let result = download(
            object,
            format,
            &url,
            &name,
            (&temporary, most),
            identity::system_identifier_near(&target),
        );
        let result = result.and_then(|file_bytes| {
            std::fs::rename(&temporary, &target).map_err(|error| Error::io("rename", &temporary, error))?;
            Ok(Fetched { format, file_bytes })
        });
        if result.is_err() {
            // The next attempt overwrites the rest; the error to report is the first one.
            let _ = std::fs::remove_file(&temporary);
        }
        result
    };
    blocking(work).await
}

/// Read a WAL file to its end as [`fetch`] does, with the same checks, and keep nothing of it.
pub async fn read_through(
    store: &Store,
    name: &WalFileName,
    first: Format,
    system_identifier: Option<u64>,
) -> Result<Fetched> {
    let Some((format, key, object)) = find(store, name, first).await? else {
        return Err(Error::Storage(StorageError::NotFound {
            object: store.object_url(&layout::wal(name, first)),
        }));
    };
    let (url, name) = (store.object_url(&key), *name);
    let work = move || match decode(object, format, &url, &name, system_identifier, &mut io::sink()) {
        Ok(file_bytes) => Ok(Fetched { format, file_bytes }),
        Err(Failure::Object(error)) => Err(error),
        Err(Failure::File(error)) => Err(Error::io("write", "/dev/null", error)),
    };
    blocking(work).await
}

/// The formats in which an object is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Formats {
    /// This one, then the others.
    From(Format),
    /// This one.
    Only(Format),
}

/// Read a WAL file into `sink`, with the same checks, and give the sink back; none if the archive does not have the file. `place` is
/// where the sink writes to, for messages.
pub(super) async fn fetch_into<S: Write + Send + 'static>(
    store: &Store,
    name: &WalFileName,
    formats: Formats,
    system_identifier: u64,
    mut sink: S,
    place: PathBuf,
) -> Result<Option<S>> {
    let found = match formats {
        Formats::From(first) => find(store, name, first).await?,
        Formats::Only(format) => find_in(store, name, format).await?,
    };
    let Some((format, key, object)) = found else {
        return Ok(None);
    };
    let (url, name) = (store.object_url(&key), *name);
    let work = move || match decode(object, format, &url, &name, Some(system_identifier), &mut sink) {
        Ok(_) => Ok(Some(sink)),
        Err(Failure::Object(error)) => Err(error),
        Err(Failure::File(error)) => Err(Error::io("write", place, error)),
    };
    blocking(work).await
}

/// An object that is there, and is being read.
pub(super) type Found = (Format, Key, RangeReader);

async fn find(store: &Store, name: &WalFileName, first: Format) -> Result<Option<Found>> {
    match find_in(store, name, first).await? {
        Some(found) => Ok(Some(found)),
        None => find_in_others(store, name, first).await,
    }
}

/// The same. If the object is not there, the repository is: an empty mount point must not look like the end of the archive.
/// What does not depend on another answer is asked at the same time, as recovery waits for each of them.
async fn find_or_doubt(store: &Store, name: &WalFileName, first: Format) -> Result<Option<Found>> {
    let elsewhere = Box::pin(find_elsewhere(store, name, first));
    match name {
        // Recovery asks for history files until there is none.
        WalFileName::History(_) => {
            let (found, elsewhere) = join!(find_in(store, name, first), elsewhere);
            match found? {
                Some(found) => Ok(Some(found)),
                None => elsewhere,
            }
        }
        _ => match find_in(store, name, first).await? {
            Some(found) => Ok(Some(found)),
            None => elsewhere.await,
        },
    }
}

/// In the other formats, and an error if there is no repository.
pub(super) async fn find_elsewhere(store: &Store, name: &WalFileName, first: Format) -> Result<Option<Found>> {
    match try_join!(find_in_others(store, name, first), repository::is_there(store))? {
        (None, false) => Err(repository::none_in(store)),
        (found, _) => Ok(found),
    }
}

pub(super) async fn find_in(store: &Store, name: &WalFileName, format: Format) -> Result<Option<Found>> {
    let key = layout::wal(name, format);
    let object = encrypted::open(store, &key).await?;
    Ok(object.map(|object| (format, key, object)))
}

async fn find_in_others(store: &Store, name: &WalFileName, first: Format) -> Result<Option<Found>> {
    let others = Format::in_order(first)
        .skip(1)
        .map(|format| async move { Ok::<_, Error>(store.size(&layout::wal(name, format)).await?.map(|_| format)) });
    let Some(format) = try_join_all(others).await?.into_iter().flatten().next() else {
        return Ok(None);
    };
    find_in(store, name, format).await
}

/// Fixed, so that what a killed process left is overwritten and does not pile up in `pg_wal`.
pub(super) fn temporary_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".walarchive-tmp");
    name.into()
}

fn download(
    object: RangeReader,
    format: Format,
    url: &str,
    name: &WalFileName,
    (temporary, most): (&Path, u64),
    system_identifier: Option<u64>,
) -> Result<u64> {
    let file = File::create(temporary).map_err(|error| Error::io("create", temporary, error))?;
    let mut file = Part { file, left: most };
    decode(object, format, url, name, system_identifier, &mut file).map_err(|failure| match failure {
        Failure::Object(error) => error,
        Failure::File(error) => Error::io("write", temporary, error),
    })
}

/// A file that gets the first bytes only, and zeros in place of the others.
struct Part {
    file: File,
    left: u64,
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const ZEROS: [u8; 8192] = [0; 8192];
        if self.left == 0 {
            return self.file.write(&ZEROS[..bytes.len().min(ZEROS.len())]);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let written = self.file.write(&bytes[..most])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Failure {
    Object(Error),
    File(io::Error),
}

enum Decoding {
    Source(io::Error),
    Sink(io::Error),
}

/// Decompress the object into `sink`, and check that it is the file of that name. Returns the bytes of the file.
fn decode(
    mut object: RangeReader,
    format: Format,
    url: &str,
    name: &WalFileName,
    system_identifier: Option<u64>,
    sink: &mut impl Write,
) -> Result<u64, Failure> {
    let mut header = Vec::with_capacity(LONG_HEADER_BYTES);
    let mut written = 0;
    let outcome = format
        .decoder(&mut object)
        .map_err(Decoding::Source)
        .and_then(|mut decoded| {
            let mut buffer = vec![0; CHUNK];
            loop {
                let bytes = read_full(&mut decoded, &mut buffer).map_err(Decoding::Source)?;
                if bytes == 0 {
                    return Ok(());
                }
                header.extend(&buffer[..bytes.min(LONG_HEADER_BYTES - header.len())]);
                written += bytes as u64;
                if written > LARGEST {
                    return Err(Decoding::Source(io::Error::other(
                        "it decompresses to more than the largest WAL segment",
                    )));
                }
                sink.write_all(&buffer[..bytes]).map_err(Decoding::Sink)?;
            }
        });
    outcome.map_err(|error| match error {
        Decoding::Sink(error) => Failure::File(error),
        // An object that could not be downloaded is not damaged.
        Decoding::Source(error) => Failure::Object(blame(
            &mut object,
            url,
            format,
            format!("It cannot be decompressed: {error}."),
        )),
    })?;
    check(name, written, &header, system_identifier)
        .map_err(|reason| Failure::Object(blame(&mut object, url, format, reason)))?;
    Ok(written)
}

/// The reason why this cannot be the file of that name, if it cannot.
pub(super) fn check(
    name: &WalFileName,
    bytes: u64,
    header: &[u8],
    system_identifier: Option<u64>,
) -> Result<(), String> {
    let Some(segment) = name.segment() else {
        return match bytes {
            0 => Err("It is empty.".to_owned()),
            _ if !is_text(header) => Err(format!("It is not text, {MAY_BE_ENCRYPTED}.")),
            _ => Ok(()),
        };
    };
    let header: &[u8; LONG_HEADER_BYTES] = header
        .first_chunk()
        .ok_or_else(|| format!("It has {bytes} bytes, which is not a WAL segment."))?;
    let page = FirstPage::parse(header);
    let size =
        SegmentSize::new(page.segment_bytes.into()).map_err(|_| "Its first page has no WAL page header.".to_owned())?;
    page.check(segment, size, system_identifier)?;
    if bytes != size.bytes() {
        return Err(format!(
            "It has {bytes} bytes, a WAL segment of this cluster has {}.",
            size.bytes()
        ));
    }
    Ok(())
}
