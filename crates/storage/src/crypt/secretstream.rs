//! `crypto_secretstream_xchacha20poly1305` of libsodium, as WAL-G lays it out: a header of 24 bytes, then chunks of 8192 bytes of
//! plain text, each with 17 bytes more, the last of which is marked. It may be short, and empty.

use std::io::{self, Read};

use crypto_secretstream::{Header, Key, PullStream, Tag};

use super::flaw::{Flaw, Method};
use super::sodium_key::SodiumKey;

/// Bytes of a chunk before it is encrypted, and after.
pub(super) const CHUNK: usize = 8192;
const SEALED_CHUNK: usize = CHUNK + 17;

/// The header and the first chunk: as much as tells whether a key is the right one.
pub(super) const BEGINNING: usize = Header::BYTES + SEALED_CHUNK;

/// The first chunk, opened by the right key.
pub(super) struct Begun {
    stream: PullStream,
    chunk: Vec<u8>,
    is_last: bool,
}

/// Try a key on the first [`BEGINNING`] bytes, or on all bytes of a shorter object.
pub(super) fn begin(key: &SodiumKey, beginning: &[u8]) -> Option<Begun> {
    let (header, chunk) = beginning.split_first_chunk::<{ Header::BYTES }>()?;
    let mut stream = PullStream::init(Header::from(*header), &Key::from(*key.bytes()));
    let mut chunk = chunk.to_vec();
    let tag = stream.pull(&mut chunk, &[]).ok()?;
    Some(Begun {
        stream,
        chunk,
        is_last: tag == Tag::Final,
    })
}

/// Gives the plain text of what follows the beginning. Nothing of a chunk is given before the chunk has proved right.
pub(super) struct Opening<R> {
    source: R,
    stream: PullStream,
    chunk: Vec<u8>,
    /// Bytes of the chunk that were given.
    given: usize,
    /// The number of the chunk.
    number: u64,
    /// It is the last one.
    is_last: bool,
    /// Nothing follows the last one, as has been seen.
    is_over: bool,
}

impl<R: Read> Opening<R> {
    pub(super) fn new(begun: Begun, source: R) -> Self {
        Opening {
            source,
            stream: begun.stream,
            chunk: begun.chunk,
            given: 0,
            number: 1,
            is_last: begun.is_last,
            is_over: false,
        }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.chunk.resize(SEALED_CHUNK, 0);
        let bytes = fill(&mut self.source, &mut self.chunk)?;
        self.chunk.truncate(bytes);
        self.given = 0;
        self.number += 1;
        if bytes == 0 {
            return Err(Flaw::Truncated(Method::Libsodium).into_io());
        }
        let Ok(tag) = self.stream.pull(&mut self.chunk, &[]) else {
            self.chunk.clear();
            return Err(self.damaged(bytes < SEALED_CHUNK).into_io());
        };
        self.is_last = tag == Tag::Final;
        Ok(())
    }

    fn damaged(&self, is_short: bool) -> Flaw {
        let what = match is_short {
            // One in the middle is always whole.
            true => "is cut off, or was changed",
            false => "is not the one that was encrypted there",
        };
        Flaw::Damaged(
            Method::Libsodium,
            format!("Chunk {} of its ciphertext {what}.", self.number),
        )
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.is_over && fill(&mut self.source, &mut [0])? > 0 {
            let what = "It has more bytes after the chunk that is marked as the last one.".to_owned();
            return Err(Flaw::Damaged(Method::Libsodium, what).into_io());
        }
        self.is_over = true;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunk.len() {
            if self.is_last {
                self.end()?;
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let bytes = buffer.len().min(self.chunk.len() - self.given);
        buffer[..bytes].copy_from_slice(&self.chunk[self.given..][..bytes]);
        self.given += bytes;
        Ok(bytes)
    }
}

/// Read until the buffer is full, or the source is at its end.
pub(super) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
