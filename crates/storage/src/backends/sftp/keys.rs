//! The files with our keys.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{HashAlg, PrivateKey, decode_secret_key};

use super::config::Secret;
use crate::error::{Error, Result};
use crate::secret_file::check_mode;

/// The largest file that is taken for a key, in bytes.
const LIMIT: u64 = 64 << 10;

#[derive(Clone)]
pub(super) struct KeyFile {
    pub path: PathBuf,
    pub key: Arc<PrivateKey>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyFile").field(&self.path).finish()
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (algorithm, fingerprint) = (self.key.algorithm(), self.key.fingerprint(HashAlg::Sha256));
        write!(f, "key file \"{}\" ({algorithm} {fingerprint})", self.path.display())
    }
}

/// The key that the user named.
pub(super) fn load(path: &Path, passphrase: Option<&Secret>) -> Result<KeyFile> {
    let meta = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    check_mode("private key file", path, &meta)?;
    let not_a_key = |reason: &str| {
        Error::config(
            format!("\"{}\" is not a private key that can be used: {reason}", path.display()),
            "Use a key file made by ssh-keygen, of type ed25519, ecdsa or rsa, not its .pub file.",
        )
    };
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(not_a_key("it is not a small file"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => not_a_key("it is not text"),
        _ => Error::io("read", path, error),
    })?;
    let decoded = decode_secret_key(&text, passphrase.map(|secret| secret.0.as_str()));
    let key = decoded.map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => Error::config(
            format!(
                "private key file \"{}\" is encrypted, and no passphrase was given",
                path.display()
            ),
            "Set SSH_PRIVATE_KEY_PASSPHRASE in the environment of the process, or sftp_private_key_passphrase in the \
             file named by walarchive.credentials_file.",
        ),
        error if text.contains("ENCRYPTED") || passphrase.is_some() => Error::config(
            format!(
                "private key file \"{}\" could not be decrypted with the passphrase: {error}",
                path.display()
            ),
            "Check SSH_PRIVATE_KEY_PASSPHRASE, or sftp_private_key_passphrase in the file named by \
             walarchive.credentials_file.",
        ),
        error => not_a_key(&error.to_string()),
    })?;
    Ok(KeyFile {
        path: path.to_owned(),
        key: Arc::new(key),
    })
}

/// The usual places of ssh's keys.
pub(super) fn usual_paths(home: &Path) -> impl Iterator<Item = PathBuf> {
    let names = ["id_ed25519", "id_ecdsa", "id_rsa"];
    names.into_iter().map(|name| home.join(".ssh").join(name))
}

/// The keys under the names that ssh gives them, and what was wrong with those that cannot be used.
pub(super) fn usual(home: &Path, passphrase: Option<&Secret>) -> (Vec<KeyFile>, Vec<String>) {
    let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
    for path in usual_paths(home) {
        match load(&path, passphrase) {
            Ok(key) => keys.push(key),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => passed_over.push(error.to_string()),
        }
    }
    (keys, passed_over)
}
