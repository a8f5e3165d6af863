//! The index of WAL goes with the WAL that it is about.

use std::collections::BTreeSet;

use super::plan::{Action, DeletionPlan, Object};
use crate::points::blocks_of;
use crate::repository::inventory::Inventory;
use crate::repository::layout::Key;
use crate::wal::Segment;
use walarchive_storage::Listed;

/// Does the plan delete WAL?
pub(super) fn is_concerned(plan: &DeletionPlan) -> bool {
    plan.actions
        .iter()
        .any(|action| matches!(action.object, Object::Wal(_)))
}

/// Add the objects of the index that tell of no segment any more. `index` are all of them.
pub(super) fn add(plan: &mut DeletionPlan, inventory: &Inventory, index: &[Listed]) {
    let gone: BTreeSet<Segment> = plan
        .actions
        .iter()
        .filter_map(|action| match &action.object {
            Object::Wal(object) => object.name.segment(),
            _ => None,
        })
        .collect();
    let named: BTreeSet<String> = plan
        .actions
        .iter()
        .filter(|action| matches!(action.object, Object::Own(_)))
        .map(|action| action.key().into())
        .collect();
    let new = index.iter().filter(|object| !named.contains(&object.key));
    let useless = blocks_of(inventory, new, |segment| gone.contains(&segment));
    plan.actions.extend(useless.into_iter().map(|object| Action {
        object: Object::Own(Key::listed(object)),
        size: object.size,
        why: "the WAL that it tells of is deleted".into(),
    }));
}
