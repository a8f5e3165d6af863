//! Marking backups, and deleting what is no longer wanted.
//!
//! ```text
//! look at the repository -> Inventory -> plan(request) -> Plan, which can be shown -> apply
//! ```
//!
//! [`plan()`] is a pure function. It goes by these rules:
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
//! - Another branch of the history that is not older, as that of a server of which this one was a copy, keeps what it needs to be
//!   restored: its newest backup and the WAL from there on.
//! - No backup stays: no WAL goes, unless everything does.
//! - The tail of a segment goes when the segment does. What nobody reads of the tail goes with any WAL: chunks of a segment that is
//!   archived whole, and those of which others have all. What a server stores at present stays.
//! - Garbage has the folders, too, of backups that bring standbys up and were never completed. All others of them stay.
//! - Garbage has the uploads, too, that were never completed: those to which nothing was added for a day, by the clock of the
//!   store, unless they are in the folder of a backup that may be being taken.
//! - In a repository that is a directory, symbolic links stay, and so does all that is behind one.

mod apply;
mod branches;
mod deletion;
mod dependants;
mod everything;
mod index;
mod keep;
mod links;
mod mark;

mod plan;
mod planner;
mod request;
mod rules;
mod span;
mod tail;
mod target;
mod uploads;
mod wal;

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::lease::{Holder, Lease};
use crate::printable::counted;
use crate::repository::inventory::{Inventory, unfinished_catchups};
use crate::repository::{self, description, layout};
use walarchive_storage::Store;

pub use apply::{Applied, DeletionProgress, Spared, apply};
pub use deletion::{Confirmed, Deletion, Order, delete};
pub use mark::{Mark, mark};
pub use plan::{Action, DeletionPlan, Kept, Object, OtherBranches, Row, Situation};
pub use planner::plan;
pub use request::{Before, Garbage, Gfs, Mode, Policy, Request, Rule, time};
pub use span::Span;

/// Names of backups that one line of the log shows.
const SHOWN: usize = 5;

/// No policy is applied when the newest backup seems to be older than this.
const CLOCK_AHEAD: TimeDelta = TimeDelta::days(1);

/// Sentinels that are read at a time.
const CONCURRENCY: usize = 8;

/// Look at the repository and plan. `protected` are the names of backups that the caller knows to be running.
pub async fn draw_up(
    store: &Store,
    request: &Request,
    protected: &[String],
    now: DateTime<Utc>,
) -> Result<DeletionPlan> {
    draw_up_for(store, request, protected, now, OtherBranches::Keep).await
}

/// The same, with a word on other branches of the history.
async fn draw_up_for(
    store: &Store,
    request: &Request,
    protected: &[String],
    now: DateTime<Utc>,
    others: OtherBranches,
) -> Result<DeletionPlan> {
    let inventory = look(store).await?;
    let own = match request {
        Request::Everything { force: true } => store.list(&layout::OWN_FOLDER).await?,
        _ => Vec::new(),
    };
    let catchups = match request {
        Request::Garbage(Garbage::All | Garbage::Backups)
        | Request::GarbageWithoutBackups(Garbage::All | Garbage::Backups) => unfinished_catchups(store).await?,
        _ => Vec::new(),
    };
    let (uploads, notes) = uploads::pending(store, request).await?;
    let situation = Situation {
        own_timeline: Lease::read(store).await?.map(|lease| lease.timeline()),
        writers: Holder::all(store).await?,
        others,
        now,
        protected: protected.to_vec(),
        own,
        uploads,
        catchups,
        notes,
    };
    let mut plan = plan(&inventory, request, &situation)?;
    if index::is_concerned(&plan) {
        index::add(&mut plan, &inventory, &store.list(&layout::POINTS_FOLDER).await?);
    }
    let folders: [&str; 4] = [
        &layout::BACKUPS_FOLDER,
        &layout::CATCHUP_FOLDER,
        &layout::WAL_FOLDER,
        &layout::OWN_FOLDER,
    ];
    links::leave(&mut plan, &store.links(&folders).await?);
    Ok(plan)
}

/// The result of [`enforce`].
#[derive(Debug)]
pub struct Enforced {
    /// The plan.
    pub plan: DeletionPlan,
    /// The part of it that was carried out.
    pub applied: Applied,
}

