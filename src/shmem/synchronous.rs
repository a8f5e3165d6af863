//! The synchronous standby that this server's uploader is.

use super::text::Text;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// `walarchive.synchronous` is off, or this server is itself a standby.
    Off,
    /// It has no connection.
    Connecting,
    /// It is connected, and what was written before is not stored yet.
    CatchingUp,
    /// What it has confirmed is in the store.
    Synchronous,
    /// The store does not take WAL.
    Waiting,
    /// It is not waited for any more: the store has not taken WAL for too long.
    Degraded,
}

impl SyncState {
    /// As `walarchive_status` shows it.
    pub fn name(self) -> &'static str {
        match self {
            SyncState::Off => "off",
            SyncState::Connecting => "connecting",
            SyncState::CatchingUp => "catching up",
            SyncState::Synchronous => "synchronous",
            SyncState::Waiting => "waiting",
            SyncState::Degraded => "degraded",
        }
    }
}

/// For `walarchive_status`. The uploader writes this.
#[derive(Debug, Clone, Copy)]
pub struct Synchronous {
    /// What it is.
    pub state: SyncState,
    /// Since when: microseconds since 1970; 0 if it is off.
    pub since_us: i64,
    /// Everything before this LSN is in the store; 0 if that is not known.
    pub lsn: u64,
    /// Why it is not synchronous.
    pub error: Text<512>,
}

impl Synchronous {
    /// It is off.
    pub const OFF: Synchronous = Synchronous {
        state: SyncState::Off,
        since_us: 0,
        lsn: 0,
        error: Text::EMPTY,
    };
}
