//! Text of bounded length, for shared memory.

use std::fmt;

/// Up to `N` bytes of UTF-8. Longer text is cut at a character.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: u16,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Self = Text {
        length: 0,
        bytes: [0; N],
    };

    /// The text, cut if it is too long.
    pub fn new(text: &str) -> Self {
        let length = text.floor_char_boundary(N.min(u16::MAX as usize));
        let mut bytes = [0; N];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Text {
            length: length as u16,
            bytes,
        }
    }

    /// As a string slice.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length).min(N)]).unwrap_or_default()
    }

    /// None if it is empty.
    pub fn to_option(self) -> Option<String> {
        Some(self.as_str().to_owned()).filter(|text| !text.is_empty())
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
