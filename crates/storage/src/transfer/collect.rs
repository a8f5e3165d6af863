//! How a download goes on after its connection broke.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore};

use super::parts::PART_BYTES;
use crate::http::bounds;

/// Attempts in a row whose answer began and whose body broke before its first byte.
const ATTEMPTS_WITHOUT_A_BYTE: u32 = 3;

/// After the first of these; longer after the next.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads the rest after the beginning of an answer. When the connection breaks, the bytes that came are kept and the rest is
/// asked for, as long as one of a few attempts brings something: object_store does the same only a few times, and only if the
/// server sends entity tags.
pub(crate) async fn collect(inner: &dyn ObjectStore, path: &Path, found: GetResult) -> object_store::Result<Bytes> {
    let meta = found.meta.clone();
    let mut wanted = found.range.clone();
    let mut stream = match found.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(..) => return found.bytes().await,
    };
    // A length that a server announces is no reason to allocate more than a part.
    let mut bytes = BytesMut::with_capacity((wanted.end - wanted.start).min(PART_BYTES) as usize);
    let mut empty = 0;
    loop {
        let begun_at = wanted.start;
        let mut broken = None;
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) if chunk.len() as u64 > wanted.end - wanted.start => {
                    return Err(lies(format!(
                        "the store sent more than the {} bytes that it had said",
                        found.range.end - found.range.start
                    )));
                }
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
        let error = match broken {
            None if wanted.is_empty() => return Ok(bytes.freeze()),
            Some(error) => error,
            None => lies(format!(
                "the store sent {} bytes less than it had said",
                wanted.end - wanted.start
            )),
        };
        empty = if wanted.start == begun_at { empty + 1 } else { 0 };
        if empty > ATTEMPTS_WITHOUT_A_BYTE || wanted.start >= wanted.end {
            return Err(error);
        }
        tokio::time::sleep(PAUSE * empty).await;
        tracing::debug!(object = %path, at = wanted.start, %error, "a download broke and goes on");
        let rest = bounds::content(GetOptions::new().with_range(Some(wanted.clone())));
        let found = inner.get_opts(path, rest).await?;
        if !is_same(&meta, &found.meta) {
            return Err(error);
        }
        stream = found.into_stream();
    }
}

fn lies(text: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "store",
        source: text.into(),
    }
}

/// Is it still the object that the first bytes are from? Without entity tags its size and its time must do.
fn is_same(first: &ObjectMeta, now: &ObjectMeta) -> bool {
    first.e_tag == now.e_tag && first.size == now.size && first.last_modified == now.last_modified
}
