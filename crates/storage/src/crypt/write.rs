//! Encrypting what is written.

use std::io::{self, Write};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::flaw::Method;
use super::key_id;
use super::message::MessageSealing;
use super::recipients::Recipients;
use super::sealing::Sealing;
use super::sodium_key::SodiumKey;

/// Encrypts new objects with the key that the configuration chose for writing, or leaves them as they are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sealer(Option<Arc<WriteKey>>);

/// The key that new objects are encrypted with.
#[derive(Debug)]
pub(super) enum WriteKey {
    Libsodium(SodiumKey),
    OpenPgp(Recipients),
}

impl Sealer {
    pub(super) fn new(key: WriteKey) -> Self {
        Sealer(Some(Arc::new(key)))
    }

    /// How objects are encrypted; none if they are not.
    pub fn method(&self) -> Option<Method> {
        Some(match self.0.as_deref()? {
            WriteKey::Libsodium(_) => Method::Libsodium,
            WriteKey::OpenPgp(_) => Method::OpenPgp,
        })
    }

    /// Whom OpenPGP messages are for; none by another method.
    pub(super) fn recipients(&self) -> Option<&Recipients> {
        match self.0.as_deref()? {
            WriteKey::Libsodium(_) => None,
            WriteKey::OpenPgp(recipients) => Some(recipients),
        }
    }

    /// What tells this key from others, with this salt, and nothing about it: 16 hexadecimal digits; empty if nothing is encrypted.
    /// With OpenPGP it is that of all recipients together.
    pub fn key_id(&self, salt: &[u8]) -> String {
        match self.0.as_deref() {
            None => String::new(),
            Some(WriteKey::Libsodium(key)) => key_id::of_sodium(key, salt),
            Some(WriteKey::OpenPgp(recipients)) => key_id::of_fingerprints(recipients.fingerprints(), salt),
        }
    }

    /// A key for digests of plain text that are kept beside the ciphertext; none if nothing is encrypted.
    pub fn digest_key(&self) -> Option<Zeroizing<[u8; 32]>> {
        match self.0.as_deref()? {
            WriteKey::Libsodium(key) => Some(key_id::digest_key_of_sodium(key)),
            WriteKey::OpenPgp(recipients) => key_id::digest_key_of_recipients(recipients),
        }
    }

    /// Begin an object whose ciphertext goes into the sink. It must be [finished](Sealed::finish), else it is truncated.
    pub fn seal<W: Write + Send + 'static>(&self, sink: W) -> io::Result<Sealed<W>> {
        Ok(match self.0.as_deref() {
            None => Sealed::Plain(sink),
            Some(WriteKey::Libsodium(key)) => Sealed::Libsodium(Box::new(Sealing::new(key, sink)?)),
            Some(WriteKey::OpenPgp(recipients)) => Sealed::OpenPgp(Box::new(MessageSealing::new(recipients, sink)?)),
        })
    }

    /// Encrypt a short text, which [`Keyring::open_small`](super::Keyring::open_small) decrypts.
    pub fn seal_small(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealed = self.seal(Vec::new())?;
        sealed.write_all(plain)?;
        sealed.finish()
    }
}

/// A sink that encrypts what it gets, or does not. An error of the sink below comes out as it is; after one, nothing more can be
/// written.
pub enum Sealed<W: Write> {
    /// As it is.
    Plain(W),
    /// A secretstream of libsodium.
    #[doc(hidden)]
    Libsodium(Box<Sealing<W>>),
    /// An OpenPGP message.
    #[doc(hidden)]
    OpenPgp(Box<MessageSealing<W>>),
}

impl<W: Write + Send + 'static> Sealed<W> {
    /// Write what is left, and give the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Sealed::Plain(sink) => Ok(sink),
            Sealed::Libsodium(sealing) => sealing.finish(),
            Sealed::OpenPgp(sealing) => sealing.finish(),
        }
    }
}

impl<W: Write + Send + 'static> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sealed::Plain(sink) => sink.write(bytes),
            Sealed::Libsodium(sealing) => sealing.write(bytes),
            Sealed::OpenPgp(sealing) => sealing.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sealed::Plain(sink) => sink.flush(),
            Sealed::Libsodium(sealing) => sealing.flush(),
            Sealed::OpenPgp(sealing) => sealing.flush(),
        }
    }
}
