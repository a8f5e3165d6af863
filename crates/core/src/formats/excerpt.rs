//! The top level of a JSON object, without what is not needed: of a text that nobody vouches for, no more is kept than a bound
//! allows, however long it is and however it nests.

use std::io::{self, Read};
use std::ops::Range;

/// The part that was kept.
#[derive(Debug, Default)]
pub(crate) struct Excerpt {
    /// The object, with null in place of the parts that were left out or taken aside.
    pub(crate) text: Vec<u8>,
    /// The text of the value that was taken aside.
    pub(crate) aside: Option<Vec<u8>>,
}

/// Follows the text byte by byte. It does not say whether that is JSON: whoever reads the excerpt does.
#[derive(Default)]
struct Top {
    depth: usize,
    in_string: bool,
    escaped: bool,
    place: Place,
    /// As it stands in the text, without the quotes; no longer than [`KEY_LIMIT`] and one byte.
    key: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Outside of the keys and values of the top level.
    #[default]
    Between,
    Key,
    AfterKey,
    Value,
}

/// Longer than any key that anybody asks for, in bytes.
const KEY_LIMIT: usize = 64;

impl Top {
    /// Returns whether the byte belongs to a value of the top level, whose key is known by then.
    fn feed(&mut self, byte: u8) -> bool {
        if self.in_string {
            let is_end = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !is_end;
            match self.place {
                Place::Key if is_end => self.place = Place::AfterKey,
                Place::Key if self.key.len() <= KEY_LIMIT => self.key.push(byte),
                _ => {}
            }
            return self.place == Place::Value;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.place == Place::Between {
                    self.place = Place::Key;
                    self.key.clear();
                }
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.place = Place::Between;
                }
            }
            b',' if self.depth == 1 => self.place = Place::Between,
            b':' if self.depth == 1 && self.place == Place::AfterKey => {
                self.place = Place::Value;
                return false;
            }
            _ => {}
        }
        self.place == Place::Value
    }
}

/// Keep at most `limit` bytes of an object, and as many of the value that is taken aside. The values of the keys `left_out` may
/// have any length.
pub(crate) fn excerpt(mut source: impl Read, left_out: &[&str], aside: &[&str], limit: usize) -> io::Result<Excerpt> {
    let is_in = |keys: &[&str], key: &[u8]| keys.iter().any(|known| known.as_bytes() == key);
    let (mut top, mut kept) = (Top::default(), Excerpt::default());
    let (mut is_left_out, mut is_aside) = (false, false);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = match source.read(&mut buffer) {
            Ok(0) => return Ok(kept),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in &buffer[..bytes] {
            let is_value = top.feed(*byte);
            if is_value && is_left_out {
                continue;
            }
            let to = match is_value && is_aside {
                true => kept.aside.get_or_insert_default(),
                false => &mut kept.text,
            };
            to.push(*byte);
            if to.len() > limit {
                return Err(io::Error::other(format!(
                    "its short fields have more than {limit} bytes"
                )));
            }
            // Before the first byte of a value its key is known.
            if !is_value && top.place == Place::Value {
                (is_left_out, is_aside) = (is_in(left_out, &top.key), is_in(aside, &top.key));
                if is_left_out || is_aside {
                    kept.text.extend_from_slice(b"null");
                }
            }
        }
    }
}

/// Find the value of a key of the top level in the text of an object, with the spaces around it.
pub(crate) fn value_of(text: &[u8], key: &str) -> Option<Range<usize>> {
    let (mut top, mut found) = (Top::default(), None);
    for (at, byte) in text.iter().enumerate() {
        let is_value = top.feed(*byte);
        if is_value && top.key == key.as_bytes() {
            found = Some(found.map_or(at, |range: Range<usize>| range.start)..at + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> (String, Option<String>) {
        let kept = excerpt(text.as_bytes(), &["Files"], &["UserData"], 1000).expect("kept");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(kept.text), kept.aside.map(text))
    }

    #[test]
    fn what_is_not_needed_is_left_out_whatever_it_is() {
        for value in ["1", "\"}\\\"]\"", "{\"Files\": [{}, \"]\"]}", "[[[]]]", " null "] {
            let text = format!("{{\"a\": {{\"Files\": 1}}, \"Files\":{value}, \"UserData\":{value}, \"b\":\"Files\"}}");
            let (kept, aside) = texts(&text);
            assert_eq!(
                kept,
                "{\"a\": {\"Files\": 1}, \"Files\":null, \"UserData\":null, \"b\":\"Files\"}"
            );
            assert_eq!(aside.as_deref(), Some(value));
        }
        for text in [
            "",
            "[]",
            "{}",
            "}{",
            "{\"a\"",
            "\"Files\": 1",
            "[\"Files\", {\"Files\": 2}]",
        ] {
            assert_eq!(texts(text), (text.to_owned(), None));
        }
    }

    #[test]
    fn there_is_a_bound() {
        let many = format!("{{\"Files\":[{}1]}}", "[],".repeat(100_000));
        assert_eq!(texts(&many).0, "{\"Files\":null}");
        for key in ["UserData", "Other"] {
            let text = many.replace("Files", key);
            assert!(
                excerpt(text.as_bytes(), &["Files"], &["UserData"], 1000).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn a_value_is_found_where_it_is() {
        let text = br#"{"x": {"IsPermanent": 1}, "IsPermanent" : false , "y": "IsPermanent"}"#;
        let range = value_of(text, "IsPermanent").expect("found");
        assert_eq!(&text[range], b" false ");
        assert_eq!(value_of(text, "z"), None);
    }
}
