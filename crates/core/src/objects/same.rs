//! Do two objects of the same size have the same content?

use std::io;

use super::{Form, Summed, read_into};
use crate::codec::Format;
use crate::error::{Error, Result};
use walarchive_storage::Store;

/// So many bytes at each end are compared if the last ones are a checksum of all.
const END_BYTES: u64 = 64 << 10;

/// Is the object of `size` bytes, which is there in both stores, the same in both? If it is compressed, one frame, and ends with a
/// checksum of its content, its ends tell. If not, it is read.
pub(super) async fn is_same(from: &Store, to: &Store, key: &str, size: u64) -> Result<bool> {
    if size > 2 * END_BYTES {
        let head = same_range(from, to, key, 0, size).await?;
        let Some(head) = head else { return Ok(false) };
        if ends_with_checksum(Format::of_key(key).0, &head) {
            let tail = same_range(from, to, key, size - END_BYTES, size).await?;
            return Ok(tail.is_some());
        }
    }
    let (here, there) = tokio::try_join!(sum(from, key), sum(to, key))?;
    Ok(here == there)
}

/// The bytes from there on, if they are the same in both.
async fn same_range(from: &Store, to: &Store, key: &str, start: u64, size: u64) -> Result<Option<bytes::Bytes>> {
    let range = start..size.min(start + END_BYTES);
    let (here, there) = tokio::try_join!(from.get_range(key, range.clone()), to.get_range(key, range))?;
    Ok((here == there).then_some(here))
}

/// As the first bytes say. An encrypted object has other ones. This takes the object for one frame, as we and WAL-G write it: of
/// several frames, the last checksum is that of the last frame only.
fn ends_with_checksum(format: Format, head: &[u8]) -> bool {
    let flags = |magic: [u8; 4]| head.strip_prefix(&magic).and_then(|rest| rest.first());
    match format {
        Format::Zstd => flags([0x28, 0xb5, 0x2f, 0xfd]).is_some_and(|flags| flags & 0x04 != 0),
        Format::Lz4 => flags([0x04, 0x22, 0x4d, 0x18]).is_some_and(|flags| flags & 0x04 != 0),
        Format::Lzma | Format::Brotli | Format::Plain => false,
    }
}

async fn sum(store: &Store, key: &str) -> Result<[u8; 32]> {
    let (_, read) = read_into(store, key, Form::Stored, Summed::new(io::sink()), "memory").await?;
    Ok::<_, Error>(read.sum())
}
