//! What the repository holds: `walarchive_backup_list`, below the view `walarchive_backups`, `walarchive_wal_show` and
//! `walarchive_recovery_windows`.

use pgrx::JsonB;
use pgrx::prelude::*;
use walarchive_core::Lsn;
use walarchive_core::formats::LeftOut;
use walarchive_core::inventory::{BackupDetail, Inventory, MissingSegments, TimelineInfo};
use walarchive_core::verify::timed_windows;

use super::{bigint, in_archive, timestamp};
use crate::pg::lsn::PgLsn;

/// The base backups of the repository, oldest first.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backup_list() -> TableIterator<
    'static,
    (
        name!(backup_name, String),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(finish_time, Option<TimestampWithTimeZone>),
        name!(start_lsn, Option<PgLsn>),
        name!(finish_lsn, Option<PgLsn>),
        name!(timeline, Option<i64>),
        name!(uncompressed_size, i64),
        name!(compressed_size, i64),
        name!(parent, Option<String>),
        name!(chain, Option<Vec<String>>),
        name!(hostname, Option<String>),
        name!(data_dir, Option<String>),
        name!(pg_version, Option<i32>),
        name!(system_identifier, Option<String>),
        name!(is_permanent, bool),
        name!(user_data, Option<JsonB>),
        name!(corrupt_pages, Option<i64>),
        name!(left_out, Option<Vec<String>>),
        name!(restorable, bool),
        name!(problem, Option<String>),
    ),
> {
    let backups = in_archive(|archive| async move { BackupDetail::list(archive.store()).await });
    TableIterator::new(backups.into_iter().map(|backup| {
        // Of a backup whose description is damaged nothing more than its name is known.
        let known = backup.finish_lsn != 0;
        let lsn = |lsn: u64| known.then_some(PgLsn(Lsn(lsn)));
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        (
            backup.backup_name,
            timestamp(backup.start_time.timestamp_micros()).filter(|_| known),
            timestamp(backup.finish_time.timestamp_micros()).filter(|_| known),
            lsn(backup.start_lsn),
            lsn(backup.finish_lsn),
            backup.timeline.map(i64::from),
            bigint(backup.uncompressed_size),
            bigint(backup.compressed_size),
            backup.parent,
            Some(backup.chain).filter(|chain| !chain.is_empty()),
            text(backup.hostname),
            text(backup.data_dir),
            Some(backup.pg_version as i32).filter(|version| *version != 0),
            backup.system_identifier.map(|identifier| identifier.to_string()),
            backup.is_permanent,
            backup.user_data.map(|data| JsonB(data.to_value())),
            backup.corrupt_pages.map(bigint),
            Some(backup.left_out.iter().map(LeftOut::to_string).collect())
                .filter(|left_out: &Vec<String>| !left_out.is_empty()),
            backup.restorable,
            backup.problem,
        )
    }))
}

/// What is archived of each timeline, and what is missing.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_wal_show() -> TableIterator<
    'static,
    (
        name!(timeline, i64),
        name!(parent_timeline, Option<i64>),
        name!(switch_point, Option<PgLsn>),
        name!(start_segment, Option<String>),
        name!(end_segment, Option<String>),
        name!(segment_range_size, i64),
        name!(segments_count, i64),
        name!(missing_segments, Vec<String>),
        name!(backups, Vec<String>),
        name!(status, String),
        name!(damaged_history, Option<String>),
    ),
> {
    let timelines = TimelineInfo::all(&in_archive(
        |archive| async move { Inventory::load(archive.store()).await },
    ));
    TableIterator::new(timelines.into_iter().map(|timeline| {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let forked = timeline.parent_id != 0;
        (
            i64::from(timeline.id),
            forked.then(|| i64::from(timeline.parent_id)),
            forked.then_some(PgLsn(Lsn(timeline.switch_point_lsn))),
            text(timeline.start_segment),
            text(timeline.end_segment),
            bigint(timeline.segment_range_size),
            bigint(timeline.segments_count),
            timeline
                .missing_segments
                .iter()
                .map(MissingSegments::to_string)
                .collect(),
            timeline.backups.into_iter().map(|backup| backup.backup_name).collect(),
            timeline.status.as_str().to_owned(),
            timeline.damaged_history,
        )
    }))
}

/// From when to when the cluster can be restored. One row for each stretch of WAL without a gap.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_recovery_windows() -> TableIterator<
    'static,
    (
        name!(timeline, i64),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(end_time, Option<TimestampWithTimeZone>),
        name!(start_lsn, PgLsn),
        name!(end_lsn, PgLsn),
        name!(backup_name, String),
        name!(backups, i64),
        name!(missing_after, Option<String>),
    ),
> {
    let windows = in_archive(|archive| async move {
        let inventory = Inventory::load(archive.store()).await?;
        timed_windows(archive.store(), &inventory).await
    });
    TableIterator::new(windows.into_iter().map(|window| {
        (
            i64::from(window.timeline),
            timestamp(window.start_time.timestamp_micros()),
            timestamp(window.end_time.timestamp_micros()),
            PgLsn(window.start_lsn),
            PgLsn(window.end_lsn),
            window.backup_name,
            window.backups as i64,
            window.missing.map(|missing| missing.to_string()),
        )
    }))
}
