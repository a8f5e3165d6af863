//! The SQL functions: arguments in, rows out. What takes long runs in a worker or on the bridge.

mod backup;
mod check;
mod list;
mod status;

use std::time::Duration;

use pgrx::prelude::*;
use walarchive_core::storage::Store;
use walarchive_core::{Error, Result};

use crate::bridge::{self, Flow};
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::process;

/// How often an idle wait looks for interrupts; they set the latch anyway.
const LOOK: Duration = Duration::from_secs(1);

/// Ask the repository something. An ERROR if that fails or the statement is cancelled.
fn ask<T, F>(work: impl FnOnce(Store) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let archive = or_raise(ArchiveSettings::current().and_then(|settings| bridge::archive(&settings)));
    let answer = bridge::run(work(archive.store().clone()), Some(LOOK), || {
        process::check_for_interrupts();
        Flow::Wait
    });
    or_raise(answer.unwrap_or(Err(Error::Cancelled)))
}

/// A time of shared memory (microseconds since 1970; 0: never) as SQL sees it.
fn timestamp(us_since_1970: i64) -> Option<TimestampWithTimeZone> {
    /// 2000-01-01, where PostgreSQL's time begins, in microseconds since 1970.
    const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
    if us_since_1970 == 0 {
        return None;
    }
    TimestampWithTimeZone::try_from(us_since_1970 - POSTGRES_EPOCH_US).ok()
}

/// An unsigned figure as SQL's bigint.
fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

// Views and privileges; after all functions.
extension_sql_file!("../../sql/views.sql", name = "views", finalize);
