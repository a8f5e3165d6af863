//! `walarchive_synchronous_status`, below the view `walarchive_status`, and the row of `walarchive_check` about it.

use pgrx::prelude::*;
use walarchive_core::Lsn;
use walarchive_core::check::Check;

use super::timestamp;
use crate::error::or_raise;
use crate::guc;
use crate::pg::lsn::PgLsn;
use crate::pg::text::SqlText;
use crate::pg::{server, standbys};
use crate::shmem::{self, ARCHIVING, SyncState, Synchronous, Text};

const ROW: &str = "synchronous";

/// One row: the store as a synchronous standby of this server.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_synchronous_status() -> TableIterator<
    'static,
    (
        name!(synchronous_state, SqlText),
        name!(synchronous_lsn, Option<PgLsn>),
        name!(synchronous_since, Option<TimestampWithTimeZone>),
        name!(synchronous_error, Option<SqlText>),
    ),
> {
    or_raise(shmem::require_preloaded());
    let now = status();
    TableIterator::once((
        now.state.name().into(),
        Some(PgLsn(Lsn(now.lsn))).filter(|_| now.lsn != 0),
        timestamp(now.since_us),
        now.error.to_option().map(SqlText),
    ))
}

/// As the uploader has put it, unless that does not run or does not move.
fn status() -> Synchronous {
    let (status, is_stuck) = {
        let archiving = ARCHIVING.share();
        (archiving.synchronous, archiving.is_stuck())
    };
    match status.state {
        SyncState::Off if guc::synchronous() && !server::in_recovery() => Synchronous {
            state: SyncState::Connecting,
            ..status
        },
        SyncState::Off => status,
        _ if is_stuck => Synchronous {
            state: SyncState::Waiting,
            error: Text::new("the walarchive uploader does not respond"),
            ..status
        },
        _ => status,
    }
}

/// Do the settings of PostgreSQL and of walarchive go together? None if this server uses nothing of it.
pub(super) fn check() -> Option<Check> {
    let named = standbys::named(standbys::WALARCHIVE);
    match guc::synchronous() {
        false if !named.by_name => None,
        false => Some(Check::failed(
            ROW,
            match named.others_suffice {
                true => "synchronous_standby_names names walarchive, and walarchive.synchronous is off",
                false => {
                    "synchronous_standby_names names walarchive, and walarchive.synchronous is off: commits wait for ever"
                }
            },
            "Set walarchive.synchronous = on, or take walarchive out of synchronous_standby_names, and reload the configuration.",
        )),
        true if server::in_recovery() => Some(Check::ok(ROW, "this standby is synchronous once it is promoted")),
        // PostgreSQL itself lets them go on then.
        true if server::setting(c"max_wal_senders") == "0" => Some(Check::failed(
            ROW,
            "no commit waits for the store: max_wal_senders is 0",
            "Set max_wal_senders to 1 or more and restart the server.",
        )),
        true if !named.counts => Some(Check::warning(
            ROW,
            "walarchive.synchronous is on, but no commit waits for it: synchronous_standby_names does not name walarchive",
            "Set synchronous_standby_names = 'walarchive' and reload the configuration.",
        )),
        true => Some(state()),
    }
}

/// It is on, and named.
fn state() -> Check {
    let commit = server::setting(c"synchronous_commit");
    if matches!(commit.as_str(), "off" | "local") {
        return Check::warning(
            ROW,
            format!("commits do not wait for the store: synchronous_commit is {commit} in this session"),
            "Set synchronous_commit = on, for the server, or for the roles and databases whose commits must not be lost.",
        );
    }
    if shmem::require_preloaded().is_err() {
        return Check::failed(
            ROW,
            "commits wait for ever: walarchive is not preloaded",
            "See the row \"preload\".",
        );
    }
    let status = status();
    let detail = match (status.state, status.error.to_option()) {
        // The store is not to blame.
        (SyncState::Synchronous, Some(error)) => error,
        (SyncState::Synchronous, None) => {
            return Check::ok(
                ROW,
                format!(
                    "commits wait for the store, which has everything before {}",
                    Lsn(status.lsn)
                ),
            );
        }
        (SyncState::Degraded, Some(error)) => format!("commits do not wait for the store: {error}"),
        (SyncState::Degraded, None) => "commits do not wait for the store".to_owned(),
        (state, Some(error)) => format!("commits that need the store wait ({}): {error}", state.name()),
        (state, None) => format!("commits that need the store wait ({})", state.name()),
    };
    Check::failed(ROW, detail, "See docs/synchronous.md, and the server's log.")
}
