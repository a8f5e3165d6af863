//! The manifest's checksum of itself, as its bytes pass by.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::hex;

/// More than the last line has, in bytes.
const LINE_LIMIT: usize = 1 << 20;

/// Passes a manifest on, and sums up everything before its last line, which holds the sum.
pub(crate) struct LineDigest<R> {
    inner: R,
    digest: Sha256,
    /// The bytes after the last line break that something follows.
    line: Vec<u8>,
    /// Is the line longer than a last one can be, and its beginning summed up?
    overlong: bool,
}

impl<R: Read> LineDigest<R> {
    /// Before the first byte.
    pub(crate) fn new(inner: R) -> Self {
        LineDigest {
            inner,
            digest: Sha256::new(),
            line: Vec::new(),
            overlong: false,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let Some((_, before)) = bytes.split_last() else { return };
        if self.line.last() == Some(&b'\n') {
            self.commit();
        }
        if let Some(at) = before.iter().rposition(|byte| *byte == b'\n') {
            self.commit();
            self.digest.update(&bytes[..=at]);
            self.line.extend_from_slice(&bytes[at + 1..]);
        } else {
            self.line.extend_from_slice(bytes);
        }
        if self.line.len() > LINE_LIMIT {
            self.commit();
            self.overlong = true;
        }
    }

    fn commit(&mut self) {
        self.digest.update(&self.line);
        self.line.clear();
        self.overlong = false;
    }

    /// At the end: does the last line say `expected`, and is that the checksum of the bytes before it? Else why not, as a
    /// sentence.
    pub(crate) fn finish(self, expected: &str) -> Result<(), String> {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        if self.overlong || *line != *format!("\"Manifest-Checksum\": \"{expected}\"}}").as_bytes() {
            return Err("Its last line is not its checksum.".to_owned());
        }
        let actual = hex(&self.digest.finalize());
        match actual == expected {
            true => Ok(()),
            false => Err(format!("Its checksum is {actual}, it says {expected}.")),
        }
    }
}

impl<R: Read> Read for LineDigest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.update(&buffer[..bytes]);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(lines in prop::collection::vec("[ -~\n]{0,20}", 0..20), piece in 1usize..64) {
            let mut text = lines.join("\n").into_bytes();
            text.push(b'\n');
            let sum = hex(&Sha256::digest(&text));
            text.extend_from_slice(format!("\"Manifest-Checksum\": \"{sum}\"}}\n").as_bytes());
            let mut digest = LineDigest::new(io::empty());
            text.chunks(piece).for_each(|piece| digest.update(piece));
            prop_assert_eq!(digest.finish(&sum), Ok(()));
            let mut cut = LineDigest::new(io::empty());
            text[1..].chunks(piece).for_each(|piece| cut.update(piece));
            prop_assert!(cut.finish(&sum).is_err());
        }
    }
}
