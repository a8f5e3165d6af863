//! `walarchive_backfill_status`, below the view `walarchive_status`.

use pgrx::prelude::*;

use super::bigint;
use crate::error::or_raise;
use crate::pg::server;
use crate::pg::text::SqlText;
use crate::shmem::{self, ARCHIVING};

/// One row: the WAL of before a promotion that this server archives, and the WAL that is kept until it is archived.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backfill_status() -> TableIterator<
    'static,
    (
        name!(backfill_state, Option<SqlText>),
        name!(backfill_waiting, i64),
        name!(backfilled_count, i64),
        name!(backfill_lost, Option<SqlText>),
        name!(backfill_error, Option<SqlText>),
        name!(kept_from, Option<SqlText>),
        name!(kept_bytes, i64),
    ),
> {
    or_raise(shmem::require_preloaded());
    let now = ARCHIVING.share().backfill;
    let kept = match now.kept_lsn {
        0 => 0,
        from => server::wal_position().1.saturating_sub(from),
    };
    TableIterator::once((
        now.stage.name().map(SqlText::from),
        bigint(now.waiting),
        bigint(now.archived),
        now.lost.to_option().map(SqlText),
        now.error.to_option().map(SqlText),
        now.kept_from.to_option().map(SqlText),
        bigint(kept),
    ))
}
