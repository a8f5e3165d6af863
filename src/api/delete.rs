//! The functions that delete: each shows what it would delete, and deletes with `confirm => true` only.

use chrono::{DateTime, Utc};
use pgrx::prelude::*;
use tokio_util::sync::CancellationToken;
use walarchive_core::retention::{self, Gfs, Mode, Progress, Request, Row, Span};
use walarchive_core::{Error, Result, cluster};

use super::{bigint, in_archive, required};
use crate::error::{self, or_raise};
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;
use crate::shmem::{self, BACKUP, Failure, Text};

/// One row of a plan.
type Shown = (SqlText, SqlText, i64, SqlText, bool);

/// Keep the newest backups, and what they need.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_retain(
    count: Option<i32>,
    mode: default!(Option<SqlText>, "'FULL'"),
    after: default!(Option<TimestampWithTimeZone>, "NULL"),
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let (count, mode) = (required("count", count), required("mode", mode));
    let after = after.map(|after| utc("after", after));
    let request = mode
        .0
        .parse()
        .and_then(|mode: Mode| Request::retain(i64::from(count), mode, after));
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Delete what is older than a backup or a time.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_before(
    target: Option<SqlText>,
    mode: default!(Option<SqlText>, "''"),
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let (SqlText(target), mode) = (required("target", target), required("mode", mode));
    let request = find_full(&mode).and_then(|find_full| {
        Ok(Request::Before {
            target: target.parse()?,
            find_full,
        })
    });
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Delete one backup and what depends on it. WAL is not touched.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_target(
    name: Option<SqlText>,
    mode: default!(Option<SqlText>, "''"),
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let (SqlText(name), mode) = (required("name", name), required("mode", mode));
    let request = find_full(&mode).map(|find_full| Request::Target { name, find_full });
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Delete all backups and all WAL; permanent backups, and what walarchive has stored for itself, with `force` only.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_everything(
    force: default!(Option<bool>, "false"),
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let request = Ok(Request::Everything {
        force: required("force", force),
    });
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Delete what no backup needs: WAL (`ARCHIVES`), folders of backups that never were complete (`BACKUPS`), or both.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_garbage(
    what: default!(Option<SqlText>, "''"),
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let request = required("what", what).0.parse().map(Request::Garbage);
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Keep what is needed to restore to any moment of this last span of time.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_outside_window(
    window: Option<Interval>,
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let window = required("window", window);
    let request = Span::new(window.months().into(), window.days().into(), window.micros()).map(Request::OutsideWindow);
    TableIterator::new(delete(request, required("confirm", confirm)))
}

/// Keep the newest backup of each of the last days, weeks, months and years having one.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn walarchive_delete_gfs(
    days: Option<i32>,
    weeks: Option<i32>,
    months: Option<i32>,
    years: Option<i32>,
    confirm: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(key, SqlText),
        name!(size, i64),
        name!(why, SqlText),
        name!(deleted, bool),
    ),
> {
    let number = |name: &str, number: Option<i32>| {
        let number = required(name, number);
        u32::try_from(number).map_err(|_| {
            Error::config(
                format!("{number} is not a number of periods"),
                "Give the numbers of days, weeks, months and years, or 0 for none.",
            )
        })
    };
    let request = || {
        Gfs::new(
            number("days", days)?,
            number("weeks", weeks)?,
            number("months", months)?,
            number("years", years)?,
        )
        .map(Request::Gfs)
    };
    TableIterator::new(delete(request(), required("confirm", confirm)))
}

fn find_full(mode: &SqlText) -> Result<bool> {
    mode.0.parse::<Mode>()?.is_find_full()
}

/// A time of the calendar. An ERROR names the argument that is none.
fn utc(name: &str, time: TimestampWithTimeZone) -> DateTime<Utc> {
    let time = time
        .into_inner()
        .checked_add(super::POSTGRES_EPOCH_US)
        .and_then(DateTime::from_timestamp_micros);
    time.unwrap_or_else(|| {
        error::raise(&Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE as i32,
            message: Text::new(&format!("argument \"{name}\" is no time that a backup can have")),
            hint: Text::new(
                "Give a time of the calendar, such as '2026-11-20 10:00:00+00', or leave the argument out.",
            ),
            ..Failure::NONE
        })
    })
}

/// The name of the backup that this server is taking. Before it has one it keeps at least everything from being deleted.
fn running() -> Vec<String> {
    if shmem::require_preloaded().is_err() {
        return Vec::new();
    }
    let job = *BACKUP.share();
    let name = || job.name.to_option().unwrap_or_else(|| "(about to start)".to_owned());
    job.phase.is_running().then(name).into_iter().collect()
}

fn delete(request: Result<Request>, confirm: bool) -> Vec<Shown> {
    let request = or_raise(request);
    if confirm {
        or_raise(ArchiveSettings::for_writing());
    }
    let (identity, running) = (server::identity(), running());
    let (plan, applied) = in_archive(move |archive| async move {
        let store = &archive.writable();
        cluster::is_owned(store, &identity).await?;
        if confirm {
            store.check_fence().await?;
        }
        let plan = retention::draw_up(store, &request, &running, Utc::now()).await?;
        // A statement that is cancelled drops this future, which is safe at any point.
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        let applied = match confirm {
            true => Some(retention::apply(store, &plan, &progress, &cancel).await?),
            false => None,
        };
        // The lease is among what has been deleted; nobody shall write it anew.
        if confirm
            && request == (Request::Everything { force: true })
            && let Some(writer) = archive.writer()
        {
            writer.forget().await?;
        }
        Ok((plan, applied))
    });
    for note in &plan.notes {
        error::notice(note);
    }
    for spared in applied.iter().flat_map(|applied| &applied.spared) {
        error::warning(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            &format!("backup \"{}\" was not deleted: {}", spared.name, spared.why),
            "No WAL was deleted. Call the function again to have a plan of what is there now.",
            "",
        );
    }
    let deleted = |index: usize| applied.as_ref().is_some_and(|applied| applied.deleted[index]);
    let rows = plan
        .actions
        .iter()
        .enumerate()
        .map(|(index, action)| action.row(deleted(index)));
    rows.map(shown).collect()
}

fn shown(row: Row) -> Shown {
    (
        row.what.into(),
        row.key.into(),
        bigint(row.size),
        row.why.into(),
        row.deleted,
    )
}
