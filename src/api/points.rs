//! `walarchive_restore_points`.

use chrono::{DateTime, Utc};
use pgrx::prelude::*;
use walarchive_core::points::{Missing, gather};
use walarchive_core::printable::counted;
use walarchive_core::repository::inventory::Inventory;

use super::delete::utc;
use super::{in_archive, required, timeline as id, timestamp};
use crate::error;
use crate::pg::lsn::PgLsn;
use crate::pg::text::SqlText;

/// The points to which the cluster can be restored: restore points, and some of the commits, from one time to another.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_restore_points(
    from_time: default!(Option<TimestampWithTimeZone>, "NULL"),
    to_time: default!(Option<TimestampWithTimeZone>, "NULL"),
    index_only: default!(Option<bool>, "true"),
) -> TableIterator<
    'static,
    (
        name!(kind, SqlText),
        name!(name, Option<SqlText>),
        name!(point_time, Option<TimestampWithTimeZone>),
        name!(lsn, PgLsn),
        name!(timeline, i32),
        name!(restorable, bool),
    ),
> {
    let (from, to) = (bound("from_time", from_time), bound("to_time", to_time));
    let missing = match required("index_only", index_only) {
        true => Missing::Skip,
        false => Missing::Read,
    };
    let found = in_archive(move |archive| async move {
        let notes = match archive.writer() {
            Some(writer) => writer.fenced_notes(archive.store()),
            None => archive.store().clone(),
        };
        let inventory = Inventory::load(archive.store()).await?;
        gather(archive.store(), &notes, &inventory, from, to, missing).await
    });
    if found.skipped > 0 {
        error::notice(&format!(
            "{} are not in the index, and are left out; index_only => false reads them",
            counted(found.skipped as usize, "WAL segment")
        ));
    }
    TableIterator::new(found.points.into_iter().map(|point| {
        (
            point.kind.as_str().into(),
            point.name.map(SqlText),
            point.time.and_then(|time| timestamp(time.timestamp_micros())),
            PgLsn(point.lsn),
            id(point.timeline),
            point.restorable,
        )
    }))
}

/// An infinite time is no bound.
fn bound(name: &str, time: Option<TimestampWithTimeZone>) -> Option<DateTime<Utc>> {
    let time = time.filter(|time| !time.is_infinity() && !time.is_neg_infinity())?;
    Some(utc(name, time))
}
