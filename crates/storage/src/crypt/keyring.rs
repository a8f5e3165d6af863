//! The keys of a repository.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use super::config::EncryptionConfig;
use super::flaw::Method;
use super::key_id;
use super::openpgp::OpenPgpKeys;
use super::sodium_key::SodiumKey;
use super::write::{Sealer, WriteKey};
use crate::error::{Error, Result};

/// Keys to read with, and what may be read without.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Keys {
    /// libsodium's.
    pub(crate) libsodium: Vec<SodiumKey>,
    /// Those of OpenPGP.
    pub(crate) openpgp: OpenPgpKeys,
    /// Objects that are not encrypted are read, too: those from before encryption was turned on.
    pub(crate) accept_plain: bool,
}

/// The keys of a repository; none at all if none are configured. They are read when the first object needs them, so that what needs
/// none never fails because of them. Cheap to clone, and shows nothing of them.
#[derive(Clone, Default)]
pub struct Keyring(Option<Arc<Held>>);

struct Held {
    config: EncryptionConfig,
    /// A key is named. If none is and objects are to be encrypted, the first of them tells it.
    has_keys: bool,
    /// An error is not kept: a vault that does not answer now may do so later.
    keys: OnceCell<Keys>,
    /// The last error and when that was, for those who have waited for it.
    failure: Mutex<Option<(Instant, Error)>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("Keyring(none)"),
            Some(held) => match held.keys.get() {
                Some(keys) => write!(
                    f,
                    "Keyring({} of libsodium, {:?} of OpenPGP)",
                    keys.libsodium.len(),
                    keys.openpgp
                ),
                None => f.write_str("Keyring(not read yet)"),
            },
        }
    }
}

#[cfg(test)]
impl Keyring {
    /// With these keys.
    pub(super) fn of(keys: Keys, writes: Option<Method>) -> Self {
        Keyring(Some(Arc::new(Held {
            config: EncryptionConfig {
                writes,
                ..EncryptionConfig::default()
            },
            has_keys: true,
            keys: OnceCell::with_value(keys),
            failure: Mutex::default(),
        })))
    }
}

impl Keyring {
    /// The keys that the configuration names. Nothing is read yet.
    pub(crate) fn new(config: &EncryptionConfig) -> Self {
        let has_keys = config.names_a_key();
        let held = || {
            Arc::new(Held {
                config: config.clone(),
                has_keys,
                keys: OnceCell::new(),
                failure: Mutex::default(),
            })
        };
        Keyring((has_keys || config.writes.is_some() || config.metadata).then(held))
    }

    /// Are there no keys?
    pub fn is_empty(&self) -> bool {
        !self.0.as_deref().is_some_and(|held| held.has_keys)
    }

    /// The files of keys, by what the configuration says. Reads none.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.as_deref().map_or_else(Vec::new, |held| held.config.files())
    }

    /// How new objects are encrypted, by what the configuration says; none if they are not. Reads no key.
    pub fn writes(&self) -> Option<Method> {
        self.0.as_deref().and_then(|held| held.config.writes)
    }

    /// Is what describes the encrypted objects to be encrypted, too, by what the configuration says? Reads no key.
    pub fn seals_metadata(&self) -> bool {
        self.0.as_deref().is_some_and(|held| held.config.metadata)
    }

    /// What encrypts new metadata, or leaves it as it is. An error if it could not be read again here: whoever writes has to read it.
    /// The first time the keys are read, which blocks.
    pub fn metadata_sealer(&self) -> Result<Sealer> {
        if !self.seals_metadata() {
            return Ok(Sealer::default());
        }
        let sealer = self.sealer()?;
        if sealer.method().is_none() {
            return Err(Error::config(
                "metadata is to be encrypted, and no method of encryption is set",
                "Set walarchive.encryption, or --encryption, to libsodium or openpgp, or turn walarchive.encrypt_metadata off.",
            ));
        }
        if !self.can_read()? {
            return Err(Error::config(
                "metadata is to be encrypted, and there is no secret key to read it again",
                "With public keys only, walarchive could neither take delta backups nor delete old ones. Turn walarchive.encrypt_metadata \
                 off, or give the secret key, too.",
            ));
        }
        Ok(sealer)
    }

    /// What encrypts new objects. The first time the keys are read, which blocks.
    pub fn sealer(&self) -> Result<Sealer> {
        let Some(method) = self.writes() else {
            return Ok(Sealer::default());
        };
        let keys = self.keys()?;
        let key = match method {
            Method::Libsodium => keys
                .and_then(|keys| keys.libsodium.first().cloned())
                .map(WriteKey::Libsodium),
            Method::OpenPgp => keys
                .map(|keys| keys.openpgp.recipients())
                .transpose()?
                .flatten()
                .map(WriteKey::OpenPgp),
        };
        key.map(Sealer::new).ok_or_else(|| lacking(method))
    }

    /// Can what the sealer encrypts be decrypted with these keys? With OpenPGP, there may be public keys only. The first time the
    /// keys are read, which blocks.
    pub fn can_read(&self) -> Result<bool> {
        let (sealer, keys) = (self.sealer()?, self.keys()?);
        Ok(match (sealer.recipients(), keys) {
            (Some(recipients), Some(keys)) => {
                let decrypting: Vec<_> = keys.openpgp.decrypting().collect();
                recipients
                    .fingerprints()
                    .any(|fingerprint| decrypting.contains(&fingerprint))
            }
            _ => true,
        })
    }

    /// The ids of all keys to read with, as [`Sealer::key_id`] gives that of a key to write with. An OpenPGP key has that of an
    /// object that is encrypted to it alone. The first time the keys are read, which blocks.
    pub fn key_ids(&self, salt: &[u8]) -> Result<Vec<(Method, String)>> {
        let Some(keys) = self.keys()? else {
            return Ok(Vec::new());
        };
        let libsodium = keys.libsodium.iter();
        let libsodium = libsodium.map(|key| (Method::Libsodium, key_id::of_sodium(key, salt)));
        let openpgp = keys.openpgp.decrypting();
        let openpgp = openpgp.map(|key| (Method::OpenPgp, key_id::of_fingerprints([key].into_iter(), salt)));
        Ok(libsodium.chain(openpgp).collect())
    }

    /// Are other keys there now than those that were read here? They are read once more, which blocks. Before the first time nothing
    /// is known of them, and they count as others.
    pub fn has_changed(&self) -> Result<bool> {
        let Some(held) = self.0.as_deref().filter(|held| held.has_keys) else {
            return Ok(false);
        };
        match held.keys.get() {
            Some(keys) => Ok(Keys::read(&held.config)? != *keys),
            None => Ok(true),
        }
    }

    /// The keys, if there are any. The first time they are read, which blocks.
    pub(crate) fn keys(&self) -> Result<Option<&Keys>> {
        let Some(held) = self.0.as_deref().filter(|held| held.has_keys) else {
            return Ok(None);
        };
        let called = Instant::now();
        let failure = || held.failure.lock().clone();
        let read = || match failure() {
            // Else each of many tasks would wait for a program that hangs, one after the other.
            Some((when, error)) if when >= called => Err(error),
            _ => Keys::read(&held.config),
        };
        let keys = held.keys.get_or_try_init(|| {
            read().inspect_err(|error| *held.failure.lock() = Some((Instant::now(), error.clone())))
        });
        keys.map(Some)
    }
}

fn lacking(method: Method) -> Error {
    Error::config(
        format!("new objects are to be encrypted by {method}, and there is no {method} key"),
        "Give a key of that method, or choose the method that the key is for.",
    )
}
