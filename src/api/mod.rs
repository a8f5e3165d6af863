//! The SQL functions: arguments in, rows out. Long work runs in a worker or on the bridge.

mod backfill;
mod backup;
mod check;
mod delete;
mod drill;
mod lease;
mod list;
mod mark;
mod outdated;
mod points;
mod status;
mod synchronous;
mod tail;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use pgrx::prelude::*;
use walarchive_core::archive::Archive;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::bridge::{self, Flow};
use crate::error::{self, or_raise};
use crate::guc::ArchiveSettings;
use crate::pg::process;
use crate::pg::text::SqlText;
use crate::shmem::{Failure, Text};

/// How often an idle wait looks for interrupts. They also set the latch.
const LOOK: Duration = Duration::from_secs(1);

/// 2000-01-01, where PostgreSQL's time begins, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Run work in the archive of the settings until it ends or the statement is cancelled.
fn in_archive<T, F>(work: impl FnOnce(Arc<Archive>) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let settings = or_raise(ArchiveSettings::current());
    let archive = bridge::archive(&settings).unwrap_or_else(|_| {
        // A file of credentials may be half written.
        let wanted = settings.storage.clone();
        run(async move { Ok(Store::open_settled(&wanted).await?) });
        or_raise(bridge::archive(&settings))
    });
    run(work(archive))
}

/// Run work until it ends or the statement is cancelled. An ERROR if it fails.
fn run<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> T {
    let done = bridge::run(work, Some(LOOK), || {
        process::check_for_interrupts();
        Flow::Wait
    });
    or_raise(done.unwrap_or(Err(Error::Cancelled)))
}

/// The value of an argument that must not be NULL. An ERROR names the argument.
fn required<T>(name: &str, argument: Option<T>) -> T {
    argument.unwrap_or_else(|| {
        error::raise(&Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED as i32,
            message: Text::new(&format!("argument \"{name}\" must not be null")),
            ..Failure::NONE
        })
    })
}

/// The value of an argument, or an ERROR with the SQLSTATE of a wrong argument instead of that of a wrong setting.
fn argument<T>(value: Result<T>) -> T {
    value.unwrap_or_else(|error| {
        let mut failure = Failure::from(&error);
        if let Error::Setting { .. } = error {
            failure.sqlstate = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE as i32;
        }
        error::raise(&failure)
    })
}

/// Texts as SQL sees them.
fn texts(texts: impl IntoIterator<Item = String>) -> Vec<SqlText> {
    texts.into_iter().map(SqlText).collect()
}

/// A time of shared memory (microseconds since 1970; 0: never) as SQL sees it.
fn timestamp(us_since_1970: i64) -> Option<TimestampWithTimeZone> {
    if us_since_1970 == 0 {
        return None;
    }
    TimestampWithTimeZone::try_from(us_since_1970 - POSTGRES_EPOCH_US).ok()
}

/// A word of WAL-G's in the lower case of SQL's other words. The binary prints it as it is.
fn word(word: &str) -> SqlText {
    SqlText(word.to_ascii_lowercase())
}

/// A timeline as PostgreSQL's own functions show it.
fn timeline(number: u32) -> i32 {
    number.cast_signed()
}

/// An unsigned figure as SQL's bigint.
fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
