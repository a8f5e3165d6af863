//! Keeps a reader of JSON within bounds when nobody vouches for the text: a parser collects a string before anybody can look at
//! it, and remembers each bracket that is open.

use std::io::{self, Read};

/// More than any string has, in bytes: paths have 4096, and each of them may be written with six.
const STRING_LIMIT: usize = 1 << 20;
/// More than any of the formats nests.
const DEPTH_LIMIT: usize = 64;

/// Passes JSON on as long as it keeps the bounds.
pub(crate) struct Guarded<R> {
    inner: R,
    in_string: bool,
    escaped: bool,
    length: usize,
    depth: usize,
}

impl<R: Read> Guarded<R> {
    pub(crate) fn new(inner: R) -> Self {
        Guarded {
            inner,
            in_string: false,
            escaped: false,
            length: 0,
            depth: 0,
        }
    }

    fn look_at(&mut self, byte: u8) {
        if self.in_string {
            self.length += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => (self.in_string, self.length) = (true, 0),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        for byte in &buffer[..bytes] {
            self.look_at(*byte);
            if self.length > STRING_LIMIT {
                return Err(io::Error::other("a string in it is too long"));
            }
            if self.depth > DEPTH_LIMIT {
                return Err(io::Error::other("it is nested too deeply"));
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<String> {
        let mut out = String::new();
        Guarded::new(text.as_bytes()).read_to_string(&mut out).map(|_| out)
    }

    #[test]
    fn what_keeps_the_bounds_passes() {
        let text = format!("{{\"a\\\"[[\": [\"{}\"]}}", "[".repeat(STRING_LIMIT - 1));
        assert_eq!(read(&text).expect("passed"), text);
        // Depth is what is open at a time.
        assert!(read(&"[{}]".repeat(1000)).is_ok());
    }

    #[test]
    fn what_does_not_is_refused() {
        assert!(read(&format!("\"{}\"", "\\\"".repeat(STRING_LIMIT))).is_err());
        assert!(read(&"[".repeat(DEPTH_LIMIT + 1)).is_err());
    }
}
