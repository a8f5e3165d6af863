//! Uploads that were begun and never completed.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::plan::{ABANDONED_AFTER, Action, Object, Situation};
use super::request::{Garbage, Request};
use crate::error::Result;
use crate::repository::inventory::{Inventory, Unfinished};
use crate::repository::layout;
use walarchive_storage::{Pending, PendingUpload, Store};

/// Those that the request may concern, and what the user should know if the store does not say.
pub(super) async fn pending(store: &Store, request: &Request) -> Result<(Vec<PendingUpload>, Vec<String>)> {
    let folders: &[&str] = match request {
        Request::Garbage(Garbage::Archives) | Request::GarbageWithoutBackups(Garbage::Archives) => {
            &[&layout::WAL_FOLDER]
        }
        Request::Garbage(Garbage::Backups) | Request::GarbageWithoutBackups(Garbage::Backups) => {
            &[&layout::BACKUPS_FOLDER, &layout::CATCHUP_FOLDER]
        }
        Request::Garbage(Garbage::All) | Request::GarbageWithoutBackups(Garbage::All) | Request::Everything { .. } => {
            &[
                &layout::BACKUPS_FOLDER,
                &layout::CATCHUP_FOLDER,
                &layout::WAL_FOLDER,
                &layout::OWN_FOLDER,
            ]
        }
        _ => &[],
    };
    let mut found = Vec::new();
    for folder in folders {
        match store.pending_uploads(folder).await? {
            Pending::Known(uploads) => found.extend(uploads),
            Pending::Unneeded => break,
            // The same for every folder.
            Pending::Unknown(why) => return Ok((found, vec![why])),
        }
    }
    found.sort_by(|left, right| (&left.key, left.begun).cmp(&(&right.key, right.begun)));
    Ok((found, Vec::new()))
}

/// Uploads without anybody at work. In a running backup even an old one may be alive: a large tar on a slow link.
pub(super) fn abandoned(inventory: &Inventory, situation: &Situation) -> Vec<Action> {
    let folders = inventory.unfinished.iter().chain(&situation.catchups);
    let folders: BTreeMap<&str, &Unfinished> = folders.map(|folder| (folder.name.as_str(), folder)).collect();
    let is_running = |name: &str| {
        situation.protected.iter().any(|protected| protected == name)
            || folders.get(name).is_some_and(|folder| situation.is_running(folder))
    };
    let uploads = situation.uploads.iter();
    uploads
        .filter(|upload| upload.age() >= ABANDONED_AFTER)
        .filter(|upload| !layout::backup_of_object(&upload.key).is_some_and(is_running))
        .map(action)
        .collect()
}

pub(super) fn action(upload: &PendingUpload) -> Action {
    Action {
        size: upload.bytes.unwrap_or(0),
        why: format!(
            "its upload was begun {} UTC and never completed",
            upload.begun.format("%Y-%m-%d %H:%M")
        )
        .into(),
        object: Object::Upload(upload.clone()),
    }
}

/// Removes uploads, looking first whether somebody is at work on them after all.
pub(super) struct Discard<'a> {
    store: &'a Store,
    force: bool,
    /// By the names of backups, whether one of that name is being taken.
    running: BTreeMap<String, bool>,
}

impl<'a> Discard<'a> {
    /// With `force`, nothing is looked at.
    pub(super) fn new(store: &'a Store, force: bool) -> Self {
        Discard {
            store,
            force,
            running: BTreeMap::new(),
        }
    }

    /// Returns whether it is gone.
    pub(super) async fn one(&mut self, action: &Action) -> Result<bool> {
        let Object::Upload(upload) = &action.object else {
            return Ok(false);
        };
        if self.force {
            return Ok(self.store.discard_upload(upload, TimeDelta::zero()).await?);
        }
        if let Some(name) = layout::backup_of_object(&upload.key)
            && self.is_running(name, upload).await?
        {
            return Ok(false);
        }
        Ok(self.store.discard_upload(upload, ABANDONED_AFTER).await?)
    }

    async fn is_running(&mut self, name: &str, upload: &PendingUpload) -> Result<bool> {
        if let Some(known) = self.running.get(name) {
            return Ok(*known);
        }
        let marker = layout::backup_deletion(name);
        let objects = self.store.list(&layout::backup_folder(name)).await?;
        // By the clock that told the age of the upload. A backup writes its claim again every hour.
        let young = |time| time > upload.seen - ABANDONED_AFTER;
        let written = objects
            .iter()
            .any(|object| object.key != marker && young(object.last_modified));
        let running = written && self.store.size(&layout::sentinel(name)).await?.is_none();
        self.running.insert(name.to_owned(), running);
        Ok(running)
    }
}
