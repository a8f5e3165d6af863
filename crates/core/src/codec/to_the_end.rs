//! Decoders that stop reading where their stream ends. What is decrypted below them proves right only at its own end, so that
//! has to be read, too.

use std::io::{self, Read};

/// A decoder, and the way to its source.
pub(super) struct ToTheEnd<D, R> {
    decoder: D,
    source: fn(&mut D) -> &mut R,
    is_over: bool,
}

impl<D: Read, R: Read> ToTheEnd<D, R> {
    pub(super) fn new(decoder: D, source: fn(&mut D) -> &mut R) -> Self {
        ToTheEnd {
            decoder,
            source,
            is_over: false,
        }
    }
}

impl<D: Read, R: Read> Read for ToTheEnd<D, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.decoder.read(buffer)?;
        if bytes == 0 && !buffer.is_empty() && !self.is_over {
            io::copy((self.source)(&mut self.decoder), &mut io::sink())?;
            self.is_over = true;
        }
        Ok(bytes)
    }
}
