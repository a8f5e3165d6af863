//! Reading objects of any size, decoded, with the store's failures told apart from damage.

use std::io::{self, Read};

use super::members::Stop;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result};
use crate::repository::layout::Key;
use walarchive_storage::Store;

/// Read an object of `size` stored bytes through its decoder, on a thread that may block.
pub(crate) async fn read_with<T: Send + 'static>(
    store: &Store,
    key: &Key,
    size: u64,
    work: impl FnOnce(&mut dyn Read) -> Result<T, Stop> + Send + 'static,
) -> Result<T> {
    let mut reader = encrypted::reader(store, key, size);
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

/// Read what is left, up to `limit` bytes, after what was wanted was found: what is encrypted, or has a checksum, proves right only at
/// its end.
pub(crate) fn to_the_end(source: &mut dyn Read, limit: u64) -> io::Result<()> {
    match io::copy(&mut source.take(limit + 1), &mut io::sink())? {
        bytes if bytes > limit => Err(io::Error::other(format!("it has more than {limit} bytes"))),
        _ => Ok(()),
    }
}
