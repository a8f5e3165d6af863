//! Is everything there that archiving and restoring need? One row for each thing that was looked at.

mod encryption;
mod lease;
mod recovery;
mod repository;
mod scratch;

use std::time::Duration;

use crate::error::Error;
use crate::repository::cluster::ClusterIdentity;
use walarchive_storage::Store;

pub use lease::check_lease;

/// How a check ended; the worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It works, but not as it should.
    Warning,
    /// It does not work.
    Failed,
}

impl CheckStatus {
    /// "ok", "warning" or "failed".
    pub fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Ok => "ok",
            CheckStatus::Warning => "warning",
            CheckStatus::Failed => "failed",
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The thing that was looked at.
    pub name: &'static str,
    /// How it is.
    pub status: CheckStatus,
    /// The finding.
    pub detail: String,
    /// The cure, as a sentence.
    pub hint: Option<String>,
    /// How long the store took, where it was asked.
    pub latency: Option<Duration>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Check {
            name,
            status: CheckStatus::Ok,
            detail: detail.into(),
            hint: None,
            latency: None,
        }
    }

    /// It works, but somebody should know.
    pub fn warning(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Check {
            status: CheckStatus::Warning,
            hint: Some(hint.into()),
            ..Check::ok(name, detail)
        }
    }

    /// It does not work.
    pub fn failed(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Check {
            status: CheckStatus::Failed,
            hint: Some(hint.into()),
            ..Check::ok(name, detail)
        }
    }

    /// It does not work, as this error says.
    pub fn of_error(name: &'static str, error: &Error) -> Self {
        let detail = match error.detail() {
            Some(detail) => format!("{error}: {detail}"),
            None => error.to_string(),
        };
        Check {
            status: CheckStatus::Failed,
            hint: error.hint(),
            ..Check::ok(name, detail)
        }
    }

    /// [`Check::latency`] in milliseconds.
    pub fn latency_ms(&self) -> Option<f64> {
        self.latency.map(|latency| latency.as_secs_f64() * 1000.0)
    }

    fn took(self, latency: Duration) -> Self {
        Check {
            latency: Some(latency),
            ..self
        }
    }
}

/// The worst of them.
pub fn worst(checks: &[Check]) -> CheckStatus {
    checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Ok)
}

/// Look at the store, and at the repository in it. `identity` is that of the cluster that archives, where it is known. The
/// objects that are written are in a folder of their own and are removed again, also those that an earlier check left. Each
/// request has a deadline. After a failure without which the rest makes no sense, the rest is not there.
pub async fn check_store(store: &Store, identity: Option<&ClusterIdentity>) -> Vec<Check> {
    let mut checks = scratch::checks(store).await;
    if checks
        .iter()
        .any(|check| check.status == CheckStatus::Failed && scratch::IS_NEEDED.contains(&check.name))
    {
        return checks;
    }
    checks.push(repository::owner(store, identity).await);
    checks.extend(encryption::mark(store, identity).await);
    checks.extend(encryption::object(store).await);
    checks.push(repository::newest_backup(store).await);
    checks.extend(recovery::reach(store).await);
    checks.extend(repository::names(store).await);
    checks
}

/// The row of [`check_synchronous`].
const SYNCHRONOUS: &str = "synchronous backup";

/// Commits wait until the store has their WAL. Can anything be restored with that? `checks` are those of [`check_store`]. None if they
/// have not come so far.
pub async fn check_synchronous(store: &Store, checks: &[Check]) -> Option<Check> {
    let status = |name| checks.iter().find(|check| check.name == name).map(|check| check.status);
    let newest = status(repository::NEWEST)?;
    if status(recovery::NAME) == Some(CheckStatus::Failed) {
        return Some(Check::failed(
            SYNCHRONOUS,
            "commits wait for the store, and none of what they store now can be restored: WAL of before is missing",
            "See the row \"recovery\". A base backup that is taken now can be restored to it.",
        ));
    }
    Some(match newest {
        CheckStatus::Ok => Check::ok(
            SYNCHRONOUS,
            "what commits wait for can be restored, from the newest backup on",
        ),
        _ => match repository::restorable(store).await {
            Ok(Some(backup)) => Check::warning(
                SYNCHRONOUS,
                format!(
                    "what commits wait for can be restored from \"{backup}\" on only: no later backup can be restored"
                ),
                "See the row \"newest backup\". Take another one.",
            ),
            Ok(None) => Check::failed(
                SYNCHRONOUS,
                "commits wait for the store, and none of what they store can be restored: there is no base backup that can be",
                "Take one by SELECT walarchive_backup_push(). What commits before it is complete cannot be restored.",
            ),
            Err(error) => Check::of_error(SYNCHRONOUS, &error),
        },
    })
}

#[cfg(test)]
mod encrypted;
#[cfg(test)]
mod tests;
