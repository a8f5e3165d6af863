//! Objects that are encrypted or not, and tell it by their first line.

use std::io::{self, Cursor, Read};

use super::flaw::{Flaw, Method};
use super::keyring::{Keyring, Keys};
use super::open::{Looks, Plain, open};
use super::secretstream::fill;
use crate::error::{Error, Result};

/// Before the ciphertext of metadata. What does not begin so is plain text.
pub const SEALED_MARK: &[u8] = b"walarchive sealed metadata 1\n";

/// A source whose first bytes were looked at.
pub(crate) enum Marked<R> {
    /// What comes after the mark.
    Sealed(R),
    /// There is no mark.
    Plain(Plain),
}

/// Does the source begin with the mark?
pub(crate) fn look(mut source: impl Read + Send + 'static) -> io::Result<Marked<impl Read + Send + 'static>> {
    let mut beginning = vec![0; SEALED_MARK.len()];
    let bytes = fill(&mut source, &mut beginning)?;
    beginning.truncate(bytes);
    Ok(match beginning == SEALED_MARK {
        true => Marked::Sealed(source),
        false => Marked::Plain(Box::new(Cursor::new(beginning).chain(source))),
    })
}

/// Decrypt what comes after the mark.
pub(crate) fn open_marked(source: impl Read + Send + 'static, keys: Option<&Keys>) -> io::Result<Plain> {
    let looks: Looks = Box::new(|_| false);
    match keys {
        Some(keys) => open(source, keys, &looks),
        None => Err(Flaw::NoKey.into_io()),
    }
}

impl Keyring {
    /// Decrypt a whole object that begins with [`SEALED_MARK`]; none if it does not. `object` is its URL. It is damaged if its plain
    /// text has more than `limit` bytes. The first time the keys are read, which blocks.
    pub fn open_metadata(&self, object: &str, stored: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(sealed) = stored.strip_prefix(SEALED_MARK) else {
            return Ok(None);
        };
        let keys = self.keys()?;
        let mut plain = Vec::new();
        let read = open_marked(Cursor::new(sealed.to_vec()), keys)
            .and_then(|source| source.take(limit.saturating_add(1)).read_to_end(&mut plain));
        if let Err(error) = read {
            let damage = || Flaw::Damaged(Method::OpenPgp, format!("It cannot be read: {error}."));
            return Err(Error::flawed(object, Flaw::of_io(&error).unwrap_or_else(damage)));
        }
        match plain.len() as u64 > limit {
            true => Err(Error::damaged(
                object,
                format!("No more than {limit} bytes were expected."),
            )),
            false => Ok(Some(plain)),
        }
    }
}
