//! What a restore can be told.

use super::recovery::RecoverySettings;
use super::tablespaces::TablespaceMap;

/// Everything but which backup and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Where tablespaces go instead of where they were.
    pub tablespace_map: TablespaceMap,
    /// Tars that are downloaded and unpacked at a time.
    pub concurrency: usize,
    /// The recovery settings to write; none leaves the directory as the backup had it.
    pub recovery: Option<RecoverySettings>,
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
            concurrency: processors.min(Self::MOST),
            recovery: None,
        }
    }
}
