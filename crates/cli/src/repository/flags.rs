//! The flags that name a repository.

use std::path::PathBuf;

/// Where the repository is. Flags that are not given are looked up in WALARCHIVE_STORAGE, WALARCHIVE_STORAGE_OPTIONS,
/// WALARCHIVE_CREDENTIALS_FILE and WALARCHIVE_ENCRYPTION_KEY_FILE, then in WAL-G's variables, then in the data directory's
/// configuration files.
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
    /// A file with the key to decrypt with: an OpenPGP secret key, or libsodium keys in hex or base64. Readable by its owner only.
    /// May be repeated.
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Vec<PathBuf>,
    /// With a key: read objects that are not encrypted, too, those from before encryption was turned on.
    #[arg(long)]
    pub accept_plain: bool,
}
