//! What tells keys apart and tells nothing about them.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::recipients::Recipients;
use super::sodium_key::SodiumKey;

const KEY_ID: &[u8] = b"walarchive: id of a key\0";
const DIGEST_KEY: &[u8] = b"walarchive: key of digests\0";

/// Bytes of an id.
const ID_BYTES: usize = 8;

fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    // A key of this kind may have any length.
    let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        hmac.update(part);
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

fn id(hmac: &[u8; 32]) -> String {
    let mut id = String::with_capacity(2 * ID_BYTES);
    for byte in &hmac[..ID_BYTES] {
        // Writing into a text does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The id of a secret key.
pub(super) fn of_sodium(key: &SodiumKey, salt: &[u8]) -> String {
    id(&hmac(key.bytes(), &[KEY_ID, salt]))
}

/// The id of public keys, given by their fingerprints in ascending order.
pub(super) fn of_fingerprints(fingerprints: impl Iterator<Item = Vec<u8>>, salt: &[u8]) -> String {
    let fingerprints = fingerprints.collect::<Vec<_>>().concat();
    id(&hmac(salt, &[KEY_ID, &fingerprints]))
}

/// A key for digests of plain text, from a secret key.
pub(super) fn digest_key_of_sodium(key: &SodiumKey) -> Zeroizing<[u8; 32]> {
    hmac(key.bytes(), &[DIGEST_KEY])
}

/// The same from public keys: it keeps a digest from being looked up by who has not even these.
pub(super) fn digest_key_of_recipients(recipients: &Recipients) -> Option<Zeroizing<[u8; 32]>> {
    let keys = recipients.public_keys().ok()?;
    Some(hmac(DIGEST_KEY, &[&keys]))
}
