//! A connection string of libpq's: pairs of keyword and value.

use walarchive_core::{Error, Result};

/// The pairs of `keyword = value`, in their order. No message has a value in it, which may be a password.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=').ok_or_else(wrong)?;
        let keyword = keyword.trim_end();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if keyword.is_empty() || !keyword.chars().all(is_word) {
            return Err(wrong());
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value, in quotes or up to the next space, and what follows it. A backslash takes the next character as it is.
fn value(text: &str) -> Result<(String, &str)> {
    let is_quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, next)| next)),
            '\'' if is_quoted => return Ok((value, &text[at + 1..])),
            space if space.is_whitespace() && !is_quoted => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if is_quoted {
        return Err(wrong());
    }
    Ok((value, ""))
}

fn wrong() -> Error {
    Error::config(
        "the connection string is not understood",
        "Write it as keyword=value pairs with spaces between them, for example \"user=postgres port=5433\"; a value with spaces in it has single quotes.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_libpq_reads_them() {
        let of = |text: &str| {
            let found = pairs(text).expect("read");
            found
                .iter()
                .map(|(k, v)| format!("{k}:{v}"))
                .collect::<Vec<_>>()
                .join("|")
        };
        assert_eq!(of(""), "");
        assert_eq!(of("  user = u  port=5  "), "user:u|port:5");
        assert_eq!(
            of(r"options='-c a=b\'c' host=/a\ b user="),
            "options:-c a=b'c|host:/a b|user:"
        );
        assert_eq!(of("password='' user=u"), "password:|user:u");
    }

    #[test]
    fn what_is_refused_is_not_repeated() {
        for text in [
            "postgresql://u:hunter2@h/",
            "hunter2",
            "=hunter2",
            "password='hunter2",
            "a b=hunter2",
        ] {
            let error = pairs(text).expect_err(text);
            let hint = error.hint().unwrap_or_default();
            assert!(!format!("{error} {hint}").contains("hunter2"), "{error}");
        }
    }
}
