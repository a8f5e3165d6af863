//! What is left of the tail, and of no use any more.

use std::sync::Arc;

use super::plan::{Action, Object};
use super::wal::Need;
use crate::repository::inventory::{Inventory, TailObject};
use crate::repository::layout;

/// The chunks that nobody will read: their segment is archived whole, or others have what is in them; and those of segments that no
/// backup needs. What a server stores at present stays.
pub(super) fn useless(inventory: &Inventory, need: &Need) -> Vec<Action> {
    let [archived, replaced, unneeded] = [
        "its segment is archived whole",
        "other chunks have what is in it",
        "no backup that is kept needs it",
    ]
    .map(Arc::<str>::from);
    let all = || inventory.tail.chunks.iter();
    let present = all().map(|object| (object.chunk.epoch, object.chunk.segment)).max();
    let why = |object: &TailObject| {
        let chunk = &object.chunk;
        if inventory.has(chunk.segment) {
            // One that is empty or cut off may be put right with them.
            return (!inventory.is_unreadable(chunk.segment)).then_some(&archived);
        }
        let others = inventory
            .cover(chunk.segment)
            .filter(|cover| chunk.epoch <= cover.epoch() && chunk.end <= cover.end() && !cover.chunks.contains(chunk));
        if others.is_some() {
            return Some(&replaced);
        }
        let is_present = present == Some((chunk.epoch, chunk.segment));
        let is_needed = is_present || !need.is_known() || need.has(chunk.segment, object.written);
        (!is_needed).then_some(&unneeded)
    };
    all().filter_map(|object| Some(action(object, why(object)?))).collect()
}

/// All chunks.
pub(super) fn all(inventory: &Inventory, why: &Arc<str>) -> Vec<Action> {
    inventory.tail.chunks.iter().map(|object| action(object, why)).collect()
}

/// What says that a run of the server has taken a number; but the highest, after which the next one counts on.
pub(super) fn epochs(inventory: &Inventory) -> Vec<Action> {
    let why: Arc<str> = "a later run of the server has taken the next number".into();
    let mut epochs = inventory.tail.epochs.iter();
    epochs.next_back();
    epochs
        .map(|(epoch, size)| Action {
            object: Object::Own(layout::tail_epoch(*epoch)),
            size: *size,
            why: Arc::clone(&why),
        })
        .collect()
}

fn action(object: &TailObject, why: &Arc<str>) -> Action {
    Action {
        object: Object::Tail(*object),
        size: object.size,
        why: Arc::clone(why),
    }
}
