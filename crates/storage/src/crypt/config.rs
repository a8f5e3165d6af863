//! Where the keys are.

use std::fmt;
use std::path::PathBuf;

use super::flaw::Method;

pub(super) const SODIUM_KEY: &str = "WALG_LIBSODIUM_KEY";
pub(super) const SODIUM_KEY_PATH: &str = "WALG_LIBSODIUM_KEY_PATH";
pub(super) const SODIUM_TRANSFORM: &str = "WALG_LIBSODIUM_KEY_TRANSFORM";
pub(super) const PGP_KEY: &str = "WALG_PGP_KEY";
pub(super) const PGP_KEY_PATH: &str = "WALG_PGP_KEY_PATH";
pub(super) const PGP_PASSPHRASE: &str = "WALG_PGP_KEY_PASSPHRASE";

/// WAL-G's variables that name keys, or hold them.
pub const WAL_G_KEYS: [&str; 6] = [
    SODIUM_KEY,
    SODIUM_KEY_PATH,
    SODIUM_TRANSFORM,
    PGP_KEY,
    PGP_KEY_PATH,
    PGP_PASSPHRASE,
];

/// The places of the keys, and no key: they are read when the first object needs them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct EncryptionConfig {
    /// How new objects are encrypted; none if they are not, whatever keys there are to read with.
    pub writes: Option<Method>,
    /// A program that prints keys as a key file has them, and its arguments; empty if there is none. It is run without a shell.
    pub key_command: Vec<String>,
    /// Files of keys.
    pub key_files: Vec<PathBuf>,
    /// WAL-G's variables are looked at, too.
    pub wal_g: bool,
    /// Objects that are not encrypted are read, too: those from before encryption was turned on.
    pub accept_plain: bool,
    /// What describes the encrypted objects is encrypted, too.
    pub metadata: bool,
}

/// Of the program its name only: its arguments may be secret.
impl fmt::Debug for EncryptionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptionConfig")
            .field("writes", &self.writes)
            .field("key_command", &self.key_command.first())
            .field("key_files", &self.key_files)
            .field("wal_g", &self.wal_g)
            .field("accept_plain", &self.accept_plain)
            .field("metadata", &self.metadata)
            .finish()
    }
}

impl EncryptionConfig {
    /// Is there any key, by what the configuration says? Others of WAL-G's variables tell how to read one.
    pub fn names_a_key(&self) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let keys = [SODIUM_KEY, SODIUM_KEY_PATH, PGP_KEY, PGP_KEY_PATH];
        let is_configured = !self.key_files.is_empty() || !self.key_command.is_empty();
        is_configured || self.wal_g && keys.into_iter().any(is_set)
    }

    /// The files that hold keys, those that WAL-G's variables name among them. They need not be there.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_wal_g = [SODIUM_KEY_PATH, PGP_KEY_PATH].into_iter().filter(|_| self.wal_g);
        let of_wal_g = of_wal_g.filter_map(std::env::var_os).map(PathBuf::from);
        self.key_files.iter().cloned().chain(of_wal_g).collect()
    }
}
