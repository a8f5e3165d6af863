//! Encrypting what is written.

use std::io::{self, Write};
use std::sync::Arc;

use super::flaw::Method;
use super::sealing::Sealing;
use super::sodium_key::SodiumKey;

/// Encrypts new objects with the key that the configuration chose for writing, or leaves them as they are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sealer(Option<Arc<WriteKey>>);

/// The key that new objects are encrypted with.
#[derive(Debug)]
pub(super) enum WriteKey {
    Libsodium(SodiumKey),
}

impl Sealer {
    pub(super) fn new(key: Option<WriteKey>) -> Self {
        Sealer(key.map(Arc::new))
    }

    /// How objects are encrypted; none if they are not.
    pub fn method(&self) -> Option<Method> {
        match self.0.as_deref()? {
            WriteKey::Libsodium(_) => Some(Method::Libsodium),
        }
    }

    /// Begin an object whose ciphertext goes into the sink. It must be [finished](Sealed::finish), else it is truncated.
    pub fn seal<W: Write + Send + 'static>(&self, sink: W) -> io::Result<Sealed<W>> {
        match self.0.as_deref() {
            None => Ok(Sealed::Plain(sink)),
            Some(WriteKey::Libsodium(key)) => Ok(Sealed::Libsodium(Box::new(Sealing::new(key, sink)?))),
        }
    }
}

/// A sink that encrypts what it gets, or does not.
pub enum Sealed<W: Write> {
    /// As it is.
    Plain(W),
    /// A secretstream of libsodium.
    #[doc(hidden)]
    Libsodium(Box<Sealing<W>>),
}

impl<W: Write + Send + 'static> Sealed<W> {
    /// Write what is left, and give the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Sealed::Plain(sink) => Ok(sink),
            Sealed::Libsodium(sealing) => sealing.finish(),
        }
    }
}

impl<W: Write + Send + 'static> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sealed::Plain(sink) => sink.write(bytes),
            Sealed::Libsodium(sealing) => sealing.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sealed::Plain(sink) => sink.flush(),
            Sealed::Libsodium(sealing) => sealing.flush(),
        }
    }
}
