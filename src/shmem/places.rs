//! The three places in shared memory.

use super::archiving::Archiving;
use super::backup::BackupJob;
use super::schedule::Scheduling;

crate::pg::shared::in_shared_memory! {
    ARCHIVING: Archiving = c"walarchive archiving";
    BACKUP: BackupJob = c"walarchive backup";
    SCHEDULING: Scheduling = c"walarchive scheduling";
}
