//! Delta backups: only the changes since the parent was taken.
//!
//! - A file that was certainly not written since is not read, and left out: see [`files`].
//! - In a database that was there when the parent was taken, the changed pages of a relation's file go into an increment: see
//!   [`changes`] and [`databases`].
//! - Everything else goes in full.
//!
//! [`choose`] finds the parent, or says why a full backup is to be taken.

pub(crate) mod changes;
mod choose;
mod databases;
mod files;
mod fit;
mod leave;
mod load;
mod relation;
mod summaries;
mod ways;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::TimelineHistory;
use walarchive_storage::Store;

pub use choose::choose;
use files::ParentFiles;
pub(super) use leave::leave_out;
pub(super) use relation::is_paged;
#[cfg(test)]
pub(super) use summaries::summary_of;
pub(super) use ways::{Delta, Way};

/// Backups of a chain that are looked for at a time.
const CONCURRENCY: usize = 8;

/// `walarchive.delta_origin`: what a delta backup is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The newest backup, whether full or delta.
    #[default]
    Latest,
    /// The full backup that the newest one is based on.
    LatestFull,
}

/// The kind of backup that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedParent {
    /// A full backup.
    Full,
    /// A delta backup if a parent fits, else a full one.
    Automatic {
        /// `walarchive.delta_max_steps`: so many deltas are based on one full backup at most; 0 for none.
        max_steps: u32,
        /// The backup that it is based on.
        origin: Origin,
    },
    /// A delta backup based on the backup of this name, or an error.
    Named(String),
}

/// The kind of backup that it becomes.
#[derive(Debug, Clone)]
pub enum Choice {
    /// A full backup; and why, half a sentence, if a delta was asked for.
    Full {
        /// None if nobody asked for a delta.
        why: Option<String>,
    },
    /// A delta backup, to be put into [`BackupRequest::parent`](crate::backup::BackupRequest::parent).
    Delta(Parent),
}

/// The backup that a delta is based on.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its name.
    pub name: String,
    /// Name of the full backup at the root, which may be this one.
    pub full_name: String,
    /// The start of the parent: it may lack changes that came after this.
    pub start_lsn: Lsn,
    /// Steps that the new backup is away from the full one.
    pub count: u32,
    /// The timeline of its server when it was taken.
    pub(super) timeline: u32,
    /// How this timeline comes from that one. Nothing else is known of it if both are the same.
    pub(super) history: TimelineHistory,
    /// When it started.
    pub(super) start_time: DateTime<Utc>,
    /// Names of its ancestors, its own parent first.
    pub(super) ancestors: Vec<String>,
    /// Was it taken from this very data directory, which has been written by nobody but its own server since?
    pub(super) same_primary: bool,
    pub(super) files: Arc<ParentFiles>,
}

impl Parent {
    /// The start in its name, as the name of the delta ends.
    pub(super) fn segment(&self) -> &str {
        let name = self.name.strip_prefix("base_").unwrap_or(&self.name);
        name.split("_D_").next().unwrap_or(name)
    }

    /// Is everything there still that the delta is based on, and nobody deletes any of it?
    pub(super) async fn check(&self, store: &Store) -> Result<()> {
        let names = std::iter::once(&self.name).chain(&self.ancestors);
        let looks: Vec<_> = names.map(|name| look(store.clone(), name.clone())).collect();
        let mut looks = futures::stream::iter(looks).buffered(CONCURRENCY);
        while let Some((name, is_there)) = looks.try_next().await? {
            if !is_there {
                return Err(Error::NoBackup {
                    message: format!(
                        "backup \"{name}\", the parent of this delta backup, was deleted during the backup"
                    ),
                    hint: "Take the backup again.".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Is the backup there, and nobody deletes it?
async fn look(store: Store, name: String) -> Result<(String, bool)> {
    let (sentinel, deletion) = (layout::sentinel(&name), layout::backup_deletion(&name));
    let (sentinel, deletion) = tokio::try_join!(store.size(&sentinel), store.size(&deletion))?;
    Ok((name, sentinel.is_some() && deletion.is_none()))
}
