//! Restoring only the files whose names are like a pattern.

use crate::error::{Error, Result};

/// A pattern of a shell for paths below the data directory: `*` and `?` stand for anything but a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(glob::Pattern);

/// As `filepath.Match` of Go has it.
const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Mask {
    /// For example `base/16384/*`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::config(
                format!("\"{}\" is not a pattern of file names", text.escape_debug()),
                "Write a path below the data directory, for example 'base/16384/*'. A * stands for any part of a name.",
            )
        };
        let mut pattern = String::new();
        let mut characters = text.trim_start_matches('/').chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' => pattern.push_str(&glob::Pattern::escape(
                    &characters.next().ok_or_else(wrong)?.to_string(),
                )),
                '[' if characters.next_if_eq(&'^').is_some() => pattern.push_str("[!"),
                // For Go two of them are no more than one.
                '*' => {
                    while characters.next_if_eq(&'*').is_some() {}
                    pattern.push('*');
                }
                character => pattern.push(character),
            }
        }
        if pattern.is_empty() {
            return Err(wrong());
        }
        glob::Pattern::new(&pattern).map(Mask).map_err(|_| wrong())
    }

    /// Is the path, with slashes between its components and none around them, to be restored?
    pub(crate) fn takes(&self, path: &[u8]) -> bool {
        self.0.matches_with(&String::from_utf8_lossy(path), OPTIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_ends_at_a_slash() {
        for (mask, path, expected) in [
            ("base/16384/*", "base/16384/2619", true),
            ("/base/16384/*", "base/16384/2619", true),
            ("base/*", "base/16384/2619", false),
            ("base/*/2619*", "base/16384/2619_fsm", true),
            ("**/PG_VERSION", "base/PG_VERSION", true),
            ("**/PG_VERSION", "base/1/PG_VERSION", false),
            ("PG_VERSION", "base/1/PG_VERSION", false),
            ("base/?/[^0-4]*", "base/1/5", true),
            ("base/?/[^0-4]*", "base/1/4", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*", ".hidden", true),
        ] {
            let found = Mask::parse(mask).expect(mask).takes(path.as_bytes());
            assert_eq!(found, expected, "{mask} {path}");
        }
        for mask in ["", "/", "base/[", "base/\\"] {
            assert!(Mask::parse(mask).is_err(), "{mask}");
        }
    }
}
