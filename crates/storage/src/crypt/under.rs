//! Which key an object is under, by its first bytes.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgp::composed::{Esk, Message};

use super::flaw::Method;
use super::key_id;
use super::keyring::Keyring;
use super::openpgp::is_openpgp;
use super::secretstream::{self, BEGINNING};
use crate::error::Result;

/// As many of an object's first bytes tell it.
pub const HEAD_OF_KEY: u64 = BEGINNING as u64;

/// Bytes of the part of a fingerprint that a message has, its last ones.
const PGP_ID_BYTES: usize = 8;

/// The key of an object. Ids are as [`Sealer::key_id`](super::Sealer::key_id) gives them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Under {
    /// The key that encrypts new objects.
    Writing(Method, String),
    /// Another one that is given.
    Reading(Method, String),
    /// One that is not given; or the object is damaged. libsodium leaves no mark.
    Unknown(Option<Method>),
    /// It is in plain text. True: it may be read.
    Plain(bool),
}

impl Keyring {
    /// The key of an object that begins so. `looks`: does an object that is not encrypted begin so? The first time the keys are read,
    /// which blocks.
    pub fn under(&self, head: &[u8], salt: &[u8], looks: impl Fn(&[u8]) -> bool) -> Result<Under> {
        let keys = self.keys()?;
        let beginning = &head[..head.len().min(BEGINNING)];
        let of_libsodium = keys.map_or(&[][..], |keys| &keys.libsodium);
        let opens = |key| secretstream::begin(key, beginning).is_some();
        if let Some(number) = of_libsodium.iter().position(opens) {
            let id = key_id::of_sodium(&of_libsodium[number], salt);
            // The first one writes.
            return Ok(match self.writes() == Some(Method::Libsodium) && number == 0 {
                true => Under::Writing(Method::Libsodium, id),
                false => Under::Reading(Method::Libsodium, id),
            });
        }
        if looks(head) {
            return Ok(Under::Plain(keys.is_some_and(|keys| keys.accept_plain)));
        }
        if !is_openpgp(head) {
            return Ok(Under::Unknown(None));
        }
        let ids = recipients_of(head);
        let sealer = self.sealer()?;
        if let Some(recipients) = sealer.recipients() {
            let mut own: Vec<_> = recipients.fingerprints().map(short).collect();
            own.sort_unstable();
            if own == ids {
                return Ok(Under::Writing(Method::OpenPgp, sealer.key_id(salt)));
            }
        }
        let mut given = keys.into_iter().flat_map(|keys| keys.openpgp.decrypting());
        Ok(match given.find(|key| ids.contains(&short(key.clone()))) {
            Some(key) => Under::Reading(Method::OpenPgp, key_id::of_fingerprints([key].into_iter(), salt)),
            None => Under::Unknown(Some(Method::OpenPgp)),
        })
    }
}

fn short(fingerprint: Vec<u8>) -> Vec<u8> {
    fingerprint[fingerprint.len().saturating_sub(PGP_ID_BYTES)..].to_vec()
}

/// The ids of the keys that a message is encrypted to, in ascending order.
fn recipients_of(head: &[u8]) -> Vec<Vec<u8>> {
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let Ok((Message::Encrypted { esk, .. }, _)) = Message::from_reader(Cursor::new(head.to_vec())) else {
            return Vec::new();
        };
        let ids = esk.iter().filter_map(|esk| match esk {
            Esk::PublicKeyEncryptedSessionKey(key) => Some(key.id().ok()?.as_ref().to_vec()),
            Esk::SymKeyEncryptedSessionKey(_) => None,
        });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids
    }));
    parsed.unwrap_or_default()
}
