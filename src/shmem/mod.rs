//! Shared memory: plain data under three locks. No process holds one of them while it waits or does I/O, or two of them at once.

mod archiving;
mod backfill;
mod backup;
mod clock;
mod failure;
mod places;
mod preloaded;
mod queue;
mod reservation;
mod schedule;
mod synchronous;
mod tail;
mod text;

pub use archiving::{Archiving, Counters};
pub use backfill::{Backfill, Stage};
pub use backup::{BackupJob, Kind, NAME_BYTES, Phase, USER_DATA_BYTES, Work};
pub use clock::now_us;
pub use failure::Failure;
pub use places::{ARCHIVING, BACKUP, SCHEDULING};
pub use preloaded::{require_preloaded, set_preloaded};
pub use queue::{Ahead, Answer, FileName, FileNumbers, MAX_CONCURRENCY};
pub use reservation::{BackupWanted, conclude, forget_requester, reserve};
pub use schedule::{LastBackup, LastDrill, LastRetention, Outcome, Scheduling};
pub use synchronous::{SyncState, Synchronous};
pub use tail::{Tail, TailState};
pub use text::Text;
