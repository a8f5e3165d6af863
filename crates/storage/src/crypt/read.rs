//! Getting the keys from where they are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::config::{
    EncryptionConfig, PGP_KEY, PGP_KEY_PATH, PGP_PASSPHRASE, SODIUM_KEY, SODIUM_KEY_PATH, SODIUM_TRANSFORM,
};
use super::key_command;
use super::key_file::read_key_file;
use super::keyring::Keys;
use super::openpgp::OpenPgpKeys;
use super::sodium_key::{SodiumKey, Transform};
use crate::error::{Error, Result};

/// The environment, or what stands in its place.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Keys {
    /// The keys that the configuration names. Secrets are read from this process's own environment.
    pub(super) fn read(config: &EncryptionConfig) -> Result<Self> {
        let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut keys = Keys {
            accept_plain: config.accept_plain,
            ..Keys::default()
        };
        let passphrase = passphrase(&environment);
        let passphrase = passphrase.as_ref().map(|text| text.as_slice());
        for path in &config.key_files {
            let content = read_key_file(path)?;
            keys.add_file(&content, passphrase, &format!("\"{}\"", path.display()))?;
        }
        if let Some(program) = config.key_command.first() {
            let output = key_command::run(&config.key_command, key_command::DEADLINE)?;
            keys.add_file(&output, passphrase, &format!("the output of key command \"{program}\""))?;
        }
        if config.wal_g {
            keys.add_wal_g(&environment)?;
        }
        Ok(keys)
    }

    /// Add the keys that WAL-G's variables hold or name.
    pub(super) fn add_wal_g(&mut self, variables: Variables<'_>) -> Result<()> {
        let transform = match variables(SODIUM_TRANSFORM) {
            Some(text) => text.to_str().unwrap_or_default().parse()?,
            None => Transform::None,
        };
        if let Some(text) = variables(SODIUM_KEY) {
            let text = Zeroizing::new(text.into_vec());
            self.libsodium.push(SodiumKey::of_wal_g(&text, transform, SODIUM_KEY)?);
        } else if let Some(path) = variables(SODIUM_KEY_PATH) {
            let content = read_key_file(Path::new(&path))?;
            let place = format!("\"{}\"", Path::new(&path).display());
            // In a file, unlike in a variable, WAL-G takes no white space around a key for a part of it.
            self.libsodium
                .push(SodiumKey::of_wal_g(trimmed(&content), transform, &place)?);
        }
        let passphrase = passphrase(variables);
        let passphrase = passphrase.as_ref().map(|text| text.as_slice());
        if let Some(text) = variables(PGP_KEY) {
            let text = text.into_string().map(Zeroizing::new).map_err(|_| not_text())?;
            // In a variable, new lines are mostly written with two characters.
            let text = Zeroizing::new(text.replace("\\n", "\n"));
            self.openpgp
                .extend(OpenPgpKeys::parse(text.as_bytes(), passphrase, PGP_KEY)?);
        } else if let Some(path) = variables(PGP_KEY_PATH) {
            let path = Path::new(&path);
            let place = format!("\"{}\"", path.display());
            self.openpgp
                .extend(OpenPgpKeys::parse(&read_key_file(path)?, passphrase, &place)?);
        }
        Ok(())
    }
}

/// Any bytes: gpg takes them as they are.
fn passphrase(variables: Variables<'_>) -> Option<Zeroizing<Vec<u8>>> {
    variables(PGP_PASSPHRASE).map(|text| Zeroizing::new(text.into_vec()))
}

/// Without the white space around it, as Go knows white space.
fn trimmed(text: &[u8]) -> &[u8] {
    if let Ok(text) = std::str::from_utf8(text) {
        return text.trim().as_bytes();
    }
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

fn not_text() -> Error {
    Error::config(
        "the OpenPGP key in WALG_PGP_KEY is not text",
        "Set it to an armored key, or name a file with WALG_PGP_KEY_PATH.",
    )
}
