//! The options of a restore.

use std::path::PathBuf;

use super::directory::links::LinkMap;
use super::directory::owner::Owner;
use super::directory::tablespaces::TablespaceMap;
use super::mask::Mask;
use super::settings::RecoverySettings;

/// Everything but which backup and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The new places of tablespaces.
    pub tablespace_map: TablespaceMap,
    /// The target for `pg_wal`, absolute; none leaves it a directory, or the link that it is.
    pub wal_directory: Option<PathBuf>,
    /// Links that the backup followed, and that are links again, to somewhere else.
    pub links: LinkMap,
    /// Tars that are downloaded and unpacked at a time.
    pub concurrency: usize,
    /// The recovery settings to write; none leaves the directory as the backup had it.
    pub recovery: Option<RecoverySettings>,
    /// Write `archive_mode = off`, for a copy that must not archive into the repository of the original.
    pub archive_off: bool,
    /// How much of the WAL is read beforehand.
    pub look: Look,
    /// Restore though recovery will end at a hole in the WAL, before its target.
    pub allow_gap: bool,
    /// The expected state of the target.
    pub mode: RestoreMode,
    /// To whom the files are to belong, if not to the user that restores. Only for root.
    pub owner: Option<Owner>,
    /// Refuse at once if the file systems have too little room.
    pub check_space: bool,
    /// What the user can do then, if that is not what a user of `backup-fetch` can do.
    pub space_hint: Option<&'static str>,
    /// Names or OIDs of databases, or `DATABASE/SCHEMA.TABLE`; the relations of others come back as files of zeros. All of
    /// them if empty.
    pub databases: Vec<String>,
    /// Only the files whose paths it takes come, which is no data directory that a server starts on, unless all do.
    pub mask: Option<Mask>,
}

/// How much of the WAL that recovery will replay is read beforehand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Look {
    /// All, unless it is so much that this would double the time of the restore; then its end.
    #[default]
    Bounded,
    /// All: what it does must be known.
    Whole,
}

/// The expected state of the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestoreMode {
    /// Nothing.
    #[default]
    Fresh,
    /// The data directory of the same cluster, or what an interrupted restore left, or nothing. Files that are as in the
    /// backup are kept, and what is not in the backup is removed.
    Delta,
    /// It does not matter: everything is read and checked, and nothing is written.
    VerifyOnly,
}

impl RestoreOptions {
    /// As many as there are processors, up to this many: more do not help one disk.
    const MOST: usize = 4;
}

impl Default for RestoreOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        RestoreOptions {
            tablespace_map: TablespaceMap::default(),
            wal_directory: None,
            links: LinkMap::default(),
            concurrency: processors.min(Self::MOST),
            recovery: None,
            archive_off: false,
            look: Look::Bounded,
            allow_gap: false,
            mode: RestoreMode::Fresh,
            owner: None,
            check_space: true,
            space_hint: None,
            databases: Vec::new(),
            mask: None,
        }
    }
}
