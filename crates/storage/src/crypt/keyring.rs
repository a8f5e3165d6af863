//! The keys of a repository.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::config::EncryptionConfig;
use super::flaw::Method;
use super::openpgp::OpenPgpKeys;
use super::sodium_key::SodiumKey;
use super::write::{Sealer, WriteKey};
use crate::error::Result;

/// Keys to read with, and what may be read without.
#[derive(Debug, Default)]
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
    keys: OnceLock<Result<Keys>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("Keyring(none)"),
            Some(held) => match held.keys.get() {
                Some(Ok(keys)) => write!(
                    f,
                    "Keyring({} of libsodium, {:?} of OpenPGP)",
                    keys.libsodium.len(),
                    keys.openpgp
                ),
                Some(Err(_)) => f.write_str("Keyring(unusable)"),
                None => f.write_str("Keyring(not read yet)"),
            },
        }
    }
}

#[cfg(test)]
impl From<Keys> for Keyring {
    fn from(keys: Keys) -> Self {
        Keyring(Some(Arc::new(Held {
            config: EncryptionConfig::default(),
            keys: OnceLock::from(Ok(keys)),
        })))
    }
}

impl Keyring {
    /// The keys that the configuration names. Nothing is read yet.
    pub(crate) fn new(config: &EncryptionConfig) -> Self {
        let held = || {
            Arc::new(Held {
                config: config.clone(),
                keys: OnceLock::new(),
            })
        };
        Keyring(config.names_a_key().then(held))
    }

    /// Are there no keys?
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How new objects are encrypted, by what the configuration says; none if they are not. Reads no key.
    pub fn writes(&self) -> Option<Method> {
        self.0.as_deref().and_then(|held| held.config.writes)
    }

    /// What encrypts new objects. The first time the keys are read, which blocks.
    pub fn sealer(&self) -> Result<Sealer> {
        let key = match (self.writes(), self.keys()?) {
            (Some(Method::Libsodium), Some(keys)) => keys.libsodium.first().cloned().map(WriteKey::Libsodium),
            _ => None,
        };
        Ok(Sealer::new(key))
    }

    /// The keys, if there are any. The first time they are read, which blocks.
    pub(crate) fn keys(&self) -> Result<Option<&Keys>> {
        let Some(held) = self.0.as_deref() else {
            return Ok(None);
        };
        match held.keys.get_or_init(|| Keys::read(&held.config)) {
            Ok(keys) => Ok(Some(keys)),
            Err(error) => Err(error.clone()),
        }
    }
}
