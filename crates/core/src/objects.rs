//! Single objects of a store, whole, in bounded memory: read, written, and carried to another store.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::codec::{Compression, Format};
use crate::encrypted::{self, Wrapping, blame};
use crate::error::{Error, Result, StorageError};
use crate::repository::encryption;
use crate::repository::layout::{self, Key};
use walarchive_storage::{Created, RangeReader, Store, Upload, UploadTask, Uploaded};

mod reseal;
mod same;

pub use reseal::reseal_metadata;

/// How an object is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is stored.
    Stored,
    /// Decrypted with the keys of the store, if there are any, and not decompressed.
    Decrypted,
    /// Decompressed, as the suffix of its key says, and not decrypted.
    Decompressed,
    /// Both.
    Plain,
}

/// The fate of an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is written.
    Keep,
    /// It is replaced.
    Replace,
}

/// Is an object encrypted when it is written, if it is of a kind that is?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// As the configuration of the store asks for.
    AsStore,
    /// It is stored as it is, whatever the configuration asks for.
    None,
}

/// Read an object into a sink. Returns the bytes that the sink got, and the sink.
pub async fn read_into<W: Write + Send + 'static>(
    store: &Store,
    key: &str,
    form: Form,
    mut sink: W,
    sink_name: &str,
) -> Result<(u64, W)> {
    let Some(mut reader) = opened(store, key, form).await? else {
        let object = store.object_url(key);
        return Err(StorageError::NotFound { object }.into());
    };
    let (object, sink_name) = (store.object_url(key), sink_name.to_owned());
    let format = match form {
        Form::Stored | Form::Decrypted => Format::Plain,
        Form::Decompressed | Form::Plain => Format::of_key(key).0,
    };
    blocking(move || {
        let mut failure = None;
        let copied = format.decoder(&mut reader).and_then(|mut decoder| {
            let mut watched = Watched {
                sink: &mut sink,
                failure: &mut failure,
            };
            io::copy(&mut decoder, &mut watched)
        });
        match (copied, failure) {
            (Ok(bytes), _) => {
                sink.flush().map_err(|error| Error::io("write", &sink_name, error))?;
                Ok((bytes, sink))
            }
            (Err(error), Some(())) => Err(Error::io("write", &sink_name, error)),
            (Err(error), None) => Err(blame(
                &mut reader,
                object,
                format,
                format!("It cannot be read: {error}."),
            )),
        }
    })
    .await
}

async fn opened(store: &Store, key: &str, form: Form) -> Result<Option<RangeReader>> {
    match form {
        Form::Stored | Form::Decompressed => Ok(RangeReader::open(store, key).await?),
        Form::Decrypted | Form::Plain => encrypted::open(store, key).await,
    }
}

/// Tells a failure of the sink from one of the source.
struct Watched<'a, W> {
    sink: &'a mut W,
    failure: &'a mut Option<()>,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                *self.failure = Some(());
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Write an object from a source, compressed so. Its key must have the suffix of that already.
pub async fn write_from<R: Read + Send + 'static>(
    store: &Store,
    key: &str,
    (compression, sealing): (Compression, Sealing),
    existing: Existing,
    mut source: R,
    source_name: &str,
) -> Result<Created> {
    let wrapping = match sealing {
        Sealing::AsStore if layout::is_encrypted_where_anything_is(key) => {
            encryption::settle(store).await?;
            Wrapping::of(store, compression).await?
        }
        Sealing::AsStore if layout::is_metadata(key) && store.keyring().seals_metadata() => {
            encryption::settle(store).await?;
            Wrapping::of_metadata(store).await?
        }
        Sealing::AsStore => Wrapping::plain(compression),
        Sealing::None => Wrapping::plain(compression),
    };
    let (upload, task, _cancel) = begin(store, key, existing);
    let (source_name, key) = (source_name.to_owned(), key.to_owned());
    let produce = blocking(move || {
        let failed = |error| Error::io("read", &source_name, error);
        let mut encoder = wrapping.begin(&key, upload, 0).map_err(failed)?;
        io::copy(&mut source, &mut encoder).map_err(failed)?;
        let upload = encoder.finish().map_err(failed)?;
        upload.finish().map_err(failed)
    });
    Ok(end(produce, task).await?.1.created)
}

