//! The content of the repository: `walarchive_backup_list`, below the view `walarchive_backups`, `walarchive_wal_show` and
//! `walarchive_recovery_windows`.

use pgrx::prelude::*;
use walarchive_core::Lsn;
use walarchive_core::repository::inventory::{BackupDetail, Inventory, MissingSegments, TimelineInfo};
use walarchive_core::verify::timed_windows;

use super::{bigint, in_archive, texts, timeline as id, timestamp, word};
use crate::pg::lsn::PgLsn;
use crate::pg::text::{SqlJson, SqlText};
use crate::shmem::{self, SCHEDULING};

/// The base backups of the repository, oldest first.
#[pg_extern(name = "walarchive_backup_list", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backup_list_0_2() -> TableIterator<
    'static,
    (
        name!(backup_name, SqlText),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(stop_time, Option<TimestampWithTimeZone>),
        name!(start_lsn, Option<PgLsn>),
        name!(stop_lsn, Option<PgLsn>),
        name!(timeline, Option<i32>),
        name!(uncompressed_size, i64),
        name!(compressed_size, i64),
        name!(parent, Option<SqlText>),
        name!(chain, Option<Vec<SqlText>>),
        name!(hostname, Option<SqlText>),
        name!(data_directory, Option<SqlText>),
        name!(pg_version, Option<i32>),
        name!(system_identifier, Option<i64>),
        name!(is_permanent, bool),
        name!(user_data, Option<SqlJson>),
        name!(corrupt_pages, Option<i64>),
        name!(left_out, Option<Vec<SqlText>>),
        name!(restorable, bool),
        name!(problem, Option<SqlText>),
        name!(proven, Option<TimestampWithTimeZone>),
    ),
> {
    let backups = in_archive(|archive| async move { BackupDetail::list(archive.store()).await });
    if shmem::require_preloaded().is_ok()
        && let Some(newest) = backups.iter().filter_map(|backup| backup.proven).max()
    {
        SCHEDULING.exclusive().saw_proven(newest.timestamp_micros());
    }
    TableIterator::new(backups.into_iter().map(|backup| {
        // If its description is damaged, only the name of the backup is known.
        let known = backup.finish_lsn != 0;
        let lsn = |lsn: u64| known.then_some(PgLsn(Lsn(lsn)));
        let text = |text: String| Some(SqlText(text)).filter(|text| !text.0.is_empty());
        (
            backup.backup_name.into(),
            timestamp(backup.start_time.timestamp_micros()).filter(|_| known),
            timestamp(backup.finish_time.timestamp_micros()).filter(|_| known),
            lsn(backup.start_lsn),
            lsn(backup.finish_lsn),
            backup.timeline.map(id),
            bigint(backup.uncompressed_size),
            bigint(backup.compressed_size),
            backup.parent.map(SqlText),
            Some(texts(backup.chain)).filter(|chain| !chain.is_empty()),
            text(backup.hostname),
            text(backup.data_dir),
            Some(backup.pg_version as i32).filter(|version| *version != 0),
            backup.system_identifier.map(u64::cast_signed),
            backup.is_permanent,
            backup.user_data.map(|data| SqlJson(data.to_value())),
            backup.corrupt_pages.map(bigint),
            Some(backup.left_out)
                .filter(|left_out| !left_out.is_empty())
                .map(|left_out| left_out.iter().map(|entry| entry.to_string().into()).collect()),
            backup.restorable,
            backup.problem.map(SqlText),
            backup.proven.and_then(|time| timestamp(time.timestamp_micros())),
        )
    }))
}

/// The WAL that is archived of each timeline, and what is missing; and up to where the tail goes on behind it.
#[pg_extern(name = "walarchive_wal_show", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_wal_show_0_2() -> TableIterator<
    'static,
    (
        name!(timeline, i32),
        name!(parent_timeline, Option<i32>),
        name!(switch_lsn, Option<PgLsn>),
        name!(start_segment, Option<SqlText>),
        name!(end_segment, Option<SqlText>),
        name!(segment_range_size, i64),
        name!(segments_count, i64),
        name!(missing_segments, Vec<SqlText>),
        name!(backups, Vec<SqlText>),
        name!(status, SqlText),
        name!(damaged_history, Option<SqlText>),
        name!(tail_lsn, Option<PgLsn>),
        name!(tail_time, Option<TimestampWithTimeZone>),
        name!(tail_epoch, Option<i64>),
    ),
> {
    let timelines = TimelineInfo::all(&in_archive(
        |archive| async move { Inventory::load(archive.store()).await },
    ));
    TableIterator::new(timelines.into_iter().map(|timeline| {
        let text = |text: String| Some(SqlText(text)).filter(|text| !text.0.is_empty());
        let forked = timeline.parent_id != 0;
        (
            id(timeline.id),
            forked.then(|| id(timeline.parent_id)),
            forked.then_some(PgLsn(Lsn(timeline.switch_point_lsn))),
            text(timeline.start_segment),
            text(timeline.end_segment),
            bigint(timeline.segment_range_size),
            bigint(timeline.segments_count),
            texts(timeline.missing_segments.iter().map(MissingSegments::to_string)),
            texts(timeline.backups.into_iter().map(|backup| backup.backup_name)),
            word(timeline.status.as_str()),
            timeline.damaged_history.map(SqlText),
            timeline.tail.map(|tail| PgLsn(tail.end_lsn)),
            timeline.tail.and_then(|tail| timestamp(tail.stored.timestamp_micros())),
            timeline.tail.map(|tail| bigint(tail.epoch)),
        )
    }))
}

/// The times to which the cluster can be restored. One row for each stretch of WAL without a gap.
#[pg_extern(name = "walarchive_recovery_windows", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_recovery_windows_0_2() -> TableIterator<
    'static,
    (
        name!(timeline, i32),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(end_time, Option<TimestampWithTimeZone>),
        name!(start_lsn, PgLsn),
        name!(end_lsn, PgLsn),
        name!(backup_name, SqlText),
        name!(backup_count, i64),
        name!(missing_after, Option<SqlText>),
    ),
> {
    let windows = in_archive(|archive| async move {
        let inventory = Inventory::load(archive.store()).await?;
        timed_windows(archive.store(), &inventory).await
    });
    TableIterator::new(windows.into_iter().map(|window| {
        (
            id(window.timeline),
            timestamp(window.start_time.timestamp_micros()),
            timestamp(window.end_time.timestamp_micros()),
            PgLsn(window.start_lsn),
            PgLsn(window.end_lsn),
            window.backup_name.into(),
            window.backups as i64,
            window.missing.map(|missing| missing.to_string().into()),
        )
    }))
}
