//! Short texts that are encrypted.

use std::io::{Cursor, Read as _};

use super::flaw::{Flaw, Method};
use super::keyring::{Keyring, Keys};
use super::open::{Looks, open};
use crate::error::{Error, Result};

impl Keyring {
    /// Decrypt what [`Sealer::seal_small`](super::Sealer::seal_small) has made; what is not encrypted is refused. The first
    /// time the keys are read, which blocks. The error of a text that cannot be decrypted is that of an object, which is named
    /// "sealed text".
    pub fn open_small(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let none = Keys::default();
        let keys = self.keys()?.unwrap_or(&none);
        let looks: Looks = Box::new(|_| false);
        let mut plain = Vec::new();
        let read =
            open(Cursor::new(sealed.to_vec()), keys, &looks).and_then(|mut source| source.read_to_end(&mut plain));
        read.map(|_| plain).map_err(|error| {
            let damage = || Flaw::Damaged(Method::OpenPgp, format!("It cannot be read: {error}."));
            Error::flawed("sealed text", Flaw::of_io(&error).unwrap_or_else(damage))
        })
    }
}