pub(crate) fn begin(store: &Store, key: &str, existing: Existing) -> (Upload, UploadTask, impl Sized + use<>) {
    let cancel = CancellationToken::new();
    // If the future is dropped, the upload ends, and its parts are removed.
    let guard = cancel.clone().drop_guard();
    let (upload, task) = match existing {
        Existing::Keep => store.upload_new(key, cancel),
        Existing::Replace => store.upload(key, cancel),
    };
    (upload, task, guard)
}

/// The side that ended first tells the reason: an upload that failed takes no more, one whose producer failed is cancelled.
pub(crate) async fn end<T>(produce: impl Future<Output = Result<T>>, task: UploadTask) -> Result<(T, Uploaded)> {
    match tokio::join!(produce, task.uploaded()) {
        (Ok(produced), outcome) => Ok((produced, outcome?)),
        (Err(error), Ok(_) | Err(StorageError::Cancelled)) => Err(error),
        (Err(_), Err(error)) => Err(error.into()),
    }
}

/// Carry an object of `size` stored bytes to another store, as it is, and read it there to compare it. One that is there with
/// the same content stays; with another one it is a conflict, unless it may be replaced.
pub(crate) async fn carry(from: &Store, to: &Store, key: &Key, size: u64, existing: Existing) -> Result<Created> {
    if existing == Existing::Keep
        && let Some(there) = to.size(key).await?
    {
        return if there != size {
            let reason = format!("It has {there} bytes there, and {size} here.");
            Err(conflict(from, to, key, reason))
        } else if !same::is_same(from, to, key, size).await? {
            Err(conflict(from, to, key, CONTENTS_DIFFER.to_owned()))
        } else {
            Ok(Created::Exists)
        };
    }
    let mut reader = RangeReader::new(from, key, size);
    let (mut upload, task, _cancel) = begin(to, key, existing);
    upload.expect(size);
    let object = from.object_url(key);
    let produce = blocking(move || {
        let mut sink = Summed::new(upload);
        if let Err(error) = io::copy(&mut reader, &mut sink) {
            let failure = reader.take_failure().map(Error::from);
            return Err(failure.unwrap_or_else(|| Error::io("copy", &object, error)));
        }
        let sum: [u8; 32] = sink.sum.finalize().into();
        sink.inner.finish().map_err(|error| Error::io("copy", &object, error))?;
        Ok(sum)
    });
    let (sum, uploaded) = end(produce, task).await?;
    if uploaded.created == Created::Exists {
        // It came in the meantime; whose it is tells its content.
        tracing::debug!(%key, "it was there when it was to be written");
    }
    let (_, stored) = read_into(to, key, Form::Stored, Summed::new(io::sink()), "memory").await?;
    match stored.sum() == sum {
        true => Ok(uploaded.created),
        false => Err(conflict(from, to, key, CONTENTS_DIFFER.to_owned())),
    }
}

const CONTENTS_DIFFER: &str = "Their contents differ.";

fn conflict(from: &Store, to: &Store, key: &Key, reason: String) -> Error {
    Error::Conflict {
        object: to.object_url(key),
        local: from.object_url(key),
        reason,
    }
}

/// A sink, and the SHA-256 of what it got.
pub(crate) struct Summed<W> {
    pub(crate) inner: W,
    pub(crate) sum: Sha256,
}

impl<W> Summed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Summed {
            inner,
            sum: Sha256::new(),
        }
    }

    pub(crate) fn sum(self) -> [u8; 32] {
        self.sum.finalize().into()
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
