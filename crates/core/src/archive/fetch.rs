//! Bring one WAL file back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures::future::try_join_all;

use super::identity;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::blame;
use crate::error::{Error, Result, StorageError};
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
    let Some((format, key, object)) = find(store, name, first).await? else {
        // An empty mount point must not look like the end of the archive.
        if !repository::is_there(store).await? {
            return Err(repository::none_in(store));
        }
        return Err(Error::Storage(StorageError::NotFound {
            object: store.object_url(&layout::wal(name, first)),
        }));
    };
    let url = store.object_url(&key);
    let (name, target) = (*name, target.to_owned());
    let work = move || {
        let temporary = temporary_name(&target);
        let result = download(
            object,
            format,
            &url,
            &name,
            &temporary,
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

async fn find(store: &Store, name: &WalFileName, first: Format) -> Result<Option<(Format, Key, RangeReader)>> {
    let key = layout::wal(name, first);
    if let Some(object) = RangeReader::open(store, &key).await? {
        return Ok(Some((first, key, object)));
    }
    let others = Format::in_order(first)
        .skip(1)
        .map(|format| async move { Ok::<_, Error>(store.size(&layout::wal(name, format)).await?.map(|_| format)) });
    let Some(format) = try_join_all(others).await?.into_iter().flatten().next() else {
        return Ok(None);
    };
    let key = layout::wal(name, format);
    Ok(RangeReader::open(store, &key)
        .await?
        .map(|object| (format, key, object)))
}

/// Fixed, so that what a killed process left is overwritten and does not pile up in `pg_wal`.
fn temporary_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".walarchive-tmp");
    name.into()
}

fn download(
    object: RangeReader,
    format: Format,
    url: &str,
    name: &WalFileName,
    temporary: &Path,
    system_identifier: Option<u64>,
) -> Result<u64> {
    let mut file = File::create(temporary).map_err(|error| Error::io("create", temporary, error))?;
    decode(object, format, url, name, system_identifier, &mut file).map_err(|failure| match failure {
        Failure::Object(error) => error,
        Failure::File(error) => Error::io("write", temporary, error),
    })
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
                let bytes = match decoded.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Decoding::Source(error)),
                };
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
fn check(name: &WalFileName, bytes: u64, header: &[u8], system_identifier: Option<u64>) -> Result<(), String> {
    let Some(segment) = name.segment() else {
        return if bytes == 0 {
            Err("It is empty.".to_owned())
        } else {
            Ok(())
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
