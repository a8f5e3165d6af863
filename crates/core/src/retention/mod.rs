//! Marking backups, and deleting what is no longer wanted.
//!
//! ```text
//! look at the repository -> Inventory -> plan(request) -> Plan, which can be shown -> apply
//! ```
//!
//! [`plan()`] is a pure function. What it goes by:
//!
//! - Backups are ordered by the time at which they started, never by their names: after `pg_upgrade` the newer cluster is on
//!   the lower timeline. A repository that was continued after `pg_upgrade` has backups of two system identifiers, one after
//!   the other; they are one sequence, in which those of the old cluster are simply the older ones. Where the backups of two
//!   clusters alternate, two live clusters share the repository, and every rule that goes by age is refused.
//! - Only backups that can be restored are counted, so that `N` of them stay. One that cannot be is deleted if it is older
//!   than what stays.
//! - A backup whose description cannot be read is not counted either. When it started is not known, only when it was
//!   complete: it goes if that was before the oldest backup that stays for its age began.
//! - A delta that stays keeps its ancestors. Permanent backups stay, with their ancestors.
//! - WAL stays from the first segment of the oldest backup on that stays for its age, on its timeline and on all that were
//!   forked from it after the backup. On a timeline of which it is not known from where it was forked, and on those to which
//!   no backup leads, WAL stays from the lowest such segment on. Permanent backups, ancestors, and the weekly, monthly and
//!   yearly ones of `gfs` that are older than the daily ones keep the WAL from their start to their end, and no more: they can
//!   be restored, but not to a later point in time.
//! - A backup that is being taken keeps WAL from its start on, and its parent.
//! - No backup stays: no WAL goes, unless everything does.

mod apply;
mod everything;
mod keep;
mod mark;

mod plan;
mod request;
mod rules;
mod span;
mod target;
mod wal;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::formats::SENTINEL_LIMIT;
use crate::inventory::Inventory;
use crate::layout;
use crate::storage::Store;

pub use apply::{Applied, Progress, Spared, apply};
pub use mark::mark;
pub use plan::{Action, Kept, Object, Plan, Row, Situation, plan};
pub use request::{Before, Garbage, Gfs, Mode, Policy, Request, time};
pub use span::Span;

/// Sentinels that are read at a time.
const CONCURRENCY: usize = 8;

/// Look at the repository and plan. `protected` are the names of backups that the caller knows to be running.
pub async fn draw_up(store: &Store, request: &Request, protected: &[String], now: DateTime<Utc>) -> Result<Plan> {
    let inventory = look(store).await?;
    let own = match request {
        Request::Everything { force: true } => store.list(layout::OWN_FOLDER).await?,
        _ => Vec::new(),
    };
    let situation = Situation {
        now,
        protected: protected.to_vec(),
        own,
    };
    plan(&inventory, request, &situation)
}

/// What [`enforce`] did.
#[derive(Debug)]
pub struct Enforced {
    /// What was planned.
    pub plan: Plan,
    /// What was done of it.
    pub applied: Applied,
}

/// Apply the policy of `walarchive.retention`.
pub async fn enforce(
    store: &Store,
    policy: &Policy,
    protected: &[String],
    cancel: &CancellationToken,
) -> Result<Enforced> {
    let plan = draw_up(store, &Request::from(*policy), protected, Utc::now()).await?;
    let applied = apply(store, &plan, &Progress::default(), cancel).await?;
    Ok(Enforced { plan, applied })
}

/// The inventory, in which a backup is permanent if its sentinel or its `metadata.json` says so. A listing reads only one of
/// the two; a deletion must not trust in their agreement.
async fn look(store: &Store) -> Result<Inventory> {
    let mut inventory = Inventory::load(store).await?;
    if inventory.backups.is_empty() && inventory.wal.is_empty() && !store.is_repository().await? {
        return Err(store.no_repository());
    }
    let asked: Vec<(bool, String)> = inventory
        .backups
        .iter()
        .map(|backup| {
            (
                backup.metadata.is_permanent || backup.damaged.is_some(),
                backup.name.clone(),
            )
        })
        .collect();
    let answers =
        futures::stream::iter(asked.into_iter().enumerate())
            .map(|(index, (known, name))| async move {
                Ok::<_, Error>((index, !known && is_permanent(store, &name).await?))
            })
            .buffer_unordered(CONCURRENCY);
    let permanent: Vec<(usize, bool)> = answers.try_collect().await?;
    for (index, permanent) in permanent {
        inventory.backups[index].metadata.is_permanent |= permanent;
    }
    Ok(inventory)
}

/// What the sentinel and `metadata.json` of a backup say now: permanent, if either says so. What cannot be read says nothing.
async fn is_permanent(store: &Store, name: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Flag {
        #[serde(rename = "IsPermanent", alias = "is_permanent", default)]
        permanent: bool,
    }
    for key in [layout::sentinel(name), layout::metadata(name)] {
        let content = match store.get(&key, SENTINEL_LIMIT).await {
            Err(Error::Damaged { .. }) => None,
            content => content?,
        };
        let flag = content.and_then(|content| serde_json::from_slice::<Flag>(&content).ok());
        if flag.is_some_and(|flag| flag.permanent) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
