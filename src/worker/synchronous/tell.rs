//! What the server's log is told of the synchronous standby: when commits begin to wait for the store, and when that is over.

use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use walarchive_core::Error;

use super::progress::Rules;
use super::shared::Shown;
use crate::error;
use crate::shmem::{Failure, SyncState};

/// A server that has just started, or is reloading, may refuse a connection once.
const BRIEF: Duration = Duration::from_secs(2);

/// How often it is said that commits are not synchronous.
const REMIND: Duration = Duration::from_secs(60);

const CONNECTION: &str = "It needs a line in pg_hba.conf, for example \"local replication postgres peer\", a role with \
    REPLICATION, a place within max_wal_senders, and wal_level = replica; walarchive.synchronous_conninfo says how it connects.";

const GONE: &str = "Commits go on once the store takes WAL. To let them go on without it, take walarchive out of \
    synchronous_standby_names and reload the configuration, or set walarchive.synchronous_timeout.";

#[derive(Default)]
pub(super) struct Teller {
    /// There was said to be no connection.
    unconnected: bool,
    /// Commits were said to wait.
    waiting: bool,
    /// When commits were last said not to be synchronous.
    degraded: Option<Instant>,
}

impl Teller {
    /// Say what has changed.
    pub(super) fn tell(&mut self, shown: &Shown, rules: Rules, commits_wait: bool, now: Instant) {
        match (shown.state, &shown.unconnected) {
            (SyncState::Connecting, Some((failure, since))) if now.duration_since(*since) >= BRIEF => {
                self.unconnected(failure);
            }
            (SyncState::Connecting, _) => {}
            _ if std::mem::take(&mut self.unconnected) => {
                log!("walarchive: connected as a standby of this server");
            }
            _ => {}
        }
        match shown.state {
            SyncState::Degraded => self.degraded(rules, shown, now),
            SyncState::Waiting if commits_wait => self.waiting(shown),
            SyncState::Waiting => {
                if let Some(failure) = &shown.refused {
                    error::warn("could not store the latest WAL", failure);
                }
            }
            SyncState::Synchronous => {
                if self.degraded.take().is_some() {
                    log!("walarchive: the store has all WAL again: commits are synchronous");
                } else if std::mem::take(&mut self.waiting) {
                    log!("walarchive: the store takes WAL again: commits go on");
                }
                self.waiting = false;
            }
            SyncState::Off | SyncState::Connecting | SyncState::CatchingUp => {}
        }
    }

    /// The settings do not allow it.
    pub(super) fn cannot_begin(&mut self, error: &Error) {
        error::warn("commits cannot be synchronous", &Failure::from(error));
    }

    fn unconnected(&mut self, failure: &Failure) {
        if std::mem::replace(&mut self.unconnected, true) {
            return;
        }
        error::warning(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            "walarchive cannot connect to its own server as a standby, so that commits that need it wait",
            &format!("{}.", failure.message.as_str()),
            CONNECTION,
        );
    }

    fn waiting(&mut self, shown: &Shown) {
        if std::mem::replace(&mut self.waiting, true) {
            return;
        }
        let detail = match &shown.refused {
            Some(failure) => format!("{}.", failure.message.as_str()),
            None => format!("It has everything before {}, and not yet what follows.", shown.safe),
        };
        let code = PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE;
        error::warning(
            code,
            "commits wait for the store, which does not take WAL",
            &detail,
            GONE,
        );
    }

    fn degraded(&mut self, rules: Rules, shown: &Shown, now: Instant) {
        if self.degraded.is_some_and(|said| now.duration_since(said) < REMIND) {
            return;
        }
        self.degraded = Some(now);
        let seconds = rules.timeout.unwrap_or_default().as_secs();
        let what = match rules.others_suffice {
            true => "commits wait for other standbys and no longer for the store",
            false => "commits are no longer synchronous, and can be lost with this server",
        };
        error::warning(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            what,
            &format!(
                "The store has not taken WAL for {seconds} s (walarchive.synchronous_timeout). It has everything before {}.",
                shown.safe
            ),
            "They wait for the store again, by themselves, once it has all WAL. See synchronous_error in walarchive_status.",
        );
    }
}
