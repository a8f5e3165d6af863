//! One object, produced by a blocking thread while it is uploaded.

use std::io::{self, Write};

use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::error::{Error, Result, StorageError};
use crate::repository::layout::Key;
use walarchive_storage::{Store, Upload, UploadTask};

/// Run `produce` on a thread that may block, with the writing end of an upload; it must finish the upload. Returns what it
/// returned and the bytes that were stored. If both sides fail, the error is that of the side that failed first.
pub(crate) async fn store_stream<T: Send + 'static>(
    store: &Store,
    key: &Key,
    cancel: &CancellationToken,
    produce: impl FnOnce(Upload) -> Result<T> + Send + 'static,
) -> Result<(T, u64)> {
    let (value, task) = start_stream(store, key, cancel, produce).await?;
    Ok((value, task.outcome().await?))
}

/// The same, but this returns when everything is produced, and the last of it is still on its way to the store. The caller must
/// wait for that in any case: what arrives later than the rest was removed would stay.
pub(crate) async fn start_stream<T: Send + 'static>(
    store: &Store,
    key: &Key,
    cancel: &CancellationToken,
    produce: impl FnOnce(Upload) -> Result<T> + Send + 'static,
) -> Result<(T, UploadTask)> {
    let (upload, task) = store.upload(key, cancel.clone());
    let error = match blocking(move || produce(upload)).await {
        Ok(value) => return Ok((value, task)),
        Err(error) => error,
    };
    match task.outcome().await {
        // A producer that fails gives its upload up, which then has no reason of its own; one whose upload failed only
        // knows that nobody takes its bytes any more.
        Ok(_) | Err(StorageError::Cancelled) if !cancel.is_cancelled() => Err(error),
        Err(failure) => Err(failure.into()),
        Ok(_) => Err(error),
    }
}

/// The error of writing into an upload whose store did not fail: that of the encoder, if it is ever seen.
pub(crate) fn sink_error(object: &str, error: io::Error) -> Error {
    Error::Storage(StorageError::Store {
        operation: "write",
        object: object.to_owned(),
        reason: error.to_string(),
    })
}

/// Passes everything on and tells how much it was.
pub(crate) struct Counted<W, F> {
    pub(crate) inner: W,
    pub(crate) count: F,
}

impl<W: Write, F: Fn(u64)> Write for Counted<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        (self.count)(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
