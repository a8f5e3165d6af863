//! The settings of encryption: one form of text for the server, its configuration files, and the binary.

use std::path::{Path, PathBuf};

use walarchive_storage::crypt::{EncryptionConfig, Method};

use crate::error::{Error, Result};

/// `walarchive.encryption` and what belongs to it, as the configuration has it. What is not set is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncryptionSettings {
    /// `walarchive.encryption`.
    pub method: Option<String>,
    /// `walarchive.encryption_key_file`.
    pub key_file: Option<String>,
    /// `walarchive.encryption_key_command`.
    pub key_command: Option<String>,
    /// `walarchive.encryption_accept_plain`.
    pub accept_plain: bool,
    /// `walarchive.encrypt_metadata`.
    pub metadata: bool,
    /// The directory of relative paths: the data directory.
    pub directory: PathBuf,
}

impl EncryptionSettings {
    /// The same for the store. No key is read.
    pub fn config(&self) -> Result<EncryptionConfig> {
        let files = key_files(self.key_file.as_deref().unwrap_or_default())?;
        Ok(EncryptionConfig {
            writes: method(self.method.as_deref().unwrap_or(NONE))?,
            key_files: files.iter().map(|file| self.directory.join(file)).collect(),
            key_command: words(self.key_command.as_deref().unwrap_or_default())?,
            wal_g: false,
            accept_plain: self.accept_plain,
            metadata: self.metadata,
        })
    }
}

/// New objects are plain text.
pub const NONE: &str = "none";

/// How new objects are encrypted; none if they are not.
pub fn method(text: &str) -> Result<Option<Method>> {
    match text.trim().to_ascii_lowercase().as_str() {
        NONE => Ok(None),
        "libsodium" => Ok(Some(Method::Libsodium)),
        "openpgp" => Ok(Some(Method::OpenPgp)),
        _ => Err(Error::config(
            "the method of encryption is not known",
            "It is none, libsodium or openpgp.",
        )),
    }
}

/// The word of a method in the settings.
pub fn name_of(method: Option<Method>) -> &'static str {
    match method {
        None => NONE,
        Some(Method::Libsodium) => "libsodium",
        Some(Method::OpenPgp) => "openpgp",
    }
}

/// The key files, separated by commas. A path with a comma stands in double quotes.
pub fn key_files(text: &str) -> Result<Vec<PathBuf>> {
    let files = items(text, |c| c == ',')?;
    let files = files.iter().map(|file| file.trim());
    Ok(files
        .filter(|file| !file.is_empty())
        .map(|file| Path::new(file).to_path_buf())
        .collect())
}

/// A program and its arguments, separated by white space. A word with white space stands in double quotes.
pub fn words(text: &str) -> Result<Vec<String>> {
    items(text, char::is_whitespace)
}

/// The text that [`words`] reads so.
pub fn of_words(words: &[String]) -> String {
    let quoted = |word: &String| {
        let is_plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '"');
        match is_plain {
            true => word.clone(),
            false => format!("\"{}\"", word.replace('"', "\"\"")),
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Is it on? None if it is neither on nor off. PostgreSQL knows these words, and takes what they begin with.
pub fn switch(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let is = |word: &str| !text.is_empty() && word.starts_with(&text);
    match text.as_str() {
        "on" | "1" => Some(true),
        "of" | "off" | "0" => Some(false),
        _ if is("true") || is("yes") => Some(true),
        _ if is("false") || is("no") => Some(false),
        _ => None,
    }
}

/// The items between separators, without their quotes. A double quote within quotes is written twice.
fn items(text: &str, is_separator: impl Fn(char) -> bool) -> Result<Vec<String>> {
    let (mut items, mut item, mut quoted) = (Vec::new(), None::<String>, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => item.get_or_insert_default().push('"'),
            // Nothing between two quotes is an item, too.
            '"' => {
                quoted = !quoted;
                item.get_or_insert_default();
            }
            c if !quoted && is_separator(c) => items.extend(item.take()),
            c => item.get_or_insert_default().push(c),
        }
    }
    items.extend(item);
    match quoted {
        false => Ok(items),
        true => Err(Error::config(
            "a double quote has no end",
            "Put a path or a word into two of them, and write one within it twice.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_separated_by_commas_and_words_by_white_space() {
        let files = |text: &str| key_files(text).expect("a list");
        assert_eq!(files("/a b/key"), [PathBuf::from("/a b/key")]);
        assert_eq!(
            files(" /new , \"/o,l\"\"d\" ,"),
            [PathBuf::from("/new"), PathBuf::from("/o,l\"d")]
        );
        assert!(files("").is_empty() && key_files("\"/a").is_err());
        let command = words("/bin/vault  get \"a \"\"key\"\"\" -f=a,b \"\"").expect("words");
        assert_eq!(command, ["/bin/vault", "get", "a \"key\"", "-f=a,b", ""]);
        assert_eq!(words(&of_words(&command)).expect("words"), command);
        assert!(words(" ").expect("none").is_empty());
    }

    #[test]
    fn a_method_is_one_of_three_words() {
        for (text, expected) in [
            ("none", None),
            ("LibSodium", Some(Method::Libsodium)),
            (" openpgp", Some(Method::OpenPgp)),
        ] {
            let found = method(text).expect("known");
            assert_eq!(found, expected);
            assert_eq!(name_of(found), text.trim().to_ascii_lowercase());
        }
        assert!(method("").is_err() && method("libsodum").is_err());
    }

    #[test]
    fn a_switch_is_read_as_postgresql_reads_it() {
        for (text, expected) in [
            ("on", Some(true)),
            ("T", Some(true)),
            ("yes", Some(true)),
            ("off", Some(false)),
            ("fal", Some(false)),
            ("0", Some(false)),
            ("o", None),
            ("", None),
            ("yess", None),
        ] {
            assert_eq!(switch(text), expected, "{text}");
        }
    }

    #[test]
    fn a_relative_path_lies_in_the_data_directory() {
        let settings = EncryptionSettings {
            method: Some("openpgp".to_owned()),
            key_file: Some("key, /etc/old".to_owned()),
            directory: PathBuf::from("/data"),
            ..EncryptionSettings::default()
        };
        let config = settings.config().expect("right");
        assert_eq!(
            config.key_files,
            [PathBuf::from("/data/key"), PathBuf::from("/etc/old")]
        );
        assert_eq!(config.writes, Some(Method::OpenPgp));
        assert_eq!(EncryptionSettings::default().config().expect("none").writes, None);
    }
}
