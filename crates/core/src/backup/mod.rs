//! Taking a base backup: everything but the calls of `pg_backup_start` and `pg_backup_stop`, which are the caller's.
//!
//! ```text
//! pg_backup_start -> Backup::begin -> Backup::copy -> pg_backup_stop -> Backup::finish
//!                 -> wait until PreparedBackup::missing_segments is empty -> PreparedBackup::commit
//! ```
//!
//! A backup with no sentinel does not exist, and the sentinel is written last. After a failure or a cancel at any step
//! [`discard`] removes what was stored.

mod catchup;
mod claim;
mod databases;
pub mod delta;
mod discard;
mod label;
mod lists;
mod names;
mod pack;
mod plan;
mod prepared;
mod progress;
mod read;
mod run;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use crate::codec::Compression;
use crate::control_file::ControlFile;
use crate::formats::UserData;
use crate::formats::manifest::ChecksumAlgorithm;
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::{Segment, SegmentSize};

pub use databases::{Database, check_timeline};
pub use discard::discard;
pub use names::{DatabaseNames, RelationNames};
pub use pack::rate::Rate;
pub use prepared::PreparedBackup;
pub use progress::{BackupProgress, Phase, Snapshot};
pub use read::cache::{FindResident, Residency};
pub use read::configuration::ConfigurationFiles;
pub use read::corrupt::{CorruptPages, OnChecksumFailure};
pub use read::rules::emptied_directory;
pub use state::Backup;
pub use stream::{Labels, Piece};

/// A tablespace and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLink {
    /// OID.
    pub oid: u32,
    /// The directory that `pg_tblspc/<oid>` links to.
    pub location: PathBuf,
}

/// The cluster that is backed up, as known once `pg_backup_start` has returned.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The answer of `pg_backup_start`.
    pub start_lsn: Lsn,
    /// The timeline of that LSN.
    pub timeline: u32,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// For example 150018.
    pub server_version_num: u32,
    /// From `pg_control`.
    pub system_identifier: u64,
    /// The host of the server.
    pub hostname: String,
    /// Never deleted by retention.
    pub permanent: bool,
    /// The user's data that goes with the backup.
    pub user_data: Option<UserData>,
    /// When the backup was asked for.
    pub start_time: DateTime<Utc>,
    /// May be empty: the links in `pg_tblspc` are followed in any case. A location given here goes into the sentinel
    /// instead of the text of the link.
    pub tablespaces: Vec<TablespaceLink>,
    /// Directories below the data directory, relative to it, whose content the server is configured to write and no restore
    /// needs: that of `log_directory`.
    pub emptied: Vec<PathBuf>,
    /// The places of the server's configuration.
    pub configuration: ConfigurationFiles,
    /// Of a delta backup: what [`delta::choose`] has found.
    pub parent: Option<delta::Parent>,
    /// Of a backup that brings a standby up.
    pub catchup: Option<Catchup>,
}

/// What a standby has, and so need not be in the backup that brings it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catchup {
    /// The standby has all changes before this LSN.
    pub since: Lsn,
    /// OIDs of databases that it may not have: their files go in whole.
    pub whole_databases: Vec<u32>,
}

impl BackupRequest {
    /// A full backup that starts there, on the timeline that the control file of the data directory has. Nothing is said of host
    /// and tablespaces, and nothing is attached.
    pub fn full(data_dir: PathBuf, control: &ControlFile, server_version_num: u32, start_lsn: Lsn) -> Self {
        BackupRequest {
            data_dir,
            start_lsn,
            timeline: control.timeline,
            segment_size: control.segment_size,
            server_version_num,
            system_identifier: control.system_identifier,
            hostname: String::new(),
            permanent: false,
            user_data: None,
            start_time: Utc::now(),
            tablespaces: Vec::new(),
            emptied: Vec::new(),
            configuration: ConfigurationFiles::default(),
            parent: None,
            catchup: None,
        }
    }

    /// The name that the backup gets; of one that brings a standby up [`layout::catchup_place`].
    pub fn name(&self) -> String {
        let segment = Segment::containing(self.timeline, self.start_lsn, self.segment_size);
        if self.catchup.is_some() {
            return layout::catchup_place(&format!("base_{segment}"));
        }
        match &self.parent {
            None => format!("base_{segment}"),
            Some(parent) => format!("base_{segment}_D_{}", parent.segment()),
        }
    }

    /// For example 15.
    pub fn major_version(&self) -> u32 {
        self.server_version_num / 10_000
    }
}

/// How it is done.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Of the tars.
    pub compression: Compression,
    /// Tars that are packed and uploaded at a time, at least 1. Each takes about 40 MB of memory.
    pub concurrency: usize,
    /// The bytes of files that go into one tar at most; a larger file gets a tar of its own.
    pub tar_bytes: u64,
    /// The bytes that are read from the data directory in a second at most, by all tars together.
    pub rate_limit: Option<u64>,
    /// The bytes that are handed to the store in a second at most, by all tars together.
    pub network_rate_limit: Option<u64>,
    /// Of the files, in the backup manifest.
    pub checksum_algorithm: ChecksumAlgorithm,
    /// Does the server summarize its WAL (`summarize_wal`), so that a delta backup can ask the summaries?
    pub wal_summaries: bool,
    /// The meaning of a page with a wrong checksum, in a cluster with data checksums.
    pub on_checksum_failure: OnChecksumFailure,
    /// Note every page with a wrong checksum in the files metadata, and not only the first few of each file.
    pub all_corrupt_pages: bool,
    /// Store the files metadata. Without it no delta backup can be based on this one, which must be a full one.
    pub files_metadata: bool,
    /// With it the page cache is left as it was found, without it to the kernel.
    pub find_resident: Option<FindResident>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions {
            compression: Compression::default(),
            concurrency: 4,
            tar_bytes: 1 << 30,
            rate_limit: None,
            network_rate_limit: None,
            checksum_algorithm: ChecksumAlgorithm::default(),
            wal_summaries: false,
            on_checksum_failure: OnChecksumFailure::default(),
            all_corrupt_pages: false,
            files_metadata: true,
            find_resident: None,
        }
    }
}

/// The answer of `pg_backup_stop`.
#[derive(Debug, Clone)]
pub struct StopResult {
    /// The end of the backup.
    pub stop_lsn: Lsn,
    /// The content of `backup_label`.
    pub backup_label: String,
    /// The content of `tablespace_map`, if there are tablespaces.
    pub tablespace_map: Option<String>,
    /// The next transaction ID, if it is known (not on a standby).
    pub next_xid: Option<u64>,
}

impl StopResult {
    /// Of a cluster without tablespaces.
    pub fn new(stop_lsn: Lsn, backup_label: String) -> Self {
        StopResult {
            stop_lsn,
            backup_label,
            tablespace_map: None,
            next_xid: None,
        }
    }
}
