//! Finding the key of an object.

use std::io::{self, Cursor, Read};

use super::flaw::{Flaw, Method};
use super::keyring::Keys;
use super::openpgp::{self, is_openpgp};
use super::secretstream::{self, BEGINNING, fill};

/// Does an object that is not encrypted begin so?
pub type Looks = Box<dyn Fn(&[u8]) -> bool + Send>;

/// A source of plain text.
pub(crate) type Plain = Box<dyn Read + Send>;

/// Fewer bytes no ciphertext of libsodium has: a header and an empty chunk.
const SHORTEST: usize = 24 + 17;

/// Decrypt what the source gives. As many of its bytes are read as tell its key from others.
pub(crate) fn open(mut source: impl Read + Send + 'static, keys: &Keys, looks: &Looks) -> io::Result<Plain> {
    let mut beginning = vec![0; BEGINNING];
    let bytes = fill(&mut source, &mut beginning)?;
    beginning.truncate(bytes);
    if let Some(begun) = keys
        .libsodium
        .iter()
        .find_map(|key| secretstream::begin(key, &beginning))
    {
        return Ok(Box::new(secretstream::Opening::new(begun, source)));
    }
    let is_plain = looks(&beginning);
    let is_message = !is_plain && is_openpgp(&beginning);
    if is_message && !keys.openpgp.is_empty() {
        let whole = Cursor::new(beginning).chain(source);
        return Ok(Box::new(openpgp::Opening::new(&keys.openpgp, whole)?));
    }
    let flaw = match bytes {
        _ if is_plain && keys.accept_plain => return Ok(Box::new(Cursor::new(beginning).chain(source))),
        _ if is_plain => Flaw::NotEncrypted,
        0 => Flaw::Empty,
        _ if is_message => Flaw::OtherMethod(Method::OpenPgp),
        _ if keys.libsodium.is_empty() => Flaw::OtherMethod(Method::Libsodium),
        _ if bytes < SHORTEST => Flaw::Truncated(Method::Libsodium),
        _ => Flaw::WrongKey(Method::Libsodium),
    };
    Err(flaw.into_io())
}
