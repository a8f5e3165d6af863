//! `walarchive_restore_test`, and `walarchive_drill_status`, below the view `walarchive_status`.

use pgrx::prelude::*;
use walarchive_core::Error;

use super::timestamp;
use crate::error::or_raise;
use crate::guc::{self, ArchiveSettings};
use crate::pg::latch::Latch;
use crate::pg::text::SqlText;
use crate::shmem::{self, SCHEDULING};

/// One row: the restore drills since the server started.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_drill_status() -> TableIterator<
    'static,
    (
        name!(next_drill_time, Option<TimestampWithTimeZone>),
        name!(last_drill_outcome, Option<SqlText>),
        name!(last_drill_time, Option<TimestampWithTimeZone>),
        name!(last_drill_error, Option<SqlText>),
        name!(last_proven_restore, Option<TimestampWithTimeZone>),
    ),
> {
    or_raise(shmem::require_preloaded());
    let scheduling = *SCHEDULING.share();
    TableIterator::once((
        timestamp(scheduling.next_drill_us),
        scheduling.drill.outcome.name().map(SqlText::from),
        timestamp(scheduling.drill.ended_us),
        scheduling.drill.error.to_option().map(SqlText),
        timestamp(scheduling.proven_us),
    ))
}

/// Start a restore drill of the latest backup on this server, and return at once. It uses `walarchive.drill_directory`,
/// `walarchive.drill_sql_file` and `walarchive.drill_sql_role`; `walarchive_status` tells how it ended.
#[pg_extern(volatile, parallel_unsafe)]
fn walarchive_restore_test() {
    or_raise(shmem::require_preloaded());
    // So that the client is told of wrong settings, and not only the log.
    or_raise(ArchiveSettings::current());
    or_raise(guc::needed_drill_directory());
    let (is_busy, scheduler) = {
        let mut scheduling = SCHEDULING.exclusive();
        let is_busy = scheduling.drill_running || scheduling.drill_wanted;
        let is_there = scheduling.scheduler != Latch::NONE;
        // One that is refused must not begin either when the present one has ended.
        scheduling.drill_wanted |= is_there && !is_busy;
        (is_busy, is_there.then_some(scheduling.scheduler))
    };
    if is_busy {
        or_raise(Err(Error::refused(
            "a restore drill is already running on this server",
            "See last_drill_time in walarchive_status for its end.",
        )))
    }
    match scheduler {
        Some(scheduler) => scheduler.set(),
        None => or_raise(Err(Error::refused(
            "the scheduler of walarchive does not run",
            "It starts within some seconds when the server accepts connections. See the server's log.",
        ))),
    }
}
