//! Reading a large object in parts, ahead of its consumer, in bounded memory.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::parts::PART_BYTES;
use crate::error::{Error, Result};
use crate::store::Store;

/// As many of the first bytes are kept.
pub const HEAD_BYTES: usize = 64;

/// Parts that may be between the network and the consumer.
const READ_AHEAD: usize = 2;

/// An object as a blocking [`Read`], for the decoders. Each part is a request of its own with a deadline of its own, so a
/// slow link is no failure and a broken connection costs one part.
pub struct RangeReader {
    parts: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
    failure: Option<Error>,
    /// The first bytes that were read of it.
    head: Vec<u8>,
}

impl RangeReader {
    /// Begin to download the object; none if it is not there. One request suffices for an object of one part.
    pub async fn open(store: &Store, key: &str) -> Result<Option<Self>> {
        let Some((first, size)) = store.get_first(key, PART_BYTES).await? else {
            return Ok(None);
        };
        let mut reader = Self::from_offset(store, key, first.len() as u64, size);
        reader.current = first;
        Ok(Some(reader))
    }

    /// Begin to download the object, which has `size` bytes. Must be called within a tokio runtime; the reading itself
    /// must be done on a thread that may block.
    pub fn new(store: &Store, key: &str, size: u64) -> Self {
        Self::from_offset(store, key, 0, size)
    }

    fn from_offset(store: &Store, key: &str, mut start: u64, size: u64) -> Self {
        let (sender, parts) = mpsc::channel(READ_AHEAD);
        let (store, key) = (store.clone(), key.to_owned());
        tokio::spawn(async move {
            while start < size {
                let end = (start + PART_BYTES).min(size);
                let part = store.get_range(&key, start..end).await.and_then(|part| {
                    let whole = part.len() as u64 == end - start;
                    if whole {
                        Ok(part)
                    } else {
                        Err(Error::damaged(
                            store.object_url(&key),
                            "The object is shorter than its size.",
                        ))
                    }
                });
                let failed = part.is_err();
                // The consumer is gone when nobody wants the rest.
                if sender.send(part).await.is_err() || failed {
                    return;
                }
                start = end;
            }
        });
        RangeReader {
            parts,
            current: Bytes::new(),
            failure: None,
            head: Vec::with_capacity(HEAD_BYTES),
        }
    }

    /// The first bytes that were read, at most [`HEAD_BYTES`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The store's error behind a failed read. A decoder wraps what its source said beyond recognition; this has the truth:
    /// none means that the store gave everything, so what went wrong is the content.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.blocking_recv() {
                Some(Ok(part)) => self.current = part,
                Some(Err(error)) => {
                    let text = error.to_string();
                    self.failure = Some(error);
                    return Err(io::Error::other(text));
                }
                None if self.failure.is_some() => return Err(io::Error::other("the download failed")),
                None => return Ok(0),
            }
        }
        let bytes = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..bytes]);
        let wanted = bytes.min(HEAD_BYTES - self.head.len());
        self.head.extend_from_slice(&buffer[..wanted]);
        Ok(bytes)
    }
}
