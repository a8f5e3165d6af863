//! Deltas that a plan does not know of: they have come since.
//!
//! A delta claims its name before it looks whether the deletion of its parent has begun, and looks once more when it has
//! written its sentinel. A deletion says that it begins before it looks for deltas. So one of the two sees the other, whatever
//! the order; where both do, the delta is given up and the parent stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::plan::{ABANDONED_AFTER, Action, Object};
use crate::error::{Error, Result};
use crate::repository::inventory::{parse_name, read_sentinel};
use crate::repository::layout;
use walarchive_storage::Store;

/// The backups that a plan knows of.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// The backups that it deletes.
    backups: HashSet<&'a str>,
    /// Likewise, the folders without a sentinel.
    leftovers: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    pub(super) fn new(actions: &'a [Action]) -> Self {
        let backups = actions.iter().filter_map(|action| match &action.object {
            Object::Backup { name, .. } => Some(name.as_str()),
            _ => None,
        });
        let leftovers = actions.iter().filter_map(|action| match &action.object {
            Object::Leftover { name, .. } => Some(name.as_str()),
            _ => None,
        });
        Known {
            backups: backups.collect(),
            leftovers: leftovers.collect(),
        }
    }

    /// This one stays, against the plan.
    pub(super) fn spare(&mut self, name: &str) {
        self.backups.remove(name);
        self.leftovers.remove(name);
    }

    /// Does the plan delete it, as it is now?
    fn has(&self, name: &str, is_complete: bool) -> bool {
        // A leftover that has a sentinel by now is none.
        self.backups.contains(name) || !is_complete && self.leftovers.contains(name)
    }

    /// A delta on that backup which the plan does not delete, complete or being taken. To be called when everybody can see
    /// that the deletion of the backup has begun.
    pub(super) async fn dependant(&self, store: &Store, backup: &str) -> Result<Option<String>> {
        let start = parse_name(backup).0;
        for (delta, is_complete) in self.others(store).await? {
            // The name of a delta tells the start of its parent, but not the parent's parent.
            let parent = parse_name(&delta).1;
            if parent.is_none_or(|parent| parse_name(&parent).0 != start) {
                continue;
            }
            let parent = match is_complete {
                true => read_sentinel(store, &delta).await.map(|sentinel| sentinel.delta_from),
                false if is_abandoned(store, &delta, backup).await? => continue,
                false => Ok(None),
            };
            let parent = match parent {
                Err(Error::Damaged { .. } | Error::NoBackup { .. }) => None,
                parent => parent?,
            };
            if parent.is_none_or(|parent| parent == backup) {
                return Ok(Some(delta));
            }
        }
        Ok(None)
    }

    /// A backup that the plan does not delete, and that is not among those, complete or being taken.
    pub(super) async fn newcomer(&self, store: &Store, old: Option<&BTreeSet<String>>) -> Result<Option<String>> {
        for (name, is_complete) in self.others(store).await? {
            // Other names are somebody else's.
            let is_new = parse_name(&name).0.is_some() && old.is_none_or(|old| !old.contains(&name));
            if is_new && (is_complete || !is_empty(store, &name).await?) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// All that the plan does not delete, and whether it has a sentinel.
    async fn others(&self, store: &Store) -> Result<BTreeMap<String, bool>> {
        let (objects, folders) = store.list_folder(&layout::BACKUPS_FOLDER).await?;
        let folders = folders.iter().filter_map(|key| layout::backup_of_folder(key));
        let mut found: BTreeMap<String, bool> = folders.map(|name| (name.to_owned(), false)).collect();
        let sentinels = objects
            .iter()
            .filter_map(|object| layout::backup_of_sentinel(&object.key));
        found.extend(sentinels.map(|name| (name.to_owned(), true)));
        found.retain(|name, is_complete| !self.has(name, *is_complete));
        Ok(found)
    }
}

/// Has nobody written to a delta without a sentinel for a day before the deletion of that backup began, by the clock of the store?
/// A backup that is being taken renews its claim. Empty folders are abandoned, too.
async fn is_abandoned(store: &Store, delta: &str, backup: &str) -> Result<bool> {
    let written = store.list(&layout::backup_folder(delta)).await?;
    let Some(newest) = written.iter().map(|object| object.last_modified).max() else {
        return Ok(true);
    };
    let marker = layout::backup_deletion(backup);
    let objects = store.list(&layout::backup_folder(backup)).await?;
    let begun = objects.iter().find(|object| object.key == marker);
    Ok(begun.is_some_and(|marker| newest <= marker.last_modified - ABANDONED_AFTER))
}

/// A store that has directories shows empty ones, too.
async fn is_empty(store: &Store, backup: &str) -> Result<bool> {
    Ok(store.list(&layout::backup_folder(backup)).await?.is_empty())
}
