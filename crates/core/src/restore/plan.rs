//! The plan of a restore, made before it does anything.

use std::path::PathBuf;

use super::directory::condition::Condition;
use super::directory::directories::Directories;
use super::directory::existing::Figures;
use super::directory::links::MappedLink;
use super::directory::owner::Owner;
use super::directory::tablespaces::Tablespace;
use super::estimate::Estimate;
use super::mask::Mask;
use super::options::RestoreMode;
use super::outlook::Outlook;
use super::settings::RecoverySettings;
use crate::formats::Sentinel;
use crate::stored::contents::ManifestInfo;
use crate::stored::databases::Databases;
use crate::stored::level::{Bits, Level};
use crate::stored::table::Table;
use walarchive_storage::Store;

/// A restore that was checked as far as it can be without downloading the data: the plan, and what it needs to be carried out
/// by [`crate::restore::run::apply`].
#[derive(Debug)]
pub struct PlannedRestore {
    /// To be shown.
    pub plan: RestorePlan,
    pub(crate) held: Held,
    pub(crate) fetch: Fetch,
}

/// The directories of a restore that exist. As long as this is there, no other restore works on them.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) directories: Directories,
    /// None if nothing is in the target.
    pub(crate) condition: Option<Condition>,
}

/// Which files are fetched from where.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// The parts that are taken from each backup, the newest first.
    pub(crate) levels: Vec<Level>,
    pub(crate) table: Option<Table>,
    /// The files that are in the target already; none if nothing is there.
    pub(crate) kept: Option<Bits>,
}

impl Fetch {
    /// How many files are fetched, if it is known which there are.
    pub(super) fn files(&self) -> u64 {
        let Some(table) = &self.table else { return 0 };
        let taken = |file: &usize| {
            let taken = self.levels.iter().any(|level| level.taken.get(*file).is_some());
            // Of directories there are entries too, but none in the manifest.
            taken && (!table.has_manifest || table.is_listed(*file))
        };
        (0..table.len()).filter(taken).count() as u64
    }

    pub(super) fn downloads(&self) -> Vec<Download> {
        let download = |level: &Level| Download {
            backup: level.backup.clone(),
            tars: level.tars.len(),
            bytes: level.tars.iter().map(|tar| tar.size).sum(),
        };
        self.levels.iter().map(download).collect()
    }
}

/// The download from one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Its name.
    pub backup: String,
    /// Tars.
    pub tars: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The plan of a restore. Its `Display` is the dry run.
#[derive(Debug)]
pub struct RestorePlan {
    /// The backup's name.
    pub backup: String,
    /// Its sentinel.
    pub sentinel: Sentinel,
    /// The data directory, absolute.
    pub target: PathBuf,
    /// The places of the tablespaces.
    pub tablespaces: Vec<Tablespace>,
    /// They may go to where they were; see [`TablespaceMap::accept_originals`](super::TablespaceMap::accept_originals).
    pub(crate) accepts_originals: bool,
    /// The target of `pg_wal`, if it is a link.
    pub wal_directory: Option<PathBuf>,
    /// Links of the original that are links again.
    pub links: Vec<MappedLink>,
    /// The backups that it is based on, the parent first, the full one last; empty for a full backup.
    pub ancestors: Vec<String>,
    /// The settings for recovery, if any.
    pub recovery: Option<RecoverySettings>,
    /// The end of recovery; none if nothing is known of it.
    pub outlook: Option<Outlook>,
    /// How long it will take; none if nobody asked.
    pub estimate: Option<Estimate>,
    /// `archive_mode = off` is written.
    pub archive_off: bool,
    /// The expected state of the target.
    pub mode: RestoreMode,
    /// Tars at a time.
    pub concurrency: usize,
    /// Notes for the user, as sentences.
    pub notes: Vec<String>,
    /// The downloads, by backup, the newest first.
    pub downloads: Vec<Download>,
    /// The files that are fetched, if it is known which there are.
    pub fetched_files: u64,
    pub(crate) manifest: Option<ManifestInfo>,
    pub(crate) owner: Option<Owner>,
    pub(crate) mask: Option<Mask>,
    pub(crate) databases: Databases,
    /// Figures about the files that are in the target already.
    pub(crate) existing: Option<Figures>,
    /// Of the server.
    pub(crate) major: u32,
    pub(crate) store: Store,
}
