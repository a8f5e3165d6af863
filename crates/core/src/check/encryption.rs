//! Does the mark of the repository agree with the keys that are configured, and can what they encrypt be read again?

use std::io::{Read, Write};

use chrono::Utc;

use super::Check;
use crate::blocking::blocking;
use crate::codec::Compression;
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::repository::cluster::ClusterIdentity;
use crate::repository::encryption::{self, State, method_name};
use crate::repository::layout;
use walarchive_storage::{RangeReader, Store};

const CONTENT: &[u8] = b"encrypted by a check of walarchive, and removed by it\n";

/// What the repository says of its encryption, and whether that is how this store writes; none if nothing is encrypted, and nothing is
/// to be. The server, whose `identity` is known, has to write.
pub(super) async fn mark(store: &Store, identity: Option<&ClusterIdentity>) -> Option<Check> {
    let name = "encryption";
    let state = match encryption::state(store).await {
        Ok(state) => state,
        // Another check has reported a store that cannot be asked, or what is wrong with the object.
        Err(_) => return None,
    };
    let writes = store.keyring().writes();
    let only_reads = identity.is_none() && writes.is_none() && !store.keyring().is_empty();
    if let (State::Encrypted(mark), true) = (&state, only_reads) {
        return Some(match encryption::opens(store, mark).await {
            Ok(true) => Check::warning(
                name,
                format!(
                    "the repository is encrypted by {}, and its key is configured for reading only",
                    mark.key.method
                ),
                "To write from here, too, set walarchive.encryption, or --encryption, to that method.",
            ),
            Ok(false) => Check::failed(
                name,
                format!(
                    "the repository is encrypted by {} with another key than those that are configured",
                    mark.key.method
                ),
                "Give the right key, beside the others if there are several.",
            ),
            Err(error) => Check::of_error(name, &error),
        });
    }
    if let Err(error) = encryption::permit(store).await {
        // Who only reads is told by the rows about what he reads.
        let is_ours = matches!(error, Error::Refused { .. } | Error::Setting { .. }) || error.is_content();
        return is_ours.then(|| Check::of_error(name, &error));
    }
    match (state, writes) {
        (State::Encrypted(mark), _) => Some(Check::ok(
            name,
            format!(
                "the repository is encrypted by {}, and the key that is configured for new objects is its key {}{}",
                mark.key.method,
                mark.key.key_id,
                match (mark.plain_before, mark.former_keys.len()) {
                    (true, 0) => "; there may be objects in plain text from before",
                    (true, _) => "; there may be objects in plain text from before, and others under former keys",
                    (false, 0) => "",
                    (false, _) => "; there may be objects under former keys",
                }
            ),
        )),
        (State::Unclaimed, Some(method)) => Some(Check::ok(
            name,
            format!(
                "the first server that archives marks the repository as encrypted by {}",
                method_name(method)
            ),
        )),
        (State::Plain { .. }, Some(method)) => Some(Check::ok(
            name,
            format!(
                "the repository is in plain text; the next write turns encryption by {} on",
                method_name(method)
            ),
        )),
        (State::Plain { former_keys }, None) if !former_keys.is_empty() => Some(Check::warning(
            name,
            "new objects are stored in plain text, and others were encrypted before encryption was turned off",
            "Keep the key until nothing that was encrypted with it is left.",
        )),
        (State::Plain { .. } | State::Unclaimed, None) => None,
    }
}

/// Does an object that is encrypted read back? None if new objects are not encrypted.
pub(super) async fn object(store: &Store) -> Option<Check> {
    store.keyring().writes()?;
    let name = "encrypt";
    Some(match written_and_read(store).await {
        Ok(true) => Check::ok(name, "an object was encrypted, written, and decrypted again"),
        Ok(false) => Check::ok(
            name,
            "an object was encrypted and written; it cannot be read back here, as there is no secret key",
        ),
        Err(error) => Check::of_error(name, &error),
    })
}

/// Returns whether it was read.
async fn written_and_read(store: &Store) -> Result<bool> {
    let wrapping = Wrapping::of(store, Compression::Zstd(1)).await?;
    let reads = wrapping.reads();
    let id = format!("{:x}-{:x}", std::process::id(), Utc::now().timestamp_micros());
    let key = layout::check(&format!("{id}-encrypted"));
    let object = store.object_url(&key);
    let sealed = blocking(move || {
        let failed = |error| Error::io("encrypt", &object, error);
        let mut wrapped = wrapping.begin_sealed(Vec::new()).map_err(failed)?;
        wrapped.write_all(CONTENT).map_err(failed)?;
        wrapped.finish().map_err(failed)
    });
    let sealed = sealed.await?;
    store.put(&key, sealed.into()).await?;
    let read = match reads {
        true => read_back(store, &key).await,
        false => Ok(()),
    };
    let deleted = store.delete(&key).await;
    read?;
    deleted?;
    Ok(reads)
}

async fn read_back(store: &Store, key: &str) -> Result<()> {
    let reader = RangeReader::open(store, key).await?;
    let object = store.object_url(key);
    let Some(reader) = reader else {
        return Err(Error::damaged(object, "It was written just now, and is not there."));
    };
    let mut reader = reader.decrypting(store.keyring(), Box::new(|_| false));
    blocking(move || {
        let mut content = Vec::new();
        let read = Compression::Zstd(1)
            .format()
            .decoder(&mut reader)
            .and_then(|decoder| decoder.take(1 << 10).read_to_end(&mut content));
        match (read, reader.take_failure()) {
            (_, Some(failure)) => Err(failure.into()),
            (Err(error), None) => Err(Error::damaged(object, format!("It cannot be read back: {error}."))),
            (Ok(_), None) if content != CONTENT => {
                Err(Error::damaged(object, "It has other content than was written."))
            }
            (Ok(_), None) => Ok(()),
        }
    })
    .await
}
