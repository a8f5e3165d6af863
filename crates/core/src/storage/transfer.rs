//! Moving bytes: how long it may take, and how a download goes on after its connection broke.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore};

use super::PART_BYTES;

/// What one request must move in a second, in bytes, not to be given up: the share of each when four of them are on a link of
/// 256 kB/s. A part of 8 MB then has two minutes, a WAL segment of 16 MB has four.
pub(super) const SLOWEST: u64 = 64 << 10;

/// Attempts in a row whose answer began and whose body broke before its first byte.
const ATTEMPTS_WITHOUT_A_BYTE: u32 = 3;

/// After the first of these; longer after the next.
const PAUSE: Duration = Duration::from_millis(200);

/// What moving that many bytes may take on the slowest link, beyond the time that any request may take.
pub(super) fn time(bytes: u64) -> Duration {
    time_at(SLOWEST, bytes)
}

/// The same for a link of that many bytes a second.
pub(super) fn time_at(rate: u64, bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / rate)
}

/// What follows the beginning of an answer. When the connection breaks, what came is kept and the rest is asked for, as long
/// as one of a few attempts brings something: object_store does the same only a few times, and only if the server sends entity tags.
pub(super) async fn collect(inner: &dyn ObjectStore, path: &Path, found: GetResult) -> object_store::Result<Bytes> {
    let meta = found.meta.clone();
    let mut wanted = found.range.clone();
    let mut stream = match found.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(..) => return found.bytes().await,
    };
    // What a server says about a length is no reason to allocate more than a part.
    let mut bytes = BytesMut::with_capacity((wanted.end - wanted.start).min(PART_BYTES) as usize);
    let mut empty = 0;
    loop {
        let begun_at = wanted.start;
        let mut broken = None;
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => {
                    wanted.start += chunk.len() as u64;
                    bytes.extend_from_slice(&chunk);
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let Some(error) = broken else { return Ok(bytes.freeze()) };
        empty = if wanted.start == begun_at { empty + 1 } else { 0 };
        if empty > ATTEMPTS_WITHOUT_A_BYTE || wanted.start >= wanted.end {
            return Err(error);
        }
        tokio::time::sleep(PAUSE * empty).await;
        tracing::debug!(object = %path, at = wanted.start, %error, "a download broke and goes on");
        let rest = GetOptions::new().with_range(Some(wanted.clone()));
        let found = inner.get_opts(path, rest).await?;
        if !is_same(&meta, &found.meta) {
            return Err(error);
        }
        stream = found.into_stream();
    }
}

/// Is it still the object that the first bytes are from? Without entity tags its size and its time must do.
fn is_same(first: &ObjectMeta, now: &ObjectMeta) -> bool {
    first.e_tag == now.e_tag && first.size == now.size && first.last_modified == now.last_modified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_has_the_time_that_it_needs() {
        assert_eq!(time(0), Duration::ZERO);
        assert_eq!(time(PART_BYTES), Duration::from_secs(128));
        // Nothing overflows, whatever a server says about the size of an object.
        assert!(time(u64::MAX) > Duration::from_secs(1 << 30));
    }
}
