//! `walarchive_tail_status`, below the view `walarchive_status`.

use pgrx::prelude::*;
use walarchive_core::Lsn;

use super::timestamp;
use crate::error::or_raise;
use crate::pg::lsn::PgLsn;
use crate::pg::text::SqlText;
use crate::shmem::{self, ARCHIVING};

/// One row: how far the store has the WAL of the segment that is being written.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_tail_status() -> TableIterator<
    'static,
    (
        name!(tail_state, SqlText),
        name!(tail_lsn, Option<PgLsn>),
        name!(tail_time, Option<TimestampWithTimeZone>),
        name!(tail_error, Option<SqlText>),
        name!(tail_error_time, Option<TimestampWithTimeZone>),
    ),
> {
    or_raise(shmem::require_preloaded());
    let now = ARCHIVING.share().tail;
    TableIterator::once((
        now.state.name().into(),
        Some(now.safe_lsn).filter(|lsn| *lsn != 0).map(|lsn| PgLsn(Lsn(lsn))),
        timestamp(now.safe_us),
        now.error.to_option().map(SqlText),
        timestamp(now.error_us),
    ))
}
