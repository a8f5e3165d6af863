//! A deletion that somebody asked for, from the request to its end.

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::apply::{Applied, DeletionProgress, apply};
use super::plan::{DeletionPlan, OtherBranches, Row};
use super::request::Request;
use crate::error::Result;
use walarchive_storage::Store;

/// The order.
#[derive(Debug)]
pub struct Order<'a> {
    /// The objects to delete.
    pub request: &'a Request,
    /// The names of backups that the caller knows to be running.
    pub protected: &'a [String],
    /// The treatment of objects that other branches of the history need.
    pub others: OtherBranches,
}

/// Somebody wants the plan to be carried out.
#[derive(Debug)]
pub struct Confirmed<'a> {
    /// The same store, with the patience for long work.
    pub store: &'a Store,
    /// How far it is.
    pub progress: &'a DeletionProgress,
    /// Ends it.
    pub cancel: &'a CancellationToken,
}

/// The plan, and the part of it that was carried out.
#[derive(Debug)]
pub struct Deletion {
    /// The plan.
    pub plan: DeletionPlan,
    /// The result; none if the deletion was not confirmed.
    pub applied: Option<Applied>,
}

impl Deletion {
    /// Is what this action of the plan is about gone?
    pub fn is_deleted(&self, index: usize) -> bool {
        let deleted = self.applied.as_ref().map(|applied| &applied.deleted);
        deleted.is_some_and(|deleted| deleted.get(index).copied().unwrap_or(false))
    }

    /// A row for each action of the plan.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let actions = self.plan.actions.iter().enumerate();
        actions.map(|(index, action)| action.row(self.is_deleted(index)))
    }
}

/// Plan, let `planned` see the plan, and carry it out if that is confirmed. Dropping the future is safe at any point.
pub async fn delete(
    store: &Store,
    order: Order<'_>,
    confirmed: Option<Confirmed<'_>>,
    planned: impl FnOnce(&DeletionPlan),
) -> Result<Deletion> {
    if confirmed.is_some() {
        store.check_fence().await?;
    }
    let plan = super::draw_up_for(store, order.request, order.protected, Utc::now(), order.others).await?;
    planned(&plan);
    let applied = match confirmed {
        Some(confirmed) => Some(apply(confirmed.store, &plan, confirmed.progress, confirmed.cancel).await?),
        None => None,
    };
    Ok(Deletion { plan, applied })
}
