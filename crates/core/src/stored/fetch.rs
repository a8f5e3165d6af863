//! Reading objects of any size, decoded, with the store's failures told apart from damage.

use std::io::{self, Read};

use super::members::Stop;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::blame;
use crate::error::{Error, Result};
use crate::repository::layout::Key;
use walarchive_storage::{RangeReader, Store};

/// Read an object of `size` stored bytes through its decoder, on a thread that may block.
pub(crate) async fn read_with<T: Send + 'static>(
    store: &Store,
    key: &Key,
    size: u64,
    work: impl FnOnce(&mut dyn Read) -> Result<T, Stop> + Send + 'static,
) -> Result<T> {
    let mut reader = RangeReader::new(store, key, size);
    let (format, _) = Format::of_key(key);
    let object = store.object_url(key);
    blocking(move || {
        let decoder = format.decoder(&mut reader).map_err(Stop::Read);
        let result = decoder.and_then(|mut decoder| work(&mut decoder));
        result.map_err(|stop| match stop {
            Stop::Other(error) => reader.take_failure().map_or(error, Error::from),
            Stop::Read(error) => blame(&mut reader, object, format, format!("It cannot be read: {error}.")),
        })
    })
    .await
}

/// The whole content, up to `limit` bytes.
pub(crate) fn whole(source: &mut dyn Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(content)
}
