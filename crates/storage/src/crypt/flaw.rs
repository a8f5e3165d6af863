//! Why an object cannot be decrypted.

use std::fmt;
use std::io;

/// How an object is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// libsodium's secretstream (XChaCha20-Poly1305) with a secret key.
    Libsodium,
    /// An OpenPGP message to public keys.
    OpenPgp,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Libsodium => "libsodium",
            Method::OpenPgp => "OpenPGP",
        })
    }
}

/// Why an object cannot be decrypted with the keys that are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It is encrypted, and there is no key at all.
    NoKey,
    /// No key of this method opens it.
    WrongKey(Method),
    /// It is encrypted by this method, and all keys are for the other one.
    OtherMethod(Method),
    /// It is not encrypted, and it has to be.
    NotEncrypted,
    /// It has no byte at all.
    Empty,
    /// It is an OpenPGP message of a kind that cannot be read here. The sentence says which.
    Unsupported(String),
    /// Its end is missing.
    Truncated(Method),
    /// It is not what was encrypted. The sentence says what was found.
    Damaged(Method, String),
}

impl Flaw {
    /// Is it the object that cannot be used, whatever the key?
    pub fn is_damage(&self) -> bool {
        matches!(self, Flaw::Empty | Flaw::Truncated(_) | Flaw::Damaged(..))
    }

    /// What was found, as a sentence.
    pub fn detail(&self) -> String {
        match self {
            Flaw::NoKey => "It begins with the mark of metadata that walarchive has encrypted.".to_owned(),
            Flaw::WrongKey(Method::Libsodium) => {
                "No libsodium key that is configured opens its first chunk: it was encrypted with another key, or is \
                 damaged there."
                    .to_owned()
            }
            Flaw::WrongKey(Method::OpenPgp) => {
                "It is an OpenPGP message, and not to the public key of any secret key that is configured.".to_owned()
            }
            Flaw::OtherMethod(Method::OpenPgp) => {
                "It is an OpenPGP message, and the keys that are configured are of libsodium.".to_owned()
            }
            Flaw::OtherMethod(Method::Libsodium) => {
                "It is not an OpenPGP message, and the keys that are configured are of OpenPGP. Perhaps it was encrypted by \
                 libsodium."
                    .to_owned()
            }
            Flaw::NotEncrypted => "It begins as an object does that is not encrypted.".to_owned(),
            Flaw::Empty => "It is empty: it has not even the beginning of a ciphertext.".to_owned(),
            Flaw::Truncated(Method::Libsodium) => {
                "It is truncated: its ciphertext ends before the chunk that is marked as the last one.".to_owned()
            }
            Flaw::Truncated(Method::OpenPgp) => "It is truncated: the OpenPGP message ends too early.".to_owned(),
            Flaw::Unsupported(what) | Flaw::Damaged(_, what) => what.clone(),
        }
    }

    /// What to do about it, as a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Flaw::NoKey => {
                "Give the key with walarchive.encryption_key_file or --encryption-key-file, or in WAL-G's variables."
            }
            Flaw::WrongKey(_) => {
                "Give the key that the object was encrypted with, beside the others if there are several: with \
                 walarchive.encryption_key_file or --encryption-key-file, or in WAL-G's variables."
            }
            Flaw::OtherMethod(_) => {
                "Give a key of that method, beside the others: a libsodium key, or an OpenPGP secret key."
            }
            Flaw::NotEncrypted => {
                "If it was written before encryption was turned on, permit to read it with \
                 walarchive.encryption_accept_plain or --accept-plain. Otherwise find out who put it there."
            }
            Flaw::Unsupported(_) => {
                "gpg can decrypt it, perhaps. Encrypt it again as WAL-G or \"gpg --encrypt\" does by itself, and store that."
            }
            Flaw::Empty | Flaw::Truncated(_) | Flaw::Damaged(..) => {
                "This object of the repository cannot be used. Look for another copy of it, or restore from another backup."
            }
        }
    }

    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The flaw behind the error of a reader that decrypts, if it is one.
    pub(crate) fn of_io(error: &io::Error) -> Option<Flaw> {
        error.get_ref()?.downcast_ref::<Flaw>().cloned()
    }
}

/// What follows the name of the object.
impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::NoKey => "is encrypted, and no key is configured",
            Flaw::WrongKey(_) => "cannot be decrypted with the keys that are configured",
            Flaw::OtherMethod(_) => "is encrypted by a method that no configured key is for",
            Flaw::NotEncrypted => "is not encrypted, and has to be",
            Flaw::Unsupported(_) => "is encrypted in a way that walarchive cannot read",
            Flaw::Empty | Flaw::Truncated(_) | Flaw::Damaged(..) => "is damaged",
        })
    }
}

impl std::error::Error for Flaw {}
