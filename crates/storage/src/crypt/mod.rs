//! Encryption of what leaves the machine, in the two forms that WAL-G has: libsodium's secretstream with a secret key, and
//! OpenPGP messages to public keys. What is encrypted has been compressed before.
//!
//! A [`Keyring`] belongs to a store. A [`RangeReader`](crate::RangeReader) decrypts with it; its failures tell a wrong key from
//! damage, and both from an object that was never encrypted.

mod config;
mod flaw;
mod key_command;
mod key_file;
mod key_id;
mod keyring;
mod locked;
mod marked;
mod message;
mod open;
mod openpgp;
mod read;
mod recipients;
mod sealing;
mod secretstream;
mod small;
mod sodium_key;
mod under;
mod write;

pub use config::{EncryptionConfig, WAL_G_KEYS};
pub use flaw::{Flaw, Method};
pub use keyring::Keyring;
pub(crate) use keyring::Keys;
pub use marked::SEALED_MARK;
pub(crate) use marked::{Marked, look, open_marked};
pub use open::Looks;
pub(crate) use open::{Plain, open};
pub use openpgp::is_openpgp;
pub use under::{HEAD_OF_KEY, Under};
pub use write::{Sealed, Sealer};

#[cfg(test)]
mod tests;
