//! Text from a repository, a store or a file's name is shown to people, and their terminal never obeys it.

use std::borrow::Cow;
use std::fmt::Write;

/// A number with its noun in the singular or the plural: "1 file", "2 files", "0 entries".
pub fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    match (number.try_into().unwrap_or(u64::MAX), noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (number, Some(stem)) => format!("{number} {stem}ies"),
        (number, None) => format!("{number} {noun}s"),
    }
}

/// Do two messages say the same, but for numbers, such as the bytes that are free? Then one of them is enough.
pub fn is_same_but_for_numbers(one: &str, two: &str) -> bool {
    let letters = |character: &char| !character.is_ascii_digit();
    one.chars().filter(letters).eq(two.chars().filter(letters))
}

/// One line: control characters, line ends among them, and those that turn the direction of writing become visible, as
/// `\x1b` or `\u{202e}`; a line feed as `\n`. All else stays as it is.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_obeyed)
}

/// Likewise, but line feeds stay: for messages of our own that have several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |letter| letter != '\n' && is_obeyed(letter))
}

fn is_obeyed(letter: char) -> bool {
    let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || turns || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Characters that `is_bad` names become visible.
pub fn escape(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            _ if !is_bad(letter) => shown.push(letter),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\0'..='\x7f' => {
                let _ = write!(shown, "\\x{:02x}", u32::from(letter));
            }
            _ => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(letter));
            }
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::{is_same_but_for_numbers, line, lines};

    #[test]
    fn numbers_make_no_new_message() {
        let (one, two) = ("only 17 bytes are free in \"/a\"", "only 5 bytes are free in \"/a\"");
        assert!(is_same_but_for_numbers(one, two) && !is_same_but_for_numbers(one, "the store is gone"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(line("base_1 \\ é 日本"), "base_1 \\ é 日本");
        assert_eq!(line("a\x1b[2Jb\u{9b}c\x07\0\x7f"), "a\\x1b[2Jb\\u{9b}c\\x07\\x00\\x7f");
        assert_eq!(line("a\nb\r\tc"), "a\\nb\\r\\tc");
        assert_eq!(line("gpj\u{202e}exe"), "gpj\\u{202e}exe");
        assert_eq!(lines("a\nb\x1bc"), "a\nb\\x1bc");
    }
}
