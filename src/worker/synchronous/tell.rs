//! What the server's log is told of the synchronous standby: when commits begin to wait for the store, and when that is over.

use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use walarchive_core::{Error, Lsn};

use super::progress::Rules;
use super::shared::Shown;
use crate::error;
use crate::pg::standbys::Others;
use crate::shmem::{Failure, SyncState};

/// A server that has just started, or is reloading, may refuse a connection once.
const BRIEF: Duration = Duration::from_secs(2);

/// Commits wait a moment for every standby.
const HANGING: Duration = Duration::from_secs(5);

/// How often it is said that commits are not synchronous.
const REMIND: Duration = Duration::from_secs(60);

const CONNECTION: &str = "It needs a line in pg_hba.conf, for example \"local replication postgres peer\", a role with \
    REPLICATION, a place within max_wal_senders, and wal_level = replica; walarchive.synchronous_conninfo says how it connects.";

const STANDSTILL: &str = "commits wait for the store, which does not take WAL";

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
    /// Why the settings were said not to allow it.
    refused: Option<String>,
    /// Since when commits wait for walarchive, which is turned off.
    hanging: Option<Instant>,
    /// They were said to.
    hangs: bool,
}

impl Teller {
    /// It is turned off. `commits_wait`: commits wait for standbys, and walarchive is one of those without which they do.
    pub(super) fn rest(&mut self, commits_wait: bool, now: Instant) {
        let (hanging, hangs) = (self.hanging.take(), self.hangs);
        *self = Teller::default();
        if !commits_wait {
            return;
        }
        let since = hanging.unwrap_or(now);
        (self.hanging, self.hangs) = (Some(since), hangs);
        if now.duration_since(since) >= HANGING && !std::mem::replace(&mut self.hangs, true) {
            error::warning(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "commits wait for walarchive, and walarchive.synchronous is off",
                "synchronous_standby_names names walarchive.",
                "Set walarchive.synchronous = on, or take walarchive out of synchronous_standby_names, and reload the configuration.",
            );
        }
    }

    /// Say what has changed.
    pub(super) fn tell(&mut self, shown: &Shown, rules: Rules, others: &Others, commits_wait: bool, now: Instant) {
        self.refused = None;
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
            SyncState::Degraded => self.degraded(rules, others, shown, now),
            SyncState::Waiting if commits_wait => self.waiting(others, shown),
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
        let reason = error.to_string();
        if self.refused.as_ref() != Some(&reason) {
            error::warn("commits cannot be synchronous", &Failure::from(error));
        }
        self.refused = Some(reason);
    }

    fn unconnected(&mut self, failure: &Failure) {
        if std::mem::replace(&mut self.unconnected, true) {
            return;
        }
        error::warning(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            "walarchive cannot connect to its own server as a synchronous standby",
            &format!("{}.", in_a_line(failure)),
            CONNECTION,
        );
    }

    fn waiting(&mut self, others: &Others, shown: &Shown) {
        if std::mem::replace(&mut self.waiting, true) {
            return;
        }
        let code = PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE;
        let lacking = others.lacking(true).map(|names| sentence(&lacking(&names)));
        let lacking = lacking.unwrap_or_default();
        let Some(failure) = &shown.refused else {
            let detail = match shown.safe {
                Lsn(0) => "It is not known yet what it has.".to_owned(),
                safe => format!("It has everything before {safe}, and not yet what follows."),
            };
            return error::warning(code, STANDSTILL, &format!("{detail}{lacking}"), GONE);
        };
        let detail = format!("{}.{lacking}", in_a_line(failure));
        match shown.is_refused {
            // To let commits go on would do harm.
            true => error::warning(
                code,
                "commits wait: this server cannot store WAL",
                &detail,
                failure.hint.as_str(),
            ),
            false => error::warning(code, STANDSTILL, &detail, GONE),
        }
    }

    fn degraded(&mut self, rules: Rules, others: &Others, shown: &Shown, now: Instant) {
        if self.degraded.is_some_and(|said| now.duration_since(said) < REMIND) {
            return;
        }
        self.degraded = Some(now);
        let seconds = rules.timeout.unwrap_or_default().as_secs();
        let lacking = others
            .lacking(!rules.others_suffice)
            .map(|names| sentence(&lacking(&names)));
        let what = match (&lacking, others.there) {
            (Some(_), _) => "commits wait for standbys that are not connected, and no longer for the store",
            (None, 0) => "commits are no longer synchronous, and can be lost with this server",
            (None, _) => "commits wait for other standbys and no longer for the store",
        };
        error::warning(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            what,
            &format!(
                "The store has not taken WAL for {seconds} s (walarchive.synchronous_timeout). It has everything before {}.{}",
                shown.safe,
                lacking.unwrap_or_default()
            ),
            "They wait for the store again, by themselves, once it has all WAL. See synchronous_error in walarchive_status.",
        );
    }
}

/// What is missing beside the store.
pub(super) fn lacking(names: &str) -> String {
    format!("commits need {names} as well, which is not connected or has not caught up")
}

/// To follow another one.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    format!(" {}{}.", first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// A failure with its reason.
pub(super) fn in_a_line(failure: &Failure) -> String {
    let (message, detail) = (failure.message.as_str(), failure.detail.as_str());
    match detail {
        "" => message.to_owned(),
        detail => format!("{message} ({})", detail.trim_end_matches('.')),
    }
}
