//! A backup's record of things that were not in the data directory as plain files and directories.

use serde::{Deserialize, Serialize};

/// A symbolic link at a place of the server's own. Its target is in the backup, under the path of the link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowedLink {
    /// Relative to the data directory.
    pub path: String,
    /// Its target, absolute.
    pub target: String,
    /// To a directory, or else to a file?
    pub is_directory: bool,
}

/// Something that is in the data directory and not in the backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Relative to the data directory.
    pub path: String,
    /// Its kind: `symbolic link to "/x"`, for example.
    pub what: String,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.path.escape_debug(), self.what)
    }
}

/// The configuration of a server whose files were outside of its data directory. Paths are absolute, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// `config_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// `hba_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hba_file: Option<String>,
    /// `ident_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ident_file: Option<String>,
    /// Those that were outside of the data directory, with the files that they include.
    pub files: Vec<ConfigurationFile>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationFile {
    /// Its former place.
    pub path: String,
    /// In bytes.
    pub size: u64,
}
