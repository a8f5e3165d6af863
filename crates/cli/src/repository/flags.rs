//! The flags that name a repository.

use std::path::PathBuf;

/// Where the repository is. Flags that are not given are looked up in WALARCHIVE_STORAGE, WALARCHIVE_STORAGE_OPTIONS,
/// WALARCHIVE_CREDENTIALS_FILE and WALARCHIVE_ENCRYPT*, then in WAL-G's variables, then in the data directory's configuration
/// files.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Storage {
    /// The repository: s3://, gs://, az:// or swift://bucket/prefix, sftp://user@host/path or file:///path.
    #[arg(long = "storage", value_name = "URL")]
    pub url: Option<String>,
    /// An option of the store, for example aws_endpoint=https://host. May be repeated.
    #[arg(long = "storage-option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// A file with the store's credentials, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// How new objects are encrypted: none, libsodium or openpgp.
    #[arg(long, value_name = "METHOD", value_parser = ["none", "libsodium", "openpgp"], ignore_case = true)]
    pub encryption: Option<String>,
    /// A file with keys: OpenPGP keys, or libsodium keys in hex or base64. Readable by its owner only. May be repeated; the first
    /// key for the method encrypts, and all of them decrypt.
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Vec<PathBuf>,
    /// A program that prints what a key file has, and its arguments, separated by spaces. No shell is used.
    #[arg(long, value_name = "COMMAND")]
    pub encryption_key_command: Option<String>,
    /// With a key: read objects that are not encrypted, too, those from before encryption was turned on.
    #[arg(long)]
    pub accept_plain: bool,
    /// Encrypt what describes the backups, too: paths, names of databases, restore points.
    #[arg(long)]
    pub encrypt_metadata: bool,
}
