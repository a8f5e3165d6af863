//! Encrypting metadata again, with the key that new objects are encrypted with.

use std::io;

use walarchive_storage::Store;
use walarchive_storage::crypt::SEALED_MARK;

use super::{Existing, begin, end};
use crate::blocking::blocking;
use crate::encrypted::{reader, seal_metadata};
use crate::error::{Error, Result};
use crate::repository::layout::Key;

/// Encrypt an object of `size` stored bytes again, if it is metadata that is encrypted. In bounded memory; the object is replaced when
/// all of it was read. Returns whether anything was written: one in plain text stays as it is. `store` has the fence of whoever may
/// write there. An error if no method is set to encrypt with, or if the keys do not open it.
pub async fn reseal_metadata(store: &Store, key: &Key, size: u64) -> Result<bool> {
    let mark = SEALED_MARK.len() as u64;
    if size < mark || store.get_range(key, 0..mark).await? != SEALED_MARK {
        return Ok(false);
    }
    let keyring = store.keyring().clone();
    let sealer = blocking(move || Ok(keyring.sealer()?)).await?;
    if sealer.method().is_none() {
        return Err(Error::config(
            "no method is set to encrypt with",
            "Give --encryption and the key, as for every verb that writes.",
        ));
    }
    let mut reader = reader(store, key, size);
    let (upload, task, _cancel) = begin(store, key, Existing::Replace);
    let object = store.object_url(key);
    let produce = blocking(move || {
        let failed = |error| Error::io("encrypt", &object, error);
        let mut sealed = seal_metadata(&sealer, upload).map_err(failed)?;
        if let Err(error) = io::copy(&mut reader, &mut sealed) {
            let failure = reader.take_failure().map(Error::from);
            return Err(failure.unwrap_or_else(|| failed(error)));
        }
        let upload = sealed.finish().map_err(failed)?;
        upload.finish().map_err(failed)
    });
    end(produce, task).await?;
    Ok(true)
}
