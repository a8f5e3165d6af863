//! Writing what is encrypted where anything is: compressed, and encrypted then; and the metadata of it, which is not compressed. All
//! such objects are made here, so that none of them leaves in plain text by accident.

use std::io::{self, Write};

use walarchive_storage::Store;
use walarchive_storage::crypt::{SEALED_MARK, Sealed, Sealer};

use super::digest::KeyedDigest;
use crate::blocking::blocking;
use crate::codec::{Compression, Encoder};
use crate::error::{Error, Result};
use crate::repository::layout;

/// How the objects of a repository are made. Cheap to clone, and shows no key.
#[derive(Debug, Clone)]
pub(crate) struct Wrapping {
    compression: Compression,
    sealer: Sealer,
    /// For metadata.
    metadata: Sealer,
    /// What it encrypts can be decrypted here.
    reads: bool,
}

impl Wrapping {
    /// As the store's keys ask for. They are read now, if they were not before, so that an error comes before the first byte.
    pub(crate) async fn of(store: &Store, compression: Compression) -> Result<Self> {
        if store.keyring().writes().is_none() && !store.keyring().seals_metadata() {
            return Ok(Wrapping::plain(compression));
        }
        let keyring = store.keyring().clone();
        // Files are read, and a program may be run.
        let read = move || {
            Ok(Wrapping {
                compression,
                sealer: keyring.sealer()?,
                metadata: keyring.metadata_sealer()?,
                reads: keyring.can_read()?,
            })
        };
        blocking(read).await
    }

    /// The same for metadata alone. Where that is not encrypted, no key is read.
    pub(crate) async fn of_metadata(store: &Store) -> Result<Self> {
        match store.keyring().seals_metadata() {
            true => Wrapping::of(store, Compression::Plain).await,
            false => Ok(Wrapping::plain(Compression::Plain)),
        }
    }

    /// Whatever the store's keys ask for, nothing is encrypted.
    pub(crate) fn plain(compression: Compression) -> Self {
        Wrapping {
            compression,
            sealer: Sealer::default(),
            metadata: Sealer::default(),
            reads: true,
        }
    }

    /// How objects are compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// The same for objects that are compressed in another way.
    pub(crate) fn compressing(self, compression: Compression) -> Self {
        Wrapping { compression, ..self }
    }

    /// About as many bytes an object has whose content has so many and cannot be compressed.
    pub(crate) fn at_most(&self, bytes: u64) -> u64 {
        match self.sealer.method() {
            // 17 bytes on 8192, or less.
            Some(_) => bytes.saturating_add(bytes / 256),
            None => bytes,
        }
    }

    /// Can what is encrypted be decrypted here? What is not encrypted can be read anyway.
    pub(crate) fn reads(&self) -> bool {
        self.reads
    }

    /// A digest of what goes into an object, where it cannot be read again here; none where it can.
    pub(crate) fn digest(&self) -> Option<KeyedDigest> {
        let key = self.sealer.digest_key().filter(|_| !self.reads)?;
        Some(KeyedDigest::new(&key))
    }

    /// Begin the object with this key, compressed by so many threads beside this one. It is encrypted if it is of a kind that is.
    pub(crate) fn begin<W: Write + Send + 'static>(&self, key: &str, sink: W, threads: u32) -> io::Result<Wrapped<W>> {
        let sealed = self.seal(key, sink)?;
        Ok(Wrapped(self.compression.encoder_with_threads(sealed, threads)?))
    }

    /// The same with what was compressed before as its beginning.
    pub(crate) fn begin_after<'a, W: Write + Send + 'static>(
        &self,
        key: &str,
        sink: W,
        compressed: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<Wrapped<W>> {
        let mut sealed = self.seal(key, sink)?;
        for part in compressed {
            sealed.write_all(part)?;
        }
        Ok(Wrapped(self.compression.encoder(sealed)?))
    }

    /// Begin the object with this key, whose content is compressed already.
    pub(crate) fn seal<W: Write + Send + 'static>(&self, key: &str, sink: W) -> io::Result<Sealed<W>> {
        if layout::is_encrypted_where_anything_is(key) {
            self.sealer.seal(sink)
        } else if layout::is_metadata(key) {
            seal_metadata(&self.metadata, sink)
        } else {
            Sealer::default().seal(sink)
        }
    }

    /// Begin an object that is encrypted whatever its kind is.
    pub(crate) fn begin_sealed<W: Write + Send + 'static>(&self, sink: W) -> io::Result<Wrapped<W>> {
        let sealed = self.sealer.seal(sink)?;
        Ok(Wrapped(self.compression.encoder(sealed)?))
    }
}

/// Begin metadata. If it is encrypted, its mark comes first.
pub(crate) fn seal_metadata<W: Write + Send + 'static>(sealer: &Sealer, mut sink: W) -> io::Result<Sealed<W>> {
    if sealer.method().is_some() {
        sink.write_all(SEALED_MARK)?;
    }
    sealer.seal(sink)
}

/// Takes the content of an object. It must be [finished](Wrapped::finish), else the object is truncated.
pub(crate) struct Wrapped<W: Write + Send + 'static>(Encoder<Sealed<W>>);

impl<W: Write + Send + 'static> Wrapped<W> {
    /// As [`Encoder::pledge`].
    pub(crate) fn pledge(&mut self, bytes: u64) -> io::Result<()> {
        self.0.pledge(bytes)
    }

    /// Write the end and give the sink back.
    pub(crate) fn finish(self) -> io::Result<W> {
        self.0.finish()?.finish()
    }
}

impl<W: Write + Send + 'static> Write for Wrapped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An error if what this server encrypts cannot be decrypted by it, since it has public keys only.
pub(crate) async fn refuse_unread(store: &Store) -> Result<()> {
    let wrapping = Wrapping::of(store, Compression::Plain).await?;
    match wrapping.reads {
        true => Ok(()),
        false => Err(Error::refused(
            "what this server encrypts cannot be verified here, as it has no secret key",
            "Verify it by the walarchive command on a machine that has the secret key, with --encryption-key-file.",
        )),
    }
}