/// A line for the log: what was deleted, and what stays against the plan.
impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gone = || {
            let rows = self.plan.actions.iter().zip(&self.applied.deleted);
            rows.filter_map(|(action, deleted)| deleted.then_some(action))
        };
        let backups: Vec<&str> = gone()
            .filter_map(|action| match &action.object {
                Object::Backup { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let others = gone().count() - backups.len();
        match (backups.len(), others) {
            (0, 0) => f.write_str("nothing to delete")?,
            (0, _) => write!(f, "deleted {}", counted(others, "other object"))?,
            (count, _) => {
                let shown = backups[..count.min(SHOWN)].join(", ");
                let more = if count > SHOWN { ", …" } else { "" };
                let (count, others) = (counted(count, "backup"), counted(others, "other object"));
                write!(f, "deleted {count} ({shown}{more}) and {others}")?;
            }
        }
        if backups.len() + others > 0 {
            write!(f, ", {} MB", self.applied.bytes(&self.plan) >> 20)?;
        }
        for spared in &self.applied.spared {
            write!(f, "; kept {}: {}", spared.name, spared.why)?;
        }
        Ok(())
    }
}

/// Apply the policy of `walarchive.retention` to a repository to which a backup was just written.
pub async fn enforce(
    store: &Store,
    policy: &Policy,
    protected: &[String],
    cancel: &CancellationToken,
) -> Result<Enforced> {
    let now = Utc::now();
    let newest = store
        .list_shallow(&layout::BACKUPS_FOLDER)
        .await?
        .iter()
        .map(|object| object.last_modified)
        .max();
    // Ages are what this goes by, and a backup has just been written.
    if newest.is_none_or(|newest| now - newest > CLOCK_AHEAD) {
        return Err(Error::refused(
            "nothing was deleted, because this machine's clock is more than a day ahead of the newest backup",
            "Check the clocks of this machine and of the store.",
        ));
    }
    let plan = draw_up(store, &Request::from(*policy), protected, now).await?;
    plan.notes.iter().for_each(|note| tracing::warn!("retention: {note}"));
    let applied = apply(store, &plan, &DeletionProgress::default(), cancel).await?;
    Ok(Enforced { plan, applied })
}

/// The inventory as a deletion must see it: a backup is permanent if its sentinel or its `metadata.json` says so, and damaged
/// if its sentinel cannot be read. A listing reads only one of the two; a deletion must not trust in their agreement.
async fn look(store: &Store) -> Result<Inventory> {
    let mut inventory = Inventory::load(store).await?;
    if inventory.backups.is_empty() && inventory.wal.is_empty() && !repository::is_there(store).await? {
        return Err(repository::none_in(store));
    }
    // Owned names: a future that borrows from the iterator's item is not Send for all lifetimes.
    let names: Vec<String> = inventory.backups.iter().map(|backup| backup.name.clone()).collect();
    let said: Vec<Said> = futures::stream::iter(names)
        .map(|name| async move { said(store, &name).await })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    for (backup, said) in inventory.backups.iter_mut().zip(said) {
        backup.metadata.is_permanent |= said.is_permanent;
        if said.sentinel_is_damaged && backup.damaged.is_none() {
            backup.damaged = Some("Its sentinel cannot be read.".to_owned());
        }
    }
    Ok(inventory)
}

/// The present state of a backup, by its sentinel and `metadata.json`.
#[derive(Default)]
struct Said {
    /// If either says so. An object that cannot be read says nothing.
    is_permanent: bool,
    sentinel_is_damaged: bool,
}

async fn said(store: &Store, name: &str) -> Result<Said> {
    #[derive(Deserialize)]
    struct Flag {
        #[serde(rename = "IsPermanent", alias = "is_permanent", default)]
        permanent: bool,
    }
    let sentinel = layout::sentinel(name);
    let mut said = Said::default();
    for key in [&sentinel, &layout::metadata(name)] {
        let content = match description::read(store, key).await {
            Ok(None) => continue,
            Ok(Some(content)) => content,
            // Larger than any that can be read.
            Err(Error::Damaged { .. }) => Default::default(),
            Err(error) => return Err(error),
        };
        let flag = serde_json::from_slice::<Flag>(&content);
        said.is_permanent |= flag.is_ok_and(|flag| flag.permanent);
        said.sentinel_is_damaged |= *key == sentinel && Sentinel::parse(&content).is_err();
    }
    Ok(said)
}

#[cfg(test)]
mod tests;
