//! The content of a key file: OpenPGP keys, or libsodium keys in lines.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::keyring::Keys;
use super::openpgp::OpenPgpKeys;
use super::sodium_key::{SodiumKey, wrong};
use crate::error::{Error, Result};
use crate::secret_file::check_mode;

/// The most that a key file may have, in bytes.
const LIMIT: u64 = 1 << 20;

const ARMOR: &[u8] = b"-----BEGIN PGP ";

impl Keys {
    /// Add the keys that a key file has. It holds armored OpenPGP keys; or libsodium keys, each in a line in hex or base64,
    /// between empty lines and comments that begin with `#`; or nothing but the 32 bytes of one. `place` names the file, for
    /// messages, which never repeat its content.
    pub(super) fn add_file(&mut self, content: &[u8], passphrase: Option<&[u8]>, place: &str) -> Result<()> {
        if content.windows(ARMOR.len()).any(|part| part == ARMOR) || is_binary_openpgp(content) {
            self.openpgp.extend(OpenPgpKeys::parse(content, passphrase, place)?);
            return Ok(());
        }
        // Most editors end a file with a new line.
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(key) = [content, line]
            .into_iter()
            .find_map(|key| <&[u8; 32]>::try_from(key).ok())
        {
            self.libsodium.push(SodiumKey::new(key));
            return Ok(());
        }
        let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let keys = lines
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(|line| SodiumKey::of_line(line).ok_or_else(|| wrong(place)))
            .collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(wrong(place));
        }
        self.libsodium.extend(keys);
        Ok(())
    }
}

/// A packet of a secret or a public key, as `gpg --export` writes it.
fn is_binary_openpgp(content: &[u8]) -> bool {
    let tag = match content.first() {
        Some(first) if first & 0xc0 == 0xc0 => first & 0x3f,
        Some(first) if first & 0x80 != 0 => first >> 2 & 0x0f,
        _ => return false,
    };
    matches!(tag, 5 | 6) && content.len() > 100
}

/// The content of a file of keys, if it is one that only those can read who may: the rule is that of the credentials file.
pub(super) fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |operation: &str, error: std::io::Error| {
        Error::config(
            format!("could not {operation} key file \"{}\": {error}", path.display()),
            "Put the file there, where the user of the process can read it, or correct what names it.",
        )
    };
    // Nobody may ever write into a named pipe: that is told, and not waited for.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| unreadable("open", error))?;
    let meta = file.metadata().map_err(|error| unreadable("open", error))?;
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(Error::config(
            format!("\"{}\" is not a key file", path.display()),
            "It holds OpenPGP keys, or libsodium keys.",
        ));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(meta.len() as usize + 1));
    file.take(LIMIT)
        .read_to_end(&mut content)
        .map_err(|error| unreadable("read", error))?;
    // Public keys are no secret.
    let has = |text: &[u8]| content.windows(text.len()).any(|part| part == text);
    if !has(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") || has(b"-----BEGIN PGP PRIVATE KEY BLOCK-----") {
        check_mode("key file", path, &meta)?;
    }
    Ok(content)
}
