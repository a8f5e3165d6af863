//! Digests with a key, of what cannot be read again where it was encrypted: whoever has no key learns nothing from them.

use std::io::{self, Write};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA256 of what comes.
pub(crate) struct KeyedDigest {
    hmac: Hmac<Sha256>,
    bytes: u64,
}

impl KeyedDigest {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        KeyedDigest {
            // A key of this kind may have any length.
            hmac: <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("a key of any length"),
            bytes: 0,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hmac.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The digest, and how many bytes came.
    pub(crate) fn finish(self) -> ([u8; 32], u64) {
        (self.hmac.finalize().into_bytes().into(), self.bytes)
    }
}

impl Write for KeyedDigest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::manifest::hex;

    /// By Python's hmac.
    #[test]
    fn it_is_hmac() {
        let mut digest = KeyedDigest::new(&[7; 32]);
        digest.update(b"wal");
        digest.update(b"archive");
        let (sum, bytes) = digest.finish();
        assert_eq!(
            (hex(&sum).as_str(), bytes),
            ("0059eb27c7ada15d12d716f04ee9a4a80ab556fbafff737b338a484bf797ffee", 10)
        );
    }
}
