//! What the other repository is told of the backups that are on their way: `walarchive_claim.json` in the folder of each, as
//! from a server that takes a backup. With it, the WAL from the backup's start on stays there, and so do its parents.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::repository::layout;
use walarchive_storage::{Created, Store};

/// More than any claim has, in bytes.
const LIMIT: u64 = 64 << 10;

/// A folder that has not grown for a day is taken for a leftover.
const RENEW_AFTER: Duration = Duration::from_secs(3600);

/// Nobody should wait long for their removal: a claim that is not renewed counts for a day.
const REMOVAL: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Not there in the claim of a server.
    #[serde(default)]
    copy: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    time: chrono::DateTime<Utc>,
}

/// The claims of this copy.
pub(super) struct Claims<'a> {
    to: &'a Store,
    content: Bytes,
    names: Mutex<BTreeSet<String>>,
}

impl<'a> Claims<'a> {
    pub(super) fn new(to: &'a Store) -> Result<Self> {
        let hostname = nix::unistd::gethostname();
        let content = Content {
            copy: true,
            hostname: hostname
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            pid: std::process::id(),
            time: Utc::now(),
        };
        let content =
            serde_json::to_vec(&content).map_err(|error| Error::defect(format!("cannot write JSON: {error}")))?;
        Ok(Claims {
            to,
            content: content.into(),
            names: Mutex::default(),
        })
    }

    /// Claim a backup that has no sentinel there. One that a server takes is refused; another copy's claim is taken over, since
    /// that copy was killed, or does the same.
    pub(super) async fn take(&self, backup: &str) -> Result<()> {
        let claim = layout::backup_claim(backup);
        self.refuse_deleted(backup).await?;
        if self.to.create(&claim, self.content.clone()).await? == Created::Exists {
            let found = self.to.get(&claim, LIMIT).await?.unwrap_or_default();
            if !is_of_copy(&found) {
                return Err(Error::BackupExists {
                    name: backup.to_owned(),
                    reason: format!("It is claimed by {}", String::from_utf8_lossy(&found)),
                });
            }
            self.to.put(&claim, self.content.clone()).await?;
        }
        self.names.lock().insert(backup.to_owned());
        Ok(())
    }

    /// Does the claim still stand, and nobody deletes what is under it?
    pub(super) async fn check(&self, backup: &str) -> Result<()> {
        let claim = layout::backup_claim(backup);
        let (found, ()) = tokio::try_join!(
            async { Ok::<_, Error>(self.to.get(&claim, LIMIT).await?) },
            self.refuse_deleted(backup)
        )?;
        match found.is_some_and(|found| is_of_copy(&found)) {
            true => Ok(()),
            false => Err(was_deleted(backup)),
        }
    }

    pub(super) async fn refuse_deleted(&self, backup: &str) -> Result<()> {
        refuse_deleted(self.to, backup).await
    }

    /// Write them again from time to time, for as long as this is polled.
    pub(super) async fn keep(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(RENEW_AFTER).await;
            let names: Vec<String> = self.names.lock().iter().cloned().collect();
            for name in names {
                let renewed = async {
                    self.check(&name).await?;
                    Ok::<_, Error>(self.to.put(&layout::backup_claim(&name), self.content.clone()).await?)
                };
                if let Err(error) = renewed.await {
                    tracing::warn!(backup = name, %error, "the claim of the backup could not be renewed");
                }
            }
        }
    }

    /// The backup is complete.
    pub(super) async fn release(&self, backup: &str) {
        self.names.lock().remove(backup);
        self.remove(backup).await;
    }

    /// The copy ends.
    pub(super) async fn release_all(&self) {
        let names = std::mem::take(&mut *self.names.lock());
        let all = async {
            for name in &names {
                self.remove(name).await;
            }
        };
        // What is left counts for a day.
        let _ = tokio::time::timeout(REMOVAL, all).await;
    }

    /// Another copy may have taken it over, which still needs it.
    async fn remove(&self, backup: &str) {
        let claim = layout::backup_claim(backup);
        let remove = async {
            match self.to.get(&claim, LIMIT).await? {
                Some(found) if found == self.content => self.to.delete(&claim).await,
                _ => Ok(()),
            }
        };
        let removed = tokio::time::timeout(REMOVAL, remove).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!(
                object = self.to.object_url(&claim),
                "the claim of the copy could not be removed"
            );
        }
    }
}

fn is_of_copy(content: &[u8]) -> bool {
    serde_json::from_slice::<Content>(content).is_ok_and(|content| content.copy)
}

pub(super) fn was_deleted(backup: &str) -> Error {
    Error::refused(
        format!("somebody has deleted what was copied of backup \"{backup}\""),
        "Run the same command again when no other one deletes there.",
    )
}

/// Refuse a backup whose deletion has begun in that repository.
pub(super) async fn refuse_deleted(store: &Store, backup: &str) -> Result<()> {
    match store.size(&layout::backup_deletion(backup)).await? {
        None => Ok(()),
        Some(_) => Err(Error::refused(
            format!("backup \"{backup}\" is being deleted in \"{}\"", store.url()),
            "Run \"delete garbage\" there if no deletion runs, and try again.",
        )),
    }
}
