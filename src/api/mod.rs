//! The SQL functions: arguments in, rows out. What takes long runs in a worker or on the bridge.

mod backup;
mod check;
mod list;
mod status;
mod verify;

use pgrx::prelude::*;

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
