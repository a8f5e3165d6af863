//! Secret keys of libsodium.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::locked::Locked;
use crate::error::{Error, Result};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// WAL-G takes no shorter text for a key.
const SHORTEST_TEXT: usize = 25;

const FORMS: &str = "A libsodium key has 32 bytes: write it with 64 hexadecimal digits, or in base64 with 44 characters. \
                     \"openssl rand -hex 32\" makes a new one.";

/// WAL-G's ways to get a key from a text (`WALG_LIBSODIUM_KEY_TRANSFORM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Transform {
    /// The bytes as they are, cut after the 32nd, or filled up with zeros.
    #[default]
    None,
    /// Hexadecimal digits.
    Hex,
    /// Base64.
    Base64,
}

impl std::str::FromStr for Transform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Transform::None),
            "hex" => Ok(Transform::Hex),
            "base64" => Ok(Transform::Base64),
            _ => Err(Error::config(
                "WALG_LIBSODIUM_KEY_TRANSFORM is not understood",
                "Set it to none, hex or base64, as WAL-G knows it.",
            )),
        }
    }
}

/// A secret key of 32 bytes, in memory that is overwritten when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct SodiumKey(Arc<Locked<KEY_BYTES>>);

impl PartialEq for SodiumKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl fmt::Debug for SodiumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SodiumKey(…)")
    }
}

impl SodiumKey {
    /// The key of these bytes.
    pub(super) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        SodiumKey(Arc::new(Locked::new(bytes)))
    }

    /// The key as WAL-G gets it from a text; `place` is where that is from, for messages.
    pub(super) fn of_wal_g(text: &[u8], transform: Transform, place: &str) -> Result<Self> {
        let key = match transform {
            Transform::None if text.len() < SHORTEST_TEXT => None,
            Transform::None => {
                let mut key = Zeroizing::new([0; KEY_BYTES]);
                let taken = text.len().min(KEY_BYTES);
                key[..taken].copy_from_slice(&text[..taken]);
                Some(SodiumKey::new(&key))
            }
            Transform::Hex => of_hex(text.trim_ascii()),
            Transform::Base64 => of_base64(text.trim_ascii()),
        };
        key.ok_or_else(|| match transform {
            Transform::None => Error::config(
                format!("the libsodium key in {place} is shorter than {SHORTEST_TEXT} bytes"),
                "WAL-G takes no such key. With WALG_LIBSODIUM_KEY_TRANSFORM it is read as hex or base64.",
            ),
            Transform::Hex | Transform::Base64 => wrong(place),
        })
    }

    /// A key as a line of a key file has it: in hex or in base64, which their lengths tell apart.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        of_hex(line).or_else(|| of_base64(line))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.bytes()
    }
}

pub(super) fn wrong(place: &str) -> Error {
    Error::config(format!("the libsodium key in {place} is not one"), FORMS)
}

fn of_hex(text: &[u8]) -> Option<SodiumKey> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_chunks::<2>().0) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(SodiumKey::new(&key))
}

fn of_base64(text: &[u8]) -> Option<SodiumKey> {
    // One byte more than a key has, so that a longer one is not taken.
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 4]);
    let engine = if text.ends_with(b"=") {
        STANDARD
    } else {
        STANDARD_NO_PAD
    };
    let bytes = engine.decode_slice(text, &mut decoded[..]).ok()?;
    let key = decoded.first_chunk::<KEY_BYTES>().filter(|_| bytes == KEY_BYTES)?;
    Some(SodiumKey::new(key))
}
