//! The functions that delete: each shows what it would delete, and deletes with `confirm => true` only.

use chrono::{DateTime, Utc};
use pgrx::prelude::*;
use tokio_util::sync::CancellationToken;
use walarchive_core::repository::cluster;
use walarchive_core::retention::{
    self, Confirmed, DeletionProgress, Garbage, Gfs, Mode, Order, OtherBranches, Request, Row, Rule, Span,
};
use walarchive_core::{Error, Result};

use super::{argument, bigint, in_archive, required};
use crate::error::{self, or_raise};
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;
use crate::shmem::{self, BACKUP, Failure, Text};

/// One row of a plan.
type Shown = (SqlText, SqlText, i64, SqlText, bool);

/// A function of SQL whose rows are of the type `walarchive_deletion`.
macro_rules! deletion {
    ($(#[doc = $what:literal])* fn $name:ident($($arguments:tt)*) $body:block) => {
        $(#[doc = $what])*
        #[pg_extern(volatile, parallel_unsafe)]
        #[allow(clippy::type_complexity)]
        fn $name($($arguments)*) -> TableIterator<
            'static,
            (
                name!(what, SqlText),
                name!(key, SqlText),
                name!(size, i64),
                name!(why, SqlText),
                name!(deleted, bool),
            ),
        > $body
    };
}

deletion! {
    /// Keep the newest backups, and what they need.
    fn walarchive_delete_retain(
        count: Option<i32>,
        mode: default!(Option<SqlText>, "'full'"),
        after: default!(Option<TimestampWithTimeZone>, "NULL"),
        confirm: default!(Option<bool>, "false"),
    ) {
        let count = required("count", count);
        let after = after.map(|after| utc("after", after));
        let request = counted(mode).and_then(|mode| Request::retain(i64::from(count), mode, after));
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Delete what is older than a backup or a time.
    fn walarchive_delete_before(
        target: Option<SqlText>,
        mode: default!(Option<SqlText>, "NULL"),
        confirm: default!(Option<bool>, "false"),
    ) {
        let SqlText(target) = required("target", target);
        let request = find_full(mode).and_then(|find_full| {
            Ok(Request::Rule(Rule::Before {
                target: target.parse()?,
                find_full,
            }))
        });
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Delete one backup and what depends on it. WAL is not touched.
    fn walarchive_delete_target(
        name: Option<SqlText>,
        mode: default!(Option<SqlText>, "NULL"),
        confirm: default!(Option<bool>, "false"),
    ) {
        let SqlText(name) = required("name", name);
        let request = find_full(mode).map(|find_full| Request::Target { name, find_full });
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Delete all backups and all WAL; permanent backups, and what walarchive has stored for itself, with `force` only.
    fn walarchive_delete_everything(
        force: default!(Option<bool>, "false"),
        confirm: default!(Option<bool>, "false"),
    ) {
        let request = Ok(Request::Everything {
            force: required("force", force),
        });
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Delete what no backup needs: WAL (`archives`), folders of backups that never were complete (`backups`), or both.
    fn walarchive_delete_garbage(
        what: default!(Option<SqlText>, "NULL"),
        confirm: default!(Option<bool>, "false"),
    ) {
        let request = garbage(what).map(Request::Garbage);
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Keep what is needed to restore to any moment of this last span of time.
    fn walarchive_delete_outside_window(
        span: Option<Interval>,
        confirm: default!(Option<bool>, "false"),
    ) {
        let span = required("span", span);
        let request = Span::new(span.months().into(), span.days().into(), span.micros()).map(|rule| Request::Rule(Rule::OutsideWindow(rule)));
        TableIterator::new(delete(request, required("confirm", confirm)))
    }
}

deletion! {
    /// Keep the newest backup of each of the last days, weeks, months and years having one.
    fn walarchive_delete_gfs(
        days: Option<i32>,
        weeks: Option<i32>,
        months: Option<i32>,
        years: Option<i32>,
        confirm: default!(Option<bool>, "false"),
    ) {
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
            .map(|rule| Request::Rule(Rule::Gfs(rule)))
        };
        TableIterator::new(delete(request(), required("confirm", confirm)))
    }
}

/// Which backups are counted: an empty word is that of version 0.1.0 for none.
fn counted(mode: Option<SqlText>) -> Result<Mode> {
    match lower(mode).as_str() {
        "" => Ok(Mode::Any),
        "full" => Ok(Mode::Full),
        "find_full" => Ok(Mode::FindFull),
        other => Err(Error::config(
            format!("\"{other}\" is not a mode of deletion"),
            "Use 'full', 'find_full', or NULL.",
        )),
    }
}

fn find_full(mode: Option<SqlText>) -> Result<bool> {
    match lower(mode).as_str() {
        "" => Ok(false),
        "find_full" => Ok(true),
        other => Err(Error::config(
            format!("\"{other}\" is not a mode of this deletion"),
            "Use 'find_full', or NULL.",
        )),
    }
}

fn garbage(what: Option<SqlText>) -> Result<Garbage> {
    match lower(what).as_str() {
        "" => Ok(Garbage::All),
        "archives" => Ok(Garbage::Archives),
        "backups" => Ok(Garbage::Backups),
        other => Err(Error::config(
            format!("\"{other}\" is not a kind of garbage"),
            "Use 'archives', 'backups', or NULL for both.",
        )),
    }
}

/// WAL-G's words are in upper case, and its users may write them so.
fn lower(word: Option<SqlText>) -> String {
    word.map(|word| word.0.trim().to_ascii_lowercase()).unwrap_or_default()
}

/// A time of the calendar. An ERROR names the argument that is none.
pub(super) fn utc(name: &str, time: TimestampWithTimeZone) -> DateTime<Utc> {
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
    let request = argument(request);
    if confirm {
        or_raise(ArchiveSettings::for_writing());
    }
    let (identity, running) = (server::identity(), running());
    let deletion = in_archive(move |archive| async move {
        let store = &archive.writable();
        cluster::is_owned(store, &identity).await?;
        // A statement that is cancelled drops this future.
        let (progress, cancel) = (DeletionProgress::default(), CancellationToken::new());
        let confirmed = confirm.then_some(Confirmed {
            store,
            progress: &progress,
            cancel: &cancel,
        });
        let order = Order {
            request: &request,
            protected: &running,
            others: OtherBranches::Keep,
        };
        let deletion = retention::delete(store, order, confirmed, |_| {}).await?;
        // The lease is among what has been deleted; it must not be written again.
        if confirm
            && request == (Request::Everything { force: true })
            && let Some(writer) = archive.writer()
        {
            writer.forget().await?;
        }
        Ok(deletion)
    });
    for note in &deletion.plan.notes {
        error::notice(note);
    }
    for spared in deletion.applied.iter().flat_map(|applied| &applied.spared) {
        error::warning(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            &format!("backup \"{}\" was not deleted: {}", spared.name, spared.why),
            "No WAL was deleted. Call the function again for a new plan.",
            "",
        );
    }
    deletion.rows().map(shown).collect()
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
