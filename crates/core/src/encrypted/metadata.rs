//! Short metadata: read and written whole. Where it is to be encrypted, it begins with a mark; each object tells what it is, so a
//! repository may have both.

use std::io::Write;

use bytes::Bytes;
use walarchive_storage::crypt::{SEALED_MARK, Sealer};
use walarchive_storage::{Created, Store};

use super::wrapping::{Wrapping, seal_metadata};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::repository::layout::Key;

/// An object in plain text.
pub(crate) struct Found {
    pub(crate) content: Bytes,
    /// It is stored encrypted.
    pub(crate) is_sealed: bool,
}

/// The content of an object; none if it is not there. [`Error::Damaged`] if it has more than `limit` bytes.
pub(crate) async fn read(store: &Store, key: &Key, limit: u64) -> Result<Option<Bytes>> {
    Ok(find(store, key, limit).await?.map(|found| found.content))
}

/// The same, and how it is stored.
pub(crate) async fn find(store: &Store, key: &Key, limit: u64) -> Result<Option<Found>> {
    let Some(stored) = store.get(key, stored_at_most(limit)).await? else {
        return Ok(None);
    };
    let object = store.object_url(key);
    if !stored.starts_with(SEALED_MARK) {
        return match stored.len() as u64 > limit {
            true => Err(Error::damaged(
                object,
                format!(
                    "The object has {} bytes, no more than {limit} were expected.",
                    stored.len()
                ),
            )),
            false => Ok(Some(Found {
                content: stored,
                is_sealed: false,
            })),
        };
    }
    let keyring = store.keyring().clone();
    blocking(move || {
        let content = keyring.open_metadata(&object, &stored, limit)?;
        Ok(content.map(|content| Found {
            content: content.into(),
            is_sealed: true,
        }))
    })
    .await
}

/// What encryption adds: the mark, 17 bytes for each 8192, and the head of an OpenPGP message to many.
fn stored_at_most(limit: u64) -> u64 {
    limit.saturating_add(limit / 256).saturating_add(64 << 10)
}

/// Write an object as the settings ask for.
pub(crate) async fn put(store: &Store, key: &Key, content: Bytes) -> Result<()> {
    let stored = wrapped(store, key, content).await?;
    Ok(store.put(key, stored).await?)
}

/// The same if it is not there yet.
pub(crate) async fn create(store: &Store, key: &Key, content: Bytes) -> Result<Created> {
    let stored = wrapped(store, key, content).await?;
    Ok(store.create(key, stored).await?)
}

/// Write an object that was found so, with other content. What was encrypted stays encrypted, also where new metadata is not.
pub(crate) async fn put_again(store: &Store, key: &Key, content: Bytes, found: &Found) -> Result<()> {
    if !found.is_sealed || store.keyring().seals_metadata() {
        return put(store, key, content).await;
    }
    let (keyring, object) = (store.keyring().clone(), store.object_url(key));
    let stored = blocking(move || {
        let sealer = keyring.sealer()?;
        if sealer.method().is_none() {
            return Err(Error::refused(
                format!("\"{object}\" is encrypted, and no method is set to encrypt it again"),
                "Set walarchive.encryption, or --encryption, to the method of the repository.",
            ));
        }
        sealed(&sealer, &object, &content)
    });
    Ok(store.put(key, stored.await?).await?)
}

async fn wrapped(store: &Store, key: &Key, content: Bytes) -> Result<Bytes> {
    if !store.keyring().seals_metadata() {
        return Ok(content);
    }
    let wrapping = Wrapping::of_metadata(store).await?;
    let (key, object) = (key.clone(), store.object_url(key));
    blocking(move || {
        let failed = |error| Error::io("encrypt", &object, error);
        let mut wrapped = wrapping.begin(&key, Vec::new(), 0).map_err(failed)?;
        wrapped.write_all(&content).map_err(failed)?;
        Ok(wrapped.finish().map_err(failed)?.into())
    })
    .await
}

fn sealed(sealer: &Sealer, object: &str, content: &[u8]) -> Result<Bytes> {
    let failed = |error| Error::io("encrypt", object, error);
    let mut sealed = seal_metadata(sealer, Vec::new()).map_err(failed)?;
    sealed.write_all(content).map_err(failed)?;
    Ok(sealed.finish().map_err(failed)?.into())
}

#[cfg(test)]
mod tests;
