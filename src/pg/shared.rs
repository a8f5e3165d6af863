//! The three places in shared memory, each behind its lock.

use pgrx::lwlock::PgLwLock;

use crate::shmem::{Archiving, BackupJob, Scheduling};

// SAFETY: the names are this library's alone.
pub static ARCHIVING: PgLwLock<Archiving> = unsafe { PgLwLock::new(c"walarchive archiving") };
// SAFETY: likewise.
pub static BACKUP: PgLwLock<BackupJob> = unsafe { PgLwLock::new(c"walarchive backup") };
// SAFETY: likewise.
pub static SCHEDULING: PgLwLock<Scheduling> = unsafe { PgLwLock::new(c"walarchive scheduling") };
