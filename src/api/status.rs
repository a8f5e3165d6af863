//! `walarchive_archiver_status`, below the view `walarchive_status`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pgrx::prelude::*;
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::lease::{self, LeaseStatus};
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};

use super::{bigint, timestamp};
use crate::bridge;
use crate::error::or_raise;
use crate::guc;
use crate::pg::server;
use crate::pg::text::SqlText;
use crate::shmem::{self, ARCHIVING, Counters, SCHEDULING, Scheduling};

/// The files that wait in `archive_status`.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) files: u64,
    bytes: u64,
    pub(super) oldest_us: i64,
}

/// The seconds until the queue is empty, if the speed of the link and the compression of WAL stay the same.
fn drained_seconds(waiting: &Waiting, uploaded: u64, counters: &Counters, rate: u64) -> Option<f64> {
    let segment_bytes = server::identity().segment_size.bytes();
    let left = waiting.bytes.saturating_sub(uploaded.saturating_mul(segment_bytes));
    if left == 0 || rate == 0 {
        return None;
    }
    let stored = match counters.bytes_in {
        0 => 1.0,
        read => (counters.bytes_out as f64 / read as f64).min(1.0),
    };
    Some((left as f64 * stored / rate as f64).round())
}

/// The state that the row shows.
struct Snapshot {
    uploader_pid: i32,
    state: &'static str,
    started_us: i64,
    rate: u64,
    counters: Counters,
    uploading: usize,
    uploaded: usize,
    scheduling: Scheduling,
    waiting: Waiting,
    storage: Option<String>,
    /// This server's knowledge of the lease, without asking the store.
    lease: Option<LeaseStatus>,
}

impl Snapshot {
    fn take() -> Result<Self> {
        // Copies, so that the locks are free before the directory is read.
        let (uploader_pid, stuck, started_us, rate, counters, (uploading, uploaded)) = {
            let archiving = ARCHIVING.share();
            (
                archiving.uploader_pid,
                archiving.is_stuck(),
                archiving.uploader_started_us,
                archiving.bytes_per_second,
                archiving.counters,
                archiving.queue.counts(),
            )
        };
        let scheduling = *SCHEDULING.share();
        let data_dir = server::data_directory();
        let storage = Some(guc::storage_url()).filter(|url| !url.is_empty());
        let status = |url: &String| lease::status(&data_dir, url.trim_end_matches('/'), bridge::situation());
        Ok(Snapshot {
            state: match (uploader_pid, uploading) {
                (0, _) => "not running",
                _ if stuck => "stuck",
                (_, 0) => "idle",
                _ => "uploading",
            },
            waiting: waiting(&data_dir.join(PG_WAL))?,
            lease: storage.as_ref().map(status).transpose()?,
            uploader_pid,
            started_us,
            rate,
            counters,
            uploading,
            uploaded,
            scheduling,
            storage,
        })
    }
}

/// One row: the state of archiving and of backups since the server started.
#[pg_extern(name = "walarchive_archiver_status", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_archiver_status_0_2() -> TableIterator<
    'static,
    (
        name!(uploader_pid, Option<i32>),
        name!(uploader_state, SqlText),
        name!(uploader_start_time, Option<TimestampWithTimeZone>),
        name!(storage, Option<SqlText>),
        name!(last_archived_wal, Option<SqlText>),
        name!(last_archived_time, Option<TimestampWithTimeZone>),
        name!(archived_count, i64),
        name!(failed_count, i64),
        name!(bytes_read, i64),
        name!(bytes_stored, i64),
        name!(uploading, i32),
        name!(uploaded_ahead, i32),
        name!(ready_files, i64),
        name!(ready_bytes, i64),
        name!(oldest_ready, Option<TimestampWithTimeZone>),
        name!(bytes_per_second, i64),
        name!(drained_seconds, Option<f64>),
        name!(last_archive_error, Option<SqlText>),
        name!(last_archive_error_time, Option<TimestampWithTimeZone>),
        name!(next_backup_time, Option<TimestampWithTimeZone>),
        name!(last_backup_outcome, Option<SqlText>),
        name!(last_backup_name, Option<SqlText>),
        name!(last_backup_time, Option<TimestampWithTimeZone>),
        name!(last_backup_error, Option<SqlText>),
        name!(scheduler_error, Option<SqlText>),
        name!(last_retention_outcome, Option<SqlText>),
        name!(last_retention_summary, Option<SqlText>),
        name!(last_retention_time, Option<TimestampWithTimeZone>),
        name!(last_retention_error, Option<SqlText>),
        name!(lease_state, Option<SqlText>),
        name!(lease_epoch, Option<i64>),
        name!(lease_holder, Option<SqlText>),
    ),
> {
    or_raise(shmem::require_preloaded());
    let now = or_raise(Snapshot::take());
    let (counters, scheduling, waiting) = (&now.counters, &now.scheduling, &now.waiting);
    TableIterator::once((
        Some(now.uploader_pid).filter(|pid| *pid != 0),
        now.state.into(),
        timestamp(now.started_us),
        now.storage.map(SqlText),
        counters.last_archived.to_option().map(SqlText),
        timestamp(counters.last_archived_us),
        bigint(counters.archived),
        bigint(counters.failed),
        bigint(counters.bytes_in),
        bigint(counters.bytes_out),
        now.uploading as i32,
        now.uploaded as i32,
        bigint(waiting.files),
        bigint(waiting.bytes),
        timestamp(waiting.oldest_us),
        bigint(now.rate),
        drained_seconds(waiting, now.uploaded as u64, counters, now.rate),
        counters.last_error.to_option().map(SqlText),
        timestamp(counters.last_error_us),
        timestamp(scheduling.next_us),
        scheduling.last.outcome.name().map(SqlText::from),
        scheduling.last.name.to_option().map(SqlText),
        timestamp(scheduling.last.ended_us),
        scheduling.last.error.to_option().map(SqlText),
        scheduling.trouble.to_option().map(SqlText),
        scheduling.retention.outcome.name().map(SqlText::from),
        scheduling.retention.summary.to_option().map(SqlText),
        timestamp(scheduling.retention.ended_us),
        scheduling.retention.error.to_option().map(SqlText),
        now.lease.as_ref().map(|lease| lease.state.into()),
        now.lease.as_ref().and_then(|lease| lease.epoch).map(bigint),
        now.lease.and_then(|lease| lease.holder).map(SqlText),
    ))
}

pub(super) fn waiting(pg_wal: &Path) -> Result<Waiting> {
    let archive_status = pg_wal.join("archive_status");
    let failed = |error| Error::io("read", &archive_status, error);
    let segment_bytes = server::identity().segment_size.bytes();
    let mut waiting = Waiting::default();
    for entry in std::fs::read_dir(&archive_status).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".ready")) else {
            continue;
        };
        // It was archived and renamed just now. To count it or not is both right.
        let Ok(meta) = entry.metadata() else { continue };
        waiting.files += 1;
        waiting.bytes += match name.parse::<WalFileName>().ok().and_then(|name| name.segment()) {
            Some(_) => segment_bytes,
            None => std::fs::metadata(pg_wal.join(name)).map_or(0, |meta| meta.size()),
        };
        let ready_us = meta.mtime() * 1_000_000 + meta.mtime_nsec() / 1000;
        if waiting.oldest_us == 0 || ready_us < waiting.oldest_us {
            waiting.oldest_us = ready_us;
        }
    }
    Ok(waiting)
}
