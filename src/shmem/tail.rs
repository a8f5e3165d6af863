//! How far the store has the WAL of the segment that is being written.

use super::text::Text;

/// What a server does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailState {
    /// Nothing: it is turned off, or this server does not archive.
    Off,
    /// Nothing yet: the server recovers.
    Recovery,
    /// It is stored.
    Storing,
    /// It waits: segments that are complete go first.
    Waiting,
    /// It could not be stored.
    Failing,
}

impl TailState {
    /// As `walarchive_status` shows it.
    pub fn name(self) -> &'static str {
        match self {
            TailState::Off => "off",
            TailState::Recovery => "recovery",
            TailState::Storing => "storing",
            TailState::Waiting => "waiting",
            TailState::Failing => "failing",
        }
    }
}

/// For `walarchive_status`, and for the archiver, which goes on here when the server stops. The uploader writes this.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// What is done about it.
    pub state: TailState,
    /// The settings that it was stored with.
    pub generation: u64,
    /// The number of this run of the server; 0 when nothing was stored.
    pub epoch: u64,
    /// The timeline.
    pub timeline: u32,
    /// The end of what was stored.
    pub stored_lsn: u64,
    /// All WAL up to here is in the store; 0 when that is not known.
    pub safe_lsn: u64,
    /// All that was written before this moment is in the store: microseconds since 1970.
    pub safe_us: i64,
    /// The archive lacks this segment, so that no backup of before can be restored to what is stored.
    pub gap: Text<24>,
    /// The last failure since something was stored.
    pub error: Text<256>,
    /// When: microseconds since 1970, 0 when there is none.
    pub error_us: i64,
}

impl Tail {
    /// Nothing is stored.
    pub const NONE: Tail = Tail {
        state: TailState::Off,
        generation: 0,
        epoch: 0,
        timeline: 0,
        stored_lsn: 0,
        safe_lsn: 0,
        safe_us: 0,
        gap: Text::EMPTY,
        error: Text::EMPTY,
        error_us: 0,
    };
}
