//! Reading a large object in parts, ahead of its consumer, in bounded memory.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::parts::PART_BYTES;
use crate::crypt::{self, Flaw, Keyring, Keys, Looks, Marked, Plain};
use crate::error::{Error, Result};
use crate::store::Store;

/// As many of the first bytes are kept.
pub const HEAD_BYTES: usize = 64;

/// Parts that may be between the network and the consumer.
const READ_AHEAD: usize = 2;

/// An object as a blocking [`Read`], for the decoders. Each part is a request of its own with a deadline of its own, so a
/// slow link is no failure and a broken connection costs one part.
pub struct RangeReader {
    source: Source,
    /// The object's URL.
    object: String,
    failure: Failure,
    /// The first bytes that were read of it.
    head: Vec<u8>,
}

/// The first error of the store, or of decrypting.
type Failure = Arc<Mutex<Option<Error>>>;

enum Source {
    /// As it is stored.
    Stored(Parts),
    /// To be decrypted from the first read on.
    Sealed(Box<(Parts, Keyring, Looks)>),
    /// To be decrypted from the first read on if it begins with the mark.
    Marked(Box<(Parts, Keyring)>),
    /// As it is stored: it has no mark.
    Unmarked(Plain),
    Plain(Plain),
    /// An error has ended it.
    Ended,
}

/// The stored bytes.
struct Parts {
    parts: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
    failure: Failure,
    has_failed: bool,
}

impl RangeReader {
    /// Begin to download the object; none if it is not there. One request suffices for an object of one part.
    pub async fn open(store: &Store, key: &str) -> Result<Option<Self>> {
        let Some((first, size)) = store.get_first(key, PART_BYTES).await? else {
            return Ok(None);
        };
        Ok(Some(Self::from_offset(store, key, first, size)))
    }

    /// Begin to download the object, which has `size` bytes. Must be called within a tokio runtime; the reading itself
    /// must be done on a thread that may block.
    pub fn new(store: &Store, key: &str, size: u64) -> Self {
        Self::from_offset(store, key, Bytes::new(), size)
    }

    /// Read the object in plain text, with the keys of the store. Without any, it is read as it is stored.
    pub fn decrypting(mut self, keyring: &Keyring, looks: Looks) -> Self {
        self.source = match self.source {
            Source::Stored(parts) if !keyring.is_empty() => Source::Sealed(Box::new((parts, keyring.clone(), looks))),
            source => source,
        };
        self
    }

    /// Read the object in plain text if it begins with [`SEALED_MARK`](crypt::SEALED_MARK), with the keys of the store. Any other is
    /// read as it is stored.
    pub fn unsealing(mut self, keyring: &Keyring) -> Self {
        self.source = match self.source {
            Source::Stored(parts) => Source::Marked(Box::new((parts, keyring.clone()))),
            source => source,
        };
        self
    }

    fn from_offset(store: &Store, key: &str, first: Bytes, size: u64) -> Self {
        let (sender, parts) = mpsc::channel(READ_AHEAD);
        let object = store.object_url(key);
        let (store, key, mut start) = (store.clone(), key.to_owned(), first.len() as u64);
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
        let failure = Failure::default();
        RangeReader {
            source: Source::Stored(Parts {
                parts,
                current: first,
                failure: Arc::clone(&failure),
                has_failed: false,
            }),
            object,
            failure,
            head: Vec::with_capacity(HEAD_BYTES),
        }
    }

    /// The first bytes that were read, at most [`HEAD_BYTES`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Was the object encrypted, or does it pass for plain text where that is accepted? Known once something was read.
    pub fn is_opened(&self) -> bool {
        matches!(self.source, Source::Plain(_))
    }

    /// The store's error behind a failed read, or that of decrypting. A decoder wraps what its source said beyond recognition;
    /// this has the truth: none means that the store gave everything, so what went wrong is the content.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.lock().take()
    }

    fn keys<'a>(&self, keyring: &'a Keyring) -> io::Result<Option<&'a Keys>> {
        keyring.keys().map_err(|error| {
            let text = error.to_string();
            self.failure.lock().get_or_insert(error);
            io::Error::other(text)
        })
    }

    /// Find out how the source is read. Its first bytes are needed for that.
    fn open_source(&mut self) -> io::Result<()> {
        self.source = match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Sealed(sealed) => {
                let (parts, keyring, looks) = *sealed;
                match self.keys(&keyring)? {
                    Some(keys) => Source::Plain(crypt::open(parts, keys, &looks)?),
                    None => Source::Stored(parts),
                }
            }
            Source::Marked(marked) => {
                let (parts, keyring) = *marked;
                match crypt::look(parts)? {
                    Marked::Sealed(rest) => Source::Plain(crypt::open_marked(rest, self.keys(&keyring)?)?),
                    Marked::Plain(plain) => Source::Unmarked(plain),
                }
            }
            source => source,
        };
        Ok(())
    }

    fn read_source(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if matches!(self.source, Source::Sealed(_) | Source::Marked(_)) {
            self.open_source()?;
        }
        match &mut self.source {
            Source::Stored(parts) => parts.read(buffer),
            Source::Plain(plain) | Source::Unmarked(plain) => plain.read(buffer),
            Source::Sealed(_) | Source::Marked(_) | Source::Ended => Err(io::Error::other("reading has failed before")),
        }
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = match self.read_source(buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                if let Some(flaw) = Flaw::of_io(&error) {
                    let failure = Error::flawed(&self.object, flaw);
                    self.failure.lock().get_or_insert(failure);
                }
                self.source = Source::Ended;
                return Err(error);
            }
        };
        let wanted = bytes.min(HEAD_BYTES - self.head.len());
        self.head.extend_from_slice(&buffer[..wanted]);
        Ok(bytes)
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.blocking_recv() {
                Some(Ok(part)) => self.current = part,
                Some(Err(error)) => {
                    let text = error.to_string();
                    self.has_failed = true;
                    *self.failure.lock() = Some(error);
                    return Err(io::Error::other(text));
                }
                None if self.has_failed => return Err(io::Error::other("the download failed")),
                None => return Ok(0),
            }
        }
        let bytes = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}
