//! Digests with a key, of what cannot be read again where it was encrypted: whoever has no key learns nothing from them.

use sha2::{Digest as _, Sha256};

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// HMAC-SHA256 of what comes.
pub(crate) struct KeyedDigest {
    inner: Sha256,
    outer: Sha256,
    bytes: u64,
}

impl KeyedDigest {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let padded = |pad: u8| {
            let mut sum = Sha256::new();
            sum.update(key.map(|byte| byte ^ pad));
            sum.update([pad; BLOCK - 32]);
            sum
        };
        KeyedDigest {
            inner: padded(0x36),
            outer: padded(0x5c),
            bytes: 0,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The digest, and how many bytes came.
    pub(crate) fn finish(mut self) -> ([u8; 32], u64) {
        self.outer.update(self.inner.finalize());
        (self.outer.finalize().into(), self.bytes)
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
