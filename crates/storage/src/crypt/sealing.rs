//! Writing a secretstream.

use std::io::{self, Write};

use crypto_secretstream::{Key, PushStream, Tag};
use rand_core::OsRng;

use super::secretstream::CHUNK;
use super::sodium_key::SodiumKey;

/// Encrypts what is written into a sink. It must be [finished](Sealing::finish), else its output is truncated.
pub struct Sealing<W: Write> {
    sink: W,
    stream: PushStream,
    /// Plain text that waits for more: the last chunk is marked, so it must be known for the last one.
    chunk: Vec<u8>,
    /// Writing has failed. What follows would not be the stream any more.
    is_broken: bool,
}

impl<W: Write> std::fmt::Debug for Sealing<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealing(…)")
    }
}

impl<W: Write> Sealing<W> {
    /// Begin a stream.
    pub(super) fn new(key: &SodiumKey, mut sink: W) -> io::Result<Self> {
        let (header, stream) = PushStream::init(OsRng, &Key::from(*key.bytes()));
        sink.write_all(header.as_ref())?;
        Ok(Sealing {
            sink,
            stream,
            // With room for the tag and the checksum.
            chunk: Vec::with_capacity(CHUNK + 17),
            is_broken: false,
        })
    }

    fn push(&mut self, tag: Tag) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("writing has failed before"));
        }
        self.is_broken = true;
        let pushed = self.stream.push(&mut self.chunk, &[], tag);
        pushed.map_err(|_| io::Error::other("a chunk cannot be encrypted"))?;
        self.sink.write_all(&self.chunk)?;
        self.chunk.clear();
        self.is_broken = false;
        Ok(())
    }

    /// Write the last chunk and give the sink back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.push(Tag::Final)?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        // Longer is one that could not be written.
        if self.chunk.len() >= CHUNK {
            self.push(Tag::Message)?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
