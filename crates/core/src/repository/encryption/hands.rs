//! The keys of whoever writes, and what the mark of a repository says about them. All of it blocks: keys are read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use walarchive_storage::crypt::{Keyring, Sealer};

use crate::error::{Error, Result};
use crate::formats::manifest::hex;
use crate::repository::cluster_file::{KeyName, Mark, method_name};
use crate::repository::layout;

/// The keys of a writer, read.
pub(super) struct Hands {
    repository: String,
    keyring: Keyring,
    sealer: Sealer,
    method: &'static str,
    /// It is in the token.
    system_identifier: u64,
}

impl Hands {
    pub(super) fn new(repository: String, keyring: Keyring, system_identifier: u64) -> Result<Self> {
        let sealer = keyring.sealer()?;
        let method = sealer.method().map(method_name);
        let method = method.ok_or_else(|| Error::defect("there is no key to encrypt with"))?;
        Ok(Hands {
            repository,
            keyring,
            sealer,
            method,
            system_identifier,
        })
    }

    /// A mark for the key that new objects are encrypted with.
    pub(super) fn mark(&self, plain_before: bool, former_keys: Vec<KeyName>) -> Result<Mark> {
        let salt = rand::random::<u128>().to_be_bytes();
        let token = self.sealer.seal_small(self.system_identifier.to_string().as_bytes());
        let token = token.map_err(|error| Error::defect(format!("cannot encrypt a token: {error}")))?;
        let is_other = |key: &KeyName| !self.is_key(key);
        Ok(Mark {
            key: KeyName {
                method: self.method.to_owned(),
                key_id: self.sealer.key_id(&salt),
                salt: hex(&salt),
            },
            token: STANDARD.encode(token),
            plain_before,
            former_keys: former_keys.into_iter().filter(is_other).collect(),
        })
    }

    /// Is it the key that new objects are encrypted with?
    pub(super) fn is_key(&self, key: &KeyName) -> bool {
        key.method == self.method && key.key_id == self.sealer.key_id(&key.salt())
    }

    /// The mark that a marked repository must get; none if it has the right one.
    pub(super) fn compare(&self, mark: Mark) -> Result<Option<Mark>> {
        if self.is_key(&mark.key) {
            return match !self.keyring.can_read()? || self.opens(&mark)? {
                true => Ok(None),
                false => Err(Error::damaged(
                    format!("{}/{}", self.repository, layout::CLUSTER),
                    "It names the key that is configured, and its token does not open with that.",
                )),
            };
        }
        match self.opens(&mark)? {
            true => {
                let former_keys = [std::slice::from_ref(&mark.key), &mark.former_keys].concat();
                Ok(Some(self.mark(mark.plain_before, former_keys)?))
            }
            false => Err(self.another(&mark)),
        }
    }

    /// Does the token open with any of the keys, and holds what it has to?
    fn opens(&self, mark: &Mark) -> Result<bool> {
        opens_token(&self.keyring, mark, self.system_identifier)
    }

    fn another(&self, mark: &Mark) -> Error {
        let (repository, method) = (&self.repository, &mark.key.method);
        match *method == self.method {
            true => Error::refused(
                format!(
                    "\"{repository}\" is encrypted with another {method} key than the one that is configured for new objects"
                ),
                "Give the right key. To go over to a new one, give the old secret key as a second one, after the new one, and run \
                 walarchive encryption-rotate with both.",
            ),
            false => Error::refused(
                format!(
                    "\"{repository}\" is encrypted by {method}, and new objects are to be encrypted by {}",
                    self.method
                ),
                "Set walarchive.encryption to the method of the repository. To go over to the other one, give the old key, too.",
            ),
        }
    }
}

/// Are there keys with which all of the tokens open? Blocks.
pub(super) fn one_opens_all(keyrings: &[Keyring], marks: &[Mark], system_identifier: u64) -> Result<bool> {
    for keyring in keyrings {
        let mut opens = true;
        for mark in marks {
            opens &= opens_token(keyring, mark, system_identifier)?;
        }
        if opens {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does the token of the mark open with any of these keys, and is it that of this cluster? Blocks.
pub(super) fn opens_token(keyring: &Keyring, mark: &Mark, system_identifier: u64) -> Result<bool> {
    let Ok(token) = STANDARD.decode(&mark.token) else {
        return Ok(false);
    };
    match keyring.open_small(&token).map_err(Error::from) {
        Ok(text) => Ok(text == system_identifier.to_string().as_bytes()),
        Err(error) if error.is_content() => Ok(false),
        Err(error) => Err(error),
    }
}
