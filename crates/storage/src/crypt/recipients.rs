//! Whom an OpenPGP message is encrypted to.

use std::fmt;

use pgp::composed::{Esk, RawSessionKey, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{KeyFlags, PublicKey, PublicKeyEncryptedSessionKey, PublicSubkey, Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{Duration, KeyDetails, Tag, Timestamp};
use rand_core::OsRng;

use crate::error::{Error, Result};

/// The cipher of the messages: gpg and WAL-G read it.
pub(super) const CIPHER: SymmetricKeyAlgorithm = SymmetricKeyAlgorithm::AES256;

/// The keys that a message is encrypted to, each of which opens it. There is at least one.
pub(super) struct Recipients(Vec<Recipient>);

/// A key that decrypts.
enum Recipient {
    Primary(PublicKey),
    Subkey(PublicSubkey),
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recipients", self.0.len())
    }
}

impl Recipients {
    /// For each of the keys the part of it that is meant for encryption. As gpg does it, one that is revoked or has expired is
    /// refused, and not left out: whoever is to read the message would not be able to. None if there are no keys.
    pub(super) fn of<'a>(keys: impl IntoIterator<Item = &'a SignedPublicKey>) -> Result<Option<Self>> {
        let now = Timestamp::now();
        let mut recipients: Vec<Recipient> = Vec::new();
        for key in keys {
            let recipient = choose(key, now).map_err(|why| unfit(key, why))?;
            if !recipients
                .iter()
                .any(|known| known.fingerprint() == recipient.fingerprint())
            {
                recipients.push(recipient);
            }
        }
        // So that their order in a file does not matter.
        recipients.sort_by_key(Recipient::fingerprint);
        Ok(Some(Recipients(recipients)).filter(|recipients| !recipients.0.is_empty()))
    }

    /// What identifies them, in ascending order.
    pub(super) fn fingerprints(&self) -> impl Iterator<Item = Vec<u8>> {
        self.0.iter().map(Recipient::fingerprint)
    }

    /// Their public keys, in the same order.
    pub(super) fn public_keys(&self) -> pgp::errors::Result<Vec<u8>> {
        let keys = self.0.iter().map(|recipient| match recipient {
            Recipient::Primary(key) => key.to_bytes(),
            Recipient::Subkey(key) => key.to_bytes(),
        });
        Ok(keys.collect::<pgp::errors::Result<Vec<_>>>()?.concat())
    }

    /// The packets with which a message begins: the key of the session, for each recipient.
    pub(super) fn packets(&self, session_key: &RawSessionKey) -> pgp::errors::Result<Vec<u8>> {
        let mut packets = Vec::new();
        for recipient in &self.0 {
            let packet = match recipient {
                Recipient::Primary(key) => {
                    PublicKeyEncryptedSessionKey::from_session_key_v3(OsRng, session_key, CIPHER, key)
                }
                Recipient::Subkey(key) => {
                    PublicKeyEncryptedSessionKey::from_session_key_v3(OsRng, session_key, CIPHER, key)
                }
            };
            Esk::PublicKeyEncryptedSessionKey(packet?).to_writer(&mut packets)?;
        }
        Ok(packets)
    }
}

impl Recipient {
    fn fingerprint(&self) -> Vec<u8> {
        match self {
            Recipient::Primary(key) => key.fingerprint().as_bytes().to_vec(),
            Recipient::Subkey(key) => key.fingerprint().as_bytes().to_vec(),
        }
    }
}

fn unfit(key: &SignedPublicKey, why: &str) -> Error {
    Error::config(
        format!("nothing can be encrypted to OpenPGP key {:X}: {why}", key.fingerprint()),
        "Give the key of a recipient as \"gpg --export --armor\" writes it today, or another one.",
    )
}

/// The part of a key to encrypt to, or why there is none, as what follows a colon.
fn choose(key: &SignedPublicKey, now: Timestamp) -> Result<Recipient, &'static str> {
    let primary = &key.primary_key;
    let revocations = &key.details.revocation_signatures;
    if revocations
        .iter()
        .any(|signature| signature.verify_key(primary).is_ok())
    {
        return Err("it is revoked");
    }
    let own = own_signature(key);
    if own.is_some_and(|own| has_expired(primary, own, now)) {
        return Err("it has expired");
    }
    let bound: Vec<_> = key
        .public_subkeys
        .iter()
        .filter_map(|subkey| Some((&subkey.key, binding(primary, subkey)?)))
        .filter(|(key, binding)| key.algorithm().can_encrypt() && is_for_encryption(binding))
        .collect();
    let valid = bound.iter().filter(|(key, binding)| !has_expired(*key, binding, now));
    if let Some((key, _)) = valid.max_by_key(|(key, _)| key.created_at().as_secs()) {
        return Ok(Recipient::Subkey((*key).clone()));
    }
    match own {
        Some(own) if primary.algorithm().can_encrypt() && is_for_encryption(own) => {
            Ok(Recipient::Primary(primary.clone()))
        }
        _ if !bound.is_empty() => Err("its subkey for encryption has expired"),
        _ => Err("it has no key for encryption"),
    }
}

/// What the owner has last said about the key.
fn own_signature(key: &SignedPublicKey) -> Option<&Signature> {
    let primary = &key.primary_key;
    let direct = key.details.direct_signatures.iter();
    let direct = direct.filter(|signature| signature.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        let signatures = user.signatures.iter().filter(|signature| signature.is_certification());
        signatures.filter(|signature| signature.verify_certification(primary, Tag::UserId, &user.id).is_ok())
    });
    newest(direct.chain(users))
}

/// What binds a subkey to its primary key, unless the subkey is revoked.
fn binding<'a>(primary: &PublicKey, subkey: &'a SignedPublicSubKey) -> Option<&'a Signature> {
    let signatures = subkey.signatures.iter();
    let (revocations, bindings): (Vec<_>, Vec<_>) = signatures
        .filter(|signature| signature.verify_subkey_binding(primary, &subkey.key).is_ok())
        .partition(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
    newest(bindings).filter(|_| revocations.is_empty())
}

fn newest<'a>(signatures: impl IntoIterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures
        .into_iter()
        .max_by_key(|signature| signature.created().map(Timestamp::as_secs))
}

/// Does a signature about a key permit it? Those of old keys do not say what they are for.
pub(super) fn is_for_encryption(signature: &Signature) -> bool {
    let flags = signature.key_flags();
    flags.encrypt_comms() || flags.encrypt_storage() || flags == KeyFlags::default()
}

fn has_expired(key: &impl KeyDetails, signature: &Signature, now: Timestamp) -> bool {
    let lifetime = signature.key_expiration_time().map_or(0, Duration::as_secs);
    let end = u64::from(key.created_at().as_secs()) + u64::from(lifetime);
    lifetime > 0 && end <= u64::from(now.as_secs())
}
