//! The plan of a restore as JSON.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::estimate::Estimate;
use super::outlook::{Outlook, TargetSeen};
use super::plan::{Download, RestorePlan};
use super::settings::{RecoveryMode, RecoverySettings};
use crate::lsn::Lsn;
use crate::repository::inventory::MissingSegments;

/// What `backup-fetch --plan --json` prints.
#[derive(Debug, Serialize)]
pub struct PlanReport<'a> {
    backup: &'a str,
    storage: &'a str,
    start_time: DateTime<Utc>,
    finish_time: DateTime<Utc>,
    start_lsn: Lsn,
    finish_lsn: Lsn,
    /// The backups that it is based on, the parent first.
    chain: &'a [String],
    directory: String,
    tars: usize,
    download_bytes: u64,
    unpacked_bytes: u64,
    downloads: Vec<FromBackup<'a>>,
    /// None if no recovery settings are written.
    recovery: Option<Recovery>,
    /// None if the archive has no WAL of the backup, or nobody looked.
    wal: Option<Wal>,
    /// None if nothing was measured.
    estimated_seconds: Option<f64>,
    estimate: Option<&'a Estimate>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct FromBackup<'a> {
    backup: &'a str,
    tars: usize,
    bytes: u64,
}

impl<'a> From<&'a Download> for FromBackup<'a> {
    fn from(download: &'a Download) -> Self {
        FromBackup {
            backup: &download.backup,
            tars: download.tars,
            bytes: download.bytes,
        }
    }
}

#[derive(Debug, Serialize)]
struct Recovery {
    mode: &'static str,
    target: String,
    target_timeline: String,
    target_action: String,
}

impl From<&RecoverySettings> for Recovery {
    fn from(recovery: &RecoverySettings) -> Self {
        Recovery {
            mode: match recovery.mode {
                RecoveryMode::Recovery => "recovery",
                RecoveryMode::Standby => "standby",
            },
            target: recovery.target.target.to_string(),
            target_timeline: recovery.target.timeline.to_string(),
            target_action: recovery.target.action.to_string(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Wal {
    /// Segments that recovery reads on its way to the target, or to the end of the archive.
    segments: u64,
    bytes: u64,
    ranges: Vec<Range>,
    /// Where the WAL that recovery can read ends.
    end_lsn: Lsn,
    end_timeline: u32,
    /// When the last of it was stored, if that is the tail of a segment that is not archived whole.
    tail_stored: Option<DateTime<Utc>>,
    last_transaction_time: Option<DateTime<Utc>>,
    target_in_archive: TargetSeen,
    /// Of a time: the transaction before which recovery stops.
    stops_before: Option<Stop>,
    /// The holes in the WAL behind that end.
    missing: Vec<MissingSegments>,
}

#[derive(Debug, Serialize)]
struct Range {
    timeline: u32,
    start_segment: String,
    end_segment: String,
    segments_count: u64,
}

#[derive(Debug, Serialize)]
struct Stop {
    lsn: Lsn,
    time: DateTime<Utc>,
    xid: Option<u32>,
}

impl From<&Outlook> for Wal {
    fn from(outlook: &Outlook) -> Self {
        let ranges = outlook.wal.iter().map(|range| Range {
            timeline: range.first.timeline,
            start_segment: range.first.to_string(),
            end_segment: range.last.to_string(),
            segments_count: range.count,
        });
        let holes = outlook.hole.iter();
        Wal {
            segments: outlook.wal.iter().map(|range| range.count).sum(),
            bytes: outlook.wal_bytes,
            ranges: ranges.collect(),
            end_lsn: outlook.end,
            end_timeline: outlook.timeline,
            tail_stored: outlook.tail_stored,
            last_transaction_time: outlook.last_time,
            target_in_archive: outlook.target,
            stops_before: outlook.stop.map(|stop| Stop {
                lsn: stop.lsn,
                time: stop.time,
                xid: stop.xid,
            }),
            missing: holes
                .flat_map(|hole| std::iter::once(&hole.missing).chain(&hole.others))
                .map(|range| MissingSegments::from(*range))
                .collect(),
        }
    }
}

impl RestorePlan {
    /// The plan as JSON has it.
    pub fn report(&self) -> PlanReport<'_> {
        PlanReport {
            backup: &self.backup,
            storage: self.store.url(),
            start_time: self.sentinel.start_time,
            finish_time: self.sentinel.finish_time,
            start_lsn: self.sentinel.start_lsn,
            finish_lsn: self.sentinel.finish_lsn,
            chain: &self.ancestors,
            directory: self.target.display().to_string(),
            tars: self.downloads.iter().map(|download| download.tars).sum(),
            download_bytes: self.stored_bytes(),
            unpacked_bytes: self.sentinel.uncompressed_size,
            downloads: self.downloads.iter().map(FromBackup::from).collect(),
            recovery: self.recovery.as_ref().map(Recovery::from),
            wal: self.outlook.as_ref().map(Wal::from),
            estimated_seconds: self.estimate.as_ref().and_then(Estimate::seconds),
            estimate: self.estimate.as_ref(),
            notes: &self.notes,
        }
    }
}
