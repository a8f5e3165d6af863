//! `walarchive_backup_list`, below the view `walarchive_backups`.

use std::time::Duration;

use pgrx::JsonB;
use pgrx::prelude::*;
use walarchive_core::inventory::{self, BackupInfo};
use walarchive_core::{Error, Lsn};

use super::{bigint, timestamp};
use crate::bridge::{self, Flow};
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::process;

/// How often an idle wait looks for interrupts; they set the latch anyway.
const LOOK: Duration = Duration::from_secs(1);

/// The base backups of the repository, oldest first.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backup_list() -> TableIterator<
    'static,
    (
        name!(backup_name, String),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(finish_time, Option<TimestampWithTimeZone>),
        name!(start_lsn, Option<String>),
        name!(finish_lsn, Option<String>),
        name!(timeline, Option<i64>),
        name!(uncompressed_size, i64),
        name!(compressed_size, i64),
        name!(parent, Option<String>),
        name!(hostname, Option<String>),
        name!(data_dir, Option<String>),
        name!(pg_version, Option<i32>),
        name!(system_identifier, Option<String>),
        name!(is_permanent, bool),
        name!(user_data, Option<JsonB>),
        name!(damaged, Option<String>),
    ),
> {
    let archive = or_raise(ArchiveSettings::current().and_then(|settings| bridge::archive(&settings)));
    let work = async move { inventory::list_backups(archive.store()).await };
    let listed = bridge::run(work, Some(LOOK), || {
        process::check_for_interrupts();
        Flow::Wait
    });
    let backups: Vec<BackupInfo> = or_raise(listed.unwrap_or(Err(Error::Cancelled)));
    TableIterator::new(backups.into_iter().map(|backup| {
        let known = backup.damaged.is_none();
        let metadata = backup.metadata;
        let lsn = |lsn: Lsn| Some(lsn.to_string()).filter(|_| known);
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        (
            backup.name,
            timestamp(metadata.start_time.timestamp_micros()),
            timestamp(metadata.finish_time.timestamp_micros()),
            lsn(metadata.start_lsn),
            lsn(metadata.finish_lsn),
            backup.timeline.map(i64::from),
            bigint(metadata.uncompressed_size),
            bigint(metadata.compressed_size),
            backup.delta.map(|delta| delta.parent),
            text(metadata.hostname),
            text(metadata.data_dir),
            Some(metadata.pg_version as i32).filter(|version| *version != 0),
            metadata.system_identifier.map(|identifier| identifier.to_string()),
            metadata.is_permanent,
            metadata.user_data.map(JsonB),
            backup.damaged,
        )
    }))
}
