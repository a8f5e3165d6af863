//! Where the keys are, and how new objects are encrypted.

use std::path::{Path, PathBuf};

use walarchive_core::server_config::encryption::{self, EncryptionSettings};
use walarchive_core::{Error, Result};
use walarchive_storage::crypt::{EncryptionConfig, Method};

use super::flags::Storage;
use super::wal_g::Environment;

const METHOD: &str = "WALARCHIVE_ENCRYPTION";
const KEY_FILE: &str = "WALARCHIVE_ENCRYPTION_KEY_FILE";
const KEY_COMMAND: &str = "WALARCHIVE_ENCRYPTION_KEY_COMMAND";
const ACCEPT_PLAIN: &str = "WALARCHIVE_ENCRYPTION_ACCEPT_PLAIN";
const METADATA: &str = "WALARCHIVE_ENCRYPT_METADATA";

/// The variables of this.
pub(super) const VARIABLES: [&str; 5] = [METHOD, KEY_FILE, KEY_COMMAND, ACCEPT_PLAIN, METADATA];

/// What was said to this program about the form of new objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The method, by a flag or by `WALARCHIVE_ENCRYPTION`.
    Method,
    /// Keys and no method: they may be meant to read with.
    Keys,
    /// Neither.
    Nothing,
}

/// The keys: those of flags, else of the environment, else of the `server` if it has the same storage; and what WAL-G's variables
/// hold or name. For the method WAL-G's variables come before the server.
pub(super) fn find(
    flags: &Storage,
    environment: Environment<'_>,
    server: Option<&EncryptionSettings>,
) -> Result<(EncryptionConfig, Choice)> {
    let of_server = server.map(EncryptionSettings::config).transpose()?.unwrap_or_default();
    let of_environment = EncryptionSettings {
        method: environment(METHOD),
        key_file: environment(KEY_FILE),
        key_command: environment(KEY_COMMAND),
        ..EncryptionSettings::default()
    };
    let is_in_environment = of_environment.key_file.is_some() || of_environment.key_command.is_some();
    let is_by_flag = !flags.encryption_key_file.is_empty() || flags.encryption_key_command.is_some();
    let (key_files, key_command) = match (is_by_flag, is_in_environment) {
        (true, _) => (
            flags.encryption_key_file.clone(),
            encryption::words(flags.encryption_key_command.as_deref().unwrap_or_default())?,
        ),
        (false, true) => {
            let config = EncryptionSettings {
                method: None,
                ..of_environment.clone()
            };
            let config = config.config()?;
            (config.key_files, config.key_command)
        }
        (false, false) => (of_server.key_files, of_server.key_command),
    };
    let chosen = flags.encryption.clone().or(of_environment.method);
    let choice = match &chosen {
        Some(_) => Choice::Method,
        None if is_by_flag || is_in_environment => Choice::Keys,
        None => Choice::Nothing,
    };
    let writes = match chosen {
        Some(method) => encryption::method(&method)?,
        None => of_wal_g(environment).or(of_server.writes),
    };
    let config = EncryptionConfig {
        writes,
        key_files: key_files.iter().map(|file| absolute(file)).collect::<Result<_>>()?,
        key_command,
        wal_g: true,
        accept_plain: flags.accept_plain || is_on(environment, ACCEPT_PLAIN)?.unwrap_or(of_server.accept_plain),
        metadata: flags.encrypt_metadata || is_on(environment, METADATA)?.unwrap_or(of_server.metadata),
    };
    Ok((config, choice))
}

/// How WAL-G would encrypt.
fn of_wal_g(environment: Environment<'_>) -> Option<Method> {
    let is_set = |names: [&str; 2]| names.into_iter().any(|name| environment(name).is_some());
    if is_set(["WALG_PGP_KEY", "WALG_PGP_KEY_PATH"]) {
        Some(Method::OpenPgp)
    } else if is_set(["WALG_LIBSODIUM_KEY", "WALG_LIBSODIUM_KEY_PATH"]) {
        Some(Method::Libsodium)
    } else {
        None
    }
}

fn is_on(environment: Environment<'_>, name: &str) -> Result<Option<bool>> {
    let Some(value) = environment(name) else {
        return Ok(None);
    };
    encryption::switch(&value)
        .map(Some)
        .ok_or_else(|| Error::config(format!("{name} is neither on nor off"), "Set it to on or off."))
}

/// A restore_command runs in another directory.
pub(super) fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).map_err(|error| Error::io("open", file, error))
}
