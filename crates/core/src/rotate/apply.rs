//! Carrying a survey out.

use std::io;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;
use walarchive_storage::Store;
use walarchive_storage::crypt::{Method, Sealer};

use super::progress::RotateProgress;
use super::survey::Survey;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{KeyedDigest, blame, reader};
use crate::error::{Error, Result, StorageError};
use crate::objects::{Existing, Form, Summed, begin, end, read_into, reseal_metadata};
use crate::repository::encryption;
use crate::repository::inventory::read_history;
use crate::repository::layout::{self, Key};
use crate::repository::unread::{Digest, write_digest, write_timeline};
use crate::wal::{TimelineHistory, WalFileName};

/// Objects that are on their way at a time.
const AT_A_TIME: usize = 4;

/// What was encrypted again.
#[derive(Debug, Default)]
pub struct Rotated {
    /// How many objects.
    pub objects: u64,
    /// Their stored bytes, before.
    pub bytes: u64,
    /// Objects that were deleted or replaced meanwhile.
    pub vanished: u64,
    /// Why objects could not be read to their end. They stay as they are.
    pub damaged: Vec<Error>,
}

/// Encrypt again what the survey found under another key. `store` has the fence of whoever may write there.
pub async fn apply(
    store: &Store,
    survey: &Survey,
    progress: &RotateProgress,
    cancel: &CancellationToken,
) -> Result<Rotated> {
    progress.done.store(0, Ordering::Relaxed);
    let keyring = store.keyring().clone();
    let sealer = blocking(move || Ok(keyring.sealer()?)).await?;
    if sealer.method().is_none() {
        return Err(Error::config(
            "no method is set to encrypt with",
            "Give --encryption and the key, as for every verb that writes.",
        ));
    }
    // Who has only the old key writes nothing from now on, so that nothing comes under it behind this.
    encryption::settle(store).await?;
    progress.total.store(survey.stale.len() as u64, Ordering::Relaxed);
    let mut work = futures::stream::iter(&survey.stale)
        .map(|(key, size)| again(store, &sealer, key, *size, cancel))
        .buffer_unordered(AT_A_TIME);
    let mut rotated = Rotated::default();
    while let Some(bytes) = work.next().await {
        match bytes {
            // The others are not to wait for it.
            Err(error) if error.is_content() => rotated.damaged.push(error),
            Err(error) => return Err(error),
            Ok(Some(bytes)) => {
                rotated.objects += 1;
                rotated.bytes += bytes;
                progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Ok(None) => rotated.vanished += 1,
        }
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(rotated)
}

/// One object. None: it was deleted meanwhile.
async fn again(
    store: &Store,
    sealer: &Sealer,
    key: &Key,
    size: u64,
    cancel: &CancellationToken,
) -> Result<Option<u64>> {
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    if store.size(key).await? != Some(size) {
        return Ok(None);
    }
    if layout::is_metadata(key) {
        return Ok(reseal_metadata(store, key, size).await?.then_some(size));
    }
    let note = note(store, sealer, key).await?;
    let mut reader = reader(store, key, size);
    let (upload, task, _cancel) = begin(store, key, Existing::Replace);
    let (sealer, object, format) = (sealer.clone(), store.object_url(key), Format::of_key(key).0);
    let produce = async {
        let named = object.clone();
        let sealed = blocking(move || {
            let failed = |error| Error::io("encrypt", &named, error);
            let mut sealed = sealer.seal(Summed::new(upload)).map_err(failed)?;
            if let Err(error) = io::copy(&mut reader, &mut sealed) {
                return Err(match reader.take_failure() {
                    Some(failure) => failure.into(),
                    None => blame(&mut reader, &named, format, format!("It cannot be read: {error}.")),
                });
            }
            sealed.finish().map_err(failed)
        });
        let Summed { inner: upload, sum } = sealed.await?;
        // The object is replaced when its last part is handed over, and not before. One that was deleted must not come back.
        if store.size(key).await? != Some(size) {
            let object = object.clone();
            return Err(StorageError::NotFound { object }.into());
        }
        if let Some((name, digest)) = note {
            write_digest(store, &name, &sum.finalize().into(), &digest).await?;
        }
        blocking(move || upload.finish().map_err(|error| Error::io("encrypt", &object, error))).await
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        outcome = end(produce, task) => match outcome {
            Err(Error::Storage(StorageError::NotFound { .. })) => Ok(None),
            outcome => outcome.map(|_| Some(size)),
        },
    }
}

/// What a server that has public keys only has to know about a WAL file, as it writes that down itself.
async fn note(store: &Store, sealer: &Sealer, key: &Key) -> Result<Option<(WalFileName, Digest)>> {
    let Some((name, _)) = layout::wal_of_object(key).filter(|_| sealer.method() == Some(Method::OpenPgp)) else {
        return Ok(None);
    };
    let Some(digest_key) = sealer.digest_key() else {
        return Ok(None);
    };
    let (_, digest) = read_into(store, key, Form::Plain, KeyedDigest::new(&digest_key), "memory").await?;
    if let WalFileName::History(timeline) = name
        && let Some(text) = read_history(store, timeline).await?
        && let Some(history) = TimelineHistory::parse(timeline, &text)
    {
        write_timeline(store, &history).await?;
    }
    let (sum, bytes) = digest.finish();
    Ok(Some((name, Digest::new(&sum, bytes))))
}
