//! The WAL that a standby keeps, and the WAL of before its promotion that a server archives.

use super::text::Text;

/// What a server does about WAL of before its promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing: it was not promoted, or nothing of that time is left to do.
    None,
    /// It looks into the archive.
    Looking,
    /// It archives.
    Archiving,
    /// All is archived.
    Done,
    /// All that there is, is archived, and something is lost.
    Incomplete,
}

impl Stage {
    /// As `walarchive_status` shows it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Stage::None => None,
            Stage::Looking => Some("looking"),
            Stage::Archiving => Some("archiving"),
            Stage::Done => Some("done"),
            Stage::Incomplete => Some("incomplete"),
        }
    }
}

/// For `walarchive_status`. The uploader writes this.
#[derive(Debug, Clone, Copy)]
pub struct Backfill {
    /// What is done about it.
    pub stage: Stage,
    /// Files that are still to be archived.
    pub waiting: u64,
    /// Files that were archived since the server started.
    pub archived: u64,
    /// Segments that are neither in the archive nor in `pg_wal`.
    pub lost: Text<256>,
    /// Why it is not done yet.
    pub error: Text<256>,
    /// The oldest segment that is kept because the archive does not have it.
    pub kept_from: Text<24>,
    /// Its LSN; 0 when none is.
    pub kept_lsn: u64,
}

impl Backfill {
    /// Nothing to do, and nothing kept.
    pub const NONE: Backfill = Backfill {
        stage: Stage::None,
        waiting: 0,
        archived: 0,
        lost: Text::EMPTY,
        error: Text::EMPTY,
        kept_from: Text::EMPTY,
        kept_lsn: 0,
    };
}
